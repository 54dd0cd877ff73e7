"""Zero-shot classification: which of some classes an image shows, by their Chinese names alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ccmb.core.errors import UsageError
from ccmb.core.options import Flag, Options
from ccmb.tasks.classification.table import classification_table
from ccmb.tasks.family import Loaded, Report, TaskFamily, name_and_place
from ccmb.tasks.options import DepthOption, RankingRuleOption, SplitOption

if TYPE_CHECKING:
    from ccmb.inference.models.base import Model
    from ccmb.tasks.classification.classifier import Classifier
    from ccmb.tasks.classification.evaluate import ClassFolders, ClassRanks

CLASSES_HELP = "Classes: imagenet, cifar10, cifar100, a JSON or text file, or names such as 猫/猫咪,狗."


TEMPLATES_HELP = "Prompts of a class: all, plain, a text with {} for its name, or a file of one a line."
TemplatesOption = Annotated[str, Flag(TEMPLATES_HELP)]


@dataclass(frozen=True, kw_only=True)
class ClassificationEvalOptions(Options):
    """What `ccmb evaluate --classes` reads."""

    classes: Annotated[
        str | None, Flag(f"Measure zero-shot classification. {CLASSES_HELP}", forms=("--classes", "-c"))
    ] = None
    templates: TemplatesOption = "all"
    split: SplitOption = "test"
    depth: DepthOption = None
    ranking_rule: RankingRuleOption = None


class ClassificationFamily(TaskFamily[ClassificationEvalOptions, "ClassFolders", "Model", "ClassRanks"]):
    """See `TaskFamily`."""

    name = "classification"
    mode = "--classes"
    asked_by = "classes"
    options = ClassificationEvalOptions

    def check(self, spec: str, options: ClassificationEvalOptions) -> None:
        if options.depth is None:
            options.refuse("of the second stage, which --rerank-k lets rank classes", "ranking_rule")

    def open_dataset(self, spec: str, options: ClassificationEvalOptions) -> ClassFolders:
        from ccmb.data.class_names import read_classes
        from ccmb.data.images.source import ImageSource
        from ccmb.tasks.classification.evaluate import ClassFolders
        from ccmb.tasks.classification.prompts import read_templates

        _, path = name_and_place(spec)
        if options.is_given("split"):
            path = _folder_of_split(path, options.split)
        return ClassFolders(
            read_classes(options.classes or ""), read_templates(options.templates), ImageSource.open(path)
        )

    def load(self, source: str, options: ClassificationEvalOptions) -> Loaded[Model]:
        from ccmb.inference.models.open_model import open_model
        from ccmb.inference.stages import RankOptions

        return Loaded(source, open_model(source, options=RankOptions(ranking_rule=options.ranking_rule)))

    def predict(self, loaded: Loaded[Model], data: ClassFolders, options: ClassificationEvalOptions) -> ClassRanks:
        from ccmb.tasks.classification.evaluate import predict

        return predict(_classifier(loaded, data, options), data.images)

    def evaluate(self, loaded: Loaded[Model], data: ClassFolders, options: ClassificationEvalOptions) -> Report:
        from ccmb.tasks.classification.evaluate import evaluate_classes

        values = evaluate_classes(_classifier(loaded, data, options), data.images)
        values[self.name] |= {"class_list": options.classes, "templates": options.templates}
        if options.depth is not None:
            values["ranking_rule"] = loaded.model.ranking_rule
        return Report(self.name, values)

    def table(self, metrics: dict[str, Any]) -> str:
        return classification_table(metrics)


def _classifier(loaded: Loaded[Model], data: ClassFolders, options: ClassificationEvalOptions) -> Classifier:
    from ccmb.tasks.classification.rerank import make_classifier

    return make_classifier(loaded.model, data.classes, templates=data.templates, depth=options.depth)


def _folder_of_split(path: Path, split: str) -> Path:
    """The folder of a split within a folder of such folders.

    Raises:
        UsageError: there is none.
    """
    if not (path / split).is_dir():
        raise UsageError(
            f"--split {split}: {path} has no folder {split} in it; leave it out, or give the folder itself"
        )
    return path / split
