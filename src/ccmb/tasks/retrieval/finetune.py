"""Retrieval as fine-tuning sees it: GCPR and FGR on pairs, mean recall of the last stage on held-out pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import readable_samples
from ccmb.data.sample import Sample
from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.stages import R2D2Ranker
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import (
    RetrievalSet,
    first_pictures,
    open_held_out,
    open_set,
    open_training,
    texts_and_pairs,
)
from ccmb.tasks.family import Batches, FinetuneRecipe, Measurement, OfR2D2
from ccmb.tasks.pretraining.batches import load_pairs, run_batches
from ccmb.tasks.pretraining.run import PretrainTask, make_pretraining, pretraining_log
from ccmb.tasks.retrieval.metrics import bootstrap_recalls, drawn_with, hits_by_image, mean_recall, report_of_ranks
from ccmb.training.distributed import world
from ccmb.training.recipe import DataRecipe

_LOG = logging.getLogger(__name__)

STAGES = ("pre_ranking", "ranking")


class RetrievalFamily(OfR2D2):
    """See `ccmb.tasks.family.Family`.

    Attributes:
        family: what a published set must be for.
    """

    family = "retrieval"
    figures: tuple[str, ...] = ("mean_recall", "mean_recall_pre_ranking", "text_to_image_R@1")

    def logged(self, recipe: FinetuneRecipe) -> list[str]:
        return pretraining_log(recipe.objectives)

    def open_training(self, data: DataRecipe) -> tuple[list[Sample], ImageSource]:
        return open_training(data, self.family)

    def open_held_out(self, recipe: FinetuneRecipe, split: str) -> RetrievalSet:
        validation = recipe.validation
        of = open_held_out(recipe.data, split, validation.fields, self.family)
        return _readable(first_pictures(of, validation.pictures if split == validation.split else None))

    def open_also(self, spec: str, split: str, fields: Sequence[str]) -> RetrievalSet:
        return _readable(open_set(spec, split, fields, option="--also", family=self.family))

    def task(self, model: R2D2Model, processor: R2D2Processor, recipe: FinetuneRecipe) -> PretrainTask:
        return PretrainTask(make_pretraining(model, processor, recipe), recipe)

    def batches(
        self, samples: list[Sample], pictures: ImageSource, processor: R2D2Processor, recipe: FinetuneRecipe, out: Path
    ) -> Batches:
        load = load_pairs(samples, pictures, recipe.data, recipe.training)
        return run_batches(partial(load, processor), out, recipe.training.batch // world().size)

    def validate(
        self, model: R2D2Model, processor: R2D2Processor, of: RetrievalSet, recipe: FinetuneRecipe
    ) -> dict[str, float]:
        gallery, ranks = _ranked(model, processor, of, recipe.validation.depth)
        report = report_of_ranks(ranks, gallery, recipe.validation.depth)
        last = "pre_ranking" if report["mean_recall"]["ranking"] is None else "ranking"
        means = report["mean_recall"]
        values = (means[last], means["pre_ranking"], report["text_to_image"][last]["R@1"])
        return dict(zip(self.figures, values, strict=True))

    def measure(
        self,
        model: R2D2Model,
        processor: R2D2Processor,
        of: RetrievalSet,
        recipe: FinetuneRecipe,
        heads: bool = True,
    ) -> Measurement:
        gallery, ranks_of = _ranked(model, processor, of, recipe.validation.depth, heads)
        report = report_of_ranks(ranks_of, gallery, recipe.validation.depth)
        values, draws, unit_N = {}, {}, drawn_with(gallery)
        for stage in STAGES:
            known = {name: getattr(ranks, stage) for name, ranks in ranks_of.items()}
            if report["mean_recall"][stage] is not None:
                drawn = bootstrap_recalls(*hits_by_image(known, unit_N))
                values[stage], draws[stage] = cast(float, mean_recall(known.values())), drawn.mean((1, 2))
        return Measurement(values, draws, report, int(unit_N.max()) + 1, counted=True)


def _ranked(
    model: R2D2Model, processor: R2D2Processor, of: RetrievalSet, depth: int, heads: bool = True
) -> tuple[Gallery, dict[Direction, Ranks]]:
    texts, pairs = texts_and_pairs(of.samples, of.queries)
    gallery = encode_gallery(model, processor, [sample.image for sample in of.samples], texts, of.pictures.load)
    gallery = replace(gallery, pairs=pairs).judged([text for of_image in texts for text in of_image])
    return gallery, ranks_both_ways(R2D2Ranker(model, ranks=heads), gallery, depth)


def _readable(of: RetrievalSet) -> RetrievalSet:
    """The set without pictures that cannot be read, each of which is told on stderr."""
    samples, unreadable = readable_samples(of.samples, of.pictures)
    if world().is_main:
        for line in unreadable:
            _LOG.warning("left out of %s, split %s: %s", of.name, of.split, line)
    return replace(of, samples=samples)
