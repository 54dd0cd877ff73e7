"""Generation as fine-tuning sees it: the painter of an R2D2, and match score and attributes of what it paints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ccmb.core.config.given_keys import is_given
from ccmb.core.errors import UsageError
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.inference.pipeline import Pipeline
from ccmb.objectives.batch import Batch
from ccmb.objectives.generation import Generation, GenerationOptions
from ccmb.r2d2.generative.generator import (
    GeneratorConfig,
    R2D2Generator,
    generator_processor,
    has_generator,
    load_generator,
    pipeline_side,
    read_shape,
)
from ccmb.r2d2.pretrained.towers import is_chinese_clip
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import RetrievalSet
from ccmb.tasks.finetuning.finetuner import Batches, DrawnMetrics
from ccmb.tasks.finetuning.pairs import PairFinetuner
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.generation.evaluate import metrics_of, prompts_of, real_features
from ccmb.tasks.generation.features import r2d2_extractor
from ccmb.tasks.generation.predict import GeneratedImages, SamplingOptions, paint_texts
from ccmb.tasks.pretraining.batches import PairReader, run_batches
from ccmb.tasks.pretraining.model import load_start, refuse_sizes
from ccmb.tasks.pretraining.run import build_network, prepare_network
from ccmb.training.distributed import world
from ccmb.training.optimizers import ParameterGroup
from ccmb.training.trainer import Task

SIDE = 48  # of a new painter's images, in pixels
GROUPS = 16  # of channels that are normalised together
MAIN = "match_score"
SHAPE = (
    "pipeline",
    "image_size",
    "patch_size",
    "channels",
    "layers_per_block",
    "attention_head_dim",
)  # options that a painter is made by
# Which of the metrics models are compared by, where there are several: the last that is there.
MAINS = ("cosine", MAIN, "kind_and_colour")


class GenerationTask:
    """Generation as the trainer sees it."""

    def __init__(self, generation: Generation, recipe: FinetuneRecipe) -> None:
        self.generation, self.recipe = generation, recipe

    @property
    def module(self) -> nn.Module:
        return self.generation

    def units(self) -> list[nn.Module]:
        return []

    def groups(self) -> list[ParameterGroup]:
        """The UNet, and what reads the text, which is new to it."""
        student, optimizer = self.generation.student, self.recipe.optimizer
        reading = [*student.read.parameters(), student.nothing]
        lr = optimizer.cross_lr or optimizer.lr
        return [ParameterGroup(list(student.unet.parameters()), optimizer.lr), ParameterGroup(reading, lr)]

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["generation"]

    def after_step(self) -> None:
        self.generation.after_step()

    def report(self, aux: None) -> dict[str, float]:
        return {}

    def describe(self, batch: Batch) -> dict[str, Any]:
        return batch.describe()


class GenerationFinetuner(PairFinetuner[R2D2Generator]):
    """See `Finetuner`. The data is that of retrieval: images with texts of their own."""

    family = "generation"
    metrics = (MAIN,)
    labels: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def logged(self, recipe: FinetuneRecipe) -> list[str]:
        return ["generation"]

    def network(self, recipe: FinetuneRecipe) -> tuple[R2D2Generator, R2D2Processor]:
        start, options = str(recipe.model.init_from), recipe.generation
        if recipe.training.gradient_checkpointing:
            raise UsageError("training.gradient_checkpointing: the painter of generation has none; leave it out")
        if self.knows(start):
            refuse_sizes(recipe.model, "a generator")
            generator, processor = load_start(recipe.model, load_generator)
            given = is_given(options, *SHAPE)
            if given and (options.pipeline is not None or new_shape(options) != generator.shape):
                keys = ", ".join(f"generation.{key}" for key in given)
                raise UsageError(f"{keys}: {start} paints already, with a painter of another shape; leave it out")
            return generator, processor
        model, processor = build_network(recipe, ())
        if options.pipeline is not None:
            return R2D2Generator.from_pipeline(model, options.pipeline, options.image_size), processor
        return R2D2Generator.from_r2d2(model, new_shape(options)), processor

    def load(self, out: Path) -> tuple[R2D2Generator, R2D2Processor]:
        return load_generator(out)

    def knows(self, start: str) -> bool:
        return not is_chinese_clip(start) and has_generator(start)

    def task(self, model: R2D2Generator, processor: R2D2Processor, recipe: FinetuneRecipe) -> GenerationTask:
        prepare_network(model, recipe)
        return GenerationTask(Generation(model, recipe.generation), recipe)

    def batches(
        self,
        samples: list[Sample],
        images: ImageSource,
        processor: R2D2Processor,
        recipe: FinetuneRecipe,
        out: Path,
        task: Task,
    ) -> Batches:
        reader = generator_processor(processor, image_side(recipe))
        load = PairReader(samples, images, recipe.data, recipe.training).load
        return run_batches(partial(load, reader), out, recipe.training.batch_size // world().size)

    def validate(
        self, model: R2D2Generator, processor: R2D2Processor, held_out: RetrievalSet, recipe: FinetuneRecipe
    ) -> dict[str, float]:
        generated, _ = _paint(model, processor, held_out, recipe)
        return {MAIN: float(np.mean([100 * of_text.first.score for of_text in generated]))}

    def measure(
        self,
        model: R2D2Generator,
        processor: R2D2Processor,
        held_out: RetrievalSet,
        recipe: FinetuneRecipe,
        heads: bool = True,
    ) -> DrawnMetrics:
        if not heads:  # a painter that was never trained
            return DrawnMetrics({}, {}, {})
        generated, judge = _paint(model, processor, held_out, recipe)
        extractor = r2d2_extractor(judge.name, model, processor)
        metrics = metrics_of(
            [of_text.first for of_text in generated], generated, real_features(held_out, extractor), extractor
        )
        values = metrics.values()
        # The main one last.
        names = sorted(metrics.scores, key=lambda name: MAINS.index(name) if name in MAINS else -1)
        drawn = metrics.draws()
        values = {name: values[name] for name in names}
        return DrawnMetrics(values, {name: drawn[name] for name in names}, metrics.values(), len(generated))


def _paint(
    model: R2D2Generator, processor: R2D2Processor, held_out: RetrievalSet, recipe: FinetuneRecipe
) -> tuple[list[GeneratedImages], Pipeline]:
    """An image of each text, with no choice."""
    judge = Pipeline.from_model(model, processor, name=str(recipe.model.init_from))
    options = SamplingOptions(recipe.generation.sampling_steps, recipe.generation.guidance_scale)
    return paint_texts(model, processor, prompts_of(held_out), options, judge), judge


def image_side(recipe: FinetuneRecipe) -> int:
    """Side in pixels of the images that a run's generator paints."""
    start, options = str(recipe.model.init_from), recipe.generation
    if not is_chinese_clip(start) and has_generator(start):
        return read_shape(start).side
    if options.pipeline is None or options.image_size is not None:
        return options.image_size or SIDE
    return pipeline_side(options.pipeline)


def new_shape(options: GenerationOptions) -> GeneratorConfig:
    """Shape of a new denoiser of pixels: a UNet that attends to itself and to the text on all levels but the first.

    Raises:
        UsageError: the sizes do not go together.
    """
    side, channels = options.image_size or SIDE, 3 * options.patch_size**2
    levels = len(options.channels)
    if side % (multiple := options.patch_size * 2 ** (levels - 1)):
        raise UsageError(
            f"generation.image_size={side}: not a multiple of {multiple}, the fold doubled for each further level"
        )
    if any(width % GROUPS or width % options.attention_head_dim for width in options.channels):
        wanted = f"multiples of {GROUPS} and of generation.attention_head_dim={options.attention_head_dim}"
        raise UsageError(f"generation.channels={options.channels}: not {wanted}")
    first = 1 if levels > 1 else 0
    width = options.channels[-1]
    unet = {
        "sample_size": side // options.patch_size,
        "in_channels": channels + 2,
        "out_channels": channels,
        "block_out_channels": options.channels,
        "down_block_types": ["DownBlock2D"] * first + ["CrossAttnDownBlock2D"] * (levels - first),
        "up_block_types": ["CrossAttnUpBlock2D"] * (levels - first) + ["UpBlock2D"] * first,
        "layers_per_block": options.layers_per_block,
        "attention_head_dim": options.attention_head_dim,
        "norm_num_groups": GROUPS,
        "cross_attention_dim": width,
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": width,
        "resnet_time_scale_shift": "scale_shift",
    }
    return GeneratorConfig(side, unet, options.patch_size)
