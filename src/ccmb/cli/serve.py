"""`ccmb serve`: search, matching and embeddings over HTTP, with a web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccmb.cli.common.given import refuse_given
from ccmb.cli.common.options import CoarseDimOption, FastFlag, RankerOption
from ccmb.core.errors import CcmbError

MEGABYTE = 2**20


def serve(
    context: typer.Context,
    index: Annotated[Path | None, typer.Argument(help="The index folder; without one there is no search.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="By default the one that made the index.")] = None,
    ranker: RankerOption = None,
    captioner: Annotated[
        str | None, typer.Option(help="A model of `ccmb finetune captioning`; by default the model, if it is one.")
    ] = None,
    fast: FastFlag = False,
    coarse_dim: CoarseDimOption = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is for all the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes one that is free.")] = 8000,
    name: Annotated[
        list[str] | None, typer.Option(help="Host name that the server is reached by; may be given several times.")
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="File of keys, `NAME search|admin KEY` a line; without it nobody may write.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most searches of one call; 1 is no batching.")] = 16,
    wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a first request waits for others.")] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="Searches that may wait; more are refused.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 30.0,
    max_megabytes: Annotated[float, typer.Option(min=0.01, help="Of a request's body.")] = 16.0,
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Of an image.")] = 50.0,
    rate: Annotated[float, typer.Option(min=0, help="Requests per second of a client; 0 is no limit.")] = 0.0,
    burst: Annotated[float, typer.Option(min=1, help="Requests of a client at once, where there is a rate.")] = 20.0,
    proxy: Annotated[
        str | None,
        typer.Option(help="Address or network of a proxy in front, whose X-Forwarded-For, -Host and -Prefix count."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Path below which a proxy serves it, such as /pictures.")] = "",
) -> None:
    """Serve an index, or a model alone, over HTTP, with a web page; stop it with Ctrl-C or SIGTERM.

    Example: ccmb serve quickstart/index --port 8000
    """
    try:
        from ccmb.serving.config import ServeOptions
        from ccmb.serving.server import serve as run
    except ImportError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
            raise
        raise CcmbError(f"serving needs {error.name}, which is not installed: pip install 'ccmb[serve]'") from None

    if not rate:
        refuse_given(context, "of a rate", "burst", instead="give --rate too, or leave {} out")
    if index is None:
        refuse_given(context, "of an index, and none is served", "coarse_dim")
    if batch == 1:
        refuse_given(context, "of batches, and --batch 1 makes none", "wait")
    options = ServeOptions(
        host, port, tuple(name or ()), api_keys, batch=batch, wait=wait / 1000, queue=queue, timeout=timeout,
        max_bytes=round(max_megabytes * MEGABYTE), max_pixels=round(max_megapixels * 1e6), rate=rate, burst=burst,
        proxy=proxy, prefix=prefix,
    )  # fmt: skip
    run(index, model, captioner, options, fast=fast, ranker=ranker, coarse_dim=coarse_dim)
