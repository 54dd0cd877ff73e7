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


def fit_offset(score_N: Tensor, label_N: Tensor, ridge: float = 1e-3) -> float:
    """The score at which a match is as likely as none, by logistic regression of the label on the score.

    Args:
        score_N: finite scores of any scale.
        label_N: 1 or True for a match.
        ridge: on the slope of the standardised score, so that scores that tell all pairs apart have an offset too.
    """
    score_N, label_N = score_N.double(), label_N.double()
    mean, deviation = score_N.mean(), score_N.std().clamp(min=1e-12)
    design_N2 = torch.stack([(score_N - mean) / deviation, torch.ones_like(score_N)], 1)
    penalty_2, weight_2 = torch.tensor([ridge, 0.0], dtype=torch.double), torch.zeros(2, dtype=torch.double)
    for _ in range(50):  # Newton's steps
        chance_N = (design_N2 @ weight_2).sigmoid()
        gradient_2 = design_N2.T @ (chance_N - label_N) / len(label_N) + penalty_2 * weight_2
        curvature_22 = (design_N2.T * (chance_N * (1 - chance_N))) @ design_N2 / len(label_N) + torch.diag(penalty_2)
        weight_2 = weight_2 - torch.linalg.solve(curvature_22 + 1e-9 * torch.eye(2, dtype=torch.double), gradient_2)
    slope, intercept = weight_2.tolist()
    if slope <= 0:  # a higher score is no sign of a match
        return float(mean)
    return float(mean - deviation * intercept / slope)
