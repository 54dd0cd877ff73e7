"""WebDataset shards: custom pairs are written as tars of samples beside a manifest, and shards are verified.

A sample is `KEY.jpg` (or another image) and `KEY.json`, {"image": name, "<field>": [text, ...], "group": ..,
"label": ..}.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.files import atomic_write
from ccmb.core.progress import progress
from ccmb.data.images.content import HEAD_BYTES, image_format, suffix_for
from ccmb.data.images.metadata import without_metadata
from ccmb.data.images.source import ImageSource, UnreadableImageError, decode
from ccmb.data.pairs import read_pairs
from ccmb.data.sample import Sample
from ccmb.data.seen_images import seen_in
from ccmb.data.shards.locate import ENDINGS, MANIFEST, Shard, find_shards
from ccmb.data.shards.read import RawSample, count_samples, parse_sample, read_samples
from ccmb.data.shards.remote import BrokenFile, is_remote, open_file


@dataclass(slots=True)
class Converted:
    """The number of shards and samples written, and a line for each image that could not be read."""

    shards: int = 0
    samples: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ShardCheck:
    """The number of shards and samples checked, and a line for each problem.

    Attributes:
        repeated_keys: samples whose key stands in an earlier shard too, which alone is no problem.
    """

    shards: int = 0
    samples: int = 0
    problems: list[str] = field(default_factory=list)
    repeated_keys: int = 0


def convert_pairs(
    pairs: Path,
    images: ImageSource,
    out: Path,
    split: str | None,
    fields: Sequence[str],
    samples_per_shard: int,
    size: int | None = None,
    keep_metadata: bool = False,
) -> Converted:
    """Write custom pairs as shards, `shard-000000.tar` and so on, and their manifest; equal input gives equal bytes.

    Args:
        size: shrink larger images until their short side is this many pixels; they become JPEGs.
        keep_metadata: keep the files' metadata, such as the place (EXIF, XMP, IPTC). Otherwise it is removed: without a
            loss where `without_metadata` can do so, and by writing the image anew elsewhere.

    Raises:
        CcmbError: faulty pairs, a folder that holds shards already, or a disk that is full.
    """
    _check_new(out)
    return convert_samples(
        read_pairs(pairs, split, fields),
        images,
        out=out,
        fields=fields,
        samples_per_shard=samples_per_shard,
        size=size,
        keep_metadata=keep_metadata,
    )


def convert_samples(
    samples: Sequence[Sample],
    images: ImageSource,
    out: Path,
    fields: Sequence[str],
    samples_per_shard: int,
    size: int | None = None,
    keep_metadata: bool = False,
) -> Converted:
    """Write samples as shards, see `convert_pairs`. `fields` are the names of their text fields.

    Raises:
        CcmbError: a folder that holds shards already, no image that can be read, or a disk that is full.
    """
    _check_new(out)
    done, shards = Converted(), []
    with progress("write", len(samples), "samples") as advance:
        write = partial(_image, images, size=size, keep_metadata=keep_metadata)
        files = _files(samples, write, fields, done.unreadable, advance)
        for shard_index in itertools.count():
            first = next(files, None)
            if first is None:
                break
            following = itertools.islice(files, samples_per_shard - 1)
            shards.append(write_shard(out / f"shard-{shard_index:06d}.tar", itertools.chain([first], following)))
    if not shards:
        raise CcmbError(f"{images.path}: none of the images could be read ({done.unreadable[0]})")
    write_manifest(out / MANIFEST, shards)
    seen = seen_in(images.path.resolve().parent.name, samples[0].split, (sample.image for sample in samples))
    if seen.photos:
        seen.write(out)
    done.shards, done.samples = len(shards), sum(shard.samples or 0 for shard in shards)
    return done


def _check_new(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise CcmbError(f"{out}: this folder holds shards already; remove it or choose another one")


def write_manifest(path: Path, shards: Iterable[Shard]) -> None:
    """One line a shard, atomically."""
    with atomic_write(path) as file:
        for shard in shards:
            line = {"name": shard.name} | asdict(shard)
            file.write(json.dumps({key: line[key] for key in line if key != "url"}, ensure_ascii=False) + "\n")


def verify_shards(sources: Sequence[str], fields: Sequence[str] | None = None) -> ShardCheck:
    """Read all shards to their end and check them.

    Is each the file of the manifest, and has each sample its texts and an image that decodes?

    Args:
        fields: text fields; each sample needs at least one of them. By default any field will do.

    Raises:
        CcmbError: see `find_shards`.
    """
    check, seen = ShardCheck(), _Seen()
    shards = find_shards(sources)
    with progress("verify", len(shards), "shards") as advance:
        for shard in shards:
            check.shards += 1
            for problem in _problems(shard, fields, check, seen):
                check.problems.append(problem)
            advance(1, f"{len(check.problems)} problems" if check.problems else "")
    check.problems += _not_in_the_manifest(shards)
    return check


@dataclass(slots=True)
class _Seen:
    """Records of the shards so far: the shard of each key, and the digest of each image by name."""

    keys: dict[str, str] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)


def _problems(shard: Shard, fields: Sequence[str] | None, check: ShardCheck, seen: _Seen) -> Iterator[str]:
    try:
        size, digest = _digest(shard.url)
        count, damage = count_samples(shard.url)
    except FileNotFoundError:
        yield f"{shard.url}: no such file"
        return
    except BrokenFile as error:
        yield str(error)
        return
    if (shard.sha256 or digest) != digest:
        bytes_differ = f" ({size:,} bytes instead of {shard.bytes:,})" if shard.bytes not in (None, size) else ""
        yield f"{shard.url}: not the file of the manifest: another checksum{bytes_differ}"
    if damage:
        yield damage
    if shard.samples not in (None, count):
        yield f"{shard.url}: {count:,} samples, but {shard.samples:,} in the manifest"
    for index, raw in read_samples(shard, range(count)):
        if isinstance(raw, str):
            yield f"{shard.url}: sample {index:,} cannot be read"
            continue
        check.samples += 1
        check.repeated_keys += seen.keys.setdefault(raw.key, raw.url) != raw.url
        try:
            sample, _ = decode_sample(raw, fields)
        except CcmbError as error:
            yield str(error)
            continue
        image = hashlib.blake2b(raw.image or b"", digest_size=8).digest()
        if seen.images.setdefault(sample.image, image) != image:
            yield f"{raw.url}/{raw.key}: another sample has the name {sample.image} for another image"


def decode_sample(raw: RawSample, fields: Sequence[str] | None) -> tuple[Sample, Image.Image]:
    """The checked sample and its image as RGB.

    Raises:
        CcmbError: it lacks image or text, or one of them is faulty; one line that names shard and key.
    """
    sample = parse_sample(raw, fields)
    try:
        return sample, decode(raw.image or b"")
    except ValueError as error:
        raise UnreadableImageError(f"{raw.url}/{raw.key}{raw.suffix}: {error}") from None


def _files(
    samples: Sequence[Sample],
    write: Callable[[str], tuple[bytes, str]],
    fields: Sequence[str],
    unreadable: list[str],
    advance: Any,
) -> Iterator[dict[str, Any]]:
    """The files of each sample under the names that `webdataset` expects; keys count the samples."""
    sample_index = 0
    for sample in samples:
        try:
            image, suffix = write(sample.image)
        except UnreadableImageError as error:
            unreadable.append(str(error))
        else:
            line: dict[str, object] = {"image": sample.image}
            line |= {name: list(texts) for name, texts in zip(fields, sample.fields, strict=True) if texts}
            if sample.group is not None:
                line["group"] = sample.group
            if isinstance(label := (sample.extra or {}).get("label"), int):
                line["label"] = label
            text = json.dumps(line, ensure_ascii=False).encode()
            yield {"__key__": f"{sample_index:09d}", suffix[1:]: image, "json": text}
            sample_index += 1
        advance(1)


def _image(images: ImageSource, name: str, size: int | None, keep_metadata: bool) -> tuple[bytes, str]:
    """The bytes and suffix of an image that is known to decode."""
    image, data = images.load(name), images.raw(name)
    short = min(image.size)
    try:
        if size is not None and short > size:
            width, height = (max(1, round(side * size / short)) for side in image.size)
            return _written(image.resize((width, height), Image.Resampling.BICUBIC), "JPEG"), ".jpg"
        kept = data if keep_metadata else without_metadata(data)
        if kept is not None:
            return kept, suffix_for(name, data)
        lossless = image_format(data[:HEAD_BYTES]) in ("PNG", "GIF", "BMP", "TIFF", "PPM")
        return (_written(image, "PNG"), ".png") if lossless else (_written(image, "JPEG"), ".jpg")
    except (OSError, ValueError) as error:  # such as more pixels in a row than a JPEG can have
        raise UnreadableImageError(f"{images.path}/{name}: cannot be written ({one_line(error)})") from None


def _written(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if kind == "JPEG" else {}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_shard(path: Path, files: Iterable[dict[str, Any]]) -> Shard:
    """Write one shard of the given samples' files, atomically."""
    from webdataset import TarWriter

    count = 0
    with atomic_write(path, "wb") as file, TarWriter(file, user="", group="", encoder=False, mtime=0) as writer:
        for sample_files in files:
            writer.write(sample_files)
            count += 1
    return Shard(str(path), count, *_digest(str(path)))


def _digest(url: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with open_file(url) as file:
        while block := file.read(2**20):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _not_in_the_manifest(shards: Sequence[Shard]) -> Iterator[str]:
    known = {shard.url for shard in shards}
    for folder in dict.fromkeys(Path(shard.url).parent for shard in shards if not is_remote(shard.url)):
        if (folder / MANIFEST).exists():
            tars = sorted(path for path in folder.iterdir() if path.name.endswith(ENDINGS))
            yield from (f"{path}: not in {MANIFEST}" for path in tars if str(path) not in known)
