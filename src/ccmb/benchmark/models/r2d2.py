"""R2D2 as a model of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from ccmb.benchmark.models.base import context_within, fingerprint
from ccmb.core.device import choose_device
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.items import EncodedItems
from ccmb.inference.scoring import StageScores
from ccmb.inference.stages import EXACT_OPTIONS, Cascade, ImageLoader, R2D2Encoder, R2D2Ranker, RankOptions
from ccmb.r2d2.onnx.runtime import ExportedR2D2
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import straightens_quotes
from ccmb.r2d2.towers.two_towers import TowerOutput


class R2D2BenchmarkModel:
    """R2D2 with both stages, or PRD2 with the first. `model` may also be a captioner or a generator."""

    def __init__(
        self,
        name: str,
        model: TwoStageModel,
        processor: R2D2Processor,
        context_length: int | None = None,
        options: RankOptions = EXACT_OPTIONS,
        source: str | None = None,
    ) -> None:
        max_tokens = model.config.max_text_tokens
        tokens = context_within(name, context_length, processor.max_text_tokens, max_tokens)
        if tokens != processor.max_text_tokens:  # the caller's own stays as it is
            processor = processor.resized(max_text_tokens=tokens)
        self.name, self.kind = name, "R2D2" if model.can_rank else "PRD2"
        self.context_length: int | None = tokens
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
        self.network, self.processor = model, processor
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

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self._encoder.encode_images(names, load)

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self._encoder.encode_texts(texts)

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
