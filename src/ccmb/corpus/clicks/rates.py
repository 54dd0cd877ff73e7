"""How sure it is that people click on a pair: rates corrected for position, and lower bounds of them.

The examination hypothesis: a click needs that the result was looked at, with a probability that its position decides,
and that it pleases (Craswell et al., "An experimental comparison of click position-bias models", WSDM 2008). So a rate
is clicks over the sum of the examination probabilities of the impressions, not over their number; that is inverse
propensity weighting (Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017) of a whole pair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rate(clicks: Floats, examinations: Floats) -> Floats:
    """Clicks per examination, at most 1; 0 where nothing was examined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(examinations > 0, clicks / examinations, 0.0)
    return np.minimum(found, 1.0)


def wilson_bound(clicks: Floats, examinations: Floats, deviations: float) -> Floats:
    """Lower end of Wilson's score interval ("Probable inference", 1927) of the rate; trials are the examinations."""
    trials = np.maximum(examinations, 1e-12)
    share, square = rate(clicks, trials), deviations**2
    centre = share + square / (2 * trials)
    spread = deviations * np.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return np.clip((centre - spread) / (1 + square / trials), 0.0, 1.0)


def beta_bound(clicks: Floats, examinations: Floats, deviations: float, prior: tuple[float, float]) -> Floats:
    """Mean less `deviations` standard deviations of the Beta posterior of the rate."""
    hits = prior[0] + np.minimum(clicks, examinations)
    total = prior[0] + prior[1] + examinations
    mean = hits / total
    return np.maximum(mean - deviations * np.sqrt(mean * (1 - mean) / (total + 1)), 0.0)
