"""Three stages: the cosine finds candidates, late interaction chooses among them, and a ranker orders what it chose.

Shapes: B items, N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from ccmb.core.choices import PLUS
from ccmb.core.hashing import sha256_of_json
from ccmb.inference.items import EncodedItems
from ccmb.inference.models.base import Model
from ccmb.inference.models.late import LateInteraction, R2D2Tokens, two_stages
from ccmb.inference.models.two_models import PairRanker, TwoModels
from ccmb.inference.scoring import StageScores
from ccmb.inference.staged_items import StagedItems
from ccmb.inference.stages import Cascade, ImageLoader, RankOptions
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput


class ThreeStages(TwoModels):
    """A first stage, late interaction, and a last stage, as one `Model`, whose items are `StagedItems`.

    Attributes:
        chooser: the first two stages.
        last: the first stage and the last one. A model that ranks what it found itself ranks by its own rule.
    """

    kind = "three stages"

    def __init__(self, first: Model, late: LateInteraction, ranker: PairRanker, keep: int, name: str = "") -> None:
        """Put three stages behind each other.

        Args:
            keep: how many candidates of a query late interaction leaves to the last stage, 1 or more.
        """
        super().__init__(first, ranker, name or PLUS.join((first.name, late.name, ranker.name)))
        self.chooser: Model = two_stages(first, late)
        self.last: Model = first if ranker.fingerprint == first.fingerprint else TwoModels(first, ranker)
        self.cascade = Cascade(self._chosen_by, keep)
        self.late = late

    @property
    def keep(self) -> int:
        assert self.cascade is not None
        return self.cascade.keep

    @property
    def fingerprint(self) -> str:
        return sha256_of_json([self.chooser.fingerprint, self.last.fingerprint, self.keep])

    @property
    def parameters(self) -> int | None:
        counts = self.chooser.parameters, self.last.parameters, self.first.parameters
        return None if None in counts else (counts[0] or 0) + (counts[1] or 0) - (counts[2] or 0)

    @property
    def options(self) -> RankOptions:
        return RankOptions(cascade=self.keep)

    def prepare(self, image: ImageInput) -> tuple[Any, Any]:
        """What the two further stages read."""
        return self.chooser.prepare(image), self.last.prepare(image)

    def embed_prepared(self, images: Sequence[tuple[Any, Any]]) -> Tensor:
        return self.last.embed_prepared([image for _, image in images])

    def encode_prepared(self, images: Sequence[tuple[Any, Any]]) -> StagedItems:
        last = self.last.encode_prepared([image for _, image in images])
        tokens = self._tokens(last)
        return StagedItems(
            self.chooser.encode_prepared([image for image, _ in images]) if tokens is None else tokens, last
        )

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> StagedItems:
        last = self.last.encode_images(names, load)
        tokens = self._tokens(last)
        return StagedItems(self.chooser.encode_images(names, load) if tokens is None else tokens, last)

    def _tokens(self, images: TowerOutput) -> TowerOutput | None:
        """The tokens of images, where the last stage has read them by the same tower, which then runs once."""
        reader = self.late.reader
        if not isinstance(reader, R2D2Tokens) or reader.fingerprint != self.ranker.fingerprint:
            return None
        return self.late.coded(reader.of_images(images))

    def encode_texts(self, texts: Sequence[str]) -> StagedItems:
        return StagedItems(self.chooser.encode_texts(texts), self.last.encode_texts(texts))

    def _chosen_by(
        self, images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        images, texts = cast(StagedItems, images), cast(StagedItems, texts)
        return self.chooser.rank_scores(images.chooser, texts.chooser, image_index_N, text_index_N, cosine_N)

    def rank_scores(
        self, images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        images, texts = cast(StagedItems, images), cast(StagedItems, texts)
        return self.last.rank_scores(images.last, texts.last, image_index_N, text_index_N, cosine_N)

    def score_pairs(
        self,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor | None = None,
    ) -> StageScores:
        images, texts = cast(StagedItems, images), cast(StagedItems, texts)
        return self.last.score_pairs(images.last, texts.last, image_index_N, text_index_N, cosine_N)


def by_stage(model: Model, items: Any = None) -> list[tuple[Model, Any]]:
    """The stages behind the first, in their order: what ranks, and what it reads of some items."""
    if isinstance(model, ThreeStages):
        chooser, last = (None, None) if items is None else (items.chooser, items.last)
        return [(model.chooser, chooser), (cast(Model, model.last), last)]
    return [(model, items)]
