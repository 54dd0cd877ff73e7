"""Zero-shot classification: a picture belongs to the class whose prompts lie nearest to it.

All that is needed of a model is that it encodes pictures and texts (`Encoder`); a second stage (`ClassRanker`) may
order the best classes anew. R2D2's of both are in `ccmb.tasks.class_ranking`.

Shapes: B pictures of a batch, N pictures in all, C classes, D embedding width, K candidates of the second stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ccmb.data.class_lists import ImageClass
from ccmb.data.pictures import picture_of
from ccmb.errors import CcmbError
from ccmb.progress import progress
from ccmb.tasks.answers import pessimistic_ranks
from ccmb.tasks.given_pictures import check_any_read
from ccmb.tasks.prompts import TEMPLATES, check_templates, fill
from ccmb.tasks.two_stage import Encoder


class ClassRanker(Protocol):
    """A second stage over classes."""

    def __call__(self, images: Any, index_BK: Tensor, cosine_BK: Tensor) -> Tensor:
        """Scores (B, K) of encoded pictures and the classes at `index_BK`, whose cosines are known."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """What a classifier says of B pictures.

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

    encoder: Encoder
    classes: Sequence[ImageClass]
    embed_CD: Tensor
    ranker: ClassRanker | None = None
    depth: int = 10

    def scores(self, pictures: Sequence[Any]) -> ClassScores:
        """Scores of one batch of pictures; memory grows with B x C.

        Raises:
            CcmbError: a picture cannot be read.
        """
        images = self.encoder.encode_images(pictures, _opened)
        cosine_BC = F.normalize(images.embed.float().cpu(), dim=-1) @ self.embed_CD.T
        if self.ranker is None:
            return ClassScores(cosine_BC)
        # A stable sort, as in `ClassScores.top`: topk orders equal scores otherwise.
        order_BK = cosine_BC.argsort(dim=1, descending=True, stable=True)[:, : self.depth]
        return ClassScores(cosine_BC, order_BK, self.ranker(images, order_BK, cosine_BC.gather(1, order_BK)))


def _opened(picture: Any) -> Image.Image:
    return picture_of(picture) if isinstance(picture, str | Path | bytes | Image.Image) else picture


def class_embeddings(
    encoder: Encoder, classes: Sequence[ImageClass], templates: Sequence[str] = TEMPLATES, batch: int = 256
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
            embed = F.normalize(encoder.encode_texts(prompts).embed.float().cpu(), dim=-1)
            if not len(total_CD):
                total_CD = torch.zeros(len(classes), embed.shape[1])
            total_CD = total_CD.index_add(0, torch.tensor(index), embed)
            advance(len(chunk), "")
    return F.normalize(total_CD, dim=-1)


@dataclass(frozen=True, slots=True)
class ClassGuess:
    """A class that a picture may belong to, its cosine in [-1, 1] and its score of the second stage, if it has one."""

    name: str
    index: int
    cosine: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PictureClasses:
    """The best classes of one picture, best first; none of one that could not be read, and why."""

    picture: Any
    classes: tuple[ClassGuess, ...] = ()
    error: str | None = None


def classify_pictures(
    classifier: Classifier, pictures: Sequence[Any], top: int = 5, batch: int = 64
) -> list[PictureClasses]:
    """The best classes of each of some pictures, in their order; those that cannot be read are marked.

    Raises:
        CcmbError: none of the pictures can be read.
    """
    found: list[PictureClasses] = []
    for start in range(0, len(pictures), batch):
        chunk = pictures[start : start + batch]
        try:
            found += _guesses(classifier, chunk, top)
        except CcmbError:  # one of them; which one, only each by itself can tell
            found += [_guess_or_error(classifier, picture, top) for picture in chunk]
    check_any_read([of.error for of in found])
    return found


def _guess_or_error(classifier: Classifier, picture: Any, top: int) -> PictureClasses:
    try:
        return _guesses(classifier, [picture], top)[0]
    except CcmbError as error:
        return PictureClasses(picture, error=str(error))


def _guesses(classifier: Classifier, pictures: Sequence[Any], top: int) -> list[PictureClasses]:
    scores = classifier.scores(pictures)
    best_BK, ranking_BK = scores.top(top)
    found = []
    for row, (picture, best) in enumerate(zip(pictures, best_BK.tolist(), strict=True)):
        ranking = [] if ranking_BK is None else ranking_BK[row].tolist()
        guesses = [
            ClassGuess(classifier.classes[index].name, index, float(scores.cosine[row, index]), score)
            for index, score in itertools.zip_longest(best, ranking)
        ]
        found.append(PictureClasses(picture, tuple(guesses)))
    return found


def label_ranks(scores: ClassScores, labels_B: Tensor) -> tuple[Tensor, Tensor | None]:
    """(B,) rank from 1 of each picture's own class by each stage; a class of equal score counts as before it.

    Beyond K it stays in the second stage as it was in the first.
    """
    classes = torch.arange(scores.cosine.shape[1])
    first_B = pessimistic_ranks(scores.cosine, labels_B[:, None] == classes)
    if scores.candidates is None or scores.ranking is None:
        return first_B, None
    second_B = pessimistic_ranks(scores.ranking, scores.candidates == labels_B[:, None])
    return first_B, torch.where(first_B <= scores.candidates.shape[1], second_B, first_B)


def accuracy_report(ranks_N: Tensor, labels_N: Tensor) -> dict[str, Any]:
    """Top-1 and top-5 accuracy and the mean of the accuracies of those classes that have pictures, in percent, with
    95 % bootstrap intervals."""
    right_N = ranks_N <= 1
    _, place_N, count_C = labels_N.unique(return_inverse=True, return_counts=True)
    right_C = torch.zeros(len(count_C)).index_add(0, place_N, right_N.float()) / count_C
    figures = {"top1": right_N.float().mean(), "top5": (ranks_N <= 5).float().mean(), "mean_per_class": right_C.mean()}
    return {
        **{name: round(100 * float(value), 2) for name, value in figures.items()},
        "interval": {
            "top1": _interval(figures["top1"][None], torch.tensor([len(ranks_N)])),
            "top5": _interval(figures["top5"][None], torch.tensor([len(ranks_N)])),
            "mean_per_class": _interval(right_C, count_C),
        },
    }


def _interval(share_G: Tensor, count_G: Tensor, draws: int = 2000, seed: int = 0) -> list[float]:
    """95 % bootstrap interval of the mean of the shares of right ones in groups, in percent.

    To draw n of n pictures with replacement and count the right ones is to draw from a binomial distribution, so no
    picture is handled.
    """
    share, count = share_G.double().clamp(0, 1).numpy(), count_G.numpy()
    drawn = np.random.default_rng(seed).binomial(count, share, (draws, len(count))) / count
    return [round(100 * float(end), 2) for end in np.quantile(drawn.mean(1), [0.025, 0.975])]
