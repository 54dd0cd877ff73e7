"""All images and texts of a set, encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ccmb.core.choices import Convention
from ccmb.core.progress import Advance, progress
from ccmb.inference.answers import EqualTexts, equal_texts, pessimistic_ranks, ranks_by_order
from ccmb.inference.items import EncodedItems
from ccmb.inference.raw_items import join
from ccmb.inference.stages import ImageLoader, SetEncoder
from ccmb.r2d2.towers.two_towers import TowerOutput


@dataclass(frozen=True, slots=True)
class Gallery:
    """Encoded images and texts.

    Attributes:
        images: G images.
        texts: all texts; those of one image stand together.
        image_of_text: (texts,) index of each text's image, or of the first of several.
        pairs: (P, 2) indices of every text and image that fit each other, where texts have several images; None
            where each has one.
        equal: the texts that several images have, where `convention` calls them right.
        convention: which answers are right and how ties count, see `ccmb.inference.answers`.
    """

    images: EncodedItems
    texts: EncodedItems
    image_of_text: Tensor
    pairs: Tensor | None = None
    equal: EqualTexts | None = None
    convention: Convention = "equal_texts"

    def with_convention(self, texts: Sequence[str], convention: Convention = "equal_texts") -> Gallery:
        """The gallery with another convention of right answers; `texts` are all of its texts in order."""
        equal = equal_texts(texts, self.image_of_text, self.pairs) if convention == "equal_texts" else None
        return replace(self, equal=equal, convention=convention)

    def ranks(self, scores_QK: Tensor, relevant_QK: Tensor, item_QK: Tensor) -> Tensor:
        """(Q,) rank from 1 of the best right one of some items, given by their scores and numbers."""
        if self.convention == "official":
            return ranks_by_order(scores_QK, relevant_QK, item_QK)
        return pessimistic_ranks(scores_QK, relevant_QK)

    def relevant(self, by_text: bool, index_Q: Tensor) -> Tensor:
        """(Q, G) which images fit the texts of a run of indices; or by image, which texts."""
        if self.equal is not None:
            return self.equal.images_of(index_Q, len(self.images)) if by_text else self.equal.texts_of(index_Q)
        if self.pairs is None:
            if by_text:
                return self.image_of_text[index_Q, None] == torch.arange(len(self.images))
            return self.image_of_text[None, :] == index_Q[:, None]
        queries, items = self.pairs.T if by_text else self.pairs.flip(1).T
        in_run_P = (queries >= index_Q[0]) & (queries <= index_Q[-1])
        relevant_QG = torch.zeros(len(index_Q), len(self.images if by_text else self.texts), dtype=torch.bool)
        relevant_QG[queries[in_run_P] - index_Q[0], items[in_run_P]] = True
        return relevant_QG


def encode_gallery(
    encoder: SetEncoder,
    images: Sequence[Any],
    texts: Sequence[Sequence[str]],
    load: ImageLoader,
    batch: int = 128,
    convention: Convention = "equal_texts",
) -> Gallery:
    """Encode G images (opened by `load`) and their texts, one or several an image."""
    return encode_gallery_with(encoder, images, texts, load, batch).with_convention(
        [text for of_image in texts for text in of_image], convention
    )


def encode_gallery_with(
    encoder: SetEncoder, images: Sequence[Any], texts: Sequence[Sequence[str]], load: ImageLoader, batch: int = 128
) -> Gallery:
    """Encode a gallery with any encoder; its answers get their convention from `Gallery.with_convention`."""
    flat = [text for of_image in texts for text in of_image]
    image_of_text = torch.tensor([index for index, of_image in enumerate(texts) for _ in of_image])
    with progress("encode", len(images) + len(flat), "items") as advance:
        of_images = join(list(image_batches(encoder, images, load, batch, advance)))
        indices, parts = zip(*text_batches(encoder, flat, batch, advance), strict=True)
        of_texts = join(list(parts))[torch.cat(indices).argsort()]
        return Gallery(of_images, of_texts, image_of_text)


def image_batches(
    encoder: SetEncoder, images: Sequence[Any], load: ImageLoader, batch: int, advance: Advance
) -> Iterator[TowerOutput]:
    """Images encoded in their order."""
    for start in range(0, len(images), batch):
        yield encoder.encode_images(images[start : start + batch], load)
        advance(min(batch, len(images) - start), "")


def text_batches(
    encoder: SetEncoder, texts: Sequence[str], batch: int, advance: Advance
) -> Iterator[tuple[Tensor, TowerOutput]]:
    """Encoded texts with their indices; texts of like length share a batch, so that little padding is computed."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        yield torch.tensor(indices), encoder.encode_texts([texts[index] for index in indices])
        advance(len(indices), "")
