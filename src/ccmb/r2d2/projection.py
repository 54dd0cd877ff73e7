"""Projections: from a tower's pooled state to the shared space of images and texts.

The paper's are one linear layer each. Where both towers stay frozen, the projections are all that learns, and a hidden
layer with dropout learns much more from few pairs (our choice).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def new_projection(width: int, embed_dim: int, hidden: int | None = None, dropout: float = 0.0) -> nn.Module:
    """A projection from `width` to `embed_dim`, with random weights.

    Args:
        hidden: width of its hidden layer; None: it has none, as in the paper.
        dropout: of a hidden layer, and of what goes into it.
    """
    return nn.Linear(width, embed_dim) if hidden is None else HiddenProjection(width, hidden, embed_dim, dropout)


class HiddenProjection(nn.Module):
    """Layer norm, a hidden layer with GELU, and a linear layer, with dropout before both.

    The norm is needed: pooled states of sentence encoders are nearly equal but for small differences.
    """

    def __init__(self, width: int, hidden: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled_BW: Tensor) -> Tensor:
        hidden_BH = F.gelu(self.hidden(self.dropout(self.norm(pooled_BW))))
        return self.output(self.dropout(hidden_BH))
