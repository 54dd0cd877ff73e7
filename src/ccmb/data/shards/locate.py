"""Where shards lie (folders, globs, brace ranges and URLs), and their manifests."""

from __future__ import annotations

import glob
import json
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.core.files import file_identity
from ccmb.core.passed_over import fixed_part, why_passed_over
from ccmb.data.other_forms import refuse_other_forms
from ccmb.data.shards.remote import ForbiddenFile, file_system_of, is_remote, open_file

MANIFEST = "shards.jsonl"
ENDINGS = (".tar", ".tar.gz", ".tgz")
_MANIFEST_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of samples.

    Attributes:
        url: a path or a URL.
        samples: how many it holds; None without a manifest.
        bytes, sha256: of the whole file; None where no manifest gives them.
    """

    url: str
    samples: int | None = None
    bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file name, without the folder and without a URL's query."""
        return posixpath.basename(path_of(self.url))


def find_shards(sources: Sequence[str]) -> list[Shard]:
    """The shards of some sources, in order, each with its manifest's counts and checksum.

    A source is a folder (local, or a URL that ends in a slash), a tar, a glob, or any of these with brace ranges such
    as `shard-{000000..000099}.tar`. Local sources are also looked for under $CCMB_DATA.

    Raises:
        UsageError: a source is malformed, or its kind of URL is not known here.
        CcmbError: a source has no shards, or its manifest is faulty.
    """
    urls = [shard for source in sources for text in _braces(source) for shard in _expand(text)]
    manifests: dict[str, dict[str, Shard]] = {}
    for folder in dict.fromkeys(map(_folder_of, urls)):
        manifests[folder] = {shard.url: shard for shard in read_manifest(folder) or []}
    url_of_file: dict[object, str] = {}
    for url in urls:
        url_of_file.setdefault(file_identity(url), url)
    return [manifests[_folder_of(url)].get(url, Shard(url)) for url in url_of_file.values()]


def read_manifest(folder: str) -> list[Shard] | None:
    """The shards that the manifest of a folder or URL lists, or None where there is no manifest.

    Raises:
        CcmbError: it cannot be read, or a line of it is faulty.
    """
    where = _join(folder, MANIFEST)
    try:
        with open_file(where) as file:
            data = file.read(_MANIFEST_BYTES)
    except (FileNotFoundError, ForbiddenFile):
        return None
    shards = []
    for line_number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            shards.append(_shard_of_line(json.loads(line), folder))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CcmbError(
                f"{where}:{line_number}: not a shard's name, samples, bytes and sha256; write it anew"
            ) from None
    return shards


def _braces(source: str) -> Iterable[str]:
    from braceexpand import braceexpand

    try:
        return list(braceexpand(source))
    except ValueError:
        raise UsageError(f"{source}: the braces do not close; write such as shard-{{000000..000099}}.tar") from None


def _expand(source: str) -> list[str]:
    """The shards of a source without braces."""
    if is_remote(source):
        return _expand_remote(source)
    candidates = [Path(source).expanduser()]
    if root := os.environ.get("CCMB_DATA"):
        candidates.append(Path(root).expanduser() / source)
    for candidate in candidates:
        if candidate.is_dir():
            if paths := _of_folder(str(candidate)):
                return paths
            refuse_other_forms(candidate)
            _none(source, f"no {MANIFEST} and no *.tar in it")
        paths = sorted(glob.glob(str(candidate), recursive=True))
        if glob.has_magic(str(candidate)):
            paths = _meant(paths, fixed_part(str(candidate)))
        if paths:
            return [path for path in paths if path.endswith(ENDINGS)] or paths  # not what img2dataset writes beside
    if glob.has_magic(source):
        _none(source, "no file has such a name; also looked for under $CCMB_DATA")
    return [str(candidates[0])]  # a manifest may know it; whoever opens it says that it is missing


def _meant(paths: Iterable[str], start: str) -> list[str]:
    """The paths without hidden files and a system's own files; only the part after `start` decides."""
    return [path for path in paths if not why_passed_over(path.removeprefix(start).strip("/"))]


def _expand_remote(source: str) -> list[str]:
    file_system, path = file_system_of(source)
    if not any(sign in path for sign in "*[") and not source.endswith("/"):  # a question mark begins a query
        return [source]
    try:
        if source.endswith("/"):
            if shards := read_manifest(source.rstrip("/")):
                return [shard.url for shard in shards]
            globs = [f"{path.rstrip('/')}/*{ending}" for ending in ENDINGS]
        else:
            globs = [path]
        names = [name for pattern in globs for name in _meant(file_system.glob(pattern), fixed_part(pattern))]
        urls = sorted(map(file_system.unstrip_protocol, names))
    except CcmbError:
        raise
    except Exception as error:  # see _Patient
        raise CcmbError(f"{source}: could not be listed ({one_line(error)})") from None
    return urls or _none(source, f"no {MANIFEST} and no *.tar there")


def _of_folder(folder: str) -> list[str]:
    if shards := read_manifest(folder):
        return [shard.url for shard in shards]
    paths = sorted(path for ending in ENDINGS for path in glob.glob(f"{glob.escape(folder)}/*{ending}"))
    first: dict[str, str] = {}
    for path in paths:
        stem = next(path.removesuffix(ending) for ending in ENDINGS if path.endswith(ending))
        if (other := first.setdefault(stem, path)) != path:
            raise CcmbError(f"{folder}: holds {posixpath.basename(other)} and {posixpath.basename(path)}; remove one")
    return paths


def _none(source: str, reason: str) -> list[str]:
    raise CcmbError(f"{source}: no shards ({reason})")


def _shard_of_line(line: dict[str, Any], folder: str) -> Shard:
    name, samples, size, digest = line["name"], line["samples"], line.get("bytes"), line.get("sha256")
    if not isinstance(name, str) or name != posixpath.basename(name) or name in ("", ".", ".."):
        raise ValueError("not a name in the folder")
    if type(samples) is not int or samples < 0:
        raise ValueError("not a count")
    return Shard(_join(folder, name), samples, size, digest)


def _folder_of(url: str) -> str:
    return posixpath.dirname(path_of(url))


def path_of(url: str) -> str:
    """A path unchanged, or a URL without its query."""
    return url.split("?")[0] if is_remote(url) else url


def _join(folder: str, name: str) -> str:
    return posixpath.join(folder, name)
