"""The samples in a tar: files in a row that have a key in common, one of them the picture, one the JSON of its texts.

Shards come from anywhere: nothing is unpacked to disk, nothing but JSON is parsed, sizes are bounded.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ccmb.data.pairs import sample_of_line
from ccmb.data.pictures import MAX_BYTES, SUFFIXES
from ccmb.data.remote_files import BrokenFile, open_file
from ccmb.data.shard_sources import Shard
from ccmb.errors import CcmbError, UsageError, one_line
from ccmb.samples import Sample
from ccmb.text_files import decode_text

MAX_TEXT_BYTES = 2**20
# Headers that hold names or attributes of the next file, which tarfile reads whole.
_LONG_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(slots=True)
class RawSample:
    """What a shard holds of one sample, as yet unchecked.

    Attributes:
        url: of the shard.
        key: what the names of its files have in common.
        picture: the file's bytes, or None where there is none.
        text: the JSON's bytes, or None.
        suffix: of the picture's name.
        problem: why it cannot be used though it is there.
    """

    url: str
    key: str
    picture: bytes | None = field(default=None, repr=False)
    text: bytes | None = None
    suffix: str = ""
    problem: str | None = None


def read_samples(shard: Shard, wanted: Iterable[int]) -> Iterator[tuple[int, RawSample | str]]:
    """The samples at the wanted places of a shard (from 0, increasing), each with its place.

    There is an item for every wanted place: where the shard is missing, damaged or too short, a line that says so.
    """
    rest = iter(wanted)
    want, seen, reason = next(rest, None), 0, "it ends"
    try:
        with _open_tar(shard.url) as tar:
            for place, raw in _samples(tar, shard.url, lambda place: place == want):
                seen = place + 1
                if place == want:
                    yield place, raw
                    if (want := next(rest, None)) is None:
                        return
    except UsageError:
        raise
    except Exception as error:  # what tarfile, disks and networks make of damaged shards
        reason = _reason(error, shard.url)
    total = "" if shard.samples is None else f" of {shard.samples:,}"
    line = f"{shard.url}: {reason} after {seen:,}{total} samples; the others are lost"
    while want is not None:
        yield want, line
        want = next(rest, None)


def count_samples(url: str) -> tuple[int, str | None]:
    """The number of samples in a shard by its headers, and a line where it is damaged behind them.

    Raises:
        CcmbError: it is missing or cannot be reached.
    """
    count = 0
    try:
        with _open_tar(url) as tar:
            for place, _ in _samples(tar, url, lambda place: False):
                count = place + 1
    except CcmbError:
        raise
    except FileNotFoundError:
        raise BrokenFile(f"{url}: no such shard") from None
    except Exception as error:  # see read_samples
        return count, f"{url}: {_reason(error, url)} after {count:,} samples; the others are lost"
    return count, None


def parse_sample(raw: RawSample | str, fields: Sequence[str] | None) -> Sample:
    """The checked sample, whose texts are those of the named fields (None: of every one). The picture is not decoded.

    Raises:
        CcmbError: it is lost, lacks picture or text, or its JSON is faulty; the message names shard and key.
    """
    if isinstance(raw, str):
        raise CcmbError(raw)
    where = f"{raw.url}/{raw.key}"
    if raw.problem:
        raise CcmbError(f"{where}: {raw.problem}")
    if not raw.picture:
        raise CcmbError(f"{where}: no picture")
    if raw.text is None:
        raise CcmbError(f"{where}: no text; it needs a file {posixpath.basename(raw.key)}.json")
    try:
        line = json.loads(_decoded(raw.text, f"{where}.json"))
    except (ValueError, RecursionError) as error:
        raise CcmbError(f"{where}.json: not valid JSON ({one_line(error)})") from None
    if not isinstance(line, dict):
        raise CcmbError(f"{where}.json: expected a JSON object")
    line.setdefault("image", f"{posixpath.basename(raw.url)}/{raw.key}{raw.suffix}")  # keys may recur in other shards
    return sample_of_line(line, fields, where)


def _decoded(data: bytes, where: str) -> str:
    """UTF-8, as nearly all texts are, at once; else whatever a file of text may be."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return decode_text(data, where)


def _samples(tar: tarfile.TarFile, url: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, RawSample]]:
    """Every sample with its place; only the wanted ones have their files read."""
    place, raw = -1, None
    try:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # or a list of all headers would grow
            if (named := _key_and_ending(member)) is None:
                continue
            key, ending = named
            if raw is None or key != raw.key:
                if raw is not None:
                    yield place, raw
                place, raw = place + 1, RawSample(url, key)
            if wanted(place):
                _read_file(tar, member, ending, raw)
    except Exception:
        if raw is not None:  # what stands before the damage may be whole
            if raw.picture is None or raw.text is None:
                raw.problem = raw.problem or "the shard breaks off in it"
            yield place, raw
        raise
    if raw is not None:
        yield place, raw


def _key_and_ending(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """a/b.PNG is a/b and .png; None for what belongs to no sample."""
    folder, name = posixpath.split(member.name)
    stem, dot, ending = name.partition(".")
    if not member.isreg() or member.issparse() or not stem or not dot:
        return None
    return posixpath.join(folder, stem), f".{ending.lower()}"


def _read_file(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str, raw: RawSample) -> None:
    is_text, is_picture = ending == ".json", ending in SUFFIXES
    if not is_text and not is_picture:
        return
    most = MAX_TEXT_BYTES if is_text else MAX_BYTES
    if member.size > most:
        raw.problem = f"{ending} of {member.size:,} bytes, more than the {most:,} allowed"
        return
    try:
        file = tar.extractfile(member)
        data = file.read() if file else b""
    except Exception:
        raw.problem = f"{ending} is cut short"
        raise
    if is_text:
        raw.text = data
    elif raw.picture is None:
        raw.picture, raw.suffix = data, ending


@contextmanager
def _open_tar(url: str) -> Iterator[tarfile.TarFile]:
    with open_file(url) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictHeader) as tar:
        yield tar


class _StrictHeader(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the tar and reads long ones whole; this one does neither."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _LONG_HEADERS and header.size > MAX_TEXT_BYTES):
            raise tarfile.ReadError("a header is damaged")
        return header

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or cut short, {one_line(error)},") from None


def _reason(error: Exception, url: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return one_line(error).removeprefix(f"{url}: ")
