"""Which images of a download stay: one of each group of near-duplicates, and none that is in a test set.

The largest image of a group represents it and stays. If any image of a group is in a test set, the whole group is
dropped. The fingerprints take 56 bytes an image and are all in memory at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ccmb.core.files import atomic_path
from ccmb.corpus.assembly.recipe import ImageDedupRecipe
from ccmb.corpus.download.index import fingerprints_of_index, read_index
from ccmb.data.images.near_duplicates import duplicate_groups, in_test_set, representatives
from ccmb.data.images.perceptual_hash import ImageFingerprints

EXACT, NEAR, TEST_IMAGE = "exact_copy", "near_copy", "test_picture"


def write_image_statuses(downloads: Path, test_images: ImageFingerprints, recipe: ImageDedupRecipe, path: Path) -> None:
    """Write a row for each row of the download, with these columns.

    `row` is its index. `status` is "ok", why the image could not be fetched, or one of the constants above. `copy_of`
    is the row of the representative that stays.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    table = read_index(downloads, ["row", "key", "status", "sha256", "width", "height", "shape", "colours"])
    has_image = np.asarray(table["status"]) == "ok"
    images = table.filter(arrow.array(has_image))
    statuses, kept_rows = image_statuses(images, fingerprints_of_index(images), test_images, recipe)
    status = np.array(table["status"].to_pylist(), dtype=object)
    copy_of = np.full(len(table), -1)
    status[has_image], copy_of[has_image] = statuses, kept_rows
    columns = {
        "row": table["row"],
        "status": arrow.array(status, arrow.string()),
        "copy_of": arrow.array(copy_of, arrow.int64(), mask=copy_of < 0),
    }
    with atomic_path(path) as temporary:
        parquet.write_table(arrow.table(columns), temporary, compression="zstd")


def image_statuses(
    images: Any, fingerprints: ImageFingerprints, test_images: ImageFingerprints, recipe: ImageDedupRecipe
) -> tuple[Any, Any]:
    """The statuses (N,) of N images, and the rows (N,) of the representatives that stay, -1 if there is none."""
    rows = np.asarray(images["row"])
    statuses, kept_rows = np.full(len(rows), "ok", dtype=object), np.full(len(rows), -1)
    groups = duplicate_groups(fingerprints, recipe.max_hamming_distance, recipe.max_color_difference)
    areas = np.asarray(images["width"]) * np.asarray(images["height"])
    kept = representatives(groups, areas, images["key"].to_pylist())
    representative_of_group = np.zeros(len(rows), dtype=np.int64)  # by the index of the group
    representative_of_group[groups[kept]] = np.flatnonzero(kept)
    representative = representative_of_group[groups]
    digests = np.asarray(images["sha256"])
    duplicates = ~kept
    statuses[duplicates] = np.where(digests[duplicates] == digests[representative[duplicates]], EXACT, NEAR)
    kept_rows[duplicates] = rows[representative[duplicates]]
    tested = groups[in_test_set(fingerprints, test_images, recipe.max_hamming_distance, recipe.max_color_difference)]
    in_tests = np.isin(groups, tested)
    statuses[in_tests], kept_rows[in_tests] = TEST_IMAGE, -1
    return statuses, kept_rows
