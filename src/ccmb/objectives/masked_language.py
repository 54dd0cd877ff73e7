"""MLM: guess masked words from the rest of the text and from the image.

In enhanced training the one forward pass of the masked text serves MLM and FGR.
Shapes: B texts of T tokens of this process, M masked positions, V words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.floats import at_least_float32
from ccmb.training.distributed import global_mean, rank_slice_of

IGNORED = -100  # the label of a place that holds no masked token


@dataclass(frozen=True, slots=True)
class MaskedText:
    """A text with some tokens hidden.

    Attributes:
        input_ids: (B, T) the text after masking.
        positions: (B, T) True where a token is to be guessed.
        index: (M,) where these are in the flattened text.
        labels: (M,) the hidden token ids, in the order of `positions`; IGNORED in places left over.
    """

    input_ids: Tensor
    positions: Tensor
    index: Tensor
    labels: Tensor

    def pick(self, states_BTW: Tensor) -> Tensor:
        """The states (M, W) of the tokens to be guessed."""
        return states_BTW.flatten(0, 1).index_select(0, self.index)


def list_positions(positions_BT: Tensor, places: int | None = None) -> tuple[Tensor, Tensor]:
    """Where the true ones are in the flattened text, and whether each place of the list is taken, both (M,).

    Args:
        places: M; without it the list is as long as needed, to learn which waits for the device. Positions beyond M
            are left out, and places left over point to other tokens.
    """
    flat = positions_BT.flatten()
    if places is None:
        index = flat.nonzero().squeeze(1)
    else:  # sorting keeps the order among equals: first the true ones, then the rest
        index = flat.byte().argsort(descending=True, stable=True)[:places]
    return index, flat[index]


def enough_places(tokens: int, probability: float) -> int:
    """Places for as many of `tokens` as are ever masked: six standard deviations over the mean."""
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
    """BERT's masking: each maskable token is chosen with `probability`; of the chosen, 80 % become [MASK], 10 % a
    random word, 10 % stay.

    Args:
        maskable_BT: True for real words (no padding, no [CLS] or [SEP]).
        vocabulary: random words are drawn from ids below it.
        probability: share of the maskable tokens to be guessed, in (0, 1).
    """
    count, length = input_ids_BT.shape
    device = input_ids_BT.device
    uniform_BT = rank_slice_of(lambda rows: torch.rand(rows, length, generator=generator, device=device), count)
    positions = (uniform_BT < probability) & maskable_BT
    # One draw decides all: below 0.8 p a mask, below 0.9 p a random word, else the token stays.
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
    """Mean cross-entropy (scalar) at the masked positions of the global batch; 0, with a gradient of 0, where nothing
    is masked."""
    summed = F.cross_entropy(at_least_float32(logits_MV), labels_M, ignore_index=IGNORED, reduction="sum")
    return global_mean(summed, (labels_M != IGNORED).sum().float())
