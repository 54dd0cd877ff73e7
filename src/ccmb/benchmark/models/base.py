"""The interface of a model that the benchmark measures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ccmb.core.errors import UsageError
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.stages import CosineScorer, Encoder, PairScorer, RankOptions
from ccmb.r2d2.onnx.runtime import ExportedR2D2
from ccmb.r2d2.towers.two_towers import TowerOutput, l2_normalize


class BenchmarkModel(Encoder, PairScorer, Protocol):
    """A model to be measured: it encodes images and texts and, where it can, ranks pairs.

    Attributes:
        name: the name by the user.
        kind: the type of the model, such as "R2D2" or "siglip".
        context_length: longest text in tokens, with special tokens; None if unknown.
        fingerprint: hexadecimal SHA-256 of everything that its embeddings and exact scores depend on.
        match_temperature: the temperature of calibrated match scores; None if the model cannot rank.
        options: how the second stage of retrieval is computed; None if there is none.
    """

    name: str
    kind: str
    context_length: int | None
    fingerprint: str
    match_temperature: float | None

    @property
    def options(self) -> RankOptions | None: ...


class OneStage(CosineScorer):
    """The base of models that order by cosine alone."""

    match_temperature: float | None = None

    @property
    def options(self) -> RankOptions | None:
        return None


def embedding(features_BD: Tensor) -> TowerOutput:
    """The features of one stage, L2-normalised and on the CPU; there are no token states."""
    embed_BD = l2_normalize(features_BD).cpu()
    return TowerOutput(embed_BD, torch.empty(len(embed_BD), 0, 0))


def fingerprint(module: nn.Module, settings: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of a module's weights and of the settings that count beside them."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def network_fingerprint(model: TwoStageModel) -> str:
    """The fingerprint of an R2D2, or of an export, which is identified by its files."""
    settings = {"export": model.record.files} if isinstance(model, ExportedR2D2) else {}
    return fingerprint(cast(nn.Module, model), settings)


def context_within(name: str, requested: int | None, default: int, max_tokens: int | None) -> int:
    """The context length to use: the requested one, or else the default, at most `max_tokens`.

    Raises:
        UsageError: more is asked for than the model has positions for, or too little for a word.
    """
    if requested is not None and not (requested >= 3 and (max_tokens is None or requested <= max_tokens)):
        bound = "3 or more" if max_tokens is None else f"between 3 and {max_tokens}"
        raise UsageError(f"--context-length is {requested}; {name} takes one {bound}")
    return requested or min(default, max_tokens or default)
