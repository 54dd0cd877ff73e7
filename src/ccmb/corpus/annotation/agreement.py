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
    """Kappa of N items that equally many annotators put into K classes; NaN where all say the same of everything.

    Args:
        counts_NK: how many annotators gave item n the label k.

    Raises:
        ValueError: items have different numbers of answers, or fewer than two; take alpha for those.
    """
    answers = counts_NK.sum(axis=1)
    if not len(answers) or answers.min() != answers.max() or answers[0] < 2:
        raise ValueError("kappa needs equally many answers to every item, at least two")
    count = answers[0]
    observed = float(((counts_NK**2).sum(axis=1) - count).mean() / (count * (count - 1)))
    shares = counts_NK.sum(axis=0) / counts_NK.sum()
    expected = float((shares**2).sum())
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def krippendorff_alpha(items: Sequence[Sequence[Hashable]]) -> float:
    """Alpha of the labels that each item got, however many; items with one answer say nothing. NaN where nothing
    differs at all, or nothing can be compared."""
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
