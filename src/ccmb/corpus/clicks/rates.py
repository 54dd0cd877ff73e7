"""Click-through rates corrected for position, and lower bounds of them.

The examination hypothesis: people click on a result if they look at it and like it. The position decides how likely
they look at it (Craswell et al., "An experimental comparison of click position-bias models", WSDM 2008). So a rate is
the number of clicks over the sum of the examination probabilities of the impressions, not over the number of
impressions. That is inverse propensity weighting of a whole pair (Joachims et al., "Unbiased learning-to-rank with
biased feedback", WSDM 2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rate(clicks: Floats, examinations: Floats) -> Floats:
    """Clicks per examination, at most 1; 0 where nothing was examined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(examinations > 0, clicks / examinations, 0.0)
    return np.minimum(rates, 1.0)


def wilson_bound(clicks: Floats, examinations: Floats, z: float) -> Floats:
    """Lower end of Wilson's score interval of the rate ("Probable inference", 1927); trials are the examinations.

    Args:
        z: half the width of the interval, in standard deviations.
    """
    trials = np.maximum(examinations, 1e-12)
    share, square = rate(clicks, trials), z**2
    centre = share + square / (2 * trials)
    half_width = z * np.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return np.clip((centre - half_width) / (1 + square / trials), 0.0, 1.0)


def beta_bound(clicks: Floats, examinations: Floats, z: float, prior: tuple[float, float]) -> Floats:
    """Mean of the Beta posterior of the rate, minus `z` of its standard deviations."""
    hits = prior[0] + np.minimum(clicks, examinations)
    total = prior[0] + prior[1] + examinations
    mean = hits / total
    return np.maximum(mean - z * np.sqrt(mean * (1 - mean) / (total + 1)), 0.0)
