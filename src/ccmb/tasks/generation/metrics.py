"""Distances of generated images from real ones: FID and KID on features of a network that the result names.

Shapes: N images of one kind, M of the other, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError


@dataclass(frozen=True, slots=True)
class Distances:
    """Between the features of two sets of images; both fall as these grow alike."""

    fid: float
    kid: float


def distances(one_ND: Tensor, other_MD: Tensor) -> Distances:
    """Both distances.

    Raises:
        CcmbError: a set has less than two images.
    """
    if min(len(one_ND), len(other_MD)) < 2:
        raise CcmbError("FID and KID need two images or more")
    return Distances(fid(one_ND, other_MD), kid(one_ND, other_MD))


def fid(one_ND: Tensor, other_MD: Tensor) -> float:
    """Frechet distance of two Gaussians of the sets' means and covariances (Heusel et al. 2017, arXiv 1706.08500):
    |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)).

    It falls with the number of images, so that only sets of equal size compare; KID does not.
    """
    one_ND, other_MD = one_ND.double(), other_MD.double()
    first, second = (torch.cov(features_ND.T).view(features_ND.shape[1], -1) for features_ND in (one_ND, other_MD))
    # tr (C C')^(1/2) is the sum of the singular values of R R', where R R = C.
    shared = torch.linalg.svdvals(_root(first) @ _root(second)).sum()
    shift = (one_ND.mean(0) - other_MD.mean(0)).square().sum()
    return float(shift + first.trace() + second.trace() - 2 * shared)


def _root(covariance_DD: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance_DD)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def kid(one_ND: Tensor, other_MD: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3 (Binkowski et al. 2018, arXiv
    1801.01401), of all images at once; of equal distributions it is around 0, on either side."""
    one_ND, other_MD = one_ND.double(), other_MD.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        gram = kernel(a, a)
        return (gram.sum() - gram.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(one_ND) + within(other_MD) - 2 * kernel(one_ND, other_MD).mean())
