"""Matching as fine-tuning sees it: labelled pairs, and the AUC on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from ccmb.core.config.recipe_files import data_folder
from ccmb.core.errors import UsageError
from ccmb.data.images.source import ImageSource
from ccmb.data.labelled_pairs import read_labelled_pairs
from ccmb.data.pairs import readable_samples
from ccmb.data.sample import Sample
from ccmb.datasets.matching import open_labelled
from ccmb.inference.pair_scores import PairScores, score_labelled
from ccmb.inference.stages import R2D2Encoder, R2D2Ranker
from ccmb.objectives.matching import Matching
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import name_and_path
from ccmb.tasks.common.resampling import draw_metrics
from ccmb.tasks.finetuning.finetuner import Batches, DrawnMetrics, Finetuner
from ccmb.tasks.finetuning.pairs import R2D2Loading
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.matching.metrics import auc, matching_report, weighted_auc
from ccmb.tasks.matching.task import LabelledLoader, MatchingTask
from ccmb.tasks.pretraining.batches import run_batches
from ccmb.tasks.pretraining.run import prepare_network
from ccmb.training.distributed import world
from ccmb.training.recipe import DataRecipe
from ccmb.training.trainer import Task


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Held-out labelled pairs."""

    name: str
    split: str
    samples: list[Sample]
    images: ImageSource


class MatchingFinetuner(R2D2Loading, Finetuner[R2D2Model, LabelledSet]):
    """See `Finetuner`."""

    metrics = ("auc", "accuracy", "auc_cosine")
    labels: ClassVar[Mapping[str, tuple[str, str]]] = {
        "auc_cosine": ("AUC，余弦", "AUC, cosine"),
        "auc": ("AUC，匹配分", "AUC, match score"),
    }
    reads_fields = False

    def logged(self, recipe: FinetuneRecipe) -> list[str]:
        return ["matching", *(["gcpr"] if recipe.matching.gcpr_weight else []), "match_accuracy"]

    def open_training(self, data: DataRecipe) -> tuple[list[Sample], ImageSource]:
        return _open(data, data.split)

    def open_held_out(self, recipe: FinetuneRecipe, split: str) -> LabelledSet:
        samples, images = _open(recipe.data, split)
        if split == recipe.validation.split and recipe.validation.images is not None:
            kept = set(list(dict.fromkeys(sample.image for sample in samples))[: recipe.validation.images])
            samples = [sample for sample in samples if sample.image in kept]
        return LabelledSet(recipe.data.name, split, readable_samples(samples, images)[0], images)

    def open_also(self, spec: str, split: str, fields: Sequence[str]) -> LabelledSet:
        name, path = name_and_path(spec, "--also")
        samples, images = open_labelled(path, split, name=name)
        return LabelledSet(name, split, readable_samples(samples, images)[0], images)

    def task(self, model: R2D2Model, processor: R2D2Processor, recipe: FinetuneRecipe) -> MatchingTask:
        prepare_network(model, recipe)
        return MatchingTask(Matching(model, recipe.matching, recipe.training.grad_cache_chunk), recipe.optimizer)

    def batches(
        self,
        samples: list[Sample],
        images: ImageSource,
        processor: R2D2Processor,
        recipe: FinetuneRecipe,
        out: Path,
        task: Task,
    ) -> Batches:
        load = LabelledLoader(samples, images, recipe.data, recipe.training)
        return run_batches(partial(load, processor), out, recipe.training.batch_size // world().size)

    def validate(
        self, model: R2D2Model, processor: R2D2Processor, held_out: LabelledSet, recipe: FinetuneRecipe
    ) -> dict[str, float]:
        scores = _scores(model, processor, held_out)
        right = (scores.score >= 0.5) == (scores.label == 1)
        metrics = auc(scores.score, scores.label), float(right.double().mean()), auc(scores.cosine, scores.label)
        return {name: 100 * value for name, value in zip(self.metrics, metrics, strict=True)}

    def measure(
        self,
        model: R2D2Model,
        processor: R2D2Processor,
        held_out: LabelledSet,
        recipe: FinetuneRecipe,
        heads: bool = True,
    ) -> DrawnMetrics:
        scores = _scores(model, processor, held_out, heads)
        by_stage = {"auc_cosine": scores.cosine} | ({"auc": scores.score} if heads else {})
        values, draws = {}, {}
        for name, score_N in by_stage.items():
            values[name] = 100 * auc(score_N, scores.label)
            draws[name] = 100 * draw_metrics([weighted_auc(score_N, scores.label)], scores.image.numpy())[:, 0]
        return DrawnMetrics(
            values, draws, matching_report(scores, model.config.match_temperature), len(scores.image.unique())
        )


def _open(data: DataRecipe, split: str) -> tuple[list[Sample], ImageSource]:
    if data.shards:
        raise UsageError("data.shards: labelled pairs are read from a folder; give data.folder")
    folder = data_folder(str(data.folder))
    images = folder / data.images
    if data.dataset is not None:
        return open_labelled(folder, split, images if images.exists() else None, data.dataset)
    return read_labelled_pairs(folder / data.pairs, split), ImageSource.open(images)


def _scores(model: R2D2Model, processor: R2D2Processor, held_out: LabelledSet, heads: bool = True) -> PairScores:
    return score_labelled(
        R2D2Encoder(model, processor), R2D2Ranker(model, ranks=heads), held_out.samples, held_out.images.load
    )
