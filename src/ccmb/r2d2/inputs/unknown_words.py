"""Texts of unknown words only: a model's output for them is meaningless."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ccmb.r2d2.processing import R2D2Processor


def wholly_unknown(processor: R2D2Processor, texts: Sequence[str]) -> list[bool]:
    """Whether each text has no tokens other than [UNK] and special tokens."""
    return rows_wholly_unknown(processor, processor.texts(texts)["input_ids"]) if texts else []


def rows_wholly_unknown(processor: R2D2Processor, input_ids_BT: Tensor) -> list[bool]:
    """Like `wholly_unknown`, for tokenized texts (B, T). [UNK] is itself a special token, so no word is left."""
    known_BT = processor.maskable(input_ids_BT)
    return [not known for known in known_BT.any(1).tolist()]
