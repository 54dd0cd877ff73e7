"""Zero-shot classification: an image belongs to the class whose prompts lie nearest to it.

All that is needed of a model is that it encodes images and texts (`SetEncoder`); a second stage (`ScoreClasses`) may
order the best classes anew. R2D2's of both are in `ccmb.tasks.classification.rerank`.

Shapes: B images of a batch, N images in all, C classes, D embedding width, K candidates of the second stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.errors import CcmbError
from ccmb.core.floats import at_least_float32
from ccmb.core.progress import progress
from ccmb.data.class_names import ImageClass
from ccmb.data.images.source import image_of
from ccmb.inference.answers import pessimistic_ranks
from ccmb.inference.stages import SetEncoder
from ccmb.inference.user_images import check_any_read
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.classification.prompts import TEMPLATES, check_templates, fill
from ccmb.tasks.common.resampling import score_interval

# Scores (B, K) of encoded images and the classes at indices (B, K), whose cosines (B, K) are known.
ScoreClasses = Callable[[TowerOutput, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The scores that a classifier gives B images.

    Attributes:
        cosine: (B, C).
        candidates: (B, K) indices of the classes that the second stage scored; None without one.
        ranking: (B, K) its scores.
    """

    cosine: Tensor
    candidates: Tensor | None = None
    ranking: Tensor | None = None

    def top(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Indices (B, count) of the best classes in order, and the second stage's scores of them where it has any; the
        classes that it did not see follow those it did."""
        order_BC = self.cosine.argsort(dim=1, descending=True, stable=True)
        if self.candidates is None or self.ranking is None:
            return order_BC[:, :count], None
        best = self.ranking.sort(dim=1, descending=True, stable=True)
        depth = best.indices.shape[1]
        order_BC = torch.cat([self.candidates.gather(1, best.indices), order_BC[:, depth:]], 1)
        return order_BC[:, :count], best.values[:, :count]


@dataclass(frozen=True, slots=True)
class Classifier:
    """An encoder with the embeddings of its classes.

    Attributes:
        embed_CD: see `class_embeddings`.
        ranker: the second stage, if it is wanted.
        depth: K, how many classes it ranks.
    """

    encoder: SetEncoder
    classes: Sequence[ImageClass]
    embed_CD: Tensor
    ranker: ScoreClasses | None = None
    depth: int = 10

    def scores(self, images: Sequence[Any]) -> ClassScores:
        """Scores of one batch of images; memory grows with B x C.

        Raises:
            CcmbError: an image cannot be read.
        """
        encoded = self.encoder.encode_images(images, _opened)
        cosine_BC = F.normalize(at_least_float32(encoded.embed).cpu(), dim=-1) @ self.embed_CD.T
        if self.ranker is None:
            return ClassScores(cosine_BC)
        # A stable sort, as in `ClassScores.top`: topk orders equal scores otherwise.
        order_BK = cosine_BC.argsort(dim=1, descending=True, stable=True)[:, : self.depth]
        return ClassScores(cosine_BC, order_BK, self.ranker(encoded, order_BK, cosine_BC.gather(1, order_BK)))


def _opened(image: Any) -> Image.Image:
    return image_of(image) if isinstance(image, str | Path | bytes | Image.Image) else image


def class_embeddings(
    encoder: SetEncoder, classes: Sequence[ImageClass], templates: Sequence[str] = TEMPLATES, batch: int = 256
) -> Tensor:
    """(C, D) L2-normalised means of the L2-normalised embeddings of all prompts of each class.

    Every name of a class goes into every template. No more than `batch` prompts are held at a time.

    Raises:
        CcmbError: a template has not exactly one place for the name.
    """
    check_templates(templates)
    every = ((i, fill(way, name)) for i, one in enumerate(classes) for name in one.names for way in templates)
    total_CD = torch.zeros(0)
    count = len(templates) * sum(len(one.names) for one in classes)
    with progress("prompts", count, "texts") as advance:
        while chunk := list(itertools.islice(every, batch)):
            index, prompts = zip(*chunk, strict=True)
            embed = F.normalize(at_least_float32(encoder.encode_texts(prompts).embed).cpu(), dim=-1)
            if not len(total_CD):
                total_CD = embed.new_zeros(len(classes), embed.shape[1])
            total_CD = total_CD.index_add(0, torch.tensor(index), embed)
            advance(len(chunk), "")
    return F.normalize(total_CD, dim=-1)


@dataclass(frozen=True, slots=True)
class ClassGuess:
    """A class that an image may belong to, its cosine in [-1, 1] and its score of the second stage, if it has one."""

    name: str
    index: int
    cosine: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ImageClasses:
    """The classes of one image, best first; for an image that could not be read none, and the error."""

    image: Any
    classes: tuple[ClassGuess, ...] = ()
    error: str | None = None


def classify_images(classifier: Classifier, images: Sequence[Any], top: int = 5, batch: int = 64) -> list[ImageClasses]:
    """The best classes of each of some images, in their order; those that cannot be read are marked.

    Raises:
        CcmbError: none of the images can be read.
    """
    results: list[ImageClasses] = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        try:
            results += _guesses(classifier, chunk, top)
        except CcmbError:  # one of them; which one, only each by itself can tell
            results += [_guess_or_error(classifier, image, top) for image in chunk]
    check_any_read([result.error for result in results])
    return results


def _guess_or_error(classifier: Classifier, image: Any, top: int) -> ImageClasses:
    try:
        return _guesses(classifier, [image], top)[0]
    except CcmbError as error:
        return ImageClasses(image, error=str(error))


def _guesses(classifier: Classifier, images: Sequence[Any], top: int) -> list[ImageClasses]:
    scores = classifier.scores(images)
    best_BK, ranking_BK = scores.top(top)
    results = []
    for row, (image, best) in enumerate(zip(images, best_BK.tolist(), strict=True)):
        ranking = [] if ranking_BK is None else ranking_BK[row].tolist()
        guesses = [
            ClassGuess(classifier.classes[index].name, index, float(scores.cosine[row, index]), score)
            for index, score in itertools.zip_longest(best, ranking)
        ]
        results.append(ImageClasses(image, tuple(guesses)))
    return results


def label_ranks(scores: ClassScores, labels_B: Tensor) -> tuple[Tensor, Tensor | None]:
    """(B,) rank from 1 of each image's own class by each stage; a class of equal score counts as before it.

    Beyond K it stays in the second stage as it was in the first.
    """
    classes = torch.arange(scores.cosine.shape[1])
    first_B = pessimistic_ranks(scores.cosine, labels_B[:, None] == classes)
    if scores.candidates is None or scores.ranking is None:
        return first_B, None
    second_B = pessimistic_ranks(scores.ranking, scores.candidates == labels_B[:, None])
    return first_B, torch.where(first_B <= scores.candidates.shape[1], second_B, first_B)


def accuracy_report(ranks_N: Tensor, labels_N: Tensor) -> dict[str, Any]:
    """Top-1 and top-5 accuracy and the mean of the accuracies of those classes that have images, in percent, with
    95 % intervals: over all images, and of the mean per class over the images of each class."""
    right_N = (ranks_N <= 1).double()
    _, class_N, count_C = labels_N.unique(return_inverse=True, return_counts=True)
    right_C = torch.zeros(len(count_C), dtype=torch.double).index_add(0, class_N, right_N) / count_C
    metrics = {"top1": right_N, "top5": (ranks_N <= 5).double()}
    shares = {name: float(values.mean()) for name, values in metrics.items()} | {
        "mean_per_class": float(right_C.mean())
    }
    count = len(ranks_N)
    intervals = {name: score_interval(100 * shares[name], 0.0, count) for name in metrics}
    intervals["mean_per_class"] = _mean_interval(right_C.numpy(), count_C.numpy())
    return {**{name: round(100 * share, 2) for name, share in shares.items()}, "interval": intervals}


def _mean_interval(share_C: np.ndarray, count_C: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of classes' accuracies in percent, with the classes held fixed.

    That of a stratified mean: each class's variance is a binomial one, and Student's t has as many degrees of freedom
    as these variances together (Satterthwaite 1946). A class of few images says little of its own variance, and one
    of a single image nothing: its share is therefore drawn towards the mean of all, as by two images more. To draw
    a class's own images again, as a bootstrap does, would say that classes of one image never vary.
    """
    classes, value = len(count_C), float(share_C.mean())
    usual = (share_C.sum() + 1) / (classes + 2)
    drawn_C = (share_C * count_C + 2 * usual) / (count_C + 2)
    variance_C = drawn_C * (1 - drawn_C) / count_C
    freedom = variance_C.sum() ** 2 / (variance_C**2 / np.maximum(count_C - 1, 1)).sum()
    return score_interval(100 * value, 1e4 * float(variance_C.sum()) / classes**2, 1 + float(freedom))
