"""Which pictures of a download stay: one of each group of copies, and none that is in a test set.

Of a group the largest picture stays. A group one of whose pictures is in a test set goes whole. Looks are 56 bytes a
picture and all in memory at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ccmb.core.files import atomic_path
from ccmb.corpus.assembly.recipe import CopyRecipe
from ccmb.corpus.download.index import fingerprints_of_index, read_index
from ccmb.data.images.near_duplicates import duplicate_groups, in_test_set, representatives
from ccmb.data.images.perceptual_hash import ImageFingerprints

EXACT, NEAR, TEST_PICTURE = "exact_copy", "near_copy", "test_picture"


def write_verdicts(downloads: Path, test_pictures: ImageFingerprints, recipe: CopyRecipe, path: Path) -> None:
    """A row for each of the download: `row`, `status` ("ok", why it was not had, or one of the above) and `copy_of`,
    the row of the copy that stays."""
    import pyarrow as arrow
    from pyarrow import parquet

    table = read_index(downloads, ["row", "key", "status", "sha256", "width", "height", "shape", "colours"])
    has_picture = np.asarray(table["status"]) == "ok"
    pictures = table.filter(arrow.array(has_picture))
    statuses, leaders = judge_pictures(pictures, fingerprints_of_index(pictures), test_pictures, recipe)
    status = np.array(table["status"].to_pylist(), dtype=object)
    copy_of = np.full(len(table), -1)
    status[has_picture], copy_of[has_picture] = statuses, leaders
    found = {
        "row": table["row"],
        "status": arrow.array(status, arrow.string()),
        "copy_of": arrow.array(copy_of, arrow.int64(), mask=copy_of < 0),
    }
    with atomic_path(path) as temporary:
        parquet.write_table(arrow.table(found), temporary, compression="zstd")


def judge_pictures(
    pictures: Any, looks: ImageFingerprints, test_pictures: ImageFingerprints, recipe: CopyRecipe
) -> tuple[Any, Any]:
    """Of N pictures their statuses (N,) and the rows of the copies that stay (N,), -1 where there is none."""
    rows = np.asarray(pictures["row"])
    statuses, leaders = np.full(len(rows), "ok", dtype=object), np.full(len(rows), -1)
    groups = duplicate_groups(looks, recipe.distance, recipe.colour)
    areas = np.asarray(pictures["width"]) * np.asarray(pictures["height"])
    kept = representatives(groups, areas, pictures["key"].to_pylist())
    keeper_of = np.zeros(len(rows), dtype=np.int64)  # by the group's number
    keeper_of[groups[kept]] = np.flatnonzero(kept)
    keeper = keeper_of[groups]
    digests = np.asarray(pictures["sha256"])
    copies = ~kept
    statuses[copies] = np.where(digests[copies] == digests[keeper[copies]], EXACT, NEAR)
    leaders[copies] = rows[keeper[copies]]
    tested = groups[in_test_set(looks, test_pictures, recipe.distance, recipe.colour)]
    of_test = np.isin(groups, tested)
    statuses[of_test], leaders[of_test] = TEST_PICTURE, -1
    return statuses, leaders
