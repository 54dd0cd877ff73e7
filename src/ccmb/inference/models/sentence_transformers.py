"""Models of sentence-transformers: `sentence_transformers:NAME` encodes, `cross_encoder:NAME` ranks pairs.

After the name options may follow, as in a URL: `sentence_transformers:NAME?dim=256&query_prompt=query`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from PIL import Image

from ccmb.core.device import choose_device
from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.fetch.hub import hub_hint, local_name
from ccmb.inference.models.base import OneStage, context_within, embedding, fingerprint
from ccmb.inference.user_images import open_image
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput

SENTENCE_TRANSFORMERS = "sentence_transformers:"
OPTIONS = ("dim", "query_prompt", "document_prompt", "revision", "trust_remote_code")


class SentenceTransformerModel(OneStage):
    """A model of sentence-transformers that encodes texts and images into one space.

    Texts are encoded as queries and images as documents, with the prompts that the model has for these.
    """

    kind = "sentence_transformers"
    image_batch = 8  # images are read whole: how they are resized is the model's own

    def __init__(
        self, name: str, source: str, context_length: int | None = None, *, reads: Sequence[str] = ("text", "image")
    ) -> None:
        """Open a local folder or hub id.

        Args:
            source: what follows the prefix: a name and options. `dim` cuts embeddings (Matryoshka); `query_prompt` and
                `document_prompt` name prompts of the model; `revision` is the hub's; `trust_remote_code=yes` runs code
                that comes with the model, of a hub id at a `revision` alone.
            reads: what the model has to read.

        Raises:
            UsageError: sentence-transformers is not installed, an option is unknown, or the model reads no images.
            CcmbError: it cannot be opened.
        """
        path, options = options_of(name, source, OPTIONS)
        dim = options.get("dim")
        if dim is not None and not (dim.isdigit() and int(dim)):
            raise UsageError(f"{name}: dim={dim} is no number of dimensions")
        self._model = open_library_model(name, "SentenceTransformer", path, options)
        for modality in reads:
            if not _supports(self._model, modality):
                raise UsageError(f"{name}: reads no {modality}s; give a model of {' and '.join(reads)}s")
        self.name = name
        where = str(Path(path).resolve()) if Path(path).is_dir() else path
        self.source = SENTENCE_TRANSFORMERS + where + source[len(path) :]
        longest = getattr(self._model, "max_seq_length", None)
        self.context_length: int | None = longest
        if context_length is not None:
            self.context_length = self._model.max_seq_length = context_within(name, context_length, 512, longest)
        self._dim = None if dim is None else int(dim)
        self._prompts = {side: self._prompt(name, side, options) for side in ("query", "document")}
        settings = [dim, self._prompts, self.context_length, self._model.prompts]
        self.fingerprint = fingerprint(self._model, {"kind": self.kind, "settings": settings})

    def _prompt(self, name: str, side: str, options: dict[str, str]) -> str | None:
        """The name of a side's prompt; None leaves it to the library."""
        prompt = options.get(f"{side}_prompt")
        if prompt is not None and prompt not in self._model.prompts:
            known = ", ".join(sorted(self._model.prompts)) or "none"
            raise UsageError(f"{name}: {side}_prompt={prompt} is no prompt of the model; it has {known}")
        return prompt

    def prepare(self, image: ImageInput) -> Image.Image:
        return open_image(image)

    def encode_prepared(self, images: Sequence[Image.Image]) -> TowerOutput:
        return self._encode(self._model.encode_document, list(images), "document")

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self._encode(self._model.encode_query, list(texts), "query")

    def encode_passages(self, texts: Sequence[str]) -> TowerOutput:
        """Embeddings of texts that are searched in, as documents."""
        return self._encode(self._model.encode_document, list(texts), "document")

    def count_tokens(self, texts: Sequence[str]) -> int:
        return int(self._model.preprocess(list(texts))["attention_mask"].sum()) if texts else 0

    def _encode(self, encode: Any, inputs: list[Any], side: str) -> TowerOutput:
        features = encode(
            inputs,
            prompt_name=self._prompts[side],
            truncate_dim=self._dim,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return embedding(features.float())


def open_library_model(name: str, kind: str, path: str, options: Mapping[str, str]) -> Any:
    """A model of sentence-transformers, in evaluation mode, on the GPU if there is one.

    Args:
        kind: SentenceTransformer or CrossEncoder.
        options: of them `revision` and `trust_remote_code` count.

    Raises:
        UsageError: sentence-transformers is not installed, or code is to be run that may change.
        CcmbError: the model cannot be opened.
    """
    trusted, revision = options.get("trust_remote_code", "no"), options.get("revision")
    if trusted not in ("yes", "no"):
        raise UsageError(f"{name}: trust_remote_code={trusted}; say yes or no")
    if trusted == "yes" and revision is None and not Path(path).is_dir():
        raise UsageError(f"{name}: code of the hub is run at a revision alone; add &revision=COMMIT")
    try:
        library: Any = importlib.import_module("sentence_transformers")
    except ImportError:
        raise UsageError(
            f"{name}: needs sentence-transformers; install it with pip install 'ccmb[sentence-transformers]'"
        ) from None
    path = local_name(path)
    try:
        model = getattr(library, kind)(
            path, device=str(choose_device("auto")), revision=revision, trust_remote_code=trusted == "yes"
        )
    except Exception as error:  # whatever it makes of an unknown name, no network, a damaged file
        hint = "; ?trust_remote_code=yes runs the code that comes with it" if "trust_remote_code" in str(error) else ""
        raise CcmbError(f"{name}: sentence-transformers cannot open it ({one_line(error)}){hint}{hub_hint()}") from None
    torch.nn.Module.eval(model)
    return model


def options_of(name: str, source: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A name and the options that follow it.

    Raises:
        UsageError: an option is unknown or there is no name.
    """
    path, _, query = source.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [option for option in options if option not in known]
    if unknown or not path:
        what = f"unknown option {unknown[0]!r}" if unknown else "no model is named"
        raise UsageError(f"{name}: {what}; write NAME or NAME?OPTION=VALUE, with {', '.join(known)}")
    return path, options


def _supports(model: Any, modality: str) -> bool:
    """Whether a model reads texts or images; older releases do not say."""
    supports = getattr(model, "supports", None)
    return bool(supports(modality)) if callable(supports) else True
