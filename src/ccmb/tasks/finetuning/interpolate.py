"""Weights between two models of one shape: WiSE-FT (Wortsman et al., CVPR 2022, arXiv 2109.01903).

A fine-tuned model is better where it was tuned and often worse elsewhere; on the straight line from the model it began
with there are weights that keep most of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path

from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.seen_images import SeenImages
from ccmb.r2d2.folders.weight_sources import carried_on, joined
from ccmb.r2d2.generative.captioner import has_captioner, load_captioner
from ccmb.r2d2.loading import load_model


def interpolate(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) * before + share * after of every floating tensor; exactly `before` at 0 and `after` at 1.

    Others, such as counters, are those of `after`.

    Raises:
        UsageError: the share is not in [0, 1].
        CcmbError: names or shapes differ; the message names the first that does.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"--share {share:g}: give a share from 0 (before) to 1 (after)")
    if lone := sorted(before.keys() ^ after.keys()):
        owner = "before" if lone[0] in before else "after"
        raise CcmbError(f"the models are not of one shape: only the one {owner} has {lone[0]}")
    for name, tensor in after.items():
        if tensor.shape != before[name].shape:
            shapes = f"{tuple(before[name].shape)} and {tuple(tensor.shape)}"
            raise CcmbError(f"the models are not of one shape: {name} is {shapes}")
    return {
        name: before[name].to(tensor).lerp(tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in after.items()
    }


def mix(before: str | Path, after: str | Path, share: float, out: Path) -> None:
    """Write the model between two runs, model folders or hub ids into a new folder; a captioner, if both are.

    Raises:
        UsageError: the share is not in [0, 1].
        CcmbError: a model cannot be loaded, the two do not go together, or the folder holds something.
    """
    from ccmb.tasks.common.seen import seen_by
    from ccmb.tasks.pretraining.run import save_model

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CcmbError(f"{out}: holds something already; choose another --out or remove it")
    load = load_captioner if has_captioner(before) and has_captioner(after) else load_model
    (one, processor), (other, its_processor) = load(before), load(after)
    if processor.tokenizer.get_vocab() != its_processor.tokenizer.get_vocab():
        raise CcmbError(f"{before} and {after}: their tokenizers differ, so that their texts mean different numbers")
    other.load_state_dict(interpolate(one.state_dict(), other.state_dict(), share))
    if 0 < share < 1:
        other.config.match_temperature = 1.0  # that of either was fitted to its own weights
    elif share == 0:
        other.config.match_temperature = one.config.match_temperature
    other.config.sources = joined(carried_on(one.config.sources, before), carried_on(other.config.sources, after))
    save_model(out, other, its_processor)
    seen = [record for record in (seen_by(before), seen_by(after)) if record is not None]
    reduce(or_, seen, SeenImages()).write(out)
