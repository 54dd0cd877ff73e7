"""A model on a held-out set of images and texts, as fine-tuning and ablations measure it."""

from __future__ import annotations

from dataclasses import replace

from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.stages import R2D2Encoder, R2D2Ranker
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import RetrievalSet, texts_and_pairs


def rank_held_out(
    model: R2D2Model, processor: R2D2Processor, held_out: RetrievalSet, depth: int, heads: bool = True
) -> tuple[Gallery, dict[Direction, Ranks]]:
    """The encoded gallery of a set, and the ranks of the right answers both ways, or by text where texts have several
    images.

    Args:
        depth: candidates of the first stage that the second one ranks.
        heads: whether the match heads know something; without them there is no second stage.
    """
    texts, pairs = texts_and_pairs(held_out.samples, held_out.queries)
    gallery = encode_gallery(
        R2D2Encoder(model, processor), [sample.image for sample in held_out.samples], texts, held_out.images.load
    )
    gallery = replace(gallery, pairs=pairs).with_convention([text for of_image in texts for text in of_image])
    return gallery, ranks_both_ways(R2D2Ranker(model, ranks=heads), gallery, depth)
