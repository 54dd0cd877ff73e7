"""The temperature that makes match scores probabilities, and how far they are from being such."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LOWEST, HIGHEST = 0.05, 20.0


def match_nll(head_log_odds_N2: Tensor, label_N: Tensor, temperature: float) -> float:
    """Mean negative log-likelihood, in nats, of labels under the calibrated probability; in float64."""
    sign_N1 = 2 * label_N.double()[:, None] - 1
    log_of_heads_N2 = F.logsigmoid(sign_N1 * head_log_odds_N2.double() / temperature)
    return math.log(2) - float(log_of_heads_N2.logsumexp(1).mean())


def fit_match_temperature(head_log_odds_N2: Tensor, label_N: Tensor) -> float:
    """The temperature in [0.05, 20] of the least `match_nll`; never worse than 1, which leaves scores as they are.

    Args:
        head_log_odds_N2: finite log-odds of a match by each head.
        label_N: 1 or True for a match.
    """
    best, low, high = 0.0, math.log(LOWEST), math.log(HIGHEST)
    for _ in range(5):  # a grid of log T, drawn closer around the best: there may be more than one minimum
        grid = [best, *torch.linspace(low, high, 41, dtype=torch.double).tolist()]
        best = min(grid, key=lambda log_t: match_nll(head_log_odds_N2, label_N, math.exp(log_t)))
        step = (high - low) / 40
        low, high = max(best - step, math.log(LOWEST)), min(best + step, math.log(HIGHEST))
    return math.exp(best)
