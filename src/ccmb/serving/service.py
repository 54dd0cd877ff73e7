"""The work behind the routes: requests in, batched calls of the model and the index, results out."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.text.cleaning import clean_query
from ccmb.data.class_names import ImageClass
from ccmb.data.images.source import decode
from ccmb.data.images.transforms import square
from ccmb.inference.models.base import check_gives_probability
from ccmb.inference.scoring import PairScore
from ccmb.inference.user_images import Prepared
from ccmb.search.indexing.image_metadata import digest_of
from ccmb.search.query import Condition, FieldValue, SearchQuery, SearchResult, Test
from ccmb.serving.batching import Batcher, Item, Result
from ccmb.serving.config import ServeOptions
from ccmb.serving.http.errors import ApiError, invalid
from ccmb.serving.metrics import Metrics
from ccmb.serving.model_worker import ModelWork, Pair
from ccmb.tasks.captioning.predict import ImageCaption
from ccmb.tasks.classification.classifier import ClassGuess
from ccmb.tasks.classification.prompts import PLAIN_TEMPLATE, fill

Done = TypeVar("Done")

_READERS = 2  # threads that decode images, while the one worker computes
_SHOWN_SIDE = 1600  # longest side of an image that is shown, in pixels
_MAX_PROMPTS = 5000
_KEPT_CLASS_SETS = 16


class Index(Protocol):
    """The methods of a `SearchEngine` that the server uses."""

    def search_many(self, queries: Sequence[SearchQuery]) -> list[SearchResult]: ...
    def image(self, key: str) -> Image.Image: ...
    def thumbnail(self, key: str) -> bytes: ...
    def fields(self, key: str) -> Mapping[str, FieldValue]: ...
    def fields_known(self) -> Mapping[str, type]: ...
    def compile_where(self, where: Sequence[Condition]) -> tuple[Test, ...]: ...
    def add(self, name: str, data: bytes, fields: Mapping[str, FieldValue]) -> str: ...
    def delete(self, keys: Sequence[str]) -> int: ...
    def __len__(self) -> int: ...


class Service:
    """One model and maybe one index, for any number of requests at once.

    One worker thread computes, in calls that requests share; other threads decode images.
    """

    def __init__(self, work: ModelWork, index: Index | None, options: ServeOptions, metrics: Metrics) -> None:
        self.work, self.index, self.options, self.metrics = work, index, options, metrics
        self._worker = ThreadPoolExecutor(1, "network")
        self._readers = ThreadPoolExecutor(_READERS, "pictures")
        self._batchers: list[Batcher] = []
        self._texts: Batcher[str, Tensor] = self._batcher("texts", work.embed_texts, 4)
        self._images: Batcher[Prepared, Tensor] = self._batcher("pictures", work.embed_images, 2)
        self._pairs: Batcher[Pair, PairScore] = self._batcher("pairs", work.score_pairs, 4)
        self._captions: Batcher[Image.Image, ImageCaption] = self._batcher("captions", work.caption, 1)
        self._searches: Batcher[SearchQuery, SearchResult] = self._batcher("searches", self._search_many, 1)
        self._class_sets: OrderedDict[tuple[tuple[ImageClass, ...], tuple[str, ...]], Tensor] = OrderedDict()
        if index is not None:
            metrics.watch_images(lambda: len(index))

    def _batcher(self, work: str, function: Callable[[Sequence[Item]], Sequence[Result]], times: int) -> Batcher:
        """A batcher of `times` as many items as a batch of searches has, since a search is much more work."""
        size = 1 if self.options.batch == 1 else self.options.batch * times
        batcher: Batcher[Item, Result] = Batcher(
            function, self._worker, size, self.options.wait, self.options.queue * times
        )
        batcher.observe = self.metrics.calls_of(work, batcher.__len__)
        self._batchers.append(batcher)
        return batcher

    async def close(self) -> None:
        """Stop the threads, once nothing is in flight any more."""
        for batcher in self._batchers:
            await batcher.close()
        self._worker.shutdown()
        self._readers.shutdown()

    async def read(self, images: Sequence[bytes]) -> list[Prepared]:
        """Decode images, and make of them what the model reads, which is small: many can wait in a queue.

        Raises:
            ApiError: an image is damaged, too large or of no known format; the message says which and why.
        """
        return await self._read_all(images, lambda image, data: self._prepared(image, digest_of(data)))

    async def read_for_captions(self, images: Sequence[bytes]) -> list[Image.Image]:
        """Decode images, and shrink them to the size that the captioner reads.

        Raises:
            ApiError: see `read`; or there is no captioner.
        """
        if self.work.captioner is None:
            raise ApiError(404, "not_served", "this server writes no captions; see ccmb serve --captioner")
        side = self.work.captioner[1].image_size
        return await self._read_all(images, lambda image, _: Image.fromarray(square(image, side)))

    async def _read_all(self, images: Sequence[bytes], make: Callable[[Image.Image, bytes], Done]) -> list[Done]:
        def read(data: bytes, position: int) -> Done:
            try:
                image = decode(data, self.options.max_pixels)
            except ValueError as error:
                reason = "damaged" if str(error).startswith("damaged") else str(error)  # a decoder's words are its own
                raise ApiError(422, "unreadable_picture", f"image {position}: {reason}") from None
            return make(image, data)

        return await asyncio.gather(*(self._reading(read, data, position) for position, data in enumerate(images)))

    def _prepared(self, image: Image.Image, digest: str = "") -> Prepared:
        return Prepared(self.work.model.prepare(image), digest)

    async def search(self, query: SearchQuery) -> SearchResult:
        """Search the index; requests that arrive at the same time share a call.

        Raises:
            ApiError: the index has no image of the key `like`.
        """
        if query.like is not None:
            await self.must_have(query.like)
        try:
            (answer,) = await self._searches.run([query])
        except CcmbError:
            if query.like is not None:
                await self.must_have(query.like)  # it may have been deleted while this waited
            raise
        self.metrics.search(answer.seconds)
        return answer

    def _search_many(self, queries: Sequence[SearchQuery]) -> list[SearchResult]:
        return self.opened.search_many(queries)

    async def embed_texts(self, texts: Sequence[str]) -> list[Tensor]:
        """The embedding (D,) of each text."""
        return await self._texts.run(texts) if texts else []

    async def embed_images(self, images: Sequence[Prepared]) -> list[Tensor]:
        """The embedding (D,) of each image."""
        return await self._images.run(images) if images else []

    async def score_pairs(self, pairs: Sequence[Pair]) -> list[PairScore]:
        """The scores of both stages for each pair."""
        return await self._pairs.run(pairs)

    def must_give_probability(self) -> None:
        """Refuse a request for probabilities of a match from a model that gives none.

        Raises:
            ApiError: the model gives none.
        """
        try:
            check_gives_probability(self.work.model)
        except UsageError as error:
            raise invalid(str(error)) from None

    async def caption(self, images: Sequence[Image.Image]) -> list[ImageCaption]:
        """The captions of each image that `read_for_captions` has read."""
        return await self._captions.run(images)

    async def classify(
        self,
        images: Sequence[Prepared],
        classes: Sequence[ImageClass],
        templates: Sequence[str],
        top: int,
        depth: int | None,
    ) -> list[list[ClassGuess]]:
        """The best classes of each image; the best `depth` of the first stage are ordered by the second.

        The second stage reads each class as the plain prompt of its first name, see `rerank.PromptRanker`.

        Raises:
            ApiError: there are too many prompts, or a depth without a second stage.
        """
        if depth is not None and not self.work.model.can_rank:
            raise invalid("depth: this model has no cross encoders; leave it out")
        embed_CD, embeds = await asyncio.gather(
            self._class_embeddings(tuple(classes), tuple(templates)), self.embed_images(images)
        )
        best = []
        for image, embed in zip(images, embeds, strict=True):
            cosine_C = embed_CD @ embed
            order = cosine_C.argsort(descending=True, stable=True).tolist()
            guesses = [ClassGuess(classes[index].name, index, float(cosine_C[index])) for index in order]
            if depth is not None:
                guesses = await self._rank_classes(image, guesses[:depth]) + guesses[depth:]
            best.append(guesses[:top])
        return best

    async def _rank_classes(self, image: Prepared, guesses: Sequence[ClassGuess]) -> list[ClassGuess]:
        scores = await self.score_pairs(
            [Pair(fill(PLAIN_TEMPLATE, clean_query(guess.name)), image) for guess in guesses]
        )
        ranked = [replace(guess, score=score.score) for guess, score in zip(guesses, scores, strict=True)]
        return sorted(ranked, key=lambda guess: -(guess.score or 0.0))

    async def _class_embeddings(self, classes: tuple[ImageClass, ...], templates: tuple[str, ...]) -> Tensor:
        """The embeddings (C, D) of classes, see `classifier.class_embeddings`.

        The prompts go through the queue of all texts, so that a long list of classes does not delay other requests.
        """
        key = classes, templates
        if key not in self._class_sets:
            prompts = [
                (index, fill(template, clean_query(name)))
                for index, image_class in enumerate(classes)
                for name in image_class.names
                for template in templates
            ]
            if len(prompts) > _MAX_PROMPTS:
                raise invalid(f"classes: {len(prompts)} prompts; give fewer classes, or templates: plain")
            embeds = torch.stack(await self.embed_texts([prompt for _, prompt in prompts]))
            total_CD = torch.zeros(len(classes), embeds.shape[1])
            total_CD.index_add_(0, torch.tensor([index for index, _ in prompts]), F.normalize(embeds, dim=-1))
            self._class_sets[key] = F.normalize(total_CD, dim=-1)
        self._class_sets.move_to_end(key)
        while len(self._class_sets) > _KEPT_CLASS_SETS:
            self._class_sets.popitem(last=False)
        return self._class_sets[key]

    @property
    def opened(self) -> Index:
        """The index.

        Raises:
            ApiError: there is none.
        """
        if self.index is None:
            raise ApiError(404, "not_served", "this server has no index; start it with one: ccmb serve INDEX")
        return self.index

    async def image(self, key: str) -> Prepared:
        """An image of the index, as the model reads it.

        Raises:
            ApiError: there is no such image, or it cannot be read any more.
        """
        return await self._stored(lambda index: self._prepared(index.image(key)))

    async def shown(self, key: str) -> bytes:
        """An image of the index as a JPEG to look at, without the metadata of its file.

        Raises:
            ApiError: see `image`.
        """
        return await self._stored(lambda index: _jpeg(index.image(key)))

    async def thumbnail(self, key: str) -> bytes:
        """A small JPEG.

        Raises:
            ApiError: see `image`.
        """
        return await self._stored(lambda index: index.thumbnail(key))

    async def must_have(self, key: str) -> None:
        """Refuse the key of an image that is not in the index.

        Raises:
            ApiError: there is no such image.
        """
        await self._stored(lambda index: index.fields(key))

    async def add(self, name: str, data: bytes, fields: Mapping[str, FieldValue]) -> str:
        """Add an image to the index and return its key; searches find it from now on.

        Raises:
            ApiError: the image cannot be read, or a field has another type than in the index.
        """
        await self.read([data])  # refuse it before it waits for the worker
        return await self._working(self.opened.add, name, data, fields)

    async def delete(self, key: str) -> int:
        """Remove an image from the index; returns 1, or 0 if it was not there."""
        return await self._working(self.opened.delete, [key])

    async def _stored(self, read: Callable[[Index], Done]) -> Done:
        index = self.opened

        def attempt() -> Done:
            try:
                return read(index)
            except (CcmbError, KeyError):
                raise ApiError(404, "no_such_picture", "no such image in the index, or it cannot be read now") from None

        return await self._reading(attempt)

    async def _reading(self, function: Callable[..., Done], *arguments: object) -> Done:
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)

    async def _working(self, function: Callable[..., Done], *arguments: object) -> Done:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()
