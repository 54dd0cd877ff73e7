"""The two stages of any model: embeddings of images and of texts, and scores of pairs.

Whatever satisfies `Encoder` and `PairScorer` can stand behind a `ccmb.Pipeline`, retrieval, matching and the benchmark.

Shapes: B items, N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor

from ccmb.core.choices import Precision, RankingRule
from ccmb.core.device import inference, native_bf16
from ccmb.core.errors import UsageError
from ccmb.inference.interface import TwoStageModel, load_network
from ccmb.inference.items import EncodedItems
from ccmb.inference.scoring import Match, StageScores, in_bf16, pair_cosines, rank_pairs, ranking_scores
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import ImageInput, R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput, fast_parts

ImageLoader = Callable[[Any], Image.Image]
RankScores = Callable[[EncodedItems, EncodedItems, Tensor, Tensor, Tensor], Tensor]

DEFAULT_KEEP = 16  # some more than the ten whose order recalls tell


class SetEncoder(Protocol):
    """A first stage over the images and texts of a set. What it returns is on the CPU."""

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        """Encode B images; `load` opens one by its name."""

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        """Encode B texts."""


class Encoder(SetEncoder, Protocol):
    """A first stage over any images: the cosine of an image's and a text's embedding orders."""

    def prepare(self, image: ImageInput) -> Any:
        """What the encoder reads of one image: small, so that many can wait, and made in any thread.

        Raises:
            CcmbError: the image cannot be read, or is of a kind that this encoder does not read.
        """

    def encode_prepared(self, images: Sequence[Any]) -> TowerOutput:
        """Encode B images that `prepare` has read."""


class Reranker(Protocol):
    """A model that may have a second stage, which orders candidates."""

    @property
    def can_rank(self) -> bool:
        """Whether there is a second stage."""

    @property
    def cascade(self) -> Cascade | None:
        """The cheap stage in front of the second one; None if all candidates are ranked."""

    def rank_scores(
        self, images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        """(N,) scores, by which the second stage orders, of pairs picked by index; the cosines are the first one's."""


class PairScorer(Reranker, Protocol):
    """Scores of any pairs by both stages, or by the first alone if there is no second."""

    def score_pairs(
        self,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor | None = None,
    ) -> StageScores:
        """Score N pairs picked by index.

        Args:
            cosine_N: (N,) of the pairs, where they are known already.
        """


class CosineScorer:
    """A `PairScorer` of any model that has no second stage."""

    @property
    def can_rank(self) -> bool:
        return False

    @property
    def cascade(self) -> Cascade | None:
        return None

    def rank_scores(
        self, images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        raise ValueError("this model has no second stage")

    def score_pairs(
        self,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor | None = None,
    ) -> StageScores:
        if cosine_N is None:
            cosine_N = pair_cosines(images, texts, image_index_N, text_index_N)
        return StageScores(cosine_N, None, cosine_N)


@dataclass(frozen=True, slots=True)
class Cascade:
    """A cheap second stage in front of the whole one.

    Attributes:
        scores: what `Reranker.rank_scores` does, cheaply.
        keep: how many candidates of a query, the best by these scores, the whole second stage then orders; the others
            come after them in the order of these scores.
    """

    scores: RankScores
    keep: int


@dataclass(frozen=True, slots=True)
class RankOptions:
    """Options of the second stage: exact by default; otherwise a cheap stage chooses its best candidates.

    Whatever chooses, those that are kept are ordered by both cross encoders in the model's own precision.

    Attributes:
        precision: of the cross encoders when they choose; int8 is that of the model's export for ONNX Runtime.
        cascade: how many candidates of a query the text-image encoder chooses, at a tenth of the cost of both. None:
            both look at all; with bf16 or int8 they then look at the best DEFAULT_KEEP of them again.
        ranking_rule: how cosine and match heads make the score that orders, see `ccmb.inference.scoring`. None: by the
            model's own rule.
    """

    precision: Precision = "fp32"
    cascade: int | None = None
    ranking_rule: RankingRule | None = None

    @property
    def ranks_all_exactly(self) -> bool:
        """Whether both cross encoders look at every candidate in the model's own precision."""
        return self.precision == "fp32" and self.cascade is None

    def rule_of(self, model: TwoStageModel) -> RankingRule:
        """The rule by which a network's second stage then scores."""
        return self.ranking_rule or model.config.ranking_rule

    def to_dict(self) -> dict[str, Any]:
        """The options for results and their fingerprints; the rule is named only where it is not the model's own."""
        return asdict(self) if self.ranking_rule else {"precision": self.precision, "cascade": self.cascade}

    def on(self, model: TwoStageModel) -> RankOptions:
        """The options with `auto` resolved to a precision for a network.

        Raises:
            UsageError: bf16 or int8 is asked of an export, int8 on a GPU, or a cascade of a decoder.
        """
        if self.cascade is not None and model.config.decoder_layers:
            raise UsageError("--cascade is of cross encoders, of which one chooses; this model ranks by a decoder")
        exported = not isinstance(model, R2D2Model)
        if self.precision in ("bf16", "int8") and exported:
            raise UsageError("--precision is of networks in torch; an export keeps the one that it was made with")
        if self.precision == "int8" and model.device.type != "cpu":
            raise UsageError("--precision int8 is of CPUs; on a GPU give bf16, or leave it out")
        if self.precision != "auto":
            return self
        return replace(self, precision="bf16" if native_bf16(model.device) and not exported else "fp32")


EXACT_OPTIONS = RankOptions()


@dataclass(frozen=True, slots=True)
class R2D2Encoder:
    """The towers of R2D2 as an `Encoder`."""

    model: TwoStageModel
    processor: R2D2Processor

    def prepare(self, image: ImageInput) -> Tensor:
        """(3, S, S) normalised pixels."""
        return self.processor.images([image])[0]

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.encode_prepared([self.prepare(load(name)) for name in names])

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        with inference(self.model):
            parts = fast_parts(torch.stack(list(images)).to(self.model.device))
            return TowerOutput.cat([self.model.encode_image(part) for part in parts]).to("cpu")

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        encoded = {name: value.to(self.model.device) for name, value in self.processor.texts(texts).items()}
        with inference(self.model):
            return self.model.encode_text(**encoded).to("cpu")


class R2D2Ranker:
    """Both stages of R2D2 as a `PairScorer`; the cross encoders can be left out, where they know nothing.

    Args:
        source: what the model was loaded from, whose export chooses in int8.

    Raises:
        UsageError: see `RankOptions.on`; or int8 is asked for, and ONNX Runtime is not installed.
        CcmbError: the export cannot be made.
    """

    def __init__(
        self,
        model: TwoStageModel,
        options: RankOptions = EXACT_OPTIONS,
        *,
        ranks: bool = True,
        source: str | Path | None = None,
    ) -> None:
        self.model, self.options, self.ranks = model, options.on(model), ranks
        self._export: TwoStageModel | None = None
        if self.options.precision == "int8" and self.can_rank:
            if source is None:
                raise ValueError("int8 is of a model's export: say with `source` what the model was loaded from")
            self._export = load_network(source, fast=True)[0]

    @property
    def can_rank(self) -> bool:
        return self.ranks and self.model.can_rank

    @cached_property
    def cascade(self) -> Cascade | None:
        if self.options.ranks_all_exactly or not self.can_rank:
            return None
        chooser = self._export or self.model
        if self.options.precision == "bf16":
            chooser = in_bf16(cast(R2D2Model, self.model))
        return Cascade(partial(self._previewed, chooser), self.options.cascade or DEFAULT_KEEP)

    def rank_scores(
        self, images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        return self._scored(
            rank_pairs,
            self.model,
            images=images,
            texts=texts,
            image_index_N=image_index_N,
            text_index_N=text_index_N,
            cosine_N=cosine_N,
        ).ranking

    def score_pairs(
        self,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor | None = None,
    ) -> StageScores:
        if cosine_N is None:
            cosine_N = pair_cosines(images, texts, image_index_N, text_index_N)
        if not self.can_rank:
            return StageScores(cosine_N, None, cosine_N)
        return self._scored(
            rank_pairs,
            self.model,
            images=images,
            texts=texts,
            image_index_N=image_index_N,
            text_index_N=text_index_N,
            cosine_N=cosine_N,
        )

    def _previewed(
        self,
        chooser: TwoStageModel,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor,
    ) -> Tensor:
        match = partial(rank_pairs, text_image_only=self.options.cascade is not None)
        return self._scored(
            match,
            chooser,
            images=images,
            texts=texts,
            image_index_N=image_index_N,
            text_index_N=text_index_N,
            cosine_N=cosine_N,
        ).ranking

    def _scored(
        self,
        match: Callable[..., Match],
        network: TwoStageModel,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor,
    ) -> StageScores:
        """Whichever network matches, its scores are made by one rule and by the temperature of the model."""
        with inference(network):
            matched = match(network, images, texts, image_index_N, text_index_N)
            return StageScores(
                cosine_N, matched, ranking_scores(self.model, cosine_N, matched, self.options.ranking_rule)
            )
