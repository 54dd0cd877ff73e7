"""Near duplicates among images, and images of a corpus that are in a test set.

Two images are near duplicates if their shapes differ in at most `distance` of 64 bits and no cell of their colour
grids differs by more than `colour` of 255. N images make N² / 2 pairs, too many to compare one by one. So the 64 bits
are cut into B bands: two shapes within the distance have at least one band that differs in at most `distance // B`
bits. Each band is looked up with up to that many of its bits flipped (multi-index hashing: Norouzi, Punjani and Fleet,
CVPR 2012). No pair within the distance is missed.

Shapes: N images, P pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ccmb.data.images.perceptual_hash import ImageFingerprints

# Our choice, by measurement. All copies that are resized, recompressed or brighter are found. So are 93 % (drawn
# scenes) and 97 % (photographs) of the copies cropped by up to 3 % on each side. Among the 18 million pairs of 6,000
# photographs, no two different ones are taken for copies. Drawn scenes are alike by design: 98 of 4.5 million pairs are
# taken for copies. With a distance of 6 and a colour of 12 only 4 are, but then only 80 % of the copies cropped by up
# to 3 % are found.
DISTANCE, COLOUR = 8, 18
_BITS = 64
_PAIRS_AT_ONCE = 2**21

Indices = NDArray[np.int64]


def duplicate_groups(fingerprints: ImageFingerprints, distance: int = DISTANCE, colour: int = COLOUR) -> Indices:
    """(N,) the smallest index in each image's group.

    A group holds everything that is reached through near duplicates of near duplicates.
    """
    first, which = _unique(fingerprints)
    root = np.arange(len(first))
    held: list[tuple[Indices, Indices]] = []
    for pair in near_pairs(select_fingerprints(fingerprints, first), None, distance, colour):
        held.append(pair)
        if sum(len(indices) for indices, _ in held) > _PAIRS_AT_ONCE:
            _join(root, *map(np.concatenate, zip(*held, strict=True)))
            held.clear()
    if held:
        _join(root, *map(np.concatenate, zip(*held, strict=True)))
    first_of_group = np.full(len(first), len(fingerprints))
    np.minimum.at(first_of_group, root, first)
    return first_of_group[root][which]


def representatives(groups: Indices, areas: Sequence[int] | Indices, keys: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) True for the one image of each group that is kept.

    The largest image is kept; among equally large ones, the one with the smallest key. So the choice does not depend
    on the order of the images.
    """
    names = np.asarray(keys)
    order = np.lexsort((names, -np.asarray(areas, dtype=np.int64), groups))
    kept = np.zeros(len(groups), dtype=bool)
    kept[order[np.unique(groups[order], return_index=True)[1]]] = True
    return kept


def in_test_set(
    corpus: ImageFingerprints, test_set: ImageFingerprints, distance: int = DISTANCE, colour: int = COLOUR
) -> NDArray[np.bool_]:  # fmt: skip
    """(N,) True for each image of the corpus that is a near duplicate of an image of the test set."""
    is_near = np.zeros(len(corpus), dtype=bool)
    for corpus_indices, _ in near_pairs(corpus, test_set, distance, colour):
        is_near[corpus_indices] = True
    return is_near


def near_pairs(
    ones: ImageFingerprints, others: ImageFingerprints | None, distance: int = DISTANCE, colour: int = COLOUR
) -> Iterator[tuple[Indices, Indices]]:
    """Blocks of index pairs, (P,) and (P,), that are near in shape and colours; a pair may come more than once.

    Args:
        others: the right sides of the pairs; None for pairs within `ones`, each pair in either order.
    """
    within = others is None
    others = ones if others is None else others
    if not len(ones) or not len(others):
        return
    bands = _best_bands(len(ones), len(others), distance)
    for start, stop in itertools.pairwise(_BITS * band // bands for band in range(bands + 1)):
        bits = stop - start
        queries, table = _band(ones.shapes, start, bits), _Table(_band(others.shapes, start, bits), bits)
        order = np.argsort(queries, kind="stable")
        queries = queries[order]
        for flips in _flips(bits, min(bits, distance // bands)):
            asked_bands, asked_indices = queries, order
            if within and flips:  # each pair comes from both sides: ask from one
                one_side = queries & _highest_bit(flips) == 0
                asked_bands, asked_indices = queries[one_side], order[one_side]
            for asked_rows, others_indices in table.look_up(asked_bands ^ flips):
                left, right = asked_indices[asked_rows], others_indices
                near = np.bitwise_count(ones.shapes[left] ^ others.shapes[right]) <= distance
                if within and not flips:
                    near &= left < right
                left, right = left[near], right[near]
                same = _colour_difference(ones.colours[left], others.colours[right]) <= colour
                if same.any():
                    yield left[same], right[same]


def select_fingerprints(fingerprints: ImageFingerprints, indices: Indices) -> ImageFingerprints:
    return ImageFingerprints(fingerprints.shapes[indices], fingerprints.colours[indices])


class _Table:
    """Indices by the value of their band. The starts of the values fit in a plain array, since a band has few bits."""

    def __init__(self, values: NDArray[np.int32], bits: int) -> None:
        self.order = np.argsort(values, kind="stable")
        counts = np.bincount(values, minlength=2**bits)
        self.occupied = counts > 0
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def look_up(self, values: NDArray[np.int32]) -> Iterator[tuple[Indices, Indices]]:
        """Blocks of pairs of equal values: the position in `values`, and the index in the table."""
        matched = np.flatnonzero(self.occupied[values])
        begin = self.starts[values[matched]]
        count = self.starts[values[matched] + 1] - begin
        ends = np.cumsum(count, dtype=np.int64)
        cut = 0
        while cut < len(matched):  # a bucket is one block at least, however large it is
            done = ends[cut - 1] if cut else 0
            stop = max(cut + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
            repeated = np.repeat(np.arange(cut, stop), count[cut:stop])
            within = np.arange(len(repeated)) - (np.repeat(ends[cut:stop] - count[cut:stop], count[cut:stop]) - done)
            yield matched[repeated], self.order[begin[repeated] + within]
            cut = stop


def _best_bands(ones: int, others: int, distance: int) -> int:
    """The number of bands with the least work: tables, look-ups and candidates."""

    def cost(bands: int) -> float:
        bits = -(-_BITS // bands)
        look_ups = sum(math.comb(bits, flipped) for flipped in range(distance // bands + 1))
        return bands * (2**bits + look_ups * (ones + 8 * ones * others / 2 ** (_BITS // bands)))

    return min(range(3, _BITS // 2), key=cost)


def _flips(bits: int, max_flips: int) -> Iterator[int]:
    for count in range(max_flips + 1):
        for positions in itertools.combinations(range(bits), count):
            yield sum(1 << position for position in positions)


def _highest_bit(value: int) -> int:
    return 1 << (value.bit_length() - 1)


def _band(shapes: NDArray[np.uint64], start: int, bits: int) -> NDArray[np.int32]:
    return ((shapes >> np.uint64(start)) & np.uint64(2**bits - 1)).astype(np.int32)


def _colour_difference(ones: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (np.maximum(ones, others) - np.minimum(ones, others)).max(axis=1, initial=0)


def _unique(fingerprints: ImageFingerprints) -> tuple[Indices, Indices]:
    """The first index of each distinct fingerprint, and (N,) which of these each image has."""
    rows = np.concatenate([fingerprints.shapes[:, None].view(np.uint8), fingerprints.colours], axis=1)
    as_one = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()
    _, first, which = np.unique(as_one, return_index=True, return_inverse=True)
    return first, which


def _join(root: Indices, ones: Indices, others: Indices) -> None:
    """Union-find on arrays: both sides of a pair take the smaller of their two roots, until nothing changes."""
    while True:
        one, other = root[ones], root[others]
        apart = one != other
        if not apart.any():
            return
        ones, others, one, other = ones[apart], others[apart], one[apart], other[apart]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(above := root[root], root):
            root[:] = above
