"""The routes of the index: search, and the images in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Request, Response

from ccmb.core.errors import UsageError
from ccmb.search.filters import parse_condition
from ccmb.search.query import Condition, Hit, SearchQuery, SearchResult, Test
from ccmb.serving import requests, responses
from ccmb.serving.http.caching import cached
from ccmb.serving.http.errors import ApiError, invalid
from ccmb.serving.http.middleware import client_of
from ccmb.serving.http.request_body import body_of, content_of
from ccmb.serving.service import Index, Service

_JPEG: dict[int | str, dict[str, object]] = {200: {"content": {"image/jpeg": {}}}, 304: {"description": "Not changed"}}
Key = Annotated[str, Path(pattern=r"^[0-9a-f]{1,64}$", description="of an image of the index")]


def add_search_routes(app: FastAPI, service: Service) -> None:
    """`/search`, `/pictures` and `/thumbnails`."""

    @app.post("/search", openapi_extra=content_of(requests.SearchRequest), tags=["index"])
    async def search(
        body: Annotated[requests.SearchRequest, Depends(body_of(requests.SearchRequest))],
    ) -> responses.SearchAnswer:
        """Find images by a Chinese text, an image or both, or by what is like an image of the index."""
        where, tests = _compiled(service.opened, body.where)
        if body.min_probability is not None:
            if not (body.text and body.rank):
                raise invalid("min_probability: needs a text and the second stage")
            service.must_give_probability()
        images = await service.read([body.image] if body.image is not None else [])
        query = SearchQuery(
            text=body.text, image=images[0] if images else None, like=body.like, k=body.k,
            offset=body.offset, depth=body.depth, rank=body.rank, min_probability=body.min_probability,
            where=where, tests=tests, budget=body.budget, collapse=body.collapse,
        )  # fmt: skip
        return _search_answer(await service.search(query))

    @app.post("/pictures", status_code=201, openapi_extra=content_of(requests.ImageRequest), tags=["index"])
    async def add(
        request: Request, body: Annotated[requests.ImageRequest, Depends(body_of(requests.ImageRequest))]
    ) -> responses.ImageAnswer:
        """Add an image to the index; searches find it from the answer on. It takes a key of an admin."""
        _must_be_admin(request)
        _must_be_writable(service)
        key = await service.add(body.name, body.image, body.fields)
        return responses.ImageAnswer(key=key)

    @app.delete("/pictures/{key}", tags=["index"])
    async def delete(request: Request, key: Key) -> responses.DeletedAnswer:
        """Take an image out of the index; searches find it no more from the answer on. It takes a key of an admin."""
        _must_be_admin(request)
        _must_be_writable(service)
        deleted = await service.delete(key)
        if not deleted:
            raise ApiError(404, "no_such_picture", "no such image in the index")
        return responses.DeletedAnswer(deleted=deleted)

    @app.get("/pictures/{key}", tags=["index"], response_class=Response, responses=_JPEG)
    async def image(request: Request, key: Key) -> Response:
        """An image of the index as a JPEG, at most 1,600 pixels wide and high, without what else its file says."""
        return _image(request, await service.shown(key))

    @app.get("/thumbnails/{key}", tags=["index"], response_class=Response, responses=_JPEG)
    async def thumbnail(request: Request, key: Key) -> Response:
        """An image of the index as a small JPEG."""
        return _image(request, await service.thumbnail(key))


def _compiled(index: Index, filters: Sequence[requests.Filter | str]) -> tuple[tuple[Condition, ...], tuple[Test, ...]]:
    """The filters of a request as conditions of the index, and these compiled.

    Raises:
        ApiError: a filter cannot be read, names an unknown field, or gives a folder by its whole path.
    """
    conditions, tests = list[Condition](), list[Test]()
    for position, filter_ in enumerate(filters):
        try:
            if isinstance(filter_, str):
                condition = parse_condition(filter_)
            else:
                value = tuple(filter_.value) if isinstance(filter_.value, list) else filter_.value
                condition = Condition(filter_.field, filter_.comparison, value)
            tests += index.compile_where([condition])
        except UsageError as error:
            raise invalid(f"where.{position}: {error}") from None
        # Folders are stored with their whole paths, which clients must neither see nor guess.
        if condition.field == "folder" and (condition.comparison != "under" or "/" in str(condition.value)[:1]):
            raise invalid(f"where.{position}: give `under` and a folder within what was indexed, such as 2024/夏天")
        conditions.append(condition)
    return tuple(conditions), tuple(tests)


def _must_be_admin(request: Request) -> None:
    if not client_of(request.scope).admin:
        raise ApiError(403, "not_admin", "adding and deleting takes a key of an admin; see ccmb serve --api-keys")


def _must_be_writable(service: Service) -> None:
    if getattr(service.opened, "frozen", False):
        raise ApiError(403, "read_only", "the index of this server cannot be written to")


def _search_answer(answer: SearchResult) -> responses.SearchAnswer:
    return responses.SearchAnswer(
        hits=[_hit_answer(hit) for hit in answer.hits],
        no_match=answer.no_match,
        candidates=answer.candidates,
        ranked=answer.ranked,
        partial=answer.partial,
        more=answer.more,
        unknown=answer.unknown,
        cut=answer.cut,
        seconds=dict(answer.seconds),
    )


def _hit_answer(hit: Hit) -> responses.HitAnswer:
    fields = dict(hit.fields)
    if "folder" in fields:  # within its source alone
        fields["folder"] = str(fields["folder"]).removeprefix(str(hit.source)).strip("/")
    return responses.HitAnswer(
        key=hit.key, name=hit.name, cosine=hit.cosine, score=hit.score, match=hit.match, probability=hit.probability,
        missing=hit.missing, place=hit.first_stage_rank, fields=fields, copies=list(hit.copies),
    )  # fmt: skip


def _image(request: Request, data: bytes) -> Response:
    """A JPEG that a browser may keep but must revalidate each time, since the image of a key may change."""
    return cached(request, data, "image/jpeg", "private, no-cache")
