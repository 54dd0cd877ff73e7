"""Rank correlations between scores and grades, of pairs that count so many times: Kendall's tau-b and tau-c, Spearman.

A pair that counts twice is two pairs, which are tied with each other in both; so whole-numbered weights give what
scipy gives of the repeated pairs.

Shapes: N pairs, L different grades, S different scores, B sets of weights.
"""

from __future__ import annotations

import numpy as np

from ccmb.tasks.common.resampling import Metric


def kendall_tau_b(score_N: np.ndarray, grade_N: np.ndarray) -> Metric:
    """Kendall's tau-b in [-1, 1], which corrects for ties in both (Kendall 1945)."""
    levels = _Levels(score_N, grade_N)

    def metric(weight_BN: np.ndarray) -> np.ndarray:
        excess_B, of_score_BS, of_grade_BL = levels.counts(weight_BN)
        pairs_B = _pairs(weight_BN.sum(1))
        untied = [pairs_B - _pairs(tied).sum(1) for tied in (of_score_BS, of_grade_BL)]
        product_B = untied[0] * untied[1]
        return np.where(product_B > 0, excess_B / np.sqrt(np.maximum(product_B, 1e-300)), np.nan)

    return metric


def kendall_tau_c(score_N: np.ndarray, grade_N: np.ndarray) -> Metric:
    """Stuart's tau-c in [-1, 1], which corrects for scales of different lengths (Stuart 1953)."""
    levels = _Levels(score_N, grade_N)
    classes = min(len(np.unique(score_N)), len(np.unique(grade_N)))

    def metric(weight_BN: np.ndarray) -> np.ndarray:
        excess_B, _, _ = levels.counts(weight_BN)
        if classes < 2:
            return np.full(len(weight_BN), np.nan)
        return 2 * classes * excess_B / (weight_BN.sum(1) ** 2 * (classes - 1))

    return metric


def spearman(score_N: np.ndarray, grade_N: np.ndarray) -> Metric:
    """Spearman's correlation of ranks in [-1, 1]; equal values share the mean of their ranks."""
    groups = [np.unique(values, return_inverse=True)[1] for values in (score_N, grade_N)]

    def metric(weight_BN: np.ndarray) -> np.ndarray:
        total_B1 = weight_BN.sum(1, keepdims=True)
        deviations = []
        for group_N in groups:
            rank_BN = _mid_ranks(weight_BN, group_N)
            deviations.append(rank_BN - (weight_BN * rank_BN).sum(1, keepdims=True) / total_B1)
        shared_B = (weight_BN * deviations[0] * deviations[1]).sum(1)
        spread_B = np.prod([(weight_BN * deviation**2).sum(1) for deviation in deviations], axis=0)
        return np.where(spread_B > 0, shared_B / np.sqrt(np.maximum(spread_B, 1e-300)), np.nan)

    return metric


class _Levels:
    """Pairs in the order of their scores, ready for counting; grades are few, so that it takes N times L."""

    def __init__(self, score_N: np.ndarray, grade_N: np.ndarray) -> None:
        self.order_N = score_N.argsort(kind="stable")
        ordered_N = score_N[self.order_N]
        self.starts_S = np.flatnonzero(np.concatenate([[True], ordered_N[1:] != ordered_N[:-1]]))
        _, level_N = np.unique(grade_N, return_inverse=True)
        self.is_level_NL = (level_N[self.order_N][:, None] == np.arange(level_N.max() + 1)).astype(np.float64)

    def counts(self, weight_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Concordant less discordant pairs (B,), and the weight of each score (B, S) and of each grade (B, L)."""
        weight_BNL = weight_BN[:, self.order_N, None] * self.is_level_NL
        at_BSL = np.add.reduceat(weight_BNL, self.starts_S, axis=1)
        total_BL = at_BSL.sum(1)
        below_BSL = at_BSL.cumsum(1) - at_BSL
        above_BSL = total_BL[:, None] - below_BSL - at_BSL
        # For each grade, how many of lower grades score lower, less how many of lower grades score higher.
        lead_BSL = below_BSL - above_BSL
        of_lower_BSL = lead_BSL.cumsum(2) - lead_BSL
        return (at_BSL * of_lower_BSL).sum((1, 2)), at_BSL.sum(2), total_BL


def _pairs(count: np.ndarray) -> np.ndarray:
    return count * (count - 1) / 2


def _mid_ranks(weight_BN: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """(B, N) the mean rank of each pair's group, from 1."""
    count = int(group_N.max()) + 1
    of_group_BG = np.stack([np.bincount(group_N, weights, minlength=count) for weights in weight_BN])
    ranks: np.ndarray = (of_group_BG.cumsum(1) - of_group_BG + (of_group_BG + 1) / 2)[:, group_N]
    return ranks
