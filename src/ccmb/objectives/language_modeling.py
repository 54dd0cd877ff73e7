"""Words predicted from the image and the rest of the text: MLM, and LM.

MLM hides some words. In enhanced training the one forward pass of the masked text serves MLM and FGR.

LM predicts each word from those before it. With the image it is CoCa's captioning loss (Yu et al. 2022, arXiv
2205.01917); the share without learns the prior that the likelihood is compared with, see
`ccmb.r2d2.decoders.likelihood`. The paper has no such objective.

Shapes: B texts of T tokens of this process, M masked positions, V words, S image tokens of width C, P of them seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.floats import at_least_float32
from ccmb.objectives.batch import Batch
from ccmb.objectives.config import LanguageModeling
from ccmb.r2d2.decoders.likelihood import TextLikelihood
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.training.distributed import global_mean, rank_slice_of
from ccmb.training.gradient_cache import in_chunks

IGNORED = -100  # the label of a slot that holds no masked token


@dataclass(frozen=True, slots=True)
class MaskedText:
    """A text with some tokens hidden.

    Attributes:
        input_ids: (B, T) the text after masking.
        positions: (B, T) True where a token is to be predicted.
        index: (M,) indices of these tokens in the flattened text.
        labels: (M,) the hidden token ids, in the order of `positions`; IGNORED in slots left over.
    """

    input_ids: Tensor
    positions: Tensor
    index: Tensor
    labels: Tensor

    def pick(self, states_BTW: Tensor) -> Tensor:
        """The states (M, W) of the tokens to be predicted."""
        return states_BTW.flatten(0, 1).index_select(0, self.index)


def list_positions(positions_BT: Tensor, places: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices of the True positions in the flattened text, and whether each slot of the list is taken, both (M,).

    Args:
        places: M, the number of slots; without it the list has the length needed, for which the host waits for the
            device. Positions beyond M are left out, and slots left over point to other tokens.
    """
    flat = positions_BT.flatten()
    if places is None:
        index = flat.nonzero().squeeze(1)
    else:  # sorting keeps the order among equals: first the true ones, then the rest
        index = flat.byte().argsort(descending=True, stable=True)[:places]
    return index, flat[index]


def enough_places(tokens: int, probability: float) -> int:
    """Slots for as many of `tokens` as are ever masked: six standard deviations over the mean."""
    return min(tokens, math.ceil(tokens * probability + 6 * math.sqrt(tokens * probability * (1 - probability))))


def mask_tokens(
    input_ids_BT: Tensor,
    maskable_BT: Tensor,
    mask_id: int,
    vocabulary: int,
    *,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> MaskedText:
    """Mask tokens as BERT does: each maskable token is chosen with `probability`.

    Of the chosen, 80 % become [MASK], 10 % a random word, 10 % stay.

    Args:
        maskable_BT: True for real words (no padding, no [CLS] or [SEP]).
        vocabulary: random words are drawn from ids below it.
        probability: share of the maskable tokens to be predicted, in (0, 1).
    """
    count, length = input_ids_BT.shape
    device = input_ids_BT.device
    uniform_BT = rank_slice_of(lambda rows: torch.rand(rows, length, generator=generator, device=device), count)
    positions = (uniform_BT < probability) & maskable_BT
    # One number decides all: below 0.8 p a mask, below 0.9 p a random word, else the token stays.
    masked = positions & (uniform_BT < 0.8 * probability)
    replaced = positions & ~masked & (uniform_BT < 0.9 * probability)
    random_ids = rank_slice_of(
        lambda rows: torch.randint(vocabulary, (rows, length), generator=generator, device=device), count
    )
    hidden = torch.where(replaced, random_ids, input_ids_BT.masked_fill(masked, mask_id))
    tokens = positions.numel()
    index, taken = list_positions(positions, None if positions.is_cpu else enough_places(tokens, probability))
    return MaskedText(hidden, positions, index, input_ids_BT.flatten()[index].masked_fill(~taken, IGNORED))


def mlm_loss(logits_MV: Tensor, labels_M: Tensor) -> Tensor:
    """Mean cross-entropy (scalar) at the masked positions of the global batch.

    Loss and gradient are 0 where nothing is masked.
    """
    summed = F.cross_entropy(at_least_float32(logits_MV), labels_M, ignore_index=IGNORED, reduction="sum")
    return global_mean(summed, (labels_M != IGNORED).sum().float())


def lm_loss(
    likelihood: TextLikelihood,
    batch: Batch,
    images: TowerOutput,
    options: LanguageModeling,
    *,
    generator: torch.Generator | None,
    chunk: int | None,
) -> Tensor:
    """LM: the mean cross-entropy (scalar) of the tokens of the global batch.

    Args:
        images: of the batch's rows.
        generator: draws the texts that are predicted without their images, and the image tokens that are seen.
        chunk: texts at a time, see `in_chunks`.
    """
    ids_BT, mask_BT, states_BSC = batch.input_ids, batch.attention_mask, images.states
    count, device = len(ids_BT), ids_BT.device
    draw_B = rank_slice_of(lambda size: torch.rand(size, generator=generator, device=device), count)
    blind_B, first_B = draw_B < options.without_image, first_rows(batch.image_ids, states_BSC)
    seen_BP = seen_tokens(count, states_BSC.shape[1], options.image_tokens, generator, device)

    def log_likelihood(rows: slice) -> Tensor:
        shown, index = first_B[rows].unique(return_inverse=True)
        index = index.masked_fill(blind_B[rows], len(shown))
        states_VSC = states_BSC.index_select(0, shown)
        if seen_BP is not None:
            states_VSC = states_VSC.take_along_dim(seen_BP[shown, :, None], 1)
        return likelihood(ids_BT[rows], mask_BT[rows], states_VSC, index)

    log_p_B = torch.cat(in_chunks(log_likelihood, count, chunk))
    targets = mask_BT.sum() - count * (1 + likelihood.skipped)
    return -global_mean(log_p_B.sum(), targets.to(log_p_B.dtype))


def kept_tokens(tokens: int, share: float) -> int:
    """A share of an image's tokens, at least one."""
    return max(1, round(tokens * share))


def seen_tokens(
    count: int, tokens: int, share: float, generator: torch.Generator | None, device: torch.device
) -> Tensor | None:
    """(count, P) which tokens of each image are seen, a random share of them; None for all."""
    kept = kept_tokens(tokens, share)
    if kept == tokens:
        return None
    draw_BS = rank_slice_of(lambda rows: torch.rand(rows, tokens, generator=generator, device=device), count)
    return draw_BS.topk(kept, 1).indices


def first_rows(image_ids_B: Tensor, states_BSC: Tensor) -> Tensor:
    """(B,) the first row with the same image and the same states as each: its keys and values serve all of them."""
    _, number_B = image_ids_B.unique(return_inverse=True)
    rows_B = torch.arange(len(number_B), device=number_B.device)
    first_B = torch.full_like(rows_B, len(rows_B)).scatter_reduce(0, number_B, rows_B, "amin")[number_B]
    same_B = (states_BSC == states_BSC.index_select(0, first_B)).flatten(1).all(1)  # not so where it was varied anew
    return torch.where(same_B, first_B, rows_B)
