"""Encoded galleries on disk, by model and data, so that a stopped or repeated measurement does not encode again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ccmb.files import atomic_path
from ccmb.r2d2.modeling import TowerOutput
from ccmb.tasks.retrieval import Gallery

MOST_BYTES = 4 * 2**30  # larger galleries, by their token states, are not kept


def load_gallery(path: Path, count: int, image_of_text: Tensor, pairs: Tensor | None = None) -> Gallery | None:
    """The gallery of so many pictures that a file holds; None if there is none, or it is damaged or of another size."""
    if not path.is_file():
        return None
    with suppress(SafetensorError, KeyError, OSError, ValueError):
        tensors = load_file(path)
        images, texts = (
            TowerOutput(tensors[f"{side}.embed"], tensors[f"{side}.states"], tensors.get(f"{side}.mask"))
            for side in ("images", "texts")
        )
        if len(images) == count and len(texts) == len(image_of_text):
            return Gallery(images, texts, image_of_text, pairs)
    return None


def save_gallery(path: Path, gallery: Gallery) -> None:
    """Write a gallery, unless it is very large.

    Raises:
        CcmbError: the disk is full or not writable; the message names the file.
    """
    tensors: dict[str, Tensor] = {}
    for side, of in (("images", gallery.images), ("texts", gallery.texts)):
        parts = {"embed": of.embed, "states": of.states} | ({} if of.mask is None else {"mask": of.mask})
        tensors |= {f"{side}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= MOST_BYTES:
        with torch.inference_mode(), atomic_path(path) as temporary:
            save_file(tensors, temporary)
