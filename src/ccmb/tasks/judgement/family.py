"""Human judgement: graded pairs, own ones and those of Flickr8k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ccmb.core.errors import CcmbError, UsageError
from ccmb.tasks.family import Loaded, Report, TaskFamily, name_and_place
from ccmb.tasks.judgement.table import judgement_table
from ccmb.tasks.options import PairOptions

if TYPE_CHECKING:
    from ccmb.inference.models.base import Model
    from ccmb.inference.pair_scores import PairScores
    from ccmb.tasks.judgement.evaluate import GradedPairs


@dataclass(frozen=True, kw_only=True)
class JudgementOptions(PairOptions):
    """What `ccmb evaluate` reads on graded pairs; the text field is of published judgements, one of any language."""


class JudgementFamily(TaskFamily[JudgementOptions, "GradedPairs", "Model", "PairScores"]):
    """See `TaskFamily`."""

    name = "judgement"
    mode = "graded pairs"
    options = JudgementOptions

    def is_of(self, spec: str) -> bool:
        from ccmb.data.shards.shard_set import is_shards
        from ccmb.tasks.judgement.grades import PUBLISHED, is_graded

        name, path = name_and_place(spec)
        return name.lower() in PUBLISHED or (path.is_file() and not is_shards(path) and is_graded(path))

    def open_dataset(self, spec: str, options: JudgementOptions) -> GradedPairs:
        from ccmb.data.images.source import ImageSource
        from ccmb.data.pairs import images_beside
        from ccmb.tasks.judgement.evaluate import GradedPairs
        from ccmb.tasks.judgement.grades import PUBLISHED, read_graded, read_published

        name, path = name_and_place(spec)
        if name.lower() not in PUBLISHED:
            options.refuse("of published judgements; graded pairs have one text each", "text_field")
            return GradedPairs(
                path, read_graded(path, options.split), ImageSource.open(options.images or images_beside(path))
            )
        if not path.is_dir():
            raise UsageError(f"--data {spec}: give {name}=FOLDER, with {PUBLISHED[name.lower()]} and captions in it")
        options.refuse("of own pairs; the judgements are of test images", "split")
        if len(options.fields) > 1:
            raise UsageError("--text-field: judgements are of captions in one language; give one field")
        near = [one for one in (path / "images.tar", path / "images") if one.exists()]
        images = options.images or (near[0] if near else None)
        if images is None:
            raise CcmbError(f"{path}: no images.tar or images in it; say with --images where they are")
        graded = read_published(name.lower(), path, options.fields[0])
        return GradedPairs(path, graded, ImageSource.open(images))

    def load(self, source: str, options: JudgementOptions) -> Loaded[Model]:
        from ccmb.inference.models.open_model import open_model

        return Loaded(source, open_model(source))

    def predict(self, loaded: Loaded[Model], data: GradedPairs, options: JudgementOptions) -> PairScores:
        from ccmb.tasks.judgement.evaluate import predict

        return predict(loaded.model, data)[1]

    def evaluate(self, loaded: Loaded[Model], data: GradedPairs, options: JudgementOptions) -> Report:
        from ccmb.tasks.judgement.evaluate import evaluate_graded

        values = evaluate_graded(loaded.model, data)
        return self.report(values, loaded.source, [pair.sample for pair in data.pairs])

    def table(self, metrics: dict[str, Any]) -> str:
        return judgement_table(metrics)
