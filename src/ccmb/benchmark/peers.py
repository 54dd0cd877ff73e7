"""Open any model as a peer by its name: own runs and folders, hub ids, two-tower models, open_clip, stored features."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ccmb.benchmark.features import FeaturesPeer, is_features
from ccmb.benchmark.peer import OneStage, Peer, context_within, embedding, fingerprint
from ccmb.benchmark.two_towers import open_two_towers
from ccmb.errors import CcmbError, UsageError, one_line
from ccmb.r2d2.captioning import has_captioner, load_captioner
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.export_record import is_export
from ccmb.r2d2.exported import ExportedR2D2
from ccmb.r2d2.generator import has_generator, load_generator
from ccmb.r2d2.items import Items
from ccmb.r2d2.loading import model_folder
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.network import Network, load_network
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.ranking import Match
from ccmb.r2d2.sources import read_config
from ccmb.r2d2.tokenizer import straightens_quotes
from ccmb.tasks.two_stage import EXACT, Cascade, Load, R2D2Encoder, R2D2Ranker, RankOptions
from ccmb.training.trainer import choose_device

OPEN_CLIP = "open_clip:"


def open_peer(name: str, context_length: int | None = None, options: RankOptions = EXACT) -> Peer:
    """Open a model by what a user calls it.

    Args:
        name: a run, a model folder or a hub id, of R2D2 or of a two-tower model that transformers knows; a folder of
            stored features; or `open_clip:ARCHITECTURE/WEIGHTS`. `LABEL=` in front gives it a name of its own.
        context_length: longest text in tokens; by default what the model was made for.
        options: how a second stage is computed, if there is one.

    Raises:
        UsageError: it is a model of another kind, or the context length does not suit it.
        CcmbError: it is not there or not whole; the message names it.
    """
    label, source = label_and_source(name)
    if source.startswith(OPEN_CLIP):
        return OpenClipPeer(label, source.removeprefix(OPEN_CLIP), context_length)
    if is_features(Path(source)):
        return FeaturesPeer(label, Path(source), context_length)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():  # a run, or nothing whole
        return R2D2Peer(label, *_load(source), context_length, options, source)
    if read_config(source).model_type == R2D2Config.model_type:
        return R2D2Peer(label, *_load(source), context_length, options, source)
    return open_two_towers(label, source, context_length)


def is_exported(name: str) -> bool:
    """Whether a model is an export of ours."""
    folder = Path(label_and_source(name)[1])
    return is_export(folder) or is_export(folder / "model")


def may_rank(name: str) -> bool:
    """Whether a model has a second stage as far as its files tell; one that cannot be opened may."""
    source = label_and_source(name)[1]
    if source.startswith(OPEN_CLIP) or is_features(Path(source)):
        return False
    try:
        if Path(source).is_dir() and not (Path(source) / "config.json").is_file():  # a run
            source = str(model_folder(source))
        config = read_config(source)
    except CcmbError:
        return True  # which opening it will say better
    return bool(getattr(config, "match_heads", False))


def label_and_source(name: str) -> tuple[str, str]:
    """`LABEL=SOURCE` in two; without a label it is the source itself, of a folder its last part that says something.

    Raises:
        UsageError: one of the two is empty.
    """
    label, equals, source = name.partition("=")
    if not equals or Path(name).exists():  # a folder may be called lr=0.1
        path = Path(name)
        last = path.parent.name if path.name in ("run", "model") and path.parent.name else path.name
        label, source = last if path.is_dir() else name, name
    if not label or not source:
        raise UsageError(f"'{name}' names no model; give a folder, a hub id, or LABEL=SOURCE")
    return label, source


def _load(source: str) -> tuple[Network, R2D2Processor]:
    """With its decoder or its painter, if it has one."""
    if has_generator(source):
        return load_generator(source)
    return load_captioner(source) if has_captioner(source) else load_network(source)


class R2D2Peer:
    """R2D2 with both stages, or PRD2 with the first; a captioner or a generator too, where `model` is one."""

    def __init__(
        self,
        name: str,
        model: Network,
        processor: R2D2Processor,
        context_length: int | None = None,
        options: RankOptions = EXACT,
        source: str | None = None,
    ) -> None:
        most = model.config.max_text_tokens
        processor.max_text_tokens = context_within(name, context_length, processor.max_text_tokens, most)
        self.name, self.kind = name, "R2D2" if model.can_rank else "PRD2"
        self.context_length: int | None = processor.max_text_tokens
        # The match temperature turns scores into probabilities and changes no order.
        self.match_temperature: float | None = model.config.match_temperature if model.can_rank else None
        config = {key: value for key, value in model.config.to_dict().items() if key not in _NO_MATTER}
        settings = [processor.image_size, processor.image_mean, processor.image_std, self.context_length]
        settings += [sorted(processor.tokenizer.get_vocab().items())]
        settings += ["quotes are straight"] if straightens_quotes(processor.tokenizer) else []
        identity: dict[str, Any] = {"config": config, "processor": settings}
        if isinstance(model, ExportedR2D2):
            identity["export"] = model.record.files
        self.fingerprint = fingerprint(cast(nn.Module, model), identity)
        cast(nn.Module, model).eval().to(choose_device("auto"))
        self.model, self.processor = model, processor
        self._encoder, self._ranker = R2D2Encoder(model, processor), R2D2Ranker(model, options, source=source)

    @property
    def can_rank(self) -> bool:
        return self._ranker.can_rank

    @property
    def options(self) -> RankOptions | None:
        return self._ranker.options if self.can_rank else None

    @property
    def cascade(self) -> Cascade | None:
        return self._ranker.cascade

    def encode_images(self, names: Sequence[Any], load: Load) -> TowerOutput:
        return self._encoder.encode_images(names, load)

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self._encoder.encode_texts(texts)

    def rank_scores(
        self, images: Items, texts: Items, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        return self._ranker.rank_scores(images, texts, image_index_N, text_index_N, cosine_N)

    def match(self, images: Items, texts: Items, image_index_N: Tensor, text_index_N: Tensor) -> Match:
        return self._ranker.match(images, texts, image_index_N, text_index_N)


_NO_MATTER = ("_name_or_path", "match_temperature", "transformers_version")


class OpenClipPeer(OneStage):
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
        most = getattr(model, "context_length", None)
        self.name, self._device = name, choose_device("auto")
        self.context_length: int | None = context_within(name, context_length, most or 77, most)
        self.fingerprint = fingerprint(model, {"source": source, "context_length": self.context_length})
        self._model = model.eval().to(self._device)

    def encode_images(self, names: Sequence[Any], load: Load) -> TowerOutput:
        pixels = torch.stack([self._preprocess(load(name)) for name in names])
        with torch.inference_mode():
            return embedding(self._model.encode_image(pixels.to(self._device)))

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        tokens = self._tokenizer(list(texts), context_length=self.context_length)
        with torch.inference_mode():
            return embedding(self._model.encode_text(tokens.to(self._device)))
