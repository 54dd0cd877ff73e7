"""Parameters of layers, counted by hand."""

from __future__ import annotations


def linear(rows: int, inner: int, outer: int) -> int:
    return 2 * rows * inner * outer


def layer(tokens: int, width: int, ffn: int) -> int:
    """Operations of one transformer layer: four projections, two products of attention, two layers of feed-forward."""
    attention = 4 * linear(tokens, width, width) + 2 * linear(tokens, width, tokens)
    return attention + 2 * linear(tokens, width, ffn)
