"""The addresses of the network: embeddings, matching, re-ranking, classes and captions of what a client sends."""

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
from ccmb.r2d2.inputs.unknown_words import wholly_unknown
from ccmb.serving import requests
from ccmb.serving import responses as answers
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
    dim = service.work.model.config.embed_dim

    @app.post("/embed", openapi_extra=content_of(requests.EmbedRequest), tags=["model"])
    async def embed(
        asked: Annotated[requests.EmbedRequest, Depends(body_of(requests.EmbedRequest))],
    ) -> answers.EmbedAnswer:
        """Embeddings of texts and images; the cosine of two is their dot product."""
        images = await service.embed_images(await service.read(asked.images))
        texts = await service.embed_texts(asked.texts)
        columns = ([embed.tolist() for embed in of] for of in (texts, images))
        return answers.EmbedAnswer(model=model_name, dim=dim, texts=next(columns), images=next(columns))

    @app.post("/v1/embeddings", openapi_extra=content_of(requests.EmbeddingsRequest), tags=["model"])
    async def embeddings(
        asked: Annotated[requests.EmbeddingsRequest, Depends(body_of(requests.EmbeddingsRequest))],
    ) -> answers.EmbeddingsAnswer:
        """The same as OpenAI's clients ask for it; an input may be an image too: `{"image": BASE64}`."""
        if asked.dimensions not in (None, dim):
            raise invalid(f"dimensions: this model has {dim}")
        inputs = asked.input if isinstance(asked.input, list) else [asked.input]
        every = [requests.EmbeddingInput(text=one) if isinstance(one, str) else one for one in inputs]
        texts = [one.text for one in every if one.text is not None]
        images = await service.read([one.image for one in every if one.image is not None])
        of_texts, of_images = iter(await service.embed_texts(texts)), iter(await service.embed_images(images))
        embeds = [next(of_images) if one.text is None else next(of_texts) for one in every]
        tokens = int(service.work.processor.texts(texts)["attention_mask"].sum()) if texts else 0
        return answers.EmbeddingsAnswer(
            data=[
                answers.EmbeddingAnswer(index=place, embedding=_as_asked(embed, asked.encoding_format))
                for place, embed in enumerate(embeds)
            ],
            model=model_name,
            usage=answers.UsageAnswer(prompt_tokens=tokens, total_tokens=tokens),
        )


def _add_matching_routes(app: FastAPI, service: Service) -> None:
    @app.post("/match", openapi_extra=content_of(requests.MatchRequest), tags=["model"])
    async def match(
        asked: Annotated[requests.MatchRequest, Depends(body_of(requests.MatchRequest))],
    ) -> answers.MatchAnswer:
        """How well a text describes each of some images, by both stages."""
        minimum = asked.min_probability
        if minimum is not None:
            service.must_give_probability()
        images = await service.read(asked.images)
        scores = await service.score_pairs([Pair(asked.text, image) for image in images])
        (unknown,) = wholly_unknown(service.work.processor, [asked.text])
        results = [_pair_answer(place, of, minimum) for place, of in enumerate(scores)]
        return answers.MatchAnswer(results=results, unknown=unknown)

    @app.post("/rerank", openapi_extra=content_of(requests.RerankRequest), tags=["model"])
    async def rerank(
        asked: Annotated[requests.RerankRequest, Depends(body_of(requests.RerankRequest))],
    ) -> answers.RerankAnswer:
        """Order images by a text, or texts by an image, with the second stage."""
        if asked.image is not None:
            (image,) = await service.read([asked.image])
            pairs = [Pair(text, image) for text in asked.texts]
        else:
            images = await service.read(asked.images)
            images += [await service.image(key) for key in asked.keys]
            pairs = [Pair(asked.text or "", image) for image in images]
        found = [_pair_answer(place, of) for place, of in enumerate(await service.score_pairs(pairs))]
        return answers.RerankAnswer(results=sorted(found, key=lambda of: -of.score)[: asked.top])


def _add_classify_and_caption(app: FastAPI, service: Service) -> None:
    @app.post("/classify", openapi_extra=content_of(requests.ClassifyRequest), tags=["model"])
    async def classify(
        asked: Annotated[requests.ClassifyRequest, Depends(body_of(requests.ClassifyRequest))],
    ) -> answers.ClassifyAnswer:
        """Which of some classes each image belongs to, by the classes' Chinese names alone."""
        classes, templates = _classes(asked.classes), SETS[asked.templates]
        images = await service.read(asked.images)
        found = await service.classify(images, classes, templates, asked.top, asked.depth)
        return answers.ClassifyAnswer(
            results=[
                [answers.ClassAnswer(name=of.name, index=of.index, cosine=of.cosine, score=of.score) for of in guesses]
                for guesses in found
            ]
        )

    @app.post("/caption", openapi_extra=content_of(requests.CaptionRequest), tags=["model"])
    async def caption(
        asked: Annotated[requests.CaptionRequest, Depends(body_of(requests.CaptionRequest))],
    ) -> answers.CaptionAnswer:
        """What each image shows, in Chinese; candidates of a beam search, the best first."""
        found = await service.caption(await service.read(asked.images))
        return answers.CaptionAnswer(
            results=[
                [
                    answers.CandidateAnswer(text=one.text, log_probability=one.log_probability, match=one.match_score)
                    for one in of.candidates
                ]
                for of in found
            ]
        )


def _as_asked(embed_D: Tensor, form: str) -> list[float] | str:
    if form == "float":
        return embed_D.tolist()
    return base64.b64encode(embed_D.float().numpy().astype(np.dtype("<f4")).tobytes()).decode()


def _pair_answer(index: int, scores: PairScore, minimum: float | None = None) -> answers.PairAnswer:
    verdict = None if minimum is None or scores.probability is None else scores.probability >= minimum
    return answers.PairAnswer(
        index=index, cosine=scores.cosine, match=scores.match_score, probability=scores.probability, score=scores.score,
        is_match=verdict,
    )  # fmt: skip


def _classes(asked: str | Sequence[str]) -> list[ImageClass]:
    """The classes of a shipped list, or of names; a name is never taken for a file.

    Raises:
        ApiError: a name is empty or there twice.
    """
    if isinstance(asked, str):
        return read_classes(asked)
    try:
        return classes_of_names(asked)
    except CcmbError as error:
        raise invalid(str(error)) from None
