"""Matching: whether a text fits an image, on labelled pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from ccmb.core.errors import UsageError
from ccmb.core.options import Flag
from ccmb.tasks.family import Loaded, Report, TaskFamily, name_and_place
from ccmb.tasks.matching.table import matching_table
from ccmb.tasks.options import ImageOptions

if TYPE_CHECKING:
    from ccmb.inference.models.base import Model
    from ccmb.inference.pair_scores import PairScores
    from ccmb.tasks.matching.evaluate import LabelledPairs
    from ccmb.tasks.matching.finetune import MatchingFinetuner


@dataclass(frozen=True, kw_only=True)
class MatchingEvalOptions(ImageOptions):
    """What `ccmb evaluate` reads on labelled pairs."""

    fit_split: Annotated[
        str | None,
        Flag(
            "Of labelled pairs: the split that a threshold and a temperature are fitted on; by default the other half "
            "of the images."
        ),
    ] = None


class MatchingFamily(TaskFamily[MatchingEvalOptions, "LabelledPairs", "Model", "PairScores"]):
    """See `TaskFamily`."""

    name = "matching"
    mode = "labelled pairs"
    options = MatchingEvalOptions

    def is_of(self, spec: str) -> bool:
        from ccmb.data.labelled_pairs import is_labelled
        from ccmb.data.shards.shard_set import is_shards

        name, path = name_and_place(spec)
        return bool(name) or (path.is_file() and not is_shards(path) and is_labelled(path))

    def check(self, spec: str, options: MatchingEvalOptions) -> None:
        if options.fit_split == options.split:
            raise UsageError(
                f"--fit-split {options.fit_split}: the split that is scored; fit on another one, or leave it out"
            )

    def open_dataset(self, spec: str, options: MatchingEvalOptions) -> LabelledPairs:
        from ccmb.datasets.matching import open_labelled
        from ccmb.tasks.matching.evaluate import LabelledPairs

        name, path = name_and_place(spec)
        if not path.exists():
            raise UsageError(f"--data {name}={path}: no such file or folder")
        scored = open_labelled(path, options.split, options.images, name)
        fit_split = options.fit_split
        return LabelledPairs(
            scored, None if fit_split is None else open_labelled(path, fit_split, options.images, name)
        )

    def load(self, source: str, options: MatchingEvalOptions) -> Loaded[Model]:
        from ccmb.inference.models.open_model import open_model

        return Loaded(source, open_model(source))

    def predict(self, loaded: Loaded[Model], data: LabelledPairs, options: MatchingEvalOptions) -> PairScores:
        from ccmb.tasks.matching.evaluate import predict

        return predict(loaded.model, data.scored)[0]

    def evaluate(self, loaded: Loaded[Model], data: LabelledPairs, options: MatchingEvalOptions) -> Report:
        from ccmb.tasks.matching.evaluate import evaluate_matching

        values = evaluate_matching(loaded.model, data.scored, data.fit)
        return self.report(values, loaded.source, data.scored[0])

    def table(self, metrics: dict[str, Any]) -> str:
        return matching_table(metrics)

    def finetuner(self) -> MatchingFinetuner:
        from ccmb.tasks.matching.finetune import MatchingFinetuner

        return MatchingFinetuner()
