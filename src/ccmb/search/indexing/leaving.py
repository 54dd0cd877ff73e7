"""Images and sources that leave an index, and the report of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ccmb.core.errors import CcmbError, UsageError
from ccmb.search.index_folder import Catalogue, IndexRecord, open_catalogue
from ccmb.search.indexing.image_sources import ListedSource

Gone = Literal["auto", "remove", "keep"]


@dataclass(slots=True)
class IndexReport:
    """The report of one run of `build_index`.

    Attributes:
        added, updated, skipped_known, removed: counts of images.
        kept_gone: images that are gone from their source and still in the index.
        away: a line for each folder of indexed images that is now empty or cannot be read.
        passed_over: how many files and whole folders were left out, by reason.
        passed_over_line: the same in words, with some of their names.
        unreadable: a line for each image that could not be read or fetched.
        duplicates: paths of images of the given sources whose files are equal, byte for byte.
        near_duplicates: paths of images that only look alike; one path stands for a set of equal files.
        repeated: files in tars that are hidden by another file of the same name.
        fields_left_out: names of fields whose values are neither text, number, true nor false.
        fields_unmatched: names in the file of fields that match no image of this run.
    """

    added: int = 0
    updated: int = 0
    skipped_known: int = 0
    removed: int = 0
    kept_gone: int = 0
    away: list[str] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    passed_over_line: str = ""
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] = field(default_factory=list)
    repeated: int = 0
    fields_left_out: list[str] = field(default_factory=list)
    fields_unmatched: list[str] = field(default_factory=list)


def leave_away(
    catalogue: Catalogue, listed: Sequence[ListedSource], away: Mapping[str, str], gone: Gone, report: IndexReport
) -> list[ListedSource]:
    """Keep or remove the images of sources that cannot be read, or that have no images any more.

    A source that cannot be read and whose images are removed is no longer a source of the index.

    Returns:
        The sources that remain to be indexed.

    Raises:
        CcmbError: there is such a source and `gone` is "auto"; nothing has been changed.
    """
    reasons = dict(away)
    for listed_source in listed:
        if listed_source.complete and not listed_source.names:
            reasons[listed_source.source] = "no image in it now"
    held = {source: [entry.key for entry in catalogue.store.of_source(source)] for source in reasons}
    refused = next((source for source, keys in held.items() if keys or source in away), None)
    if gone == "auto" and refused is not None:
        raise CcmbError(
            f"{refused}: {reasons[refused]}; its {len(held[refused]):,} images stay in the index. Is a disk not "
            "mounted? --gone keep goes on without it, --gone remove takes them out; "
            f"--forget {refused} if it is gone for good"
        )
    for source, keys in held.items():
        if gone == "remove":
            report.removed += catalogue.forget(keys)
        elif keys:
            report.kept_gone += len(keys)
            report.away.append(f"{source}: {reasons[source]}; {len(keys):,} images of it stay")
    if gone == "remove":
        catalogue.record.sources = [name for name in catalogue.record.sources if name not in away]
    return [listed_source for listed_source in listed if not held.get(listed_source.source)]


def forget_sources(index: Path, sources: Sequence[str]) -> int:
    """Remove sources from an index for good, whether they exist or not, and return how many images they had.

    Only the index's own copies are deleted; no other files are touched.

    Raises:
        UsageError: the index has no such source; the message says which it has.
        CcmbError: there is no index, or another process is using it.
    """
    record = IndexRecord.read(index)
    known = {name: name for name in record.sources}
    known |= {os.path.realpath(name): name for name in record.sources if os.path.isabs(name)}
    names = []
    for source in sources:
        plain = source.rstrip("/") or source
        name = next(
            (
                known[spelling]
                for spelling in (plain, os.path.abspath(plain), os.path.realpath(plain))
                if spelling in known
            ),
            None,
        )
        if name is None:
            raise UsageError(
                f"--forget {source}: no source of {index}; it has: {', '.join(record.sources) or 'none'}. "
                "What lies within a source is left out by --exclude"
            )
        names.append(name)
    count = 0
    with open_catalogue(index, record) as catalogue:
        for name in dict.fromkeys(names):
            count += catalogue.forget([entry.key for entry in catalogue.store.of_source(name)])
        catalogue.store.flush()
    record.sources = [name for name in record.sources if name not in names]
    record.write(index)
    return count
