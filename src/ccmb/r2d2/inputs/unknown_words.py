"""Texts of unknown words only: a model's output for them is meaningless."""

from __future__ import annotations

from collections.abc import Sequence

from ccmb.r2d2.processing import R2D2Processor


def mostly_unknown(processor: R2D2Processor, texts: Sequence[str]) -> list[bool]:
    """Whether more than half of each text's tokens are [UNK], or it has none that is a word.

    A text of another script than the tokenizer knows is so, and what a model makes of it means little.
    """
    if not texts:
        return []
    ids_BT = processor.texts(texts)["input_ids"]
    known_B = processor.maskable(ids_BT).sum(1)
    unknown_B = (ids_BT == processor.tokenizer.unk_token_id).sum(1)
    return (unknown_B >= known_B.clamp(min=1)).logical_or(known_B == 0).tolist()
