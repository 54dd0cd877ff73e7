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
from ccmb.inference.interface import load_network
from ccmb.r2d2.generative.captioner import has_captioner, load_captioner
from ccmb.r2d2.loading import model_folder
from ccmb.search.engine import open_engine
from ccmb.search.indexing.indexer import IndexRecord
from ccmb.serving.app import make_app
from ccmb.serving.config import ServeOptions
from ccmb.serving.http.auth import Keys
from ccmb.serving.http.middleware import MAX_HEADER_BYTES
from ccmb.serving.model_worker import ModelWork
from ccmb.serving.service import Index

_LOG = logging.getLogger(__name__)

_LAST_ANSWERS = 5.0  # seconds, beyond a request's time, for requests in flight to end


def serve(
    index: Path | None, model: str | None, captioner: str | None, options: ServeOptions, fast: bool = False
) -> None:
    """Serve an index, or a model alone, until SIGTERM or Ctrl-C; requests in flight are then finished.

    Args:
        index: folder of `ccmb index`; None serves no search.
        model: run or model folder, or hub id; by default the model that made the index.
        captioner: a model that writes captions; by default the model itself, if it can.
        fast: compute everything but captions with the model's int8 export.

    Raises:
        UsageError: there is neither index nor model.
        CcmbError: index, model or keys are missing or damaged, or the address is taken.
        Stopped: the server was asked to stop, and has.
    """
    keys = None if options.api_keys is None else Keys.read(options.api_keys)
    folder = _model_of(index, model)
    listening = _listen(options)  # before the model is loaded in vain
    with ExitStack() as stack:
        stack.callback(listening.close)
        work, engine = stack.enter_context(opened(index, folder, captioner, fast))
        _run(make_app(work, engine, options, keys, _name_of(folder)), listening, options)


@contextmanager
def opened(
    index: Path | None, model: Path, captioner: str | None = None, fast: bool = False
) -> Iterator[tuple[ModelWork, Index | None]]:
    """Open what a server needs: the network, with a captioner if there is one, and the index.

    Raises:
        CcmbError: see `serve`.
    """
    own = load_captioner(model) if captioner is None and has_captioner(model) else None
    writer = load_captioner(captioner) if captioner is not None else own
    shared = None if fast else own
    if index is None:
        network, processor = shared or load_network(model, fast)
        yield ModelWork(network, processor, writer), None
        return
    with open_engine(index, model, fast, shared and shared[0]) as engine:
        yield ModelWork(engine.model, engine.processor, writer), engine


def _model_of(index: Path | None, model: str | None) -> Path:
    if model is not None:
        return model_folder(model)
    if index is None:
        raise UsageError("nothing to serve: give an index, or --model")
    return model_folder(IndexRecord.read(index).model)


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


def _name_of(folder: Path) -> str:
    """A model's name for clients: the name of its run or folder."""
    return folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
