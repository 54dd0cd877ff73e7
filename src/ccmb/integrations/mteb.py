"""Any model of ours in mteb: as an encoder, as a cross encoder, and as both stages of a search.

    import mteb
    from ccmb.integrations.mteb import search_model

    mteb.evaluate(search_model("runs/flickr8k", depth=64), tasks, cache=None)

mteb keeps results by model and task alone: without `cache=None` other local files of one name are not measured anew.

A model is whatever `ccmb.inference.models.open_model` opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.inference.gallery import Gallery
from ccmb.inference.models.base import Model
from ccmb.inference.models.open_model import open_model
from ccmb.inference.raw_items import join
from ccmb.inference.two_stage import Direction, ordered_items
from ccmb.r2d2.towers.two_towers import l2_normalize

BATCH = 64
ORGANISATION = "ccmb"  # before the names of models that have none


class _Wrapped:
    """What the three wrappers share."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb wants to know of a model; None where we do not know it."""
        return model_meta(self.model)


class MtebEncoder(_Wrapped):
    """The first stage as mteb's `EncoderProtocol`."""

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> np.ndarray:
        """(B, D) embeddings of batches with `text`, `image` or both; of both it is their mean."""
        return torch.cat([self._embed(batch) for batch in inputs]).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(1)

    def _embed(self, batch: Mapping[str, Any]) -> Tensor:
        parts = []
        if batch.get("image"):
            parts.append(self.model.embed_prepared([self.model.prepare(image) for image in batch["image"]]))
        if batch.get("text"):
            parts.append(self.model.encode_texts(list(batch["text"])).embed)
        if not parts:
            raise UsageError(f"a task with {', '.join(batch)}: ccmb's models read texts and images")
        return parts[0] if len(parts) == 1 else l2_normalize(torch.stack(parts).mean(0))


class MtebCrossEncoder(_Wrapped):
    """The second stage as mteb's `CrossEncoderProtocol`: each query with its document, one a text and one an image."""

    def predict(
        self, inputs1: Iterable[Mapping[str, Any]], inputs2: Iterable[Mapping[str, Any]], **_: Any
    ) -> np.ndarray:
        """(N,) scores of pairs, by both stages."""
        scores = []
        for first, second in zip(inputs1, inputs2, strict=True):
            texts, images = (first, second) if "image" in second else (second, first)
            encoded = self.model.encode_prepared([self.model.prepare(image) for image in images["image"]])
            index = torch.arange(len(encoded))
            pairs = self.model.score_pairs(encoded, self.model.encode_texts(list(texts["text"])), index, index)
            scores.append(pairs.ranking)
        return torch.cat(scores).numpy()


class MtebSearch(_Wrapped):
    """Both stages as mteb's `SearchProtocol`."""

    def __init__(self, model: Model, depth: int | None = None) -> None:
        super().__init__(model)
        self.depth = depth
        self._ids: list[str] = []
        self._corpus: Any = None
        self._by_text = True

    def index(self, corpus: Any, **_: Any) -> None:
        """Encode the documents: images, or texts."""
        self._by_text = "image" in corpus.column_names and corpus[0]["image"] is not None
        self._ids, self._corpus = [str(name) for name in corpus["id"]], self._encode(corpus, images=self._by_text)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, Sequence[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """The best documents of each query, with scores that fall in the order of both stages."""
        if top_ranked is not None:
            raise UsageError("documents that are given for each query: rank them by `cross_encoder`")
        asked = self._encode(queries, images=not self._by_text)
        images, texts = (self._corpus, asked) if self._by_text else (asked, self._corpus)
        gallery = Gallery(images, texts, torch.zeros(len(texts), dtype=torch.long))
        way: Direction = "text_to_image" if self._by_text else "image_to_text"
        item_QK, score_QK = ordered_items(self.model, gallery, way, self.depth, top_k)
        rows = zip(queries["id"], item_QK.tolist(), score_QK.tolist(), strict=True)
        return {
            str(query): {self._ids[item]: score for item, score in zip(items, scores, strict=True)}
            for query, items, scores in rows
        }

    def _encode(self, rows: Any, images: bool) -> Any:
        parts = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            if images:
                parts.append(self.model.encode_prepared([self.model.prepare(image) for image in batch["image"]]))
            else:
                parts.append(self.model.encode_texts(list(batch["text"])))
        return join(parts)


def encoder(name: str) -> MtebEncoder:
    """The first stage of a model."""
    return MtebEncoder(open_model(name))


def cross_encoder(name: str) -> MtebCrossEncoder:
    """The second stage of a model.

    Raises:
        UsageError: it has none.
    """
    model = open_model(name)
    if not model.can_rank:
        raise UsageError(f"{name}: has no second stage, so that it is no cross encoder")
    return MtebCrossEncoder(model)


def search_model(name: str, depth: int = 128) -> MtebSearch:
    """Both stages of a model; the second one ranks so many candidates."""
    return MtebSearch(open_model(name), depth)


def model_meta(model: Model) -> Any:
    """mteb's `ModelMeta` of a model."""
    from mteb.models import ModelMeta

    name = model.name if "/" in model.name else f"{ORGANISATION}/{model.name}"
    return ModelMeta(
        loader=None,
        name="/".join(part.replace(" ", "") for part in name.split("/")[-2:]),
        revision=model.fingerprint[:40],
        release_date=None,
        languages=None,
        n_parameters=model.parameters,
        memory_usage_mb=None,
        max_tokens=model.context_length,
        embed_dim=model.embed_dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=None,
        modalities=["image", "text"],
        model_type=["dense"],
    )
