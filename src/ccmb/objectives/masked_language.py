"""MLM: guess masked words from the rest of the text and from the picture.

In enhanced training the one forward pass of the masked text serves MLM and FGR.
Shapes: B texts of T tokens of this process, M masked positions, V words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.training.distributed import draw_rows, global_mean


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
    count, length = input_ids_BT.shape
    device = input_ids_BT.device
    uniform_BT = draw_rows(lambda rows: torch.rand(rows, length, generator=generator, device=device), count)
    positions = (uniform_BT < probability) & maskable_BT
    # One draw decides all: below 0.8 p a mask, below 0.9 p a random word, else the token stays.
    masked = positions & (uniform_BT < 0.8 * probability)
    replaced = positions & ~masked & (uniform_BT < 0.9 * probability)
    random_ids = draw_rows(
        lambda rows: torch.randint(vocabulary, (rows, length), generator=generator, device=device), count
    )
    hidden = torch.where(replaced, random_ids, input_ids_BT.masked_fill(masked, mask_id))
    return MaskedText(hidden, positions, input_ids_BT[positions])


def mlm_loss(logits_MV: Tensor, labels_M: Tensor) -> Tensor:
    """Mean cross-entropy (scalar) at the masked positions of the global batch; 0, with a gradient of 0, where nothing
    is masked."""
    summed = F.cross_entropy(logits_MV.float(), labels_M, reduction="sum")
    return global_mean(summed, torch.tensor(float(len(labels_M)), device=logits_MV.device))
