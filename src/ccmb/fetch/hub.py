"""Hubs of models: whether the Hugging Face hub can be reached, and models of ModelScope."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ccmb.core.errors import CcmbError, UsageError, one_line

_LOG = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MODELSCOPE = "modelscope:"
PATIENCE = 5.0  # seconds until a hub that does not answer cannot be reached


def endpoint() -> str:
    """The address of the hub: that of HF_ENDPOINT, or the Hugging Face hub's."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def local_name(name: str) -> str:
    """What libraries are to open: a model of ModelScope is fetched, and becomes its local folder; others stay.

    A hub that cannot be reached is found out once, in seconds, and libraries then look only at what was fetched before,
    where each of them would try again for half a minute.

    Raises:
        UsageError: it is of ModelScope, whose package is not installed.
        CcmbError: ModelScope does not have it, or cannot be reached.
    """
    if name.startswith(MODELSCOPE):
        return _of_modelscope(name.removeprefix(MODELSCOPE))
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        _look_for_hub(endpoint())
    return name


def hub_hint() -> str:
    """The end of an error line about a model that the hub did not give."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    if not constants.HF_HUB_OFFLINE:
        return ""
    mirror = "another mirror" if "HF_ENDPOINT" in os.environ else "a mirror, as HF_ENDPOINT=https://hf-mirror.com"
    return f"; {endpoint()} is not asked or cannot be reached: set {mirror}, or give modelscope:ID or a folder"


@cache
def _look_for_hub(address: str) -> None:
    constants: Any = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE or {"https", "http", "all"} & getproxies().keys():
        return  # what a proxy reaches is for it to say
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), PATIENCE).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
        _LOG.warning("%s cannot be reached: only models that were fetched before can be opened by id", address)


def _of_modelscope(model: str) -> str:
    try:
        library: Any = importlib.import_module("modelscope")
    except ImportError:
        raise UsageError(f"{MODELSCOPE}{model}: needs modelscope; install it with pip install modelscope") from None
    try:
        return str(library.snapshot_download(model))
    except Exception as error:  # no network, no such model
        raise CcmbError(f"{MODELSCOPE}{model}: not to be had from ModelScope ({one_line(error)})") from None
