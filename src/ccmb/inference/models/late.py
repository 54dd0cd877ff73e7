"""Late interaction as a second stage: `late:MODEL` scores pairs by the tokens of an R2D2.

The tokens go through the projections of the pooled states; `objectives.tokenwise` trains for that. What is stored of an
image are its tokens, as wide as an embedding or as `?dim=` says. Behind the same model, images and texts are read once.

Shapes: B items, S image tokens, T text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ccmb.core.choices import Padding
from ccmb.core.errors import UsageError
from ccmb.core.hashing import sha256_of_json
from ccmb.inference.late_interaction import as_int8, directed_scores, from_int8
from ccmb.inference.models.base import Model
from ccmb.inference.models.cross_encoder import ScoreRanker
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.models.two_models import PairRanker, TwoModels
from ccmb.inference.scoring import StageScores
from ccmb.inference.stages import ImageLoader
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers

LATE = "late:"
BATCH = 512  # pairs at a time


class ReadsTokens(Protocol):
    """What gives embeddings of images and texts, their L2-normalised tokens as states, and the texts' mask.

    Attributes:
        fingerprint: of the model whose embeddings these are.
    """

    @property
    def fingerprint(self) -> str: ...
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
        padding: how a text's padding counts.
        states_dtype: int8: of an image's tokens a number is a byte, see `ccmb.inference.late_interaction.as_int8`.
    """

    kind = "late interaction"

    def __init__(
        self,
        reader: ReadsTokens,
        *,
        name: str,
        source: str,
        fingerprint: str,
        states_width: int,
        parameters: int = 0,
        padding: Padding = "exact",
        states_dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        self.padding, self.states_dtype = padding, states_dtype
        self.reader, self.name, self.source, self.fingerprint = reader, name, source, fingerprint
        self.states_width, self.parameters = states_width, parameters

    def prepare(self, image: ImageInput) -> Tensor:
        return self.reader.prepare(image)

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        return self.coded(self.reader.encode_prepared(images))

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.coded(self.reader.encode_images(names, load))

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self.reader.encode_texts(texts)

    def coded(self, images: TowerOutput) -> TowerOutput:
        """Images as they are kept."""
        return replace(images, states=as_int8(images.states)) if self.states_dtype == torch.int8 else images

    def score_pairs(
        self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> StageScores:
        """The scores of N pairs picked by index; a pair's score alone orders it."""
        score_N = self.both_ways(images, texts, image_index_N, text_index_N).mean(0)
        return StageScores(cosine_N, self.match(score_N), score_N)

    def both_ways(self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor) -> Tensor:
        """(2, N) scores of pairs picked by index, from image to text and from text to image."""
        parts = [torch.empty(2, 0)]
        for image_P, text_P in zip(image_index_N.split(BATCH), text_index_N.split(BATCH), strict=True):
            some_images, some_texts = images[image_P], texts[text_P]
            assert some_texts.mask is not None, "texts of a token-wise model have a mask"
            coded = self.states_dtype == torch.int8
            image_PSD = from_int8(some_images.states.float()) if coded else some_images.states
            both = directed_scores(image_PSD, some_texts.states, some_texts.mask, self.padding)
            parts.append(torch.stack(both))
        return torch.cat(parts, 1)


class R2D2Tokens:
    """The embeddings of an R2D2's images and texts, and their projected tokens, D wide."""

    def __init__(self, model: R2D2Stages, network: R2D2Model, dim: int) -> None:
        self.model, self.network, self.dim = model, network, dim

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    def prepare(self, image: ImageInput) -> Tensor:
        return self.model.prepare(image)

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        return self.of_images(self.model.encode_prepared(images))

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.of_images(self.model.encode_images(names, load))

    def of_images(self, output: TowerOutput) -> TowerOutput:
        """The tokens of images that the model has encoded."""
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


class TwoStagesOfOne(TwoModels):
    """A model and late interaction of its own tokens, which read images and texts once for both."""

    ranker: LateInteraction

    def prepare(self, image: ImageInput) -> Any:
        return self.first.prepare(image)

    def embed_prepared(self, images: Sequence[Any]) -> Tensor:
        return self.first.embed_prepared(images)

    def encode_prepared(self, images: Sequence[Any]) -> TowerOutput:
        return self.ranker.encode_prepared(images)

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.ranker.encode_images(names, load)

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self.ranker.encode_texts(texts)


def two_stages(first: Model, ranker: PairRanker, name: str = "") -> TwoModels:
    """A first stage and a ranker; late interaction of the first one's own tokens reads images and texts with it."""
    if isinstance(ranker, LateInteraction) and ranker.reader.fingerprint == first.fingerprint:
        return TwoStagesOfOne(first, ranker, name)
    return TwoModels(first, ranker, name)


def late_ranker(name: str, model: object, dim: int | None = None, bits: int | None = None) -> LateInteraction:
    """The second stage of an open model.

    Args:
        dim: numbers of a token; by default as many as an embedding has.
        bits: 8: of an image's tokens a number is a byte.

    Raises:
        UsageError: it is no R2D2, or an export of one, whose projections are not to be had; or it has not so many.
    """
    if not isinstance(model, R2D2Stages) or not isinstance(model.network, R2D2Model):
        raise UsageError(f"{name}: late interaction reads the tokens of an R2D2 in safetensors; give a run or folder")
    if dim is not None and dim > model.embed_dim:
        raise UsageError(f"{name}: dim={dim}; its embeddings have {model.embed_dim} numbers")
    if bits not in (None, 8):
        raise UsageError(f"{name}: bits={bits}; there are 8, or leave it out")
    given = [f"{key}={value}" for key, value in (("dim", dim), ("bits", bits)) if value is not None]
    options = "?" + "&".join(given) if given else ""
    return LateInteraction(
        R2D2Tokens(model, model.network, dim or model.embed_dim),
        name=name,
        source=f"{LATE}{model.source}{options}",
        fingerprint=sha256_of_json([model.fingerprint, dim, *([] if bits is None else [bits])]),
        states_width=dim or model.embed_dim,
        parameters=model.parameters or 0,
        states_dtype=torch.float16 if bits is None else torch.int8,
    )
