"""Fine-tuning on images with texts of their own: what retrieval, captioning and generation have in common."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import readable_samples
from ccmb.data.sample import Sample
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.towers import is_chinese_clip
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import RetrievalSet, first_images, open_held_out, open_set, open_training
from ccmb.tasks.finetuning.finetuner import Batches, Finetuner
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.batches import PairReader, run_batches
from ccmb.tasks.pretraining.frozen_states import FrozenStates
from ccmb.tasks.pretraining.mining import with_neighbors
from ccmb.tasks.pretraining.run import PretrainTask, build_network
from ccmb.tasks.pretraining.states_pass import Trained
from ccmb.training.distributed import world
from ccmb.training.recipe import DataRecipe
from ccmb.training.trainer import Task

_LOG = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=R2D2Model)


class R2D2Loading:
    """The part of a `Finetuner` that loads models, for a family whose models are R2D2s alone."""

    def network(self, recipe: FinetuneRecipe) -> tuple[R2D2Model, R2D2Processor]:
        return build_network(recipe, ())

    def load(self, out: Path) -> tuple[R2D2Model, R2D2Processor]:
        return load_model(out)

    def knows(self, start: str) -> bool:
        return not is_chinese_clip(start)  # which has no cross encoders of its own


class PairFinetuner(Finetuner[ModelT, RetrievalSet]):
    """See `Finetuner`.

    Attributes:
        family: what a published set must be for.
    """

    family: ClassVar[str] = "retrieval"

    def open_training(self, data: DataRecipe) -> tuple[list[Sample], ImageSource]:
        return open_training(data, self.family)

    def open_held_out(self, recipe: FinetuneRecipe, split: str) -> RetrievalSet:
        validation = recipe.validation
        opened = open_held_out(recipe.data, split, validation.fields, self.family)
        return _readable(first_images(opened, validation.images if split == validation.split else None))

    def open_also(self, spec: str, split: str, fields: Sequence[str]) -> RetrievalSet:
        return _readable(open_set(spec, split, fields, option="--also", family=self.family))

    def batches(
        self,
        samples: list[Sample],
        images: ImageSource,
        processor: R2D2Processor,
        recipe: FinetuneRecipe,
        out: Path,
        task: Task,
    ) -> Batches:
        rows = recipe.training.batch_size // world().size
        trained, states = self.stored(samples, images, recipe, task)
        reader = PairReader(samples, images, recipe.data, recipe.training, states)
        batches = run_batches(partial(reader.load, processor), out, rows)
        if isinstance(trained, PreTraining):
            batches = with_neighbors(batches, reader, trained, processor, out)
        return states.before(batches, trained, processor)

    def stored(
        self, samples: list[Sample], images: ImageSource, recipe: FinetuneRecipe, task: Task
    ) -> tuple[Trained, FrozenStates]:
        """What is trained, and the states of its frozen towers that are stored."""
        assert isinstance(task, PretrainTask)
        return task.pretraining, FrozenStates(samples, images, recipe)


def _readable(opened: RetrievalSet) -> RetrievalSet:
    """The set without images that cannot be read, each of which is told on stderr."""
    samples, unreadable = readable_samples(opened.samples, opened.images)
    if world().is_main:
        for line in unreadable:
            _LOG.warning("left out of %s, split %s: %s", opened.name, opened.split, line)
    return replace(opened, samples=samples)
