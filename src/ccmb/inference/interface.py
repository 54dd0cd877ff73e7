"""The interface of a two-stage model: an R2D2Model, or an export of one (`ccmb.r2d2.onnx.runtime`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.export_manifest import is_export
from ccmb.r2d2.loading import load_model, model_folder, read_r2d2_config
from ccmb.r2d2.onnx.export import fast_export
from ccmb.r2d2.onnx.runtime import load_exported
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput


class TwoStageModel(Protocol):
    """Two towers and, where it can rank, two cross encoders."""

    config: R2D2Config
    training: bool

    @property
    def device(self) -> torch.device: ...

    @property
    def temperature(self) -> Tensor:
        """The learned temperature that cosines are divided by."""

    @property
    def can_rank(self) -> bool:
        """Whether there is a second stage."""

    @property
    def cross_dtype(self) -> torch.dtype:
        """The dtype in which the cross encoders take token states."""

    def check_can_rank(self) -> None:
        """Raise a ValueError if there are no cross encoders."""

    def encode_image(self, pixel_values: Tensor) -> TowerOutput:
        """Encode normalised images (B, 3, S, S)."""

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TowerOutput:
        """Encode token ids (B, T)."""

    def match_text_image(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the text-image encoder's match head for N pairs picked by index."""

    def match_image_text(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the image-text encoder's match head."""

    def eval(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...


def load_network(
    name: str | Path, fast: bool = False, max_text_tokens: int | None = None
) -> tuple[TwoStageModel, R2D2Processor]:
    """The network (in evaluation mode) and processor of a run folder, model folder, hub id or export folder.

    Args:
        fast: take the model's int8 export, see `ccmb.r2d2.onnx.export.fast_export`.
        max_text_tokens: cut texts at so many tokens, special ones included; by default at the model's own length.

    Raises:
        UsageError: an export is wanted or given, and ONNX Runtime is not installed; or there are no positions for
            `max_text_tokens`, or these are too few for a word.
        CcmbError: something is missing or damaged; the message names the file.
    """
    model, processor = _opened(name, fast)
    if max_text_tokens is None:
        return model, processor
    if not 3 <= max_text_tokens <= processor.max_text_tokens:
        raise UsageError(f"max_text_tokens is {max_text_tokens}; give 3 to {processor.max_text_tokens}")
    return model, processor.resized(max_text_tokens=max_text_tokens)


def _opened(name: str | Path, fast: bool) -> tuple[TwoStageModel, R2D2Processor]:
    folder = fast_export(name) if fast else model_folder(name)
    if not is_export(folder):
        return load_model(folder)
    model, processor = load_exported(folder)
    if fast:  # it may have been made before the model was calibrated, which changes no weight
        model.config.match_temperature = read_r2d2_config(model_folder(name)).match_temperature
    return model, processor
