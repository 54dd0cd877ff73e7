"""Scores of labelled pairs: the cosine of each and, if the model can rank, the outputs of its match heads.

Shapes: N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.core.progress import progress
from ccmb.data.labelled_pairs import label_of
from ccmb.data.sample import Sample
from ccmb.inference.scoring import match_probability
from ccmb.inference.stages import ImageLoader, PairScorer, SetEncoder


@dataclass(frozen=True, slots=True)
class PairScores:
    """Labelled pairs as a model sees them.

    Attributes:
        label: (N,) 1 where the text fits the image, 0 where not.
        image: (N,) the number of each pair's image, from 0.
        cosine: (N,).
        head_log_odds: (N, 2) log-odds of a match by each head; None without cross encoders.
    """

    label: Tensor
    image: Tensor
    cosine: Tensor
    head_log_odds: Tensor | None

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Tensor) -> PairScores:
        heads = None if self.head_log_odds is None else self.head_log_odds[index]
        return PairScores(self.label[index], self.image[index], self.cosine[index], heads)

    @property
    def score(self) -> Tensor:
        """(N,) by which pairs are told apart: the match score in [0, 1]; the cosine without cross encoders."""
        return self.cosine if self.head_log_odds is None else match_probability(self.head_log_odds.double(), 1.0)

    def without_heads(self) -> PairScores:
        """The first stage alone."""
        return PairScores(self.label, self.image, self.cosine, None)


def score_labelled(
    encoder: SetEncoder, scorer: PairScorer, samples: Sequence[Sample], load: ImageLoader, batch: int = 128
) -> PairScores:
    """Score labelled pairs, in their order, so many images at a time: memory does not grow with the pairs.

    Each image is encoded once, however many pairs show it.

    Args:
        samples: of labelled pairs, whose images can be read.
    """
    names = list(dict.fromkeys(sample.image for sample in samples))
    number_of = {name: number for number, name in enumerate(names)}
    image_N = torch.tensor([number_of[sample.image] for sample in samples])
    cosine_N, heads_N2 = torch.empty(len(samples)), torch.empty(len(samples), 2)
    order_N = image_N.argsort(stable=True)
    with progress("match", len(samples), "pairs") as advance:
        for start in range(0, len(names), batch):
            images = encoder.encode_images(names[start : start + batch], load)
            of_chunk = order_N[(image_N[order_N] >= start) & (image_N[order_N] < start + batch)]
            for part in of_chunk.split(4 * batch):
                texts = encoder.encode_texts([samples[index].texts[0] for index in part.tolist()])
                image_index, text_index = image_N[part] - start, torch.arange(len(part))
                scores = scorer.score_pairs(images, texts, image_index, text_index)
                cosine_N[part] = scores.cosine
                if scores.match is not None:
                    heads_N2[part] = scores.match.head_log_odds
                advance(len(part), "")
    label_N = torch.tensor([label_of(sample) for sample in samples])
    return PairScores(label_N, image_N, cosine_N, heads_N2 if scorer.can_rank else None)
