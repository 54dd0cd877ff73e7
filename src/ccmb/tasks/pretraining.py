"""Pre-training R2D2: from a recipe and a data folder to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ccmb.data.loading import BatchPlan, FieldPlan, TrainingSet, training_batches
from ccmb.data.pairs import read_pairs
from ccmb.data.pictures import Pictures
from ccmb.data.streaming import stream_batches
from ccmb.errors import CcmbError
from ccmb.files import atomic_write
from ccmb.objectives.pretraining import Batch, Objectives, PreTraining
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.samples import Sample
from ccmb.tasks.building import build_model
from ccmb.tasks.calibration import stored_match_temperature
from ccmb.tasks.model_card import write_model_card
from ccmb.tasks.shard_data import FirstSamples, open_stream, record_shards
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
from ccmb.training.trainer import Trainer

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
    """Training samples to a Batch; pictures that could not be read are set aside by name.

    Args:
        samples: to which the numbers of the items point; without them these are ids of pictures.
    """

    def __init__(self, processor: R2D2Processor, samples: list[Sample] | None = None) -> None:
        self.processor = processor
        self.image_ids: list[int] | None = None
        if samples is not None:
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
            torch.tensor([self.image_ids[index] for index in indices] if self.image_ids is not None else indices),
        )
        return batch, unreadable

    def merge(self, parts: list[tuple[Batch | None, list[str]]]) -> tuple[Batch | None, list[str]]:
        """The batch whose samples were collated in several parts."""
        unreadable = [line for _, lines in parts for line in lines]
        batches = [batch for batch, _ in parts if batch is not None]
        if not batches:
            return None, unreadable
        length = max(batch.input_ids.shape[1] for batch in batches)
        padding = {"input_ids": self.processor.tokenizer.pad_token_id, "attention_mask": 0, "maskable": 0}

        def whole(name: str) -> Tensor:
            tensors = [getattr(batch, name) for batch in batches]
            if name in padding:
                tensors = [pad(tensor, (0, length - tensor.shape[1]), value=padding[name]) for tensor in tensors]
            return torch.cat(tensors)

        return Batch(*map(whole, Batch.__slots__)), unreadable


def pretrain(recipe: PretrainRecipe, out: Path) -> Path:
    """Run the recipe in the folder `out`, or continue it there, and return the folder of the finished model.

    Raises:
        CcmbError: missing or faulty data, or a run folder that another recipe made.
    """
    load, samples, begin = _open_shards(recipe, out) if recipe.data.shards else _open_pairs(recipe)
    torch.manual_seed(recipe.training.seed)
    model, processor = build_model(recipe.model, recipe.objectives, samples)
    task = PretrainTask(PreTraining(model, recipe.objectives, processor.tokenizer.mask_token_id))
    prepare_run(recipe, out)  # only now: a recipe that fails above leaves no folder that would refuse its mended form
    begin()
    trainer = Trainer(task, parameter_groups(model, recipe), recipe.optimizer, recipe.training, out)
    start = trainer.resume()
    if start < recipe.training.steps:
        trainer.fit(_batches(partial(load, processor), out))
        model.config.match_temperature = 1.0  # that of a model to start from was fitted to other weights
    else:
        model.config.match_temperature = stored_match_temperature(out / "model")
    model.save_pretrained(out / "model")
    processor.save_pretrained(out / "model")
    write_model_card(out / "model", model, recipe, out)
    return out / "model"


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


# Each batch, and why samples of it are missing.
Loaded = Iterator[tuple[Batch | None, list[str]]]
# They are loaded with a processor, from the first step to the one before the last.
Load = Callable[[R2D2Processor, int, int], Loaded]


def _open_pairs(recipe: PretrainRecipe) -> tuple[Load, Iterable[Sample], Callable[[], None]]:
    """How batches of own pairs are loaded, the samples, and what is to be done once the run has a folder."""
    data, seed = recipe.data, recipe.training.seed
    folder = data_folder(str(data.folder))
    samples = read_pairs(folder / data.pairs, data.split, data.fields)
    if len(samples) < recipe.training.batch:
        raise CcmbError(
            f"{folder / data.pairs}: {len(samples)} pictures do not fill training.batch={recipe.training.batch}"
        )
    pictures = Pictures.open(folder / data.images)
    plan = BatchPlan(samples, recipe.training.batch, seed, round(data.group_start * recipe.training.steps))

    def load(processor: R2D2Processor, start: int, stop: int) -> Loaded:
        dataset = TrainingSet(samples, pictures, processor.image_size, data.augmentation, seed, data.field_weights)
        collate = Collate(processor, samples)
        return training_batches(dataset, plan, start, stop, collate, data.workers, _field_plan(recipe))

    return load, samples, lambda: None


def _open_shards(recipe: PretrainRecipe, out: Path) -> tuple[Load, Iterable[Sample], Callable[[], None]]:
    """The same for shards; the samples are the first ones."""
    stream, damaged = open_stream(recipe.data, recipe.training, out)
    samples = FirstSamples(stream, out)

    def load(processor: R2D2Processor, start: int, stop: int) -> Loaded:
        collate, workers = Collate(processor), recipe.data.workers
        field_of = _field_plan(recipe)
        return stream_batches(stream, processor.image_size, start, stop, collate, collate.merge, workers, field_of)

    def begin() -> None:
        record_shards(stream, out)
        samples.record()
        _note_unreadable(damaged, out)

    return load, samples, begin


def _field_plan(recipe: PretrainRecipe) -> FieldPlan | None:
    starts, steps = recipe.data.field_starts, recipe.training.steps
    return None if starts is None else FieldPlan(tuple(round(share * steps) for share in starts), recipe.training.seed)


def _batches(load: Callable[[int, int], Loaded], out: Path) -> Callable[[int, int], Iterator[Batch]]:
    def batches(start: int, stop: int) -> Iterator[Batch]:
        for batch, unreadable in load(start, stop):
            _note_unreadable(unreadable, out)
            if batch is None:
                raise CcmbError(f"no picture of a whole batch could be read; see {out / UNREADABLE}")
            yield batch

    return batches


def _note_unreadable(lines: list[str], out: Path) -> None:
    """Add to the run's list what it does not hold yet."""
    if not lines:
        return
    listed = set(unreadable_pictures(out))
    if not listed.issuperset(lines):
        with atomic_write(out / UNREADABLE) as file:
            file.writelines(f"{line}\n" for line in sorted(listed.union(lines)))
