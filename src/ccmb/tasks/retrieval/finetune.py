"""Retrieval as fine-tuning sees it: GCPR and FGR on pairs, mean recall of the last stage on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.stages import R2D2Ranker
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import (
    RetrievalSet,
    texts_and_pairs,
)
from ccmb.tasks.finetuning.finetuner import DrawnMetrics
from ccmb.tasks.finetuning.pairs import PairFinetuner, R2D2Loading
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.run import PretrainTask, make_pretraining
from ccmb.tasks.pretraining.starting import pretraining_log
from ccmb.tasks.retrieval.metrics import bootstrap_recalls, hits_by_image, mean_recall, report_of_ranks, resampling_unit

STAGES = ("pre_ranking", "ranking")


class RetrievalFinetuner(R2D2Loading, PairFinetuner[R2D2Model]):
    """See `Finetuner`."""

    metrics = ("mean_recall", "mean_recall_pre_ranking", "text_to_image_R@1")
    labels: ClassVar[Mapping[str, tuple[str, str]]] = {
        "pre_ranking": ("平均召回，粗排", "mean recall, pre-ranking"),
        "ranking": ("平均召回，精排", "mean recall, ranking"),
    }
    in_model_card = True

    def logged(self, recipe: FinetuneRecipe) -> list[str]:
        return pretraining_log(recipe.objectives)

    def task(self, model: R2D2Model, processor: R2D2Processor, recipe: FinetuneRecipe) -> PretrainTask:
        return PretrainTask(make_pretraining(model, processor, recipe), recipe)

    def validate(
        self, model: R2D2Model, processor: R2D2Processor, held_out: RetrievalSet, recipe: FinetuneRecipe
    ) -> dict[str, float]:
        gallery, ranks = _ranked(model, processor, held_out, recipe.validation.rerank_k)
        report = report_of_ranks(ranks, gallery, recipe.validation.rerank_k)
        last = "pre_ranking" if report["mean_recall"]["ranking"] is None else "ranking"
        means = report["mean_recall"]
        values = (means[last], means["pre_ranking"], report["text_to_image"][last]["R@1"])
        return dict(zip(self.metrics, values, strict=True))

    def measure(
        self,
        model: R2D2Model,
        processor: R2D2Processor,
        held_out: RetrievalSet,
        recipe: FinetuneRecipe,
        heads: bool = True,
    ) -> DrawnMetrics:
        gallery, ranks_of = _ranked(model, processor, held_out, recipe.validation.rerank_k, heads)
        report = report_of_ranks(ranks_of, gallery, recipe.validation.rerank_k)
        values, draws, unit_N = {}, {}, resampling_unit(gallery)
        for stage in STAGES:
            known = {name: getattr(ranks, stage) for name, ranks in ranks_of.items()}
            if report["mean_recall"][stage] is not None:
                drawn = bootstrap_recalls(*hits_by_image(known, unit_N))
                values[stage], draws[stage] = cast(float, mean_recall(known.values())), drawn.mean((1, 2))
        return DrawnMetrics(values, draws, report, int(unit_N.max()) + 1, counted=True)


def _ranked(
    model: R2D2Model, processor: R2D2Processor, held_out: RetrievalSet, depth: int, heads: bool = True
) -> tuple[Gallery, dict[Direction, Ranks]]:
    texts, pairs = texts_and_pairs(held_out.samples, held_out.queries)
    gallery = encode_gallery(
        model, processor, [sample.image for sample in held_out.samples], texts, held_out.images.load
    )
    gallery = replace(gallery, pairs=pairs).with_convention([text for of_image in texts for text in of_image])
    return gallery, ranks_both_ways(R2D2Ranker(model, ranks=heads), gallery, depth)
