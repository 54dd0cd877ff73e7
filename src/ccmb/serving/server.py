"""Running a server of a model and an index until it is stopped."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import python_multipart  # noqa: F401  (forms need it, and would miss it only when one comes)
import uvicorn

from ccmb.core.errors import CcmbError, Stopped, UsageError
from ccmb.inference.models.base import Model
from ccmb.inference.models.known import which_model
from ccmb.inference.models.open_model import open_model, with_ranker
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.generative.captioner import R2D2Captioner, has_captioner, load_captioner
from ccmb.r2d2.processing import R2D2Processor
from ccmb.search.engine import open_engine
from ccmb.search.index_folder import model_of
from ccmb.serving.app import make_app
from ccmb.serving.config import ServeOptions
from ccmb.serving.http.auth import Keys
from ccmb.serving.http.middleware import MAX_HEADER_BYTES
from ccmb.serving.model_worker import ModelWork
from ccmb.serving.service import Index

_LOG = logging.getLogger(__name__)

_LAST_ANSWERS = 5.0  # seconds, beyond a request's time, for requests in flight to end


def serve(
    index: Path | None,
    model: str | None,
    captioner: str | None,
    options: ServeOptions,
    *,
    fast: bool = False,
    ranker: str | None = None,
    coarse_dim: int | None = None,
) -> None:
    """Serve an index, or a model alone, until SIGTERM or Ctrl-C; requests in flight are then finished.

    Args:
        index: folder of `ccmb index`; None serves no search.
        model: run or model folder, or hub id; by default the model that made the index.
        captioner: a model that writes captions; by default the model itself, if it can.
        fast: compute everything but captions with the model's int8 export.
        ranker: another second stage, see `ccmb.inference.models.open_model.open_ranker`.
        coarse_dim: see `ccmb.search.index_folder.open_catalogue`.

    Raises:
        UsageError: there is neither index nor model, or the coarse dimension is refused.
        CcmbError: index, model or keys are missing or damaged, or the address is taken.
        Stopped: the server was asked to stop, and has.
    """
    keys = None if options.api_keys is None else Keys.read(options.api_keys)
    name = _model_of(index, model)
    listening = _listen(options)  # before the model is loaded in vain
    with ExitStack() as stack:
        stack.callback(listening.close)
        work, engine = stack.enter_context(
            opened(index, name, captioner, fast=fast, ranker=ranker, coarse_dim=coarse_dim)
        )
        _run(make_app(work, engine, options, keys, work.model.name), listening, options)


@contextmanager
def opened(
    index: Path | None,
    name: str,
    captioner: str | None = None,
    *,
    fast: bool = False,
    ranker: str | None = None,
    coarse_dim: int | None = None,
) -> Iterator[tuple[ModelWork, Index | None]]:
    """Open what a server needs: the model, with a captioner if there is one, and the index.

    Raises:
        CcmbError: see `serve`.
    """
    model = open_model(name, fast=fast)
    writer = _captioner(model, captioner)
    if index is None:
        yield ModelWork(model if ranker is None else with_ranker(model, ranker), writer), None
        return
    with open_engine(index, name, fast, model, ranker, coarse_dim=coarse_dim) as engine:
        yield ModelWork(engine.model, writer), engine


def _captioner(model: Model, captioner: str | None) -> tuple[R2D2Captioner, R2D2Processor] | None:
    """The captioner of this name, or else the model's own, if it has one."""
    if captioner is not None:
        return load_captioner(captioner)
    if not isinstance(model, R2D2Stages):
        return None
    if isinstance(model.network, R2D2Captioner):
        return model.network, model.processor
    return load_captioner(model.source) if has_captioner(model.source) else None


def _model_of(index: Path | None, model: str | None) -> str:
    if index is not None:
        return model_of(index, model)
    if model is None:
        raise UsageError(f"nothing to serve: give an index, or {which_model()}")
    return model


def _listen(options: ServeOptions) -> socket.socket:
    """A bound socket.

    Raises:
        CcmbError: the address is taken, or not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise CcmbError(f"{options.host}:{options.port}: {reason}; choose others with --host and --port") from None
    return listening


def _run(app: Any, listening: socket.socket, options: ServeOptions) -> None:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="on",
        proxy_headers=False,  # see `proxy.TrustedProxies`
        timeout_graceful_shutdown=round(options.timeout + _LAST_ANSWERS),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )  # fmt: skip
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that a client gets wrong
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    _LOG.info("serving at http://%s:%d", shown, port)
    with _orderly_stop():
        uvicorn.Server(config).run([listening])


@contextmanager
def _orderly_stop() -> Iterator[None]:
    """Raise `Stopped` after an orderly stop.

    On SIGTERM or Ctrl-C uvicorn finishes the requests in flight and then raises the signal again, for these handlers.
    """

    def stop(signal_number: int, frame: object) -> None:
        raise Stopped("stopped; what was in flight is answered", by_user=signal_number == signal.SIGINT)

    before = {signal_number: signal.signal(signal_number, stop) for signal_number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
