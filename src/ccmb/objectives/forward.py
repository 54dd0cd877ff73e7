"""The passes of towers and cross encoders over a batch: in chunks of rows, and with other processes' negatives.

Shapes: B images or texts, R rows of this process, N = 3R ranked pairs, T text tokens, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccmb.objectives.gradient_cache import in_chunks
from ccmb.objectives.ranking import MatchPairs
from ccmb.r2d2.modeling import R2D2Model, TowerOutput, TwoTowers
from ccmb.r2d2.packing import Packing
from ccmb.training.distributed import world
from ccmb.training.exchange import Exchange, plan_exchange


def encode_images(towers: TwoTowers, pixel_values: Tensor, chunk: int | None) -> TowerOutput:
    """Encode normalised images (B, 3, S, S) so many at a time, see `in_chunks`."""
    return TowerOutput.cat(in_chunks(lambda rows: towers.encode_image(pixel_values[rows]), len(pixel_values), chunk))


def encode_texts(
    towers: TwoTowers, input_ids: Tensor, mask: Tensor, chunk: int | None, packing: Packing | None = None
) -> TowerOutput:
    """Encode token ids (B, T) likewise; without chunks, packed as `packing` says."""
    if chunk is None:
        return towers.encode_packed(input_ids, mask, packing)
    return TowerOutput.cat(
        in_chunks(lambda rows: towers.encode_text(input_ids[rows], mask[rows]), len(input_ids), chunk)
    )


def rank_rows(
    model: R2D2Model, images: TowerOutput, texts: TowerOutput, pairs: MatchPairs, *, read: bool, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Match the pairs of R rows, whose negatives may be other processes' images and texts.

    Args:
        images, texts: of this process.
        pairs: by index into the global batch.
        read: whether the states of the positives' texts are wanted too.
        chunk: rows at a time, see `in_chunks`.

    Returns:
        Logits (3R, 2) of both match heads, and the states (R, T, W), or none of them.
    """
    # Once, and before the chunks: what is computed anew in the backward pass must not wait for other processes.
    of_images, of_texts = plan_exchange(pairs.image_index, len(images)), plan_exchange(pairs.text_index, len(texts))
    images, texts = fetch_output(of_images, images), fetch_output(of_texts, texts)
    pairs = MatchPairs(of_images.index, of_texts.index, pairs.labels)
    count = len(pairs.labels) // 3

    def rank(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        if chunk is None:
            some, some_images, some_texts = pairs.select_rows(rows), images, texts
        else:
            needed_images, needed_texts, some = pairs.select_rows(rows).referenced_items()
            some_images, some_texts = images[needed_images], texts[needed_texts]
        wanted = len(some.labels) // 3 if read else 0
        ranked = model.rank(some_images, some_texts, some.image_index, some.text_index, wanted)
        return ranked.logits_text_image.view(3, -1, 2), ranked.logits_image_text.view(3, -1, 2), ranked.states

    text_image, image_text, states = zip(*in_chunks(rank, count, chunk), strict=True)
    return torch.cat(text_image, 1).flatten(0, 1), torch.cat(image_text, 1).flatten(0, 1), torch.cat(states)


def read_own(model: R2D2Model, images: TowerOutput, texts: TowerOutput, rows: Tensor) -> Tensor:
    """States (rows, T, W) of some texts, each read in sight of its own image."""
    own = torch.arange(len(rows), device=rows.device)
    return model.read_texts(images[rows], texts[rows], own, own)


def fetch_output(exchange: Exchange, output: TowerOutput) -> TowerOutput:
    """What cross encoders read of the items that an exchange brings, with gradient to the process of each."""
    if world().size == 1:
        return output
    states = exchange.fetch(output.states)  # they read no embeddings: a view stands in
    return TowerOutput(states[:, 0], states, None if output.mask is None else exchange.fetch(output.mask))
