"""MLM: guess masked words from the rest of the text and from the picture.

In enhanced training the one forward pass of the masked text serves MLM and FGR.
Shapes: B texts of T tokens, M masked positions, V words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class MaskedText:
    """A text with some tokens hidden.

    Attributes:
        input_ids: (B, T) the text after masking.
        positions: (B, T) True where a token is to be guessed.
        labels: (M,) the hidden token ids, in the order of `positions`.
    """

    input_ids: Tensor
    positions: Tensor
    labels: Tensor


def mask_tokens(
    input_ids_BT: Tensor,
    maskable_BT: Tensor,
    mask_id: int,
    vocabulary: int,
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
    uniform_BT = torch.rand(input_ids_BT.shape, generator=generator, device=input_ids_BT.device)
    positions = (uniform_BT < probability) & maskable_BT
    # One draw decides all: below 0.8 p a mask, below 0.9 p a random word, else the token stays.
    masked = positions & (uniform_BT < 0.8 * probability)
    replaced = positions & ~masked & (uniform_BT < 0.9 * probability)
    random_ids = torch.randint(vocabulary, input_ids_BT.shape, generator=generator, device=input_ids_BT.device)
    hidden = torch.where(replaced, random_ids, input_ids_BT.masked_fill(masked, mask_id))
    return MaskedText(hidden, positions, input_ids_BT[positions])


def mlm_loss(logits_MV: Tensor, labels_M: Tensor) -> Tensor:
    """Cross-entropy (scalar) at the masked positions; 0, with a gradient of 0, when nothing is masked."""
    if not labels_M.numel():
        return logits_MV.sum() * 0.0
    return F.cross_entropy(logits_MV.float(), labels_M)
