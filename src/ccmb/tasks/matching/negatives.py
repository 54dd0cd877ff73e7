"""Matches and likely non-matches drawn from a gallery: what the match score is calibrated on.

The non-matches are images that the first stage takes for likely: those that a search shows the second one.

Shapes: P texts, each in one match and one non-match; N = 2P pairs; Q texts at a time, G images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.core.progress import progress
from ccmb.data.equal_texts import text_key
from ccmb.data.sample import Sample
from ccmb.inference.gallery import Gallery
from ccmb.inference.stages import PairScorer

DEPTH = 16  # candidates of the first stage that a non-match is drawn from
BATCH, CHUNK = 2048, 256  # pairs and texts at a time


@dataclass(frozen=True, slots=True)
class DrawnPairs:
    """P texts, each with its own image (a match) and with a wrong one (a non-match); indices (P,)."""

    text: Tensor
    right: Tensor
    wrong: Tensor

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: Tensor) -> DrawnPairs:
        return DrawnPairs(self.text[index], self.right[index], self.wrong[index])

    @property
    def labels(self) -> Tensor:
        """(2P,) 1 for the matches, which come first, and 0 for the non-matches."""
        return (torch.arange(2 * len(self)) < len(self)).long()


def draw_pairs(
    gallery: Gallery, samples: Sequence[Sample], texts: Sequence[str], depth: int = DEPTH, seed: int = 0
) -> DrawnPairs:
    """Every text with its own image, and with one drawn from the `depth` best wrong ones by cosine.

    No image that goes by the same name as the text's own, or that has an equal text, is wrong. A text for which
    no image is wrong is left out.

    Args:
        samples: of the G images of the gallery.
        texts: all texts of the gallery, in its order.
    """
    generator, rights = torch.Generator().manual_seed(seed), _right_images(gallery, samples, texts)
    chunks = torch.arange(len(texts)).split(CHUNK)
    parts = [
        _draw_wrong(gallery, index_Q, [rights[i] for i in index_Q.tolist()], depth, generator) for index_Q in chunks
    ]
    text, wrong = (torch.cat(side) for side in zip(*parts, strict=True))
    return DrawnPairs(text, gallery.image_of_text[text], wrong)


def _right_images(gallery: Gallery, samples: Sequence[Sample], texts: Sequence[str]) -> list[list[int]]:
    """The images that fit each text, and so are no negatives of it."""
    by_name: dict[str, set[int]] = defaultdict(set)
    by_text: dict[str, set[int]] = defaultdict(set)
    for index, sample in enumerate(samples):
        by_name[sample.image].add(index)
        for text in sample.texts:
            by_text[text_key(text)].add(index)
    own = [samples[index].image for index in gallery.image_of_text.tolist()]
    return [list(by_name[name] | by_text[text_key(text)]) for name, text in zip(own, texts, strict=True)]


def _draw_wrong(
    gallery: Gallery, index_Q: Tensor, rights: Sequence[list[int]], depth: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The texts that have wrong images, and one of these for each."""
    cosine_QG = gallery.texts.embed[index_Q] @ gallery.images.embed.T
    for row, right in zip(cosine_QG, rights, strict=True):
        row[right] = -torch.inf
    top = cosine_QG.topk(min(depth, cosine_QG.shape[1]), dim=1)
    candidates_Q = (top.values > -torch.inf).sum(1)
    rank_Q = (torch.rand(len(index_Q), generator=generator) * candidates_Q).long()
    wrong_Q = top.indices.gather(1, rank_Q[:, None])[:, 0]
    return index_Q[candidates_Q > 0], wrong_Q[candidates_Q > 0]


def score_pairs(scorer: PairScorer, gallery: Gallery, pairs: DrawnPairs) -> Tensor:
    """Log-odds (2P, 2) of both heads for the matches, then for the non-matches."""
    image_N, text_N = torch.cat([pairs.right, pairs.wrong]), pairs.text.repeat(2)
    parts = []
    with progress("match", len(image_N), "pairs") as advance:
        for start in range(0, len(image_N), BATCH):
            part = slice(start, start + BATCH)
            match = scorer.score_pairs(gallery.images, gallery.texts, image_N[part], text_N[part]).match
            assert match is not None, "only models with match heads are calibrated"
            parts.append(match.head_log_odds)
            advance(len(parts[-1]), "")
    return torch.cat(parts)
