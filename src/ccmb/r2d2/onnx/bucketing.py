"""Bucketing: an export's graphs take texts of one length, so texts of similar length are computed together.

Networks of torch pack texts instead, see packing.py.
"""

from __future__ import annotations

from collections.abc import Sequence

CALL_TOKENS = 64  # the cost of a further part's calls, counted in tokens; a part must save more than this


def cut(lengths: Sequence[int], max_parts: int, call_tokens: int) -> list[int]:
    """Cut ascending lengths into at most `max_parts` parts of least cost, and return the end index of each part.

    Every text of a part costs as many tokens as the part's longest, and each part costs `call_tokens` more.
    """
    # Parts of one length are never cut: only the last of each length can end a part.
    ends = [
        index + 1 for index, length in enumerate(lengths) if index + 1 == len(lengths) or lengths[index + 1] != length
    ]
    # best[end]: the least cost of all up to `end` in so many parts, and where these end.
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    complete: list[tuple[int, list[int]]] = []
    for _ in range(max_parts):
        best = {
            end: min(
                (cost + (end - start) * lengths[end - 1] + call_tokens, [*parts, end])
                for start, (cost, parts) in best.items()
                if start < end
            )
            for end in ends
            if any(start < end for start in best)
        }
        complete += [best[end] for end in ends[-1:] if end in best]
    return min(complete)[1]
