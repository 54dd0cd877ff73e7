"""Texts of unknown words only: a model's output for them is meaningless."""

from __future__ import annotations

from collections.abc import Sequence

from ccmb.r2d2.processing import R2D2Processor


def wholly_unknown(processor: R2D2Processor, texts: Sequence[str]) -> list[bool]:
    """Whether each text has no tokens other than [UNK] and special tokens. [UNK] is itself a special token."""
    if not texts:
        return []
    known_BT = processor.maskable(processor.texts(texts)["input_ids"])
    return [not known for known in known_BT.any(1).tolist()]
