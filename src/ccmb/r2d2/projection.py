"""Projections: from a tower's pooled state to the shared space of images and texts.

The paper's are one linear layer each. Where both towers stay frozen, the projections are all that learns, and a hidden
layer with dropout learns much more from few pairs (our choice).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.core.floats import at_least_float32


def new_projection(
    width: int, embed_dim: int, hidden: int | None = None, heads: int = 1, dropout: float = 0.0
) -> nn.Module:
    """A projection from `width` to `embed_dim`, with random weights.

    Args:
        hidden: width of its hidden layer; None: it has none, as in the paper.
        heads, dropout: see `HiddenProjection`.
    """
    if hidden is None:
        return nn.Linear(width, embed_dim)
    return HiddenProjection(width, hidden, embed_dim, heads=heads, dropout=dropout)


class Standardize(nn.Module):
    """(x - mean) / deviation of each feature, as measured once; before that, the identity.

    Features of pre-trained towers differ by orders of magnitude, and those of sentence encoders are nearly the same for
    all texts; layer norm changes neither. Fixed values, unlike batch norm's, are the same for any batch and any number
    of processes.

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


class ProjectionHead(nn.Module):
    """A hidden layer with GELU and a linear layer, with dropout before both."""

    def __init__(self, width: int, hidden: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features_BW: Tensor) -> Tensor:
        hidden_BH = F.gelu(self.hidden(self.dropout(features_BW)))
        return cast(Tensor, self.output(self.dropout(hidden_BH)))


class HiddenProjection(nn.Module):
    """Standardised features, then one or several heads, each of which gives an equal share of the embedding.

    Several heads are an ensemble: the cosine of two embeddings is the mean of their heads' cosines. GCPR trains each by
    itself, so that they err differently.

    Args:
        width, embed_dim: of what goes in, and of what comes out.
        hidden: width of each head's hidden layer.
        heads: their number, of which `embed_dim` is a multiple.
        dropout: of the hidden layers, and of what goes into them.
    """

    def __init__(self, width: int, hidden: int, embed_dim: int, *, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = Standardize(width)
        self.heads = nn.ModuleList(ProjectionHead(width, hidden, embed_dim // heads, dropout) for _ in range(heads))

    def forward(self, pooled_BW: Tensor) -> Tensor:
        features_BW = self.norm(pooled_BW)
        if len(self.heads) == 1:
            return cast(Tensor, self.heads[0](features_BW))
        return torch.cat([F.normalize(at_least_float32(head(features_BW)), dim=-1) for head in self.heads], -1)


def of_heads(embed_BD: Tensor, heads: int) -> list[Tensor]:
    """Each head's L2-normalised share (B, D / heads) of L2-normalised embeddings."""
    if heads == 1:
        return [embed_BD]
    return [share * math.sqrt(heads) for share in embed_BD.chunk(heads, dim=1)]


def standardize_of(projection: nn.Module) -> Standardize | None:
    """What standardises the features of a projection, if anything does."""
    return projection.norm if isinstance(projection, HiddenProjection) else None
