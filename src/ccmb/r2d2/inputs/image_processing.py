"""The half of the processor that reads images, in the form in which transformers keeps image processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin

from ccmb.data.images.transforms import CLIP_MEAN, CLIP_STD, normalise, square
from ccmb.r2d2.inputs.processor_inputs import ImageInput, as_images, as_kind, call_options, open_image


class R2D2ImageProcessor(ImageProcessingMixin):
    """The half of the processor that reads images: each is resized to a square and normalised.

    Args:
        image_size: side of the square S, in pixels.
        image_mean, image_std: statistics of RGB in [0, 1].
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 (the form of transformers)

    def __init__(
        self, image_size: int, image_mean: Sequence[float] = CLIP_MEAN, image_std: Sequence[float] = CLIP_STD
    ) -> None:
        super().__init__()
        self.image_size, self.image_mean, self.image_std = image_size, tuple(image_mean), tuple(image_std)

    def pixels(self, images: ImageInput | Sequence[ImageInput]) -> Tensor:
        """(B, 3, S, S) float32 of one or many images, see `R2D2Processor.images`."""
        pixels_BSSC = np.stack([square(open_image(image), self.image_size) for image in as_images(images)])
        return normalise(torch.from_numpy(pixels_BSSC), self.image_mean, self.image_std)

    def __call__(self, images: ImageInput | Sequence[ImageInput], **options: Any) -> BatchFeature:
        """One or many images to `pixel_values`; `return_tensors` as in `R2D2Processor`."""
        chosen = call_options({"images_kwargs": options})
        return BatchFeature({"pixel_values": as_kind(self.pixels(images), chosen.return_tensors)})

    preprocess = __call__

    def to_dict(self) -> dict[str, Any]:
        """The settings with which transformers' ViTImageProcessor does the same."""
        return {
            "processor_class": "R2D2Processor",
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.image_size, "width": self.image_size},
            "resample": int(Image.Resampling.BICUBIC),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
        }
