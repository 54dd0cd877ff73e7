"""Projections: from a tower's pooled state to the shared space of images and texts.

The paper's are one linear layer each. Where both towers stay frozen, the projections are all that learns, and a hidden
layer with dropout learns much more from few pairs (our choice).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def new_projection(width: int, embed_dim: int, hidden: int | None = None, dropout: float = 0.0) -> nn.Module:
    """A projection from `width` to `embed_dim`, with random weights.

    Args:
        hidden: width of its hidden layer; None: it has none, as in the paper.
        dropout: of a hidden layer, and of what goes into it.
    """
    return nn.Linear(width, embed_dim) if hidden is None else HiddenProjection(width, hidden, embed_dim, dropout)


class Standardize(nn.Module):
    """(x - mean) / deviation of each feature, as measured once; before that, the identity.

    Features of pre-trained towers differ by orders of magnitude, and those of sentence encoders are nearly the same for
    all texts. Layer norm changes neither: on photographs with frozen towers it loses a sixth of the mean recall. Fixed
    values, unlike batch norm's, are the same for any batch and any number of processes.

    Attributes:
        mean, deviation: (W,).
        measured: () whether they were measured.
    """

    mean: Tensor
    deviation: Tensor
    measured: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("measured", torch.tensor(False))

    @torch.no_grad()
    def reset(self) -> None:
        """Be the identity."""
        self.mean.zero_()
        self.deviation.fill_(1.0)
        self.measured.fill_(False)

    @torch.no_grad()
    def measure(self, mean_W: Tensor, deviation_W: Tensor) -> None:
        """Keep the mean and the deviation of the features; one that does not vary is only centred."""
        self.mean.copy_(mean_W)
        self.deviation.copy_(torch.where(deviation_W > 0, deviation_W, 1.0))
        self.measured.fill_(True)

    def forward(self, pooled_BW: Tensor) -> Tensor:
        return (pooled_BW - self.mean) / self.deviation


class HiddenProjection(nn.Module):
    """Standardised features, a hidden layer with GELU, and a linear layer, with dropout before both."""

    def __init__(self, width: int, hidden: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = Standardize(width)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled_BW: Tensor) -> Tensor:
        hidden_BH = F.gelu(self.hidden(self.dropout(self.norm(pooled_BW))))
        return cast(Tensor, self.output(self.dropout(hidden_BH)))


def unmeasured(*projections: nn.Module) -> bool:
    """Whether one of them standardises features that were not measured yet."""
    return any(not p.norm.measured for p in projections if isinstance(p, HiddenProjection))
