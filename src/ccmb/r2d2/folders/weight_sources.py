"""Where a network's weights come from, and under which licences: `sources` in a model folder's `config.json`.

It has one entry for each model whose weights went into the network; a network that began with random weights has none.
No path of a machine is kept: a local folder is named by its last part. What a source does not say of its licence is
"unknown".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

import yaml
from huggingface_hub import metadata_load
from transformers.utils.hub import cached_file

from ccmb.core.choices import LICENSE_PATTERN
from ccmb.core.errors import UsageError
from ccmb.core.hashing import sha256_of_files

# part ("model" is the whole), name (hub id, or last part of a local folder or file), license (an identifier or
# "unknown"), and of a hub model revision (its commit), of a local one sha256 (of its weights).
Source = dict[str, str]
WeightPart = Literal["image_tower", "text_tower", "model", "generator"]
NEEDED, KEYS = {"part", "name", "license"}, {"part", "name", "license", "revision", "sha256"}
UNKNOWN, OTHER = "unknown", "other"
LICENSE_KEYS = {"image": "image_tower", "text": "text_tower", "model": "model"}  # of a recipe's model.licenses
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
HUB_CACHE = re.compile(r"/models--([^/]+)/snapshots/([^/]+)")  # where the hub's local cache keeps a commit
WEIGHTS = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")


def check_sources(values: Iterable[Mapping[str, Any]]) -> list[Source]:
    """The entries of `sources`.

    Raises:
        UsageError: an entry lacks a key, has an unknown one or another type, or names a path; the message shows it.
    """
    sources = []
    for value in values:
        if not isinstance(value, Mapping) or not NEEDED <= set(value) <= KEYS:
            raise UsageError(f"sources: {value!r}: give part, name, license, and revision or sha256")
        if not all(isinstance(text, str) for text in value.values()) or value["part"] not in get_args(WeightPart):
            raise UsageError(f"sources: {value!r}: all are texts, and part is one of {', '.join(get_args(WeightPart))}")
        name = value["name"]
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
            raise UsageError(f"sources: {name!r} is a path; give a hub id, or the last part of the folder")
        sources.append(dict(value))
    return sources


def public_name(name: str | Path) -> str:
    """A model's name without a machine's path: a hub id, or the last part of a local folder or file.

    The folder `model` of a run is named by the run, and a folder of the hub's local cache by its hub id.
    """
    if not Path(name).exists() and HUB_ID.fullmatch(str(name)):
        return str(name)
    path = Path(os.path.abspath(name))
    if cached := HUB_CACHE.search(path.as_posix()):
        return cached[1].replace("--", "/")
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def source_of(part: WeightPart, name: str | Path) -> Source:
    """The entry of a local folder or file, or of a hub id; its licence is what its model card says."""
    source = {"part": part, "name": public_name(name), "license": _license(name)}
    if revision := _revision(name):
        return source | {"revision": revision}
    path = Path(name)
    by_pattern = ([path],) if path.is_file() else (sorted(path.glob(pattern)) for pattern in WEIGHTS)
    files = next(filter(None, by_pattern), [])
    return source | ({"sha256": sha256_of_files(files)} if files else {})


def carried_on(sources: Iterable[Source], name: str | Path) -> list[Source]:
    """The sources of a network that starts from the R2D2 `name`: that one's, and if it is from the hub itself."""
    return joined(sources, [] if Path(name).exists() else [source_of("model", name)])


def joined(*lists: Iterable[Source]) -> list[Source]:
    """All entries in their order, each once."""
    every: list[Source] = []
    every.extend(source for sources in lists for source in sources if source not in every)
    return every


def with_licenses(sources: Iterable[Source], given: Mapping[str, str | None]) -> list[Source]:
    """The sources with the licences that a recipe gives, in place of what they say themselves.

    Args:
        given: by the key of `model.licenses`; None leaves them as they are.

    Raises:
        UsageError: no weights are from a source of that kind; the message names the key.
    """
    sources = [dict(source) for source in sources]
    for key, license in given.items():
        parts = [source for source in sources if source["part"] == LICENSE_KEYS[key]]
        if license is not None and not parts:
            has = ", ".join(source["part"] for source in sources) or "no weights of other models"
            raise UsageError(f"model.licenses.{key}={license} would do nothing (the start has {has}); leave it out")
        for source in parts:
            source["license"] = license or source["license"]
    return sources


def combined_license(sources: Iterable[Source]) -> str | None:
    """The licence that all sources have, "unknown" if none says any, else "other"; None without sources."""
    licenses = {source["license"].lower(): source["license"] for source in sources}
    return next(iter(licenses.values()), None) if len(licenses) < 2 else OTHER


def _license(name: str | Path) -> str:
    card = _file(name, "README.md")
    try:
        values: Any = metadata_load(card) if card else None
    except (OSError, ValueError, yaml.YAMLError):  # a card that is no text, or whose front matter is none
        values = None
    values = values or {}
    license = values.get("license")
    if license == OTHER:
        license = values.get("license_name", OTHER)
    if isinstance(license, list):
        license = " AND ".join(map(str, license))
    return license if isinstance(license, str) and re.fullmatch(LICENSE_PATTERN, license) else UNKNOWN


def _revision(name: str | Path) -> str | None:
    """The commit of a hub id, or of a folder in the hub's local cache."""
    path = Path(name) if Path(name).exists() else _file(name, "config.json") or _file(name, "model_index.json")
    cached = None if path is None else HUB_CACHE.search(Path(os.path.abspath(path)).as_posix())
    return None if cached is None else cached[2]


def _file(name: str | Path, file: str) -> Path | None:
    """A file of a local folder or of a hub model; None where there is none to be had."""
    try:
        path = cached_file(str(name), file)
    except OSError:
        return None
    return None if path is None else Path(path)
