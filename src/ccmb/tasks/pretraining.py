"""Pre-training R2D2: from a recipe and a data folder to a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ccmb.data.loading import BatchPlan, FieldPlan, TrainingSet, training_batches
from ccmb.data.pairs import read_pairs
from ccmb.data.pictures import Pictures
from ccmb.errors import CcmbError
from ccmb.files import atomic_write
from ccmb.objectives.pretraining import Batch, Objectives, PreTraining
from ccmb.r2d2.compiling import compile_blocks
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.samples import Sample
from ccmb.tasks.building import build_model
from ccmb.tasks.calibration import stored_match_temperature
from ccmb.tasks.model_card import write_model_card
from ccmb.training.optimizers import ParameterGroup
from ccmb.training.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Part,
    TrainingRecipe,
    data_folder,
    save_recipe,
)
from ccmb.training.trainer import Trainer, choose_device

CROSS_PARTS = (
    "image_to_cross",
    "text_image_encoder",
    "image_text_encoder",
    "text_image_match",
    "image_text_match",
    "mlm_head",
)

UNREADABLE = "unreadable.txt"


class PretrainRecipe(Part):
    """All that a pre-training run depends on."""

    data: DataRecipe
    model: ModelRecipe = ModelRecipe()
    objectives: Objectives = Objectives()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe


class PretrainTask:
    """Pre-training as the trainer sees it."""

    def __init__(self, pretraining: PreTraining) -> None:
        self.pretraining = pretraining

    @property
    def module(self) -> nn.Module:
        return self.pretraining

    def losses(self, batch: Batch, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        return self.pretraining.losses(batch, progress, generator)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.pretraining.total(losses)

    def after_step(self) -> None:
        self.pretraining.after_step()

    def report(self) -> dict[str, float]:
        return {"temperature": float(self.pretraining.model.temperature.detach())}


class Collate:
    """Training samples to a Batch; pictures that could not be read are set aside by name."""

    def __init__(self, processor: R2D2Processor, samples: list[Sample]) -> None:
        self.processor = processor
        # Samples of one picture share an id, whatever line of the file they stand in.
        names = {name: number for number, name in enumerate(dict.fromkeys(sample.image for sample in samples))}
        self.image_ids = [names[sample.image] for sample in samples]

    def __call__(self, items: list[tuple[np.ndarray, str, int] | str]) -> tuple[Batch | None, list[str]]:
        unreadable = [item for item in items if isinstance(item, str)]
        good = [item for item in items if not isinstance(item, str)]
        if not good:
            return None, unreadable
        pixels, texts, indices = zip(*good, strict=True)
        encoded = self.processor.texts(texts)
        batch = Batch(
            self.processor.normalise(torch.from_numpy(np.stack(pixels))),
            encoded["input_ids"],
            encoded["attention_mask"],
            self.processor.maskable(encoded["input_ids"]),
            torch.tensor([self.image_ids[index] for index in indices]),
        )
        return batch, unreadable


def pretrain(recipe: PretrainRecipe, out: Path) -> Path:
    """Run the recipe in the folder `out`, or continue it there, and return the folder of the finished model.

    Raises:
        CcmbError: missing or faulty data, or a run folder that another recipe made.
    """
    folder = data_folder(recipe.data.folder)
    samples = read_pairs(folder / recipe.data.pairs, recipe.data.split, recipe.data.fields)
    if len(samples) < recipe.training.batch:
        raise CcmbError(
            f"{folder / recipe.data.pairs}: {len(samples)} pictures do not fill training.batch={recipe.training.batch}"
        )
    pictures = Pictures.open(folder / recipe.data.images)
    torch.manual_seed(recipe.training.seed)
    model, processor = build_model(recipe.model, recipe.objectives, samples)
    if recipe.model.freeze_image_tower:
        model.image_tower.requires_grad_(False)
    buckets = text_buckets(recipe.training)
    task = PretrainTask(PreTraining(model, recipe.objectives, processor.tokenizer.mask_token_id, buckets))
    prepare_run(recipe, out)  # only now: a recipe that fails above leaves no folder that would refuse its mended form
    if recipe.training.compile:
        compile_blocks(task.module)
    trainer = Trainer(task, parameter_groups(model, recipe), recipe.optimizer, recipe.training, out)
    start = trainer.resume()
    if start < recipe.training.steps:
        trainer.fit(_batches(recipe, samples, pictures, processor, out))
        model.config.match_temperature = 1.0  # that of a model to start from was fitted to other weights
    else:
        model.config.match_temperature = stored_match_temperature(out / "model")
    model.save_pretrained(out / "model")
    processor.save_pretrained(out / "model")
    write_model_card(out / "model", model, recipe, out)
    return out / "model"


def text_buckets(recipe: TrainingRecipe) -> int:
    """In how many parts a batch's texts are computed: one on GPUs, since to learn their lengths waits for them."""
    return recipe.buckets or (4 if choose_device(recipe.device).type == "cpu" else 1)


def unreadable_pictures(run: Path) -> list[str]:
    """A line for each picture that the run has tried to read in vain so far."""
    path = run / UNREADABLE
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def prepare_run(recipe: PretrainRecipe, out: Path) -> None:
    """Make the run folder with its resolved recipe; a folder that holds another recipe's run is refused."""
    path = out / "recipe.yaml"
    before = path.read_text(encoding="utf-8") if path.exists() else None
    if before is not None:
        save_recipe(recipe, out / ".recipe.yaml")
        now = (out / ".recipe.yaml").read_text(encoding="utf-8")
        (out / ".recipe.yaml").unlink()
        if now != before:
            raise CcmbError(f"{out}: this folder holds a run of another recipe; choose another --out or remove it")
    save_recipe(recipe, path)


def parameter_groups(model: R2D2Model, recipe: PretrainRecipe) -> list[ParameterGroup]:
    """Towers and projections; cross encoders and heads, which start with the first objective that needs them."""
    cross = [p for name, p in model.named_parameters() if name.startswith(CROSS_PARTS)]
    towers = [p for name, p in model.named_parameters() if not name.startswith(CROSS_PARTS)]
    ranking = [o for o in (recipe.objectives.fgr, recipe.objectives.mlm) if o.weight]
    start = min((objective.start for objective in ranking), default=0.0)
    lr = recipe.optimizer.lr
    return [ParameterGroup(towers, lr), ParameterGroup(cross, recipe.optimizer.cross_lr or lr, start)]


def _batches(
    recipe: PretrainRecipe, samples: list[Sample], pictures: Pictures, processor: R2D2Processor, out: Path
) -> Any:
    seed = recipe.training.seed
    dataset = TrainingSet(samples, pictures, processor.image_size, recipe.data.augmentation, seed)
    group_from = round(recipe.data.group_start * recipe.training.steps)
    plan = BatchPlan(samples, recipe.training.batch, seed, group_from)
    starts, field_of = recipe.data.field_starts, None
    if starts is not None:
        field_of = FieldPlan(tuple(round(share * recipe.training.steps) for share in starts), seed)
    listed = set(unreadable_pictures(out))

    def batches(start: int, stop: int) -> Iterator[Batch]:
        for batch, unreadable in training_batches(
            dataset, plan, start, stop, Collate(processor, samples), recipe.data.workers, field_of
        ):
            if new := set(unreadable) - listed:
                listed.update(new)
                with atomic_write(out / UNREADABLE) as file:
                    file.writelines(f"{line}\n" for line in sorted(listed))
            if batch is None:
                raise CcmbError(f"no picture of a whole batch could be read; see {out / UNREADABLE}")
            yield batch

    return batches
