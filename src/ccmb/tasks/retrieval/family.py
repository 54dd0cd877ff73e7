"""Retrieval: which image a text describes, and which text an image shows, among many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ccmb.core.errors import UsageError
from ccmb.core.options import Flag
from ccmb.tasks.family import Loaded, Report, TaskFamily, name_and_place
from ccmb.tasks.options import DepthOption, PairOptions, RankingRuleOption, RankOptionsGiven
from ccmb.tasks.retrieval.table import retrieval_table

if TYPE_CHECKING:
    from ccmb.inference.models.base import Model
    from ccmb.tasks.retrieval.evaluate import Pairs, Predictions
    from ccmb.tasks.retrieval.finetune import RetrievalFinetuner

DEPTH = 128  # candidates that the second stage ranks, as in the paper
SECOND_STAGE = ("depth", "ranking_rule", "precision", "cascade")


@dataclass(frozen=True, kw_only=True)
class RetrievalEvalOptions(RankOptionsGiven, PairOptions):
    """What `ccmb evaluate` reads on own pairs and shards."""

    depth: DepthOption = None
    limit_texts: Annotated[int | None, Flag("Use only the first N texts of each image.", min=1)] = None
    ranking_rule: RankingRuleOption = None
    languages: Annotated[
        str | None,
        Flag("Measure each language by itself, such as zh=captions+mt_baidu,en: languages and their fields."),
    ] = None


class RetrievalFamily(TaskFamily[RetrievalEvalOptions, "Pairs", "Model", "Predictions"]):
    """See `TaskFamily`."""

    name = "retrieval"
    mode = "retrieval"
    options = RetrievalEvalOptions

    def is_of(self, spec: str) -> bool:
        return True  # unless another family asks for it first

    def check(self, spec: str, options: RetrievalEvalOptions) -> None:
        from ccmb.data.shards.shard_set import is_shards

        _, path = name_and_place(spec)
        if is_shards(path):
            options.refuse("of pairs; shards hold their images and have no splits", "images", "split")
        elif options.images is None:
            folder_for_pairs(path)

    def open_dataset(self, spec: str, options: RetrievalEvalOptions) -> Pairs:
        from ccmb.data.shards.shard_set import is_shards
        from ccmb.tasks.retrieval.evaluate import open_data

        _, path = name_and_place(spec)
        if is_shards(path):
            return open_data(path, path, None, options.fields)
        return open_data(path, options.images or folder_for_pairs(path), options.split, options.fields)

    def load(self, source: str, options: RetrievalEvalOptions) -> Loaded[Model]:
        from ccmb.inference.models.open_model import is_exported, open_model
        from ccmb.inference.stages import RankOptions

        if options.precision == "fp32" and is_exported(source):
            options.refuse("of networks in torch; an export keeps the one that it was made with", "precision")
        model = open_model(source, options=RankOptions(options.precision, options.cascade, options.ranking_rule))
        options.need_second_stage(model.can_rank, source, *SECOND_STAGE)
        return Loaded(source, model)

    def predict(self, loaded: Loaded[Model], data: Pairs, options: RetrievalEvalOptions) -> Predictions:
        from ccmb.tasks.retrieval.evaluate import predict

        return predict(loaded.model, data, **_how(options, loaded.model))

    def evaluate(self, loaded: Loaded[Model], data: Pairs, options: RetrievalEvalOptions) -> Report:
        from ccmb.tasks.retrieval.evaluate import evaluate

        done = evaluate(loaded.model, data, **_how(options, loaded.model))
        return self.report(done.report, loaded.source, done.samples)

    def run(self, source: str, spec: str, options: RetrievalEvalOptions) -> Report:
        if options.languages is not None:
            return self._languages(self.load(source, options), spec, options, options.languages)
        self.check(spec, options)
        loaded = self.load(source, options)  # first: there may be many pairs to read in vain
        return self.evaluate(loaded, self.open_dataset(spec, options), options)

    def _languages(self, loaded: Loaded[Model], spec: str, options: RetrievalEvalOptions, languages: str) -> Report:
        from ccmb.tasks.retrieval.columns import columns
        from ccmb.tasks.retrieval.language_report import of_language
        from ccmb.tasks.retrieval.languages import measure_columns, open_languages

        options.refuse("of one field of texts; --languages names fields", "text_field", "limit_texts")
        asked = columns(languages)
        data = open_languages(spec, options.split, asked, options.images)
        depth = options.depth or loaded.model.rerank_k or DEPTH
        measured = measure_columns(loaded.model, data, depth, options.convention, asked)
        values = {
            "retrieval": {"languages": {column.name: of_language(one) for column, one in measured}, "depth": depth},
            "unreadable": data.unreadable,
        }
        return self.report(values, loaded.source, data.samples)

    def table(self, metrics: dict[str, Any]) -> str:
        from ccmb.tasks.retrieval.language_report import languages_table

        return languages_table(metrics["languages"]) if "languages" in metrics else retrieval_table(metrics)

    def finetuner(self) -> RetrievalFinetuner:
        from ccmb.tasks.retrieval.finetune import RetrievalFinetuner

        return RetrievalFinetuner()


def _how(options: RetrievalEvalOptions, model: Model) -> dict[str, Any]:
    """Arguments of `ccmb.tasks.retrieval.evaluate.evaluate`."""
    return {
        "depth": options.depth or model.rerank_k or DEPTH,
        "texts_per_image": options.limit_texts,
        "convention": options.convention,
    }


def folder_for_pairs(data: Path) -> Path:
    """The images of a file of pairs by default: a folder or tar beside it.

    Raises:
        UsageError: it is a folder.
        CcmbError: there are no images beside it.
    """
    from ccmb.data.pairs import images_beside

    if data.is_dir():
        raise UsageError(f"{data}: a folder; give a pairs.jsonl file, or say with --classes what its folders show")
    return images_beside(data)
