"""Models of open_clip: `open_clip:ARCH/WEIGHTS`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ccmb.core.device import choose_device
from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.inference.models.base import OneStage, context_within, embedding, fingerprint
from ccmb.inference.user_images import open_image
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput

OPEN_CLIP = "open_clip:"


class OpenClipModel(OneStage):
    """A model of open_clip, by `ARCHITECTURE/WEIGHTS`; the weights are a tag of open_clip or a file."""

    kind = "open_clip"

    def __init__(self, name: str, source: str, context_length: int | None = None) -> None:
        try:
            library: Any = importlib.import_module("open_clip")
        except ImportError:
            raise UsageError(f"{name}: needs open_clip; install it with pip install 'ccmb[open-clip]'") from None
        architecture, _, weights = source.partition("/")
        try:
            model, _, self._preprocess = library.create_model_and_transforms(architecture, pretrained=weights or None)
            self._tokenizer = library.get_tokenizer(architecture)
        except Exception as error:  # whatever it makes of an unknown name, no network, a damaged file
            raise CcmbError(f"{name}: open_clip cannot open it ({one_line(error)})") from None
        max_tokens = getattr(model, "context_length", None)
        self.name, self.source, self._device = name, OPEN_CLIP + source, choose_device("auto")
        self.context_length: int | None = context_within(name, context_length, max_tokens or 77, max_tokens)
        self.fingerprint = fingerprint(model, {"source": source, "context_length": self.context_length})
        self._model = model.eval().to(self._device)

    def prepare(self, image: ImageInput) -> Tensor:
        """(3, S, S) pixels."""
        pixels: Tensor = self._preprocess(open_image(image))
        return pixels

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        with torch.inference_mode():
            return embedding(self._model.encode_image(torch.stack(list(images)).to(self._device)))

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        tokens = self._tokenizer(list(texts), context_length=self.context_length)
        with torch.inference_mode():
            return embedding(self._model.encode_text(tokens.to(self._device)))

    def count_tokens(self, texts: Sequence[str]) -> int:
        return int((self._tokenizer(list(texts), context_length=self.context_length) != 0).sum()) if texts else 0
