"""The application: its routes, its page and its OpenAPI description, behind the middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp

from ccmb.serving import requests, responses
from ccmb.serving.config import ServeOptions
from ccmb.serving.http.auth import Keys
from ccmb.serving.http.caching import cached
from ccmb.serving.http.errors import handle_errors
from ccmb.serving.http.middleware import Middleware, client_of
from ccmb.serving.metrics import Metrics
from ccmb.serving.model_routes import add_model_routes
from ccmb.serving.model_worker import ModelWork
from ccmb.serving.search_routes import add_search_routes
from ccmb.serving.service import Index, Service

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/state.js": ("state.js", "text/javascript; charset=utf-8"),
    "/server.js": ("server.js", "text/javascript; charset=utf-8"),
    "/cards.js": ("cards.js", "text/javascript; charset=utf-8"),
    "/filters.js": ("filters.js", "text/javascript; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
BODIES: tuple[type[BaseModel], ...] = (
    requests.SearchRequest, requests.EmbedRequest, requests.EmbeddingsRequest, requests.MatchRequest,
    requests.RerankRequest, requests.ClassifyRequest, requests.CaptionRequest, requests.ImageRequest,
)  # fmt: skip
_OPEN = frozenset({*PAGE, "/healthz", "/openapi.json"})
_MISTAKES = {
    400: "The body is not JSON or no readable form", 401: "No valid key", 403: "Not allowed", 404: "Not there",
    408: "The body came too slowly", 413: "The body is too large", 415: "Neither JSON nor a form",
    422: "A value cannot be", 429: "Too many requests", 503: "Too much to do", 504: "No answer in time",
}  # fmt: skip


def make_app(
    work: ModelWork,
    index: Index | None = None,
    options: ServeOptions | None = None,
    keys: Keys | None = None,
    model_name: str = "r2d2",
) -> ASGIApp:
    """The whole server as an ASGI application.

    Args:
        keys: the clients' keys; None lets everybody ask and nobody write.
        model_name: the model's name for clients; not a path.
    """
    options, metrics = options or ServeOptions(), Metrics()
    service = Service(work, index, options, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="CCMB", version=version("ccmb"), summary="Chinese image-text search, matching and embeddings",
        lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
        responses={status: {"model": responses.ErrorAnswer, "description": text} for status, text in _MISTAKES.items()},
    )  # fmt: skip
    handle_errors(app)
    add_search_routes(app, service)
    add_model_routes(app, service, model_name)
    _add_status_routes(app, service, metrics, model_name)
    _add_page(app)
    _describe(app, keys is not None)
    return Middleware(app, options, keys, metrics, _OPEN)


def _add_status_routes(app: FastAPI, service: Service, metrics: Metrics, model_name: str) -> None:
    @app.get("/healthz", tags=["house"])
    async def healthz() -> responses.HealthAnswer:
        """Whether the server works; it takes no key."""
        return responses.HealthAnswer(version=app.version)

    @app.get("/metrics", tags=["house"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """What Prometheus reads."""
        text = await asyncio.to_thread(metrics.text)  # it may wait for the index to be counted
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/about", tags=["house"])
    async def about(request: Request) -> responses.AboutAnswer:
        """What this server can do for whoever asks."""
        index, work, options = service.index, service.work, service.options
        known = {} if index is None else await asyncio.to_thread(index.fields_known)
        return responses.AboutAnswer(
            version=app.version,
            model=model_name,
            ranker=None if work.model.ranker is work.model else work.model.ranker.name,
            dim=work.model.embed_dim,
            images=None if index is None else await asyncio.to_thread(len, index),
            can_rank=work.model.can_rank,
            calibrated=work.model.is_calibrated,
            can_caption=work.captioner is not None,
            can_write=index is not None and client_of(request.scope).admin and not getattr(index, "frozen", False),
            fields={name: kind.__name__ for name, kind in known.items()},
            max_bytes=options.max_bytes,
            max_pixels=options.max_pixels,
        )

    @app.get("/openapi.json", include_in_schema=False)
    async def description(request: Request) -> dict[str, Any]:
        return app.openapi() | {"servers": [{"url": request.scope["ccmb.prefix"] or "/"}]}


def _add_page(app: FastAPI) -> None:
    """Serve the page's files, which are read once: no path from a client ever becomes a file path."""
    folder = files("ccmb.serving") / "page"
    for path, (name, media) in PAGE.items():
        _add_file(app, path, (folder / name).read_bytes(), media)


def _add_file(app: FastAPI, path: str, data: bytes, media: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file(request: Request) -> Response:
        return cached(request, data, media, "no-cache")


def _describe(app: FastAPI, has_keys: bool) -> None:
    """Describe in OpenAPI the bodies that may come as JSON or as a form."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            _, schemas = models_json_schema(
                [(kind, "validation") for kind in BODIES], ref_template="#/components/schemas/{model}"
            )
            named = document.setdefault("components", {}).setdefault("schemas", {})
            named |= schemas["$defs"]
            named |= {f"{kind.__name__}Form": _as_form(named[kind.__name__]) for kind in BODIES}
            if has_keys:
                document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the same values as parts of a form, in which images are files."""

    def as_part(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("contentEncoding") == "base64":
                return {"type": "string", "format": "binary", "description": "an image file"}
            return {key: as_part(item) for key, item in value.items()}
        return [as_part(item) for item in value] if isinstance(value, list) else value

    return as_part(schema)
