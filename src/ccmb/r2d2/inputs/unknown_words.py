"""Texts of which a model knows no word: whatever it makes of them says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ccmb.r2d2.processing import R2D2Processor


def wholly_unknown(processor: R2D2Processor, texts: Sequence[str]) -> list[bool]:
    """Whether each of the texts has no token but [UNK], itself a special one, and other special ones."""
    if not texts:
        return []
    known_BT = processor.maskable(processor.texts(texts)["input_ids"])
    return [not known for known in known_BT.any(1).tolist()]
