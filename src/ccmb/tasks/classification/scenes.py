"""Zero-shot classification on synthetic scenes: what a model knows of kinds and colours by their names alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from ccmb.data.images.source import ImageSource
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.scenes.classification import SCENE_TEMPLATES, Attribute, scene_classes, write_class_folders
from ccmb.tasks.classification.evaluate import evaluate_classes
from ccmb.tasks.classification.rerank import make_classifier


def measure_drawn_classes(
    models: dict[str, R2D2Model], processor: R2D2Processor, folder: Path, per_class: dict[Attribute, int], seed: int
) -> dict[str, Any]:
    """Accuracies of each model, by its name, on images of one thing each, which no corpus holds.

    Args:
        folder: where the images are drawn, in one folder an attribute, and stay.
        per_class: how many of each kind, and of each colour.

    Returns:
        for each attribute the "classification" of `evaluate_classes` for each model.
    """
    report: dict[str, Any] = {}
    size = processor.image_size
    for attribute in get_args(Attribute):
        write_class_folders(folder / attribute, attribute, per_class[attribute], size, seed)
        images = ImageSource.open(folder / attribute)
        report[attribute] = {
            name: evaluate_classes(
                make_classifier(R2D2Stages(model, processor), scene_classes(attribute), SCENE_TEMPLATES), images
            )["classification"]
            for name, model in models.items()
        }
    return report
