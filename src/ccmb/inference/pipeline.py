"""One way to use a model: images and texts in; embeddings, scores of pairs and ordered images out.

A pipeline is an `Encoder` and a `PairScorer` (`ccmb.inference.stages`): the towers and cross encoders of R2D2, or those
of any other model. It batches, moves tensors to the model's device and back, and encodes each text and image once.

Shapes: B items, D embedding width, G images, K candidates, N pairs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from ccmb.core.device import choose_device
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.text.cleaning import clean_query
from ccmb.core.validation import check_at_least_1, check_text
from ccmb.inference.gallery import Gallery
from ccmb.inference.interface import TwoStageModel, load_network
from ccmb.inference.items import EncodedItems
from ccmb.inference.raw_items import join
from ccmb.inference.scoring import PairScore, pair_cosines
from ccmb.inference.stages import EXACT_OPTIONS, Encoder, PairScorer, R2D2Encoder, R2D2Ranker, RankOptions
from ccmb.inference.user_images import AnyImage, encode_readable, unreadable_images
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import ImageInput, R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput

BATCH = 64


@dataclass(frozen=True, slots=True)
class ImageHit(PairScore):
    """An image in the order of a text.

    One that the second stage did not rank has no match score, and its cosine as score.

    Attributes:
        index: among the images that were given, from 0.
        image: as it was given; None where encoded images were.
    """

    index: int
    image: ImageInput | None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model, ready to encode images and texts, to score pairs, and to search among some images.

        pipeline = Pipeline.from_pretrained("quickstart/run")
        best = pipeline.search("一艘红色的帆船", ["a.jpg", "b.jpg"])[0]

    Images are paths, bytes of image files or PIL images; for R2D2 arrays and tensors too.

    Attributes:
        encoder: the first stage.
        scorer: both stages' scores of pairs; `CosineScorer` for models without a second stage.
        name: what the model is called.
    """

    encoder: Encoder
    scorer: PairScorer
    name: str = ""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        fast: bool = False,
        options: RankOptions = EXACT_OPTIONS,
        max_text_tokens: int | None = None,
    ) -> Pipeline:
        """Open a run folder, model folder, hub id or export folder.

        Args:
            device: auto, cpu or cuda; by default the CPU.
            fast: compute with the model's int8 export, which is made at its first use.
            options: how the second stage is computed, and by which rule it orders.
            max_text_tokens: cut texts at so many tokens, special ones included; by default at the model's own length.

        Raises:
            UsageError: an option that is not of this network, or ONNX Runtime is needed and not installed.
            CcmbError: something is missing or damaged, the message names the file; or there is no such device.
        """
        model, processor = load_network(name, fast, max_text_tokens)
        if device is not None and (where := choose_device(device, "device")) != model.device:
            if not isinstance(model, R2D2Model):
                raise UsageError(f"device={device} is of networks in torch; an export computes on the CPU")
            model = cast(TwoStageModel, cast(nn.Module, model).to(where))
        return cls.from_model(model, processor, options, name=str(name), source=name)

    @classmethod
    def from_model(
        cls,
        model: TwoStageModel,
        processor: R2D2Processor,
        options: RankOptions = EXACT_OPTIONS,
        *,
        name: str = "",
        source: str | Path | None = None,
    ) -> Pipeline:
        """The pipeline of an R2D2 that is open already, or of an export of one.

        Args:
            source: what it was loaded from, where `options` choose in int8.

        Raises:
            UsageError, CcmbError: see `R2D2Ranker`.
        """
        return cls(R2D2Encoder(model, processor), R2D2Ranker(model, options, source=source), name)

    @property
    def model(self) -> TwoStageModel:
        """The R2D2 behind it.

        Raises:
            CcmbError: it is another model.
        """
        return self._r2d2.model

    @property
    def processor(self) -> R2D2Processor:
        """The processor of the R2D2 behind it.

        Raises:
            CcmbError: it is another model.
        """
        return self._r2d2.processor

    @property
    def _r2d2(self) -> R2D2Encoder:
        if not isinstance(self.encoder, R2D2Encoder):
            raise CcmbError(f"{self.name or 'this model'}: no R2D2; use the pipeline's encoder and scorer")
        return self.encoder

    def encode_images(self, images: Sequence[AnyImage], batch_size: int = BATCH) -> TowerOutput:
        """Encode B images: `embed` (B, D), L2-normalised, and token `states`, on the CPU.

        Raises:
            CcmbError: there are none, or some cannot be read; the message names them.
        """
        parts, errors = [], list[str]()
        for start in _starts(images, batch_size, "images"):
            read = encode_readable(self.encoder, images[start : start + batch_size])
            errors += read.errors.values()
            if read.output is not None and not errors:
                parts.append(read.output)
        if errors:
            raise unreadable_images(errors, len(images))
        return join(parts)

    def encode_texts(self, texts: Sequence[str], batch_size: int = BATCH) -> TowerOutput:
        """Encode B texts as they are: `embed` (B, D), L2-normalised, and token `states`, on the CPU.

        Raises:
            CcmbError: there are none, or something is no text.
        """
        starts = _starts(texts, batch_size, "texts")
        return join([self.encoder.encode_texts(texts[start : start + batch_size]) for start in starts])

    def score(self, pairs: Sequence[tuple[str, AnyImage]], batch_size: int = BATCH) -> list[PairScore]:
        """Both stages' scores of pairs of a text and an image, in their order.

        Each text and each image is encoded once, however many pairs have it; memory does not grow with the images.

        Raises:
            CcmbError: an image cannot be read, or something is no text; the message names it.
        """
        if not pairs:
            return []
        texts = {text: index for index, text in enumerate(dict.fromkeys(text for text, _ in pairs))}
        images = {_key(image): image for _, image in pairs}
        rows = {key: row for row, key in enumerate(images)}
        text_N = torch.tensor([texts[text] for text, _ in pairs])
        image_N = torch.tensor([rows[_key(image)] for _, image in pairs])
        encoded, every = self.encode_texts(list(texts), batch_size), list(images.values())
        scores: dict[int, PairScore] = {}
        for start in _starts(every, batch_size, "images"):
            some = self.encode_images(every[start : start + batch_size], batch_size)
            pair_P = ((image_N >= start) & (image_N < start + batch_size)).nonzero()[:, 0]
            stages = self.scorer.score_pairs(some, encoded, image_N[pair_P] - start, text_N[pair_P])
            scores |= zip(pair_P.tolist(), stages.rows(), strict=True)
        return [scores[index] for index in range(len(pairs))]

    def rerank(
        self, text: str, images: Sequence[ImageInput], top_k: int | None = None, batch_size: int = BATCH
    ) -> list[ImageHit]:
        """Order images by how well a text describes them, best first: all by the second stage, if there is one.

        The text is cleaned as the texts of a corpus are.

        Args:
            top_k: how many of the best to return; by default all.

        Raises:
            UsageError: the text is empty, or `top_k` is less than 1.
            CcmbError: there are no images, or some cannot be read; the message names them.
        """
        return self._hits(text, images, top_k, None, batch_size)

    def search(
        self,
        text: str,
        images: Sequence[ImageInput] | EncodedItems | Gallery,
        top_k: int = 10,
        rerank_k: int = 64,
        batch_size: int = BATCH,
    ) -> list[ImageHit]:
        """Find the images that a text describes, best first: the cosine chooses candidates, and the second stage
        orders these; the others follow by cosine.

        The text is cleaned as the texts of a corpus are. For more images than fit into memory see `ccmb.search`.

        Args:
            images: those to search among, or they encoded, by `encode_images` or in a gallery.
            top_k: how many hits to return.
            rerank_k: K, how many candidates the second stage ranks.

        Raises:
            UsageError, CcmbError: see `rerank`.
        """
        return self._hits(text, images, top_k, rerank_k, batch_size)

    def _hits(
        self,
        text: str,
        images: Sequence[ImageInput] | EncodedItems | Gallery,
        top_k: int | None,
        rerank_k: int | None,
        batch_size: int,
    ) -> list[ImageHit]:
        check_text(text, "to search for")
        check_at_least_1(top_k=top_k, rerank_k=rerank_k)
        if isinstance(images, Gallery):
            images = images.images
        given: Sequence[ImageInput | None] = [None] * len(images)
        if hasattr(images, "embeds"):
            items = cast(EncodedItems, images)
        else:
            given = images
            items = self.encode_images(images, batch_size)
        texts = self.encode_texts([clean_query(text)])
        image_G = torch.arange(len(items))
        cosine_G = pair_cosines(items, texts, image_G, torch.zeros_like(image_G))
        order_G = cosine_G.argsort(descending=True, stable=True)
        ranked = self._second_stage(items, texts, order_G[:rerank_k], cosine_G) if self.scorer.can_rank else []
        done = {index for index, _ in ranked}
        others = [index for index in order_G.tolist() if index not in done]
        ordered = ranked + [(index, _first_stage(float(cosine_G[index]))) for index in others]
        return [
            ImageHit(
                cosine=pair.cosine,
                match_score=pair.match_score,
                probability=pair.probability,
                score=pair.score,
                index=index,
                image=given[index],
            )
            for index, pair in ordered[:top_k]
        ]

    def _second_stage(
        self, images: EncodedItems, texts: TowerOutput, image_K: Tensor, cosine_G: Tensor
    ) -> list[tuple[int, PairScore]]:
        """Candidates of one text in the order of the second stage; behind them those that a cascade did not keep."""
        text_K, behind_K, cascade = torch.zeros_like(image_K), image_K[:0], self.scorer.cascade
        if cascade is not None and cascade.keep < len(image_K):
            cheap_K = cascade.scores(images, texts, image_K, text_K, cosine_G[image_K])
            best_K = cheap_K.argsort(descending=True, stable=True)
            image_K, behind_K = image_K[best_K[: cascade.keep]], image_K[best_K[cascade.keep :]]
        scores = self.scorer.score_pairs(images, texts, image_K, text_K[: len(image_K)], cosine_G[image_K])
        rows = list(zip(image_K.tolist(), scores.rows(), strict=True))
        order_K = scores.ranking.argsort(descending=True, stable=True)
        behind = [(index, _first_stage(float(cosine_G[index]))) for index in behind_K.tolist()]
        return [rows[index] for index in order_K.tolist()] + behind


def _first_stage(cosine: float) -> PairScore:
    return PairScore(cosine, None, None, cosine)


def _key(image: AnyImage) -> Hashable:
    """The key of an image, so that one that several pairs share is encoded once."""
    return str(image) if isinstance(image, str | Path) else image if isinstance(image, bytes) else id(image)


def _starts(items: Sequence[object], batch_size: int, what: str) -> range:
    """Starts of the batches of some items.

    Raises:
        CcmbError: there are no items.
        UsageError: the batch size is less than 1, or there is one item alone, not in a list.
    """
    check_at_least_1(batch_size=batch_size)
    if isinstance(items, str | bytes | Path | Image.Image):
        raise UsageError(f"{what}: give a list, be it of one")
    if not len(items):
        raise CcmbError(f"there are no {what} to encode")
    return range(0, len(items), batch_size)
