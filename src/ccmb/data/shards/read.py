"""The samples in a tar: consecutive files with the same key, one of them the image, the others its texts.

A tar may be gzipped. Shards come from anywhere: nothing is unpacked to disk, nothing but JSON is parsed, sizes are
bounded. `ccmb.data.shards.texts` reads the text files.
"""

from __future__ import annotations

import gzip
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.data.images.content import HEAD_BYTES, SUFFIXES, image_format, may_be_image
from ccmb.data.images.source import MAX_BYTES
from ccmb.data.sample import Sample
from ccmb.data.shards.locate import Shard, path_of
from ccmb.data.shards.remote import BrokenFile, open_file
from ccmb.data.shards.texts import CAPTION_ENDINGS, sample_of_texts

MAX_TEXT_BYTES = 2**20
_COMPRESSED = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_SORTED = "write the files of a sample in a row, as tar --sort=name does, and give no two samples the same key"
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
    """The files of one sample in a shard, not yet checked.

    Attributes:
        url: of the shard.
        key: the common part of its files' names.
        image: the image file's bytes, or None.
        text: the JSON file's bytes, or None.
        caption: the bytes of the `.txt`, or None.
        suffix: of the image's name.
        extent: offset and size of the image in the tar; set by `read_texts`, which does not read the image.
        problem: why the sample cannot be used although it is there.
    """

    url: str
    key: str
    image: bytes | None = field(default=None, repr=False)
    text: bytes | None = None
    caption: bytes | None = None
    suffix: str = ""
    problem: str | None = None
    extent: tuple[int, int] | None = None


def read_samples(shard: Shard, wanted: Iterable[int]) -> Iterator[tuple[int, RawSample | str]]:
    """The samples at the wanted indices of a shard (from 0, increasing), each with its index.

    There is an item for every wanted index: if the shard is missing, damaged or too short, a line that says so.
    """
    remaining = iter(wanted)
    wanted_index, count, reason = next(remaining, None), 0, "it ends"
    try:
        with _open_tar(shard.url) as tar:
            for index, raw in _samples(tar, shard.url, lambda index: index == wanted_index):
                count = index + 1
                if index == wanted_index:
                    yield index, raw
                    if (wanted_index := next(remaining, None)) is None:
                        return
    except UsageError:
        raise
    except Exception as error:  # what tarfile, disks and networks make of damaged shards
        reason = _reason(error, shard.url)
    total = "" if shard.samples is None else f" of {shard.samples:,}"
    line = f"{shard.url}: {reason} after {count:,}{total} samples; the others are lost"
    while wanted_index is not None:
        yield wanted_index, line
        wanted_index = next(remaining, None)


def read_texts(plain: str, url: str) -> Iterator[RawSample]:
    """All samples of a local, uncompressed tar: the texts are read, of the images only the extents.

    Args:
        url: the shard's, for names and messages.

    Raises:
        CcmbError: the tar is missing or damaged.
    """
    try:
        with _open_tar(plain) as tar:
            yield from (raw for _, raw in _samples(tar, url, lambda index: True, images=False))
    except CcmbError:
        raise
    except Exception as error:  # see read_samples
        raise BrokenFile(f"{url}: {_reason(error, plain)}; the shard is not whole") from None


def count_samples(url: str) -> tuple[int, str | None]:
    """The number of samples that a shard's headers show, and a line if the shard is damaged after them.

    Raises:
        CcmbError: it is missing or cannot be reached.
    """
    count = 0
    try:
        with _open_tar(url) as tar:
            for index, _ in _samples(tar, url, lambda index: False):
                count = index + 1
    except CcmbError:
        raise
    except FileNotFoundError:
        raise BrokenFile(f"{url}: no such shard") from None
    except Exception as error:  # see read_samples
        return count, f"{url}: {_reason(error, url)} after {count:,} samples; the others are lost"
    return count, None


def parse_sample(raw: RawSample | str, fields: Sequence[str] | None) -> Sample:
    """The checked sample with the texts of the named fields (None: of all fields). The image is not decoded.

    Raises:
        CcmbError: it is lost, lacks image or text, or its JSON is faulty; the message names shard and key.
    """
    if isinstance(raw, str):
        raise CcmbError(raw)
    where = f"{raw.url}/{raw.key}"
    if raw.problem:
        raise CcmbError(f"{where}: {raw.problem}")
    if not raw.image and not (raw.extent and raw.extent[1]):
        raise CcmbError(f"{where}: no image")
    if raw.text is None and raw.caption is None:
        name = posixpath.basename(raw.key)
        raise CcmbError(f"{where}: no text; it needs a file {name}.json or {name}.txt")
    # Keys may recur in other shards, and names of shards in other folders.
    image = f"{path_of(raw.url)}/{raw.key}{raw.suffix}"
    return sample_of_texts(raw.text, raw.caption, image, fields, where)


def _samples(
    tar: tarfile.TarFile, url: str, wanted: Callable[[int], bool], images: bool = True
) -> Iterator[tuple[int, RawSample]]:
    """Every sample with its index. Only files of wanted samples are read, and images only if `images` is set."""
    index, raw, keys, endings = -1, None, set[str](), set[str]()
    try:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # or a list of all headers would grow
            if (named := _key_and_ending(member)) is None:
                continue
            key, ending = named
            if raw is None or key != raw.key:
                if raw is not None:
                    yield index, raw
                index, raw, endings = index + 1, RawSample(url, key), set()
                if key in keys:
                    raw.problem = f"the key stands in the shard before; {_SORTED}"
                keys.add(key)
            if ending in endings:
                raw.problem = raw.problem or f"{ending} is there twice, as if two samples had this key"
            endings.add(ending)
            if wanted(index):
                _read_file(tar, member, ending, raw, images)
    except Exception:
        if raw is not None:  # the sample before the damage may be whole
            if raw.image is None or (raw.text is None and raw.caption is None):
                raw.problem = raw.problem or "the shard breaks off in it"
            yield index, raw
        raise
    if raw is not None:
        yield index, raw


def _key_and_ending(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and ending of a file: a/b and .png for a/b.PNG; None for a member that belongs to no sample."""
    folder, name = posixpath.split(member.name)
    stem, dot, ending = name.partition(".")
    if not member.isreg() or member.issparse() or not stem or not dot:
        return None
    return posixpath.join(folder, stem), f".{ending.lower()}"


def _read_file(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str, raw: RawSample, images: bool) -> None:
    is_text, is_image = ending in (".json", *CAPTION_ENDINGS), ending in SUFFIXES
    has_one = raw.image is not None or raw.extent is not None
    by_content = not is_text and not is_image and may_be_image(ending) and not has_one
    if not is_text and not is_image and not by_content:
        return
    max_bytes = MAX_TEXT_BYTES if is_text else MAX_BYTES
    if member.size > max_bytes:
        raw.problem = f"{ending} of {member.size:,} bytes, more than the {max_bytes:,} allowed"
        return
    try:
        file = tar.extractfile(member)
        data = file.read(HEAD_BYTES) if file else b""
        if by_content and image_format(data) is None:
            return
        if not is_text and not images:
            if raw.extent is None:
                raw.extent, raw.suffix = (member.offset_data, member.size), ending
            return
        data += file.read() if file else b""
    except Exception:
        raw.problem = f"{ending} is cut short"
        raise
    if ending == ".json":
        raw.text = data
    elif is_text:
        raw.caption = data
    elif raw.image is None:
        raw.image, raw.suffix = data, ending


@contextmanager
def _open_tar(url: str) -> Iterator[tarfile.TarFile]:
    with (
        open_file(url) as file,
        _plain(file, url) as plain,
        tarfile.open(fileobj=plain, mode="r:", tarinfo=_StrictHeader) as tar,
    ):
        yield tar


@contextmanager
def _plain(file: IO[bytes], url: str) -> Iterator[IO[bytes]]:
    """The file, decompressed if its first bytes are gzip's; its name does not count."""
    head = file.read(4)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as inner:
            yield inner  # type: ignore[misc]
        return
    if kind := next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None):
        raise BrokenFile(f"{url}: compressed by {kind}; shards are read plain or gzipped")
    yield file


class _StrictHeader(tarfile.TarInfo):
    """Headers that are checked: tarfile takes a damaged header for the end of the tar, and reads long headers whole."""

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
