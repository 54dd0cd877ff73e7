"""R2D2 as a model by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ccmb.core.choices import RankingRule
from ccmb.core.errors import UsageError
from ccmb.core.hashing import sha256_of_json
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.items import EncodedItems
from ccmb.inference.models.base import IMAGE_BATCH, context_within, count_parameters, fingerprint
from ccmb.inference.scoring import StageScores
from ccmb.inference.stages import EXACT_OPTIONS, Cascade, ImageLoader, R2D2Encoder, R2D2Ranker, RankOptions
from ccmb.r2d2.inputs.unknown_words import mostly_unknown
from ccmb.r2d2.loading import model_folder, weights_fingerprint
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.onnx.runtime import ExportedR2D2
from ccmb.r2d2.processing import ImageInput, R2D2Processor
from ccmb.r2d2.tokenizer import straightens_quotes
from ccmb.r2d2.towers.two_towers import TowerOutput, l2_normalize


class R2D2Stages:
    """R2D2 with both stages, or PRD2 with the first. `model` may also be a captioner or a generator.

    With `dim`, embeddings are their first so many numbers, normalised anew, as of `objectives.gcpr.prefixes`.
    """

    def __init__(
        self,
        model: TwoStageModel,
        processor: R2D2Processor,
        *,
        name: str = "",
        context_length: int | None = None,
        options: RankOptions = EXACT_OPTIONS,
        source: str | Path | None = None,
        dim: int | None = None,
    ) -> None:
        if dim is not None and not 0 < dim <= model.config.embed_dim:
            raise UsageError(f"{name}: dim={dim}; its embeddings have {model.config.embed_dim} numbers")
        self._dim = dim
        max_tokens = model.config.max_text_tokens
        tokens = context_within(name, context_length, processor.max_text_tokens, max_tokens)
        if tokens != processor.max_text_tokens:  # the caller's own stays as it is
            processor = processor.resized(max_text_tokens=tokens)
        self.name, self.kind = name, "R2D2" if model.can_rank else "PRD2"
        self.context_length: int | None = tokens
        # The match temperature turns scores into probabilities and changes no order.
        config = {key: value for key, value in model.config.to_dict().items() if key not in _NO_MATTER}
        settings = [processor.image_size, processor.image_mean, processor.image_std, self.context_length]
        settings += [sorted(processor.tokenizer.get_vocab().items())]
        settings += ["quotes are straight"] if straightens_quotes(processor.tokenizer) else []
        self._identity: dict[str, Any] = {"config": config, "processor": settings}
        if dim is not None:
            self._identity["dim"] = dim
        if isinstance(model, ExportedR2D2):
            self._identity["export"] = model.record.files
        model.eval()
        self._source = source
        self.network, self.processor = model, processor
        self._encoder, self._ranker = R2D2Encoder(model, processor), R2D2Ranker(model, options, source=source)

    @property
    def source(self) -> str:
        """The model folder, with `?dim=` if embeddings are cut; empty if it is of none."""
        if self._source is None:
            return ""
        return str(model_folder(self._source).resolve()) + ("" if self._dim is None else f"?dim={self._dim}")

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(cast(nn.Module, self.network), self._identity)

    @cached_property
    def weights_id(self) -> str:
        """SHA-256 of the folder's weights, which its export shares; the fingerprint if it is of no folder."""
        if self._source is None:
            return self.fingerprint
        weights = weights_fingerprint(model_folder(self._source))
        return weights if self._dim is None else sha256_of_json([weights, self._dim])

    @property
    def embed_dim(self) -> int:
        return self._dim or self.network.config.embed_dim

    @property
    def match_temperature(self) -> float | None:
        return self.network.config.match_temperature if self.network.can_rank else None

    def calibrate(self, temperature: float, offset: float = 0.0) -> None:
        if offset:
            raise ValueError("R2D2's log-odds have no offset")
        self.network.config.match_temperature = temperature

    @property
    def ranking_rule(self) -> RankingRule | None:
        return self._ranker.options.rule_of(self.network) if self.can_rank else None

    @property
    def rerank_k(self) -> int | None:
        return self.network.config.rerank_k

    image_batch = IMAGE_BATCH
    has_offset = False
    states_dtype = torch.float16

    @property
    def ranker(self) -> R2D2Stages:
        return self

    def embed_prepared(self, images: Sequence[Tensor]) -> Tensor:
        return self.encode_prepared(images).embed

    @property
    def parameters(self) -> int | None:
        return count_parameters(self.network) if isinstance(self.network, R2D2Model) else None

    @property
    def states_width(self) -> int:
        return self.network.config.image_width if self.can_rank else 0

    @property
    def is_calibrated(self) -> bool:
        return self.can_rank and self.network.config.is_calibrated

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        unknown = mostly_unknown(self.processor, texts)
        likelihood = getattr(self.network, "likelihood", None)
        if likelihood is None or not texts:
            return unknown
        inputs = self.processor.texts(texts)
        ids_BT, mask_BT = (inputs[key].to(self.network.device) for key in ("input_ids", "attention_mask"))
        return [
            one or not known for one, known in zip(unknown, likelihood.knows(ids_BT, mask_BT).tolist(), strict=True)
        ]

    def count_tokens(self, texts: Sequence[str]) -> int:
        return int(self.processor.texts(texts)["attention_mask"].sum()) if texts else 0

    @property
    def can_rank(self) -> bool:
        return self._ranker.can_rank

    @property
    def options(self) -> RankOptions | None:
        return self._ranker.options if self.can_rank else None

    @property
    def cascade(self) -> Cascade | None:
        return self._ranker.cascade

    def prepare(self, image: ImageInput) -> Tensor:
        return self._encoder.prepare(image)

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        return self._cut(self._encoder.encode_prepared(images))

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self._cut(self._encoder.encode_images(names, load))

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self._cut(self._encoder.encode_texts(texts))

    def _cut(self, output: TowerOutput) -> TowerOutput:
        if self._dim is None:
            return output
        return replace(output, embed=l2_normalize(output.embed[:, : self._dim]))

    def encode_passages(self, texts: Sequence[str]) -> TowerOutput:
        return self.encode_texts(texts)

    def rank_scores(
        self, images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        return self._ranker.rank_scores(images, texts, image_index_N, text_index_N, cosine_N)

    def score_pairs(
        self,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor | None = None,
    ) -> StageScores:
        return self._ranker.score_pairs(images, texts, image_index_N, text_index_N, cosine_N)


_NO_MATTER = ("_name_or_path", "match_temperature", "sources", "transformers_version")
