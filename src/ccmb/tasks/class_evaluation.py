"""`ccmb evaluate --classes`: the accuracy of zero-shot classification on one folder of pictures a class."""

from __future__ import annotations

import time
from typing import Any

import torch
from PIL import Image

from ccmb.data.class_folders import labelled_pictures
from ccmb.data.pictures import Pictures, UnreadablePicture
from ccmb.errors import CcmbError
from ccmb.progress import progress
from ccmb.tasks.classification import Classifier, accuracy_report, label_ranks


def evaluate_classes(classifier: Classifier, pictures: Pictures, batch: int = 64) -> dict[str, Any]:
    """Accuracy on all pictures that can be read; memory does not grow with their number.

    The figures of "classification" are the first stage's, which any model has; "ranking" holds those of the second.

    Raises:
        CcmbError: a folder names no class, there are no pictures, or none can be read.
    """
    started = time.monotonic()
    labelled = labelled_pictures(pictures, classifier.classes)
    labels: list[int] = []
    first, second, unreadable = [], [], []
    with progress("classify", len(labelled), "pictures") as advance:
        for start in range(0, len(labelled), batch):
            loaded: list[Image.Image] = []
            of_chunk = []
            for one in labelled[start : start + batch]:
                try:
                    loaded.append(pictures.load(one.name))
                    of_chunk.append(one.label)
                except UnreadablePicture as error:
                    unreadable.append(str(error))
            if loaded:
                ranks, ranking = label_ranks(classifier.scores(loaded), torch.tensor(of_chunk))
                labels += of_chunk
                first.append(ranks)
                second += [] if ranking is None else [ranking]
            advance(len(labelled[start : start + batch]), "")
    if not labels:
        raise CcmbError(f"{pictures.path}: none of the pictures could be read ({unreadable[0]})")
    labels_N = torch.tensor(labels)
    report: dict[str, Any] = {"pictures": len(labels), "classes": len(classifier.classes)}
    report |= {"classes_with_pictures": len(set(labels)), **accuracy_report(torch.cat(first), labels_N)}
    if second:
        report["ranking"] = {"depth": classifier.depth, **accuracy_report(torch.cat(second), labels_N)}
    seconds = {"evaluate": round(time.monotonic() - started, 1)}
    return {"classification": report, "unreadable": unreadable, "seconds": seconds}
