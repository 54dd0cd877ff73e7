"""Pictures that a user names one by one: some of them may not be readable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.r2d2.processing import Picture, R2D2Processor


def read_pixels(processor: R2D2Processor, pictures: Sequence[Picture]) -> tuple[list[int], Tensor, dict[int, str]]:
    """Places and pixels (B, 3, S, S) of the pictures that can be read, and why the others, by their place, cannot."""
    pixels, errors = dict[int, Tensor](), dict[int, str]()
    for place, picture in enumerate(pictures):
        try:
            pixels[place] = processor.images([picture])
        except CcmbError as error:
            errors[place] = str(error)
    return list(pixels), torch.cat(list(pixels.values())) if pixels else torch.empty(0), errors


def check_any_read(errors: Sequence[str | None]) -> None:
    """Refuse pictures of which none could be read.

    Args:
        errors: why each picture could not be read; None of one that could.

    Raises:
        CcmbError: there are pictures, and none could be read.
    """
    if errors and all(errors):
        raise CcmbError(str(errors[0]) if len(errors) == 1 else f"none of the pictures could be read ({errors[0]})")
