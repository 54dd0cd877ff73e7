"""Retrieval as fine-tuning sees it: GCPR and FGR on pairs, mean recall of the last stage on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import RetrievalSet
from ccmb.tasks.finetuning.finetuner import DrawnMetrics
from ccmb.tasks.finetuning.pairs import PairFinetuner, R2D2Loading
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.run import PretrainTask, make_pretraining
from ccmb.tasks.pretraining.starting import pretraining_log
from ccmb.tasks.retrieval.held_out import rank_held_out
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
        gallery, ranks = rank_held_out(model, processor, held_out, recipe.validation.rerank_k)
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
        gallery, ranks_of = rank_held_out(model, processor, held_out, recipe.validation.rerank_k, heads)
        report = report_of_ranks(ranks_of, gallery, recipe.validation.rerank_k)
        values, draws, unit_N = {}, {}, resampling_unit(gallery)
        for stage in STAGES:
            known = {name: getattr(ranks, stage) for name, ranks in ranks_of.items()}
            if report["mean_recall"][stage] is not None:
                drawn = bootstrap_recalls(*hits_by_image(known, unit_N))
                values[stage], draws[stage] = cast(float, mean_recall(known.values())), drawn.mean((1, 2))
        return DrawnMetrics(values, draws, report, int(unit_N.max()) + 1, counted=True)
