"""Images of an index that are equal or look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from ccmb.data.images.near_duplicates import duplicate_groups
from ccmb.search.indexing.image_metadata import fingerprints_of
from ccmb.search.vector_store import Entry


def find_duplicates(entries: Iterable[tuple[str, Entry]]) -> tuple[list[list[str]], list[list[str]]]:
    """Groups of paths: images with equal files, byte for byte; and images that only look alike.

    A set of equal files has one path among those that look alike.

    Args:
        entries: pairs of a path and its entry.
    """
    same: dict[str, list[str]] = defaultdict(list)
    looks_by_digest: dict[str, str] = {}
    for path, entry in entries:
        same[entry.digest].append(path)
        looks_by_digest[entry.digest] = entry.looks
    equal = sorted(sorted(paths) for paths in same.values() if len(paths) > 1)
    if len(looks_by_digest) < 2:
        return equal, []
    groups = duplicate_groups(fingerprints_of(list(looks_by_digest.values())))
    alike: dict[int, list[str]] = defaultdict(list)
    shared = np.bincount(groups)[groups] > 1
    for digest, group, is_shared in zip(looks_by_digest, groups.tolist(), shared.tolist(), strict=True):
        if is_shared:
            alike[group].append(min(same[digest]))
    return equal, sorted(map(sorted, alike.values()))
