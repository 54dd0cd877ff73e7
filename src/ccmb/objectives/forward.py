"""Forward passes of towers and cross encoders: in chunks of rows, and with negatives of other processes.

Shapes: B images or texts, R rows of this process, N = 3R ranked pairs, T text tokens, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccmb.objectives.batch import Batch
from ccmb.objectives.ranking import MatchPairs
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.packing import Packing
from ccmb.r2d2.projection import Standardize
from ccmb.r2d2.towers.stored import image_of_rows, text_of_rows
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers
from ccmb.training.distributed import all_reduce_sum, world
from ccmb.training.exchange import Exchange, plan_exchange
from ccmb.training.gradient_cache import in_chunks


def encode_images(towers: TwoTowers, pixel_values: Tensor, chunk: int | None) -> TowerOutput:
    """Encode normalised images (B, 3, S, S), `chunk` at a time, see `in_chunks`."""
    return TowerOutput.cat(in_chunks(lambda rows: towers.encode_image(pixel_values[rows]), len(pixel_values), chunk))


def encode_texts(
    towers: TwoTowers, input_ids: Tensor, mask: Tensor, chunk: int | None, packing: Packing | None = None
) -> TowerOutput:
    """Encode token ids (B, T), `chunk` at a time; all at once they are packed by `packing`."""
    if chunk is None:
        return towers.encode_packed(input_ids, mask, packing)
    return TowerOutput.cat(
        in_chunks(lambda rows: towers.encode_text(input_ids[rows], mask[rows]), len(input_ids), chunk)
    )


def images_of_rows(towers: TwoTowers, rows_BRW: Tensor, image_size: int, chunk: int | None) -> TowerOutput:
    """What `encode_images` gives of images whose states are stored, see `ccmb.r2d2.towers.stored`."""
    return TowerOutput.cat(
        in_chunks(lambda rows: image_of_rows(towers, rows_BRW[rows], image_size), len(rows_BRW), chunk)
    )


def images_of(towers: TwoTowers, batch: Batch, image_size: int, chunk: int | None) -> TowerOutput:
    """The encoded images of a batch, of their pixels or of their stored states."""
    if batch.image_rows is not None:
        return images_of_rows(towers, batch.image_rows, image_size, chunk)
    return encode_images(towers, batch.pixel_values, chunk)


def texts_of_rows(
    towers: TwoTowers,
    input_ids: Tensor,
    mask: Tensor,
    rows_BTW: Tensor,
    *,
    chunk: int | None,
    packing: Packing | None = None,
) -> TowerOutput:
    """What `encode_texts` gives of texts whose states are stored."""
    if chunk is None:
        return text_of_rows(towers, input_ids, mask, rows_BTW, packing)

    def encode(rows: slice) -> TowerOutput:
        return text_of_rows(towers, input_ids[rows], mask[rows], rows_BTW[rows], towers.packing(mask[rows]))

    return TowerOutput.cat(in_chunks(encode, len(input_ids), chunk))


def rank_rows(
    model: R2D2Model, images: TowerOutput, texts: TowerOutput, pairs: MatchPairs, *, read: bool, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Score the pairs of R rows; negatives may be images and texts of other processes.

    Args:
        images, texts: of this process.
        pairs: by index into the global batch.
        read: whether to return the token states of the positives' texts.
        chunk: rows at a time, see `in_chunks`.

    Returns:
        Logits (3R, 2) of both match heads, and the states (R, T, W); none of them without `read`.
    """
    # Once, before the chunks: chunks are recomputed in the backward pass and must not wait for other processes then.
    of_images, of_texts = plan_exchange(pairs.image_index, len(images)), plan_exchange(pairs.text_index, len(texts))
    images, texts = fetch_output(of_images, images), fetch_output(of_texts, texts)
    pairs = MatchPairs(of_images.index, of_texts.index, pairs.labels)
    count = len(pairs.labels) // 3

    def rank(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        if chunk is None:
            some, chunk_images, chunk_texts = pairs.select_rows(rows), images, texts
        else:
            image_rows, text_rows, some = pairs.select_rows(rows).referenced_items()
            chunk_images, chunk_texts = images[image_rows], texts[text_rows]
        wanted = len(some.labels) // 3 if read else 0
        ranked = model.rank(chunk_images, chunk_texts, some.image_index, some.text_index, wanted)
        return ranked.logits_text_image.view(3, -1, 2), ranked.logits_image_text.view(3, -1, 2), ranked.states

    text_image, image_text, states = zip(*in_chunks(rank, count, chunk), strict=True)
    return torch.cat(text_image, 1).flatten(0, 1), torch.cat(image_text, 1).flatten(0, 1), torch.cat(states)


def rank_all(model: R2D2Model, images: TowerOutput, texts: TowerOutput, chunk: int | None) -> Tensor:
    """(R, B, 2) log-odds of a match of this process's texts with the images of all processes, by both match heads.

    Args:
        images, texts: of this process.
        chunk: texts at a time, see `in_chunks`.
    """
    every = torch.arange(len(images) * world().size, device=images.embed.device)
    images = fetch_output(plan_exchange(every, len(images)), images)

    def rank(rows: slice) -> Tensor:
        logits = torch.stack(model.rank_all(images, texts[rows]), 2)  # (rows, B, 2 heads, 2 classes)
        return logits[..., 1] - logits[..., 0]

    return torch.cat(in_chunks(rank, len(texts), chunk))


def read_own(model: R2D2Model, images: TowerOutput, texts: TowerOutput, rows: Tensor) -> Tensor:
    """Token states (rows, T, W) of some texts, each read with its own image."""
    own = torch.arange(len(rows), device=rows.device)
    return model.read_texts(images[rows], texts[rows], own, own)


def fetch_output(exchange: Exchange, output: TowerOutput) -> TowerOutput:
    """Fetch encoded items for the cross encoders, with gradient to the process of each item."""
    if world().size == 1:
        return output
    states = exchange.fetch(output.states)  # cross encoders read no embeddings: a view stands for them
    return TowerOutput(states[:, 0], states, None if output.mask is None else exchange.fetch(output.mask))


@torch.no_grad()
def measure_features(norm: Standardize, rows_RW: Tensor) -> None:
    """Measure, once and for all, what features are standardised by.

    Args:
        rows_RW: features of this process's rows of the global batch.
    """
    rows_RW = rows_RW.double()
    count = all_reduce_sum(torch.tensor(float(len(rows_RW)), dtype=torch.float64, device=rows_RW.device))
    mean_W = all_reduce_sum(rows_RW.sum(0)) / count
    variance_W = all_reduce_sum((rows_RW - mean_W).square().sum(0)) / count
    norm.measure(mean_W, variance_W.sqrt())
