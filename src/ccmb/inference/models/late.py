"""Late interaction as a second stage: `late:MODEL` scores pairs by the tokens of an R2D2.

The tokens go through the projections of the pooled states; `objectives.tokenwise` trains for that. What is stored of an
image are its tokens, as wide as an embedding or as `?dim=` says.

Shapes: B items, S image tokens, T text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.inference.late_interaction import late_scores
from ccmb.inference.models.cross_encoder import ScoreRanker
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.scoring import StageScores
from ccmb.inference.stages import ImageLoader
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers

LATE = "late:"
BATCH = 512  # pairs at a time


class ReadsTokens(Protocol):
    """What gives L2-normalised tokens of images and texts as states, and the texts' mask."""

    def prepare(self, image: ImageInput) -> Tensor: ...
    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput: ...
    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput: ...
    def encode_texts(self, texts: Sequence[str]) -> TowerOutput: ...


class LateInteraction(ScoreRanker):
    """The second stage over what a model reads of images and texts.

    Attributes:
        name, source, fingerprint: as a `Model` has them.
        parameters: 0 where the first stage has them all.
        states_width: D.
    """

    kind = "late interaction"

    def __init__(
        self, reader: ReadsTokens, *, name: str, source: str, fingerprint: str, states_width: int, parameters: int = 0
    ) -> None:
        super().__init__()
        self.reader, self.name, self.source, self.fingerprint = reader, name, source, fingerprint
        self.states_width, self.parameters = states_width, parameters

    def prepare(self, image: ImageInput) -> Tensor:
        return self.reader.prepare(image)

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        return self.reader.encode_prepared(images)

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.reader.encode_images(names, load)

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self.reader.encode_texts(texts)

    def score_pairs(
        self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> StageScores:
        """The scores of N pairs picked by index; a pair's score alone orders it."""
        parts = [torch.empty(0)]
        for image_P, text_P in zip(image_index_N.split(BATCH), text_index_N.split(BATCH), strict=True):
            some_images, some_texts = images[image_P], texts[text_P]
            assert some_texts.mask is not None, "texts of a token-wise model have a mask"
            parts.append(late_scores(some_images.states, some_texts.states, some_texts.mask))
        score_N = torch.cat(parts)
        return StageScores(cosine_N, self.match(score_N), score_N)


class R2D2Tokens:
    """The projected tokens of an R2D2's images and texts."""

    def __init__(self, model: R2D2Stages, network: R2D2Model) -> None:
        self.model, self.network, self.dim = model, network, model.embed_dim

    def prepare(self, image: ImageInput) -> Tensor:
        return self.model.prepare(image)

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        return self._image_tokens(self.model.encode_prepared(images))

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self._image_tokens(self.model.encode_images(names, load))

    def _image_tokens(self, output: TowerOutput) -> TowerOutput:
        with torch.inference_mode():
            tokens_BSD = self.network.image_tokens(output.states.to(self.network.device), self.dim)
        return TowerOutput(output.embed, tokens_BSD.cpu())

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        inputs = self.model.processor.texts(texts)
        ids_BT, mask_BT = (inputs[key].to(self.network.device) for key in ("input_ids", "attention_mask"))
        with torch.inference_mode():
            # Not by the model itself, whose decoder, if it has one, reads token ids in the place of states.
            output = TwoTowers.encode_packed(self.network, ids_BT, mask_BT, self.network.packing(mask_BT))
            tokens_BTD = self.network.text_tokens(output.states, self.dim)
        return TowerOutput(output.embed.cpu(), tokens_BTD.cpu(), mask_BT.cpu())


def late_ranker(name: str, model: object) -> LateInteraction:
    """The second stage of an open model.

    Raises:
        UsageError: it is no R2D2, or an export of one, whose projections are not to be had.
    """
    if not isinstance(model, R2D2Stages) or not isinstance(model.network, R2D2Model):
        raise UsageError(f"{name}: late interaction reads the tokens of an R2D2 in safetensors; give a run or folder")
    return LateInteraction(
        R2D2Tokens(model, model.network),
        name=name,
        source=LATE + model.source,
        fingerprint=model.fingerprint,
        states_width=model.embed_dim,
        parameters=model.parameters or 0,
    )
