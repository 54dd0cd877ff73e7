"""What images are compared by where no text is asked: the features of a named network.

Inception, which FID is usually computed on, is not the default: its weights come with torchvision, and it has seen
photographs of a thousand classes alone. R2D2's image tower needs nothing further and knows what its corpus shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from ccmb.core.device import choose_device, inference
from ccmb.core.errors import CcmbError, one_line
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.sources import load_weights, read_config
from ccmb.r2d2.processing import R2D2Processor

BATCH = 64
# Tensors that no feature of an image depends on.
UNUSED = r".*position_ids$|text_model\.|text_projection|logit_"


@dataclass(frozen=True, slots=True)
class Extractor:
    """A network that gives each image features.

    Attributes:
        name: what it is called in results.
        features: some images to (N, D).
    """

    name: str
    features: Callable[[Sequence[Image.Image]], Tensor]

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) of all images, a batch at a time."""
        parts = [self.features(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return torch.cat(parts)


def r2d2_extractor(name: str, model: R2D2Model, processor: R2D2Processor) -> Extractor:
    """The input of an R2D2's image projection as features; not normalised, so that nothing of an image is lost."""

    def features(images: Sequence[Image.Image]) -> Tensor:
        with inference(model):
            pooled = model.encode_image(processor.images(images).to(model.device)).pooled
        assert pooled is not None, "images come fresh from the tower"
        return pooled.float().cpu()

    return Extractor(f"R2D2 {name}, image tower", features)


def open_extractor(name: str) -> Extractor:
    """A run, model folder or hub id of R2D2, or of any model of transformers that reads images.

    Raises:
        CcmbError: there is no such model, it is damaged, or it reads no images.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():  # a run
        return r2d2_extractor(_label(folder), *load_model(name))
    config = read_config(name)
    if config.model_type == R2D2Config.model_type:
        return r2d2_extractor(_label(folder), *load_model(name))
    model: Any = load_weights(name, AutoModel, config, UNUSED).eval().to(choose_device("auto"))
    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False, backend="pil")
    except Exception as error:  # no preprocessor_config.json, or one that transformers cannot read
        raise CcmbError(f"{name}: the image processor cannot be loaded ({one_line(error)})") from None
    read = getattr(model, "get_image_features", model)

    def features(images: Sequence[Image.Image]) -> Tensor:
        try:
            with inference(model):
                output = read(pixel_values=processor(images=list(images), return_tensors="pt")["pixel_values"])
        except Exception as error:  # whatever a model makes of what it does not read
            raise CcmbError(f"{name}: gives no features of images ({one_line(error)})") from None
        if isinstance(output, Tensor):
            return output.float().cpu()
        pooled = getattr(output, "pooler_output", None)
        return (output.last_hidden_state.mean(1) if pooled is None else pooled.flatten(1)).float().cpu()

    return Extractor(f"{config.model_type} {_label(folder)}", features)


def _label(folder: Path) -> str:
    """The last part of a folder's name that says something."""
    return folder.parent.name if folder.name in ("run", "model") and folder.parent.name else folder.name
