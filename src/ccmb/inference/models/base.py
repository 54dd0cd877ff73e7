"""The interface of a model under the name that a user gives, of whatever library."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ccmb.core.choices import RankingRule
from ccmb.core.errors import UsageError
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.stages import CosineScorer, Encoder, ImageLoader, PairScorer, RankOptions
from ccmb.r2d2.onnx.runtime import ExportedR2D2
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput, l2_normalize

IMAGE_BATCH = 64


class Model(Encoder, PairScorer, Protocol):
    """A model of one or two stages: it encodes images and texts and, where it can, ranks pairs.

    Attributes:
        name: the name by the user.
        kind: the type of the model, such as "R2D2" or "siglip".
        context_length: longest text in tokens, with special tokens; None if unknown.
    """

    name: str
    kind: str
    context_length: int | None

    @property
    def source(self) -> str:
        """What opens it again from any folder: an absolute path, a hub id, or a name with its library's prefix."""

    @property
    def match_temperature(self) -> float | None:
        """The temperature of calibrated match scores; None if the model cannot rank."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of everything that its embeddings and exact scores depend on."""

    @property
    def weights_id(self) -> str:
        """Hexadecimal SHA-256 by which an index knows the model that made it."""

    @property
    def embed_dim(self) -> int:
        """D, the width of an embedding."""

    @property
    def parameters(self) -> int | None:
        """Of both stages; None where nobody knows, as of features and exports."""

    @property
    def states_width(self) -> int:
        """Width of an image's token states, which its second stage reads; 0 without one."""

    @property
    def states_dtype(self) -> torch.dtype:
        """What an index keeps an image's token states in."""

    @property
    def options(self) -> RankOptions | None:
        """How the second stage of retrieval is computed; None if there is none."""

    @property
    def ranking_rule(self) -> RankingRule | None:
        """By which the second stage's scores order; None without one, or where it has scores of one kind."""

    @property
    def rerank_k(self) -> int | None:
        """How many candidates its makers let the second stage rank; None if they do not say."""

    @property
    def is_calibrated(self) -> bool:
        """Whether its second stage gives probabilities of a match."""

    @property
    def ranker(self) -> Any:
        """What reads images and texts for the second stage: the model itself, or another one behind it."""

    @property
    def image_batch(self) -> int:
        """How many images are read ahead and encoded together."""

    def encode_passages(self, texts: Sequence[str]) -> TowerOutput:
        """Texts that are searched in, as against those that are searched for."""

    def embed_prepared(self, images: Sequence[Any]) -> Tensor:
        """(B, D) the first stage's embeddings of B images that `prepare` has read."""

    @property
    def has_offset(self) -> bool:
        """Whether a score of 0 says nothing by itself, so that a calibration fits an offset beside the temperature."""

    def calibrate(self, temperature: float, offset: float = 0.0) -> None:
        """Give probabilities by a temperature from now on; see `ccmb.tasks.matching.calibrate`."""

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        """Whether the model knows few words of each text or none, so that what it says of it means little."""

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that it reads of some texts, special ones included."""


def check_gives_probability(model: Model) -> None:
    """Refuse a minimum match probability if the model gives no probability.

    Raises:
        UsageError: it has no second stage, or is not calibrated.
    """
    needs = "min_probability: a least probability needs"
    if not model.can_rank:
        raise UsageError(f"{needs} a second stage, such as cross encoders, and this model has none")
    if not model.is_calibrated:
        raise UsageError(f"{needs} a calibrated model: run ccmb calibrate on this one first, or leave it out")


class OneStage(CosineScorer, ABC):
    """The base of models that order by cosine alone."""

    source: str
    fingerprint: str
    match_temperature: float | None = None
    states_width = 0
    states_dtype = torch.float16
    has_offset = False
    image_batch = IMAGE_BATCH
    ranking_rule: RankingRule | None = None
    rerank_k: int | None = None

    @property
    def weights_id(self) -> str:
        return self.fingerprint

    @property
    def options(self) -> RankOptions | None:
        return None

    @property
    def is_calibrated(self) -> bool:
        return False

    def calibrate(self, temperature: float, offset: float = 0.0) -> None:
        raise ValueError("this model has no second stage")

    @cached_property
    def embed_dim(self) -> int:
        return self.encode_texts(["一"]).embed.shape[1]

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.encode_prepared([self.prepare(load(name)) for name in names])

    @property
    def parameters(self) -> int | None:
        module = getattr(self, "_model", None)
        return count_parameters(module) if isinstance(module, nn.Module) else None

    @property
    def ranker(self) -> Any:
        return self

    def embed_prepared(self, images: Sequence[Any]) -> Tensor:
        return self.encode_prepared(images).embed

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)

    @abstractmethod
    def prepare(self, image: ImageInput) -> Any: ...

    @abstractmethod
    def encode_prepared(self, images: Sequence[Any]) -> TowerOutput: ...

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> TowerOutput: ...

    def encode_passages(self, texts: Sequence[str]) -> TowerOutput:
        return self.encode_texts(texts)


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


def count_parameters(module: nn.Module) -> int:
    """How many parameters a module has; those that its parts share count once."""
    return sum(parameter.numel() for parameter in module.parameters())


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
