"""Agreement of annotators beyond chance, for nominal labels.

Fleiss (1971), Measuring nominal scale agreement among many raters; Krippendorff (2011), Computing Krippendorff's
alpha-reliability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def fleiss_kappa(counts_NK: NDArray[np.int64]) -> float:
    """Fleiss' kappa of N items and K classes; NaN if all answers are equal.

    Args:
        counts_NK: how many annotators gave item n the label k.

    Raises:
        ValueError: items have different numbers of answers, or fewer than two. Use alpha for these.
    """
    answers_N = counts_NK.sum(axis=1)
    if not len(answers_N) or answers_N.min() != answers_N.max() or answers_N[0] < 2:
        raise ValueError("kappa needs equally many answers to every item, at least two")
    count = answers_N[0]
    observed = float(((counts_NK**2).sum(axis=1) - count).mean() / (count * (count - 1)))
    shares = counts_NK.sum(axis=0) / counts_NK.sum()
    expected = float((shares**2).sum())
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def krippendorff_alpha(items: Sequence[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha; NaN if all labels are equal, or if no item has two labels.

    Args:
        items: the labels of each item, in any number; items with fewer than two do not count.
    """
    pairable = [Counter(labels) for labels in items if len(labels) > 1]
    totals: Counter[Hashable] = Counter()
    disagreement = 0.0
    for labels in pairable:
        count = labels.total()
        totals.update(labels)
        disagreement += (count**2 - sum(value**2 for value in labels.values())) / (count - 1)
    everything = totals.total()
    expected = everything**2 - sum(value**2 for value in totals.values())
    return 1 - (everything - 1) * disagreement / expected if expected else float("nan")
