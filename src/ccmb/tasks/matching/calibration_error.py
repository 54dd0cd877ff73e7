"""The expected calibration error, and an interval of it that holds.

In each of some bins of equal width the mean probability of a match is set against the share of matches; the absolute
differences, weighted by the pairs in the bin, are added. Each difference is blurred by chance, and its absolute value
only ever grows by that: a perfect model of 1,000 pairs seems to be off by 4 points, and so does every drawing of its
pairs. The value is therefore corrected by the bias that the blur has on average (Kumar, Liang and Ma 2019, "Verified
uncertainty calibration", arXiv 1909.10155), and the interval allows for all of the bias that the pairs leave possible.

Shapes: N pairs, G units (images) that they belong to, B bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccmb.tasks.common.resampling import Z

BINS = 15
PLAUSIBLE = 2.0  # standard errors within which a bin's true difference is looked for


def calibration_error(probability_N: Tensor, label_N: Tensor, bins: int = BINS) -> float:
    """The error in [0, 1] as it is on these pairs, without any correction: as most papers report it.

    Args:
        probability_N: of a match, in [0, 1], at least one.
        label_N: 1 or True for a match.
    """
    probability, label = probability_N.double(), label_N.double()
    bin_N = (probability * bins).long().clamp(0, bins - 1)
    excess = torch.zeros(bins, dtype=torch.double).index_add_(0, bin_N, probability - label)
    return float(excess.abs().sum() / len(probability))


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """Estimated calibration error of all pairs of this kind; numbers are in [0, 1].

    Attributes:
        value: corrected for bias.
        low, high: ends of a 95 % interval; at least that, for it allows for the largest bias that is plausible.
        plain: on these very pairs, see `calibration_error`.
    """

    value: float
    low: float
    high: float
    plain: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


def estimate_calibration_error(
    probability_N: Tensor, label_N: Tensor, unit_N: Tensor | None = None, bins: int = BINS
) -> CalibrationError:
    """Estimate the calibration error of all pairs of this kind.

    The bins' differences vary as D ~ Normal(d, s). The sum of |D| lies above that of |d| by at most the folded normal's
    bias, which falls as |d| / s grows: the lower end takes it at the smallest |d| that is plausible in each bin, the
    upper end at that d of all of one sum for which it is least, which is even in units of s.

    Args:
        unit_N: what hangs together, such as the pairs of one image; by default each pair is alone.
    """
    probability, label = probability_N.double().numpy(), label_N.double().numpy()
    unit = np.arange(len(label)) if unit_N is None else np.unique(unit_N.numpy(), return_inverse=True)[1]
    bin_N = np.clip((probability * bins).astype(int), 0, bins - 1)
    covariance, difference = _spread(probability, label, unit, bin_N, bins)
    error_B = np.sqrt(np.diag(covariance))
    plain = float(np.abs(difference).sum())
    used = error_B > 0
    s, x = error_B[used], np.abs(difference[used]) / error_B[used]
    signs = np.sign(difference)
    # Independent bins, or bins that vary together, whichever varies more.
    whole = math.sqrt(max(float(signs @ covariance @ signs), float((s**2).sum())))
    value = min(1.0, max(0.0, plain - float((s * _fold_bias(x)).sum())))
    max_bias = float((s * _fold_bias(np.maximum(x - PLAUSIBLE, 0))).sum())
    return CalibrationError(
        value=value,
        low=max(0.0, plain - max_bias - Z * whole),
        high=min(1.0, max(value, _upper(plain, s, whole))),  # where chance was kinder than even none would let it be
        plain=plain,
    )


def _spread(
    probability: np.ndarray, label: np.ndarray, unit: np.ndarray, bin_N: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance (B, B) of the bins' differences, by units, and these (B,)."""
    units = int(unit.max()) + 1
    excess = np.zeros((units, bins))
    np.add.at(excess, (unit, bin_N), (probability - label) / len(label))
    difference = excess.sum(0)
    centred = excess - excess.mean(0)
    covariance = centred.T @ centred * (units / max(1, units - 1))
    # Where a bin holds one label alone its differences do not show by how much they vary; the probability does.
    chance = np.bincount(bin_N, probability * (1 - probability), bins) / len(label) ** 2
    matches, pairs = np.bincount(bin_N, label, bins), np.bincount(bin_N, minlength=bins)
    pure = ((matches == 0) | (matches == pairs)) & (np.diag(covariance) < chance)
    covariance[pure, pure] = chance[pure]
    return covariance, difference


def _fold_bias(x: np.ndarray) -> np.ndarray:
    """The excess of the mean of |Normal(x, 1)| over |x|, for x of 0 or more."""
    density = np.exp(-(x**2) / 2) * math.sqrt(2 / math.pi)
    beyond = np.array([math.erfc(value / math.sqrt(2)) for value in np.atleast_1d(x)])
    return density - x * beyond


def _upper(plain: float, s: np.ndarray, whole: float) -> float:
    """The largest sum of |d| that still gives so small a sum of |D| once in forty times."""
    if not s.size:
        return plain
    low, high = 0.0, plain + Z * whole
    for _ in range(50):  # bisection: the mean of the sum grows with that of |d|
        middle = (low + high) / 2
        x = middle / s.sum()
        bias = float(_fold_bias(np.array([x]))[0])
        mean = x + bias
        share = max(0.0, 1 + x**2 - mean**2)  # the variance of |Normal(x, 1)|
        if float(s.sum()) * mean - Z * whole * math.sqrt(share) > plain:
            high = middle
        else:
            low = middle
    return high
