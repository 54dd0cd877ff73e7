"""A server for tests: a random network and an index without vectors, asked without a socket or over one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.search.filters import compile_conditions
from ccmb.search.query import Condition, FieldValue, Hit, SearchQuery, SearchResult, Test
from ccmb.serving.app import make_app
from ccmb.serving.config import ServeOptions
from ccmb.serving.http.auth import Client, Keys
from ccmb.serving.model_worker import ModelWork
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor

ADMIN, SEARCHER = "admin-key-of-the-tests", "search-key-of-the-tests"
KEYS = Keys({ADMIN: Client("keeper", admin=True), SEARCHER: Client("reader")})
SECRET = Path("/srv/secret/pictures")  # where the images are said to lie; no answer may name it


class FakeIndex:
    """Images in memory. The first stage likes them in their order, and the second the other way round.

    `calls` holds how many queries came in each call; `before` is run at the beginning of each.
    """

    def __init__(self, count: int = 12) -> None:
        self.images: dict[str, tuple[str, Image.Image, dict[str, FieldValue]]] = {}
        self.calls: list[int] = []
        self.queries: list[SearchQuery] = []
        self.before: Callable[[Sequence[SearchQuery]], None] = lambda queries: None
        for number, image in enumerate(tiny_images(count)):
            self._keep(
                f"{number}.png", image, {"folder": f"{SECRET}/{'夏' if number % 2 else '冬'}", "width": 100 * number}
            )

    def _keep(self, name: str, image: Image.Image, fields: Mapping[str, FieldValue]) -> str:
        key = hashlib.sha256(name.encode()).hexdigest()[:32]
        self.images[key] = name, image, dict(fields)
        return key

    def search_many(self, queries: Sequence[SearchQuery]) -> list[SearchResult]:
        self.before(queries)
        self.calls.append(len(queries))
        self.queries += queries
        return [self._answer(query) for query in queries]

    def _answer(self, query: SearchQuery) -> SearchResult:
        passing = [
            (key, name, fields)
            for key, (name, _, fields) in self.images.items()
            if key != query.like and all(_passes(fields, condition) for condition in query.where)
        ]
        ranks, last = query.rank and query.text is not None, max(1, len(passing) - 1)
        hits = [
            Hit(
                key=key, name=name, source=SECRET, cosine=0.9 - 0.5 * index / last, fields=fields,
                first_stage_rank=index + 1,
                score=1 + index / last if ranks else 0.9 - 0.5 * index / last,
                match=index / last if ranks else None, probability=index / last if ranks else None,
            )
            for index, (key, name, fields) in enumerate(passing)
        ]  # fmt: skip
        hits.sort(key=lambda hit: -hit.score)
        kept = [hit for hit in hits if (hit.probability or 0) >= (query.min_probability or 0)]
        end = query.offset + query.k
        seconds = {"encode": 0.001, "pre_ranking": 0.002, "ranking": 0.003}
        return SearchResult(
            tuple(kept[query.offset : end]), len(hits), len(hits) if ranks else 0, more=len(kept) > end, seconds=seconds
        )

    def _entry(self, key: str) -> tuple[str, Image.Image, dict[str, FieldValue]]:
        if key not in self.images:
            raise CcmbError(f"{SECRET}/{key}: no such image in the index")
        return self.images[key]

    def image(self, key: str) -> Image.Image:
        return self._entry(key)[1].copy()

    def thumbnail(self, key: str) -> bytes:
        file = io.BytesIO()
        self.image(key).save(file, "JPEG")
        return file.getvalue()

    def fields(self, key: str) -> dict[str, FieldValue]:
        return self._entry(key)[2]

    def fields_known(self) -> dict[str, type]:
        return {"folder": str, "width": int}

    def compile_where(self, where: Sequence[Condition]) -> tuple[Test, ...]:
        return compile_conditions(where, self.fields_known())

    def add(self, name: str, data: bytes, fields: Mapping[str, FieldValue]) -> str:
        return self._keep(name, Image.open(io.BytesIO(data)).convert("RGB"), fields)

    def delete(self, keys: Sequence[str]) -> int:
        return sum(self.images.pop(key, None) is not None for key in keys)

    def __len__(self) -> int:
        return len(self.images)


def _passes(fields: Mapping[str, Any], condition: Condition) -> bool:
    value = fields.get(condition.field)
    if condition.comparison == "under":
        return value == f"{SECRET}/{condition.value}"
    assert condition.comparison == ">="
    return value is not None and value >= condition.value


@cache
def tiny_stages() -> R2D2Stages:
    return R2D2Stages(tiny_model(match_temperature=2.0), tiny_processor(), name="tiny")


@cache
def tiny_network() -> ModelWork:
    return ModelWork(tiny_stages())


def tiny_app(index: FakeIndex | None = None, keys: Keys | None = None, **options: Any) -> Any:
    """A server of a random network; `options` go to ServeOptions."""
    return make_app(tiny_network(), index, ServeOptions(**options), keys, "tiny")


def client(app: Any, key: str | None = None, raises: bool = True) -> httpx.AsyncClient:
    """A client of the application, in this process."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers)


def png(image: Image.Image | None = None) -> bytes:
    """The bytes of an image."""
    file = io.BytesIO()
    (image or tiny_images(1)[0]).save(file, "PNG")
    return file.getvalue()


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The application behind a real socket, in another thread: its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def asked(app: Any, work: Callable[[httpx.AsyncClient], Awaitable[Any]], key: str | None = None) -> Any:
    """What `work` returns with a client of the application."""

    async def run() -> Any:
        async with client(app, key) as http:
            return await work(http)

    return asyncio.run(run())


def post(app: Any, path: str, body: Any, key: str | None = None) -> httpx.Response:
    return asked(app, lambda http: http.post(path, json=body), key)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, whose form is checked."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "code"}
    assert "secret" not in answer.text
    return answer.status_code, body["error"]["code"]
