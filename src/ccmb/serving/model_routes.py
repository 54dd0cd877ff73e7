"""The routes of the model: embeddings, matching, re-ranking, classes and captions of what a client sends."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from fastapi import Depends, FastAPI
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.data.class_names import ImageClass, classes_of_names, read_classes
from ccmb.inference.scoring import PairScore
from ccmb.serving import requests, responses
from ccmb.serving.http.errors import invalid
from ccmb.serving.http.request_body import body_of, content_of
from ccmb.serving.model_worker import Pair
from ccmb.serving.service import Service
from ccmb.tasks.classification.prompts import SETS


def add_model_routes(app: FastAPI, service: Service, model_name: str) -> None:
    """`/embed`, `/v1/embeddings`, `/match`, `/rerank`, `/classify` and `/caption`."""
    _add_embedding_routes(app, service, model_name)
    _add_matching_routes(app, service)
    _add_classify_and_caption(app, service)


def _add_embedding_routes(app: FastAPI, service: Service, model_name: str) -> None:
    dim = service.work.model.embed_dim

    @app.post("/embed", openapi_extra=content_of(requests.EmbedRequest), tags=["model"])
    async def embed(
        body: Annotated[requests.EmbedRequest, Depends(body_of(requests.EmbedRequest))],
    ) -> responses.EmbedAnswer:
        """Embeddings of texts and images; the cosine of two is their dot product."""
        images = await service.embed_images(await service.read(body.images))
        texts = await service.embed_texts(body.texts)
        columns = ([embed.tolist() for embed in embeds] for embeds in (texts, images))
        return responses.EmbedAnswer(model=model_name, dim=dim, texts=next(columns), images=next(columns))

    @app.post("/v1/embeddings", openapi_extra=content_of(requests.EmbeddingsRequest), tags=["model"])
    async def embeddings(
        body: Annotated[requests.EmbeddingsRequest, Depends(body_of(requests.EmbeddingsRequest))],
    ) -> responses.EmbeddingsAnswer:
        """The same as OpenAI's clients ask for it; an input may be an image too: `{"image": BASE64}`."""
        if body.dimensions not in (None, dim):
            raise invalid(f"dimensions: this model has {dim}")
        inputs = body.input if isinstance(body.input, list) else [body.input]
        items = [requests.EmbeddingInput(text=item) if isinstance(item, str) else item for item in inputs]
        texts = [item.text for item in items if item.text is not None]
        images = await service.read([item.image for item in items if item.image is not None])
        of_texts, of_images = iter(await service.embed_texts(texts)), iter(await service.embed_images(images))
        embeds = [next(of_images) if item.text is None else next(of_texts) for item in items]
        tokens = service.work.model.count_tokens(texts)
        return responses.EmbeddingsAnswer(
            data=[
                responses.EmbeddingAnswer(index=index, embedding=_as_asked(embed, body.encoding_format))
                for index, embed in enumerate(embeds)
            ],
            model=model_name,
            usage=responses.UsageAnswer(prompt_tokens=tokens, total_tokens=tokens),
        )


def _add_matching_routes(app: FastAPI, service: Service) -> None:
    @app.post("/match", openapi_extra=content_of(requests.MatchRequest), tags=["model"])
    async def match(
        body: Annotated[requests.MatchRequest, Depends(body_of(requests.MatchRequest))],
    ) -> responses.MatchAnswer:
        """How well a text describes each of some images, by both stages."""
        min_probability = body.min_probability
        if min_probability is not None:
            service.must_give_probability()
        images = await service.read(body.images)
        scores = await service.score_pairs([Pair(body.text, image) for image in images])
        (unknown,) = service.work.model.unknown([body.text])
        results = [_pair_answer(index, score, min_probability) for index, score in enumerate(scores)]
        return responses.MatchAnswer(results=results, unknown=unknown)

    @app.post("/rerank", openapi_extra=content_of(requests.RerankRequest), tags=["model"])
    async def rerank(
        body: Annotated[requests.RerankRequest, Depends(body_of(requests.RerankRequest))],
    ) -> responses.RerankAnswer:
        """Order images by a text, or texts by an image, with the second stage."""
        if body.image is not None:
            (image,) = await service.read([body.image])
            pairs = [Pair(text, image) for text in body.texts]
        else:
            images = await service.read(body.images)
            images += [await service.image(key) for key in body.keys]
            pairs = [Pair(body.text or "", image) for image in images]
        results = [_pair_answer(index, result) for index, result in enumerate(await service.score_pairs(pairs))]
        return responses.RerankAnswer(results=sorted(results, key=lambda result: -result.score)[: body.top])


def _add_classify_and_caption(app: FastAPI, service: Service) -> None:
    @app.post("/classify", openapi_extra=content_of(requests.ClassifyRequest), tags=["model"])
    async def classify(
        body: Annotated[requests.ClassifyRequest, Depends(body_of(requests.ClassifyRequest))],
    ) -> responses.ClassifyAnswer:
        """Which of some classes each image belongs to, by the classes' Chinese names alone."""
        classes, templates = _classes(body.classes), SETS[body.templates]
        images = await service.read(body.images)
        guesses_by_image = await service.classify(images, classes, templates, body.top, body.depth)
        return responses.ClassifyAnswer(
            results=[
                [
                    responses.ClassAnswer(name=guess.name, index=guess.index, cosine=guess.cosine, score=guess.score)
                    for guess in guesses
                ]
                for guesses in guesses_by_image
            ]
        )

    @app.post("/caption", openapi_extra=content_of(requests.CaptionRequest), tags=["model"])
    async def caption(
        body: Annotated[requests.CaptionRequest, Depends(body_of(requests.CaptionRequest))],
    ) -> responses.CaptionAnswer:
        """What each image shows, in Chinese; candidates of a beam search, the best first."""
        captions = await service.caption(await service.read_for_captions(body.images))
        return responses.CaptionAnswer(
            results=[
                [
                    responses.CandidateAnswer(
                        text=candidate.text, log_probability=candidate.log_probability, match=candidate.match_score
                    )
                    for candidate in caption.candidates
                ]
                for caption in captions
            ]
        )


def _as_asked(embed_D: Tensor, form: str) -> list[float] | str:
    if form == "float":
        return embed_D.tolist()
    return base64.b64encode(embed_D.float().numpy().astype(np.dtype("<f4")).tobytes()).decode()


def _pair_answer(index: int, scores: PairScore, min_probability: float | None = None) -> responses.PairAnswer:
    is_match = None if min_probability is None or scores.probability is None else scores.probability >= min_probability
    return responses.PairAnswer(
        index=index, cosine=scores.cosine, match=scores.match_score, probability=scores.probability, score=scores.score,
        is_match=is_match,
    )  # fmt: skip


def _classes(names: str | Sequence[str]) -> list[ImageClass]:
    """The classes of a shipped list, or of names; a name is never taken for a file.

    Raises:
        ApiError: a name is empty or there twice.
    """
    if isinstance(names, str):
        return read_classes(names)
    try:
        return classes_of_names(names)
    except CcmbError as error:
        raise invalid(str(error)) from None
