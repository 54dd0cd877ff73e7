"""Positives: which images and texts of a batch are known to fit each other.

A text fits an image if they are a pair, if the text is of another pair of the same image, or if the text equals one
that the image is known to have. No objective takes the two for a mismatch then. Which texts are equal is defined by
`ccmb.data.equal_texts`; in a batch without ids of texts, those with equal tokens are.

Shapes: R rows of this process, B pairs in the global batch, C columns, W texts known of an image, T text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.objectives.batch import Batch
from ccmb.training.distributed import gather

_ODD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio


@dataclass(frozen=True, slots=True)
class Identities:
    """Ids of the images and texts of this process's rows and of the global batch.

    Attributes:
        image_ids_R, image_ids_B: pairs with equal ids show the same image.
        text_ids_RW, text_ids_BW: the id of each pair's own text, then of others that its image is known to have;
            -1 for none.
    """

    image_ids_R: Tensor
    text_ids_RW: Tensor
    image_ids_B: Tensor
    text_ids_BW: Tensor

    def texts_of_images(self) -> Tensor:
        """(R, B) True where the text of a column fits the image of a row."""
        return self._same_image() | among(self.text_ids_RW, self.text_ids_BW[:, 0])

    def images_of_texts(self) -> Tensor:
        """(R, B) True where the image of a column fits the text of a row."""
        return self._same_image() | among(self.text_ids_BW, self.text_ids_RW[:, 0]).T

    def equal_texts(self) -> Tensor:
        """(R, B) True where the text of a column equals that of a row, as each row's own does."""
        return self.text_ids_RW[:, :1] == self.text_ids_BW[None, :, 0]

    def _same_image(self) -> Tensor:
        return self.image_ids_R[:, None] == self.image_ids_B[None, :]


def identities(batch: Batch) -> Identities:
    """The ids of a batch and of the global batch; all processes call it together."""
    text_ids = batch.text_ids
    if text_ids is None:
        text_ids = token_numbers(batch.input_ids, batch.attention_mask)[:, None]
    return Identities(batch.image_ids, text_ids, gather(batch.image_ids), gather(text_ids))


def among(known_RW: Tensor, values_C: Tensor) -> Tensor:
    """(R, C) True where a value is among those of a row; negative ones are among none.

    By sorting, so that neither time nor memory grows with R * C * W, and nothing waits for a GPU.
    """
    count, values_C = len(values_C), values_C.contiguous()
    ordered_C = values_C.sort().values
    position_RW = torch.searchsorted(ordered_C, known_RW.contiguous()).clamp(max=count - 1)
    is_match_RW = (ordered_C[position_RW] == known_RW) & (known_RW >= 0)
    marked = torch.zeros(len(known_RW), count + 1, dtype=torch.bool, device=values_C.device)
    marked.scatter_(1, position_RW.masked_fill(~is_match_RW, count), True)
    return marked[:, :count][:, torch.searchsorted(ordered_C, values_C)]


def token_numbers(input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(B,) a number in [0, 2**63) for the tokens of each text, padding left out.

    It is a polynomial of the tokens modulo 2**64, the same on any device.
    """
    power, powers = 1, list[int]()
    for _ in range(input_ids_BT.shape[1]):
        power = power * _ODD % 2**64
        powers.append(power - 2**64 if power >= 2**63 else power)
    factors_T = torch.tensor(powers, device=input_ids_BT.device)
    return ((input_ids_BT.long() + 1) * mask_BT * factors_T).sum(1) & (2**63 - 1)
