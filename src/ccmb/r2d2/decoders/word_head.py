"""The head that predicts words.

Shapes: M states, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedLanguageHead(nn.Module):
    """BERT's masked-language head; its output layer shares the text tower's word embeddings."""

    def __init__(self, width: int, vocabulary: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states_MW: Tensor, word_embeddings: Tensor) -> Tensor:
        """Logits (M, vocabulary) of M token states."""
        return F.linear(self.LayerNorm(F.gelu(self.dense(states_MW))), word_embeddings, self.bias)
