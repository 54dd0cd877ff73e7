"""Check a corpus against its manifest and its index: every file, row and sample, and every image decoded."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.hashing import sha256_of_bytes, sha256_of_file
from ccmb.core.progress import progress
from ccmb.corpus.analysis.reader import IndexedImage, index_parts, indexed_images, read_part
from ccmb.corpus.assembly.manifest import files_of_corpus, read_corpus_manifest
from ccmb.corpus.assembly.write_shards import SHARDS, sample_json
from ccmb.corpus.base.funnel import read_funnel
from ccmb.corpus.pairs.build import FUNNEL
from ccmb.data.shards.locate import Shard
from ccmb.data.shards.read import RawSample, count_samples, read_samples
from ccmb.data.shards.write import decode_sample

AGAIN = "remove {file} and run the build again"


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a file, and its fix."""

    file: str
    what: str
    fix: str


@dataclass(slots=True)
class CorpusCheck:
    """What was checked, and what is wrong."""

    files: int = 0
    images: int = 0
    pairs: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, file: str, what: str, fix: str = AGAIN) -> None:
        self.problems.append(Problem(file, what, fix.format(file=file)))


def verify_corpus(out: Path) -> CorpusCheck:
    """Check a whole corpus.

    Raises:
        CcmbError: it has no manifest.
    """
    check = CorpusCheck()
    manifest = read_corpus_manifest(out)
    _check_files(out, manifest["files"], check)
    try:
        _check_counts(out, manifest, check)
        _check_shards(out, manifest, check)
    except CcmbError as error:  # the index or the funnel cannot be read
        check.add("index", f"the remaining checks were not run: {error}", "fix the files named above and verify again")
    return check


def _check_shards(out: Path, manifest: dict[str, Any], check: CorpusCheck) -> None:
    """Check samples against the index."""
    with progress("verify", manifest["pictures"], "images") as advance:
        for shard, images in itertools.groupby(indexed_images(out), lambda image: image.row["shard"]):
            expected = list(images)
            for what in _problems_of_shard(out / SHARDS / shard, expected):
                check.add(f"{SHARDS}/{shard}", what)
            check.images += len(expected)
            check.pairs += sum(len(image.pairs) for image in expected)
            advance(len(expected))


def _check_files(out: Path, files: list[dict[str, Any]], check: CorpusCheck) -> None:
    known = {entry["name"] for entry in files}
    with progress("checksums", len(files), "files") as advance:
        for entry in files:
            path, name = out / entry["name"], entry["name"]
            check.files += 1
            if not path.exists():
                check.add(name, "no such file", "run the build again")
            elif path.stat().st_size != entry["bytes"]:
                check.add(name, f"{path.stat().st_size:,} bytes instead of {entry['bytes']:,}")
            elif sha256_of_file(path) != entry["sha256"]:
                check.add(name, "another checksum than the manifest's")
            advance(1)
    for path in files_of_corpus(out):
        if (name := str(path.relative_to(out))) not in known:
            check.add(name, "not in the manifest", "remove it")


def _check_counts(out: Path, manifest: dict[str, Any], check: CorpusCheck) -> None:
    """Check the rows of the index against manifest and funnel."""
    rows = [row for path in index_parts(out, "pictures") for row in read_part(path, ["row", "status", "shard"])]
    again = [row for row, count in Counter(row["row"] for row in rows).items() if count > 1]
    if again:
        check.add("index", f"{len(again):,} images have several rows, such as row {again[0]}")
    in_shards = sum(row["shard"] is not None for row in rows)
    if any((row["status"] == "ok") != (row["shard"] is not None) for row in rows):
        check.add("index", "some kept images have no shard, or some dropped ones have one")
    stay = [
        pair["row"] for path in index_parts(out, "pairs") for pair in read_part(path, ["row", "reason"])
        if pair["reason"] is None
    ]  # fmt: skip
    homeless = set(stay) - {row["row"] for row in rows if row["shard"] is not None}
    if homeless:
        check.add("index", f"kept pairs have {len(homeless):,} images that were dropped, such as row {min(homeless)}")
    funnel = read_funnel(out / FUNNEL)
    for unit, count in (("pictures", in_shards), ("pairs", len(stay))):
        last = [step for step in funnel.steps if step.unit == unit][-1]
        if count != manifest[unit] or count != last.kept:
            what = f"{count:,} {unit} in the index, {manifest[unit]:,} in the manifest, {last.kept:,} in the funnel"
            check.add("index", what)


def _problems_of_shard(path: Path, expected: list[IndexedImage]) -> Iterator[str]:
    try:
        count, damage = count_samples(str(path))
    except CcmbError:
        return  # a missing file is among the files
    if damage:
        yield damage.removeprefix(f"{path}: ")
    if count != len(expected):
        yield f"{count:,} samples, {len(expected):,} in the index"
    for index, raw in read_samples(Shard(str(path)), range(min(count, len(expected)))):
        key = expected[index].row["sample"]
        if isinstance(raw, str):
            yield f"sample {key} cannot be read"
        elif what := _problem_of_sample(raw, expected[index]):
            yield f"sample {key}: {what}"


def _problem_of_sample(raw: RawSample, expected: IndexedImage) -> str | None:
    row = expected.row
    if raw.key != row["sample"]:
        return f"has the key {raw.key}"
    if sha256_of_bytes(raw.image or b"") != row["stored_sha256"]:
        return "another image than the index's"
    if raw.text is None or json.loads(raw.text) != json.loads(sample_json(row["key"], expected.texts)):
        return "other texts than the index's"
    try:
        decode_sample(raw, None)
    except CcmbError as error:
        return str(error)
    return None
