"""A step's losses and gradient are those that were recorded in float64 when the step was one plain function.

Weights are written by a formula, so that no way of drawing them plays a part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import tiny_batch, tiny_model, tiny_processor

pytestmark = PROOFS

OBJECTIVES: dict[str, dict[str, Any]] = {
    "all": {},
    "swapped ignored": {"gcpr": {"ignore_swapped": True}},
    "clean texts ranked": {"fgr": {"enhanced_training": False, "hardness": 0.5}},
    "half ranked": {"fgr": {"batch_share": 0.5}},
    "in chunks": {},
    "frozen": {},
    "no mlm": {"mlm": False},
    "no fgd": {"fgd": False},
    "no gcpr": {"gcpr": False},
    "late": {"fgr": {"start_at": 0.6}, "tgd": {"start_at": 0.6, "queue_size": 6}},
}
# Of the second step, when the queue is filled and the teacher is no longer the student.
RECORDED = {
    "all": {
        "gcpr": 1.60945053148596,
        "fgr": 0.7675347720509527,
        "mlm": 4.2320560105670255,
        "tgd": 2.3025875851101505,
        "fgd": 1.9012938191432505,
        "gradient norm": 1.1668794527188124,
    },
    "swapped ignored": {
        "gcpr": 1.4182872845560963,
        "fgr": 0.7675347720509527,
        "mlm": 4.2320560105670255,
        "tgd": 2.2155744466986516,
        "fgd": 1.9012938191432505,
        "gradient norm": 1.1778037655323912,
    },
    "clean texts ranked": {
        "gcpr": 1.60945053148596,
        "fgr": 0.7675346947040247,
        "mlm": 4.2320560105670255,
        "tgd": 2.3025875851101505,
        "fgd": 1.9012938191432505,
        "gradient norm": 1.1668791783926333,
    },
    "half ranked": {
        "gcpr": 1.60945053148596,
        "fgr": 0.7675224728358402,
        "mlm": 4.2320560105670255,
        "tgd": 2.3025875851101505,
        "fgd": 1.9012938191432505,
        "gradient norm": 1.169086926547627,
    },
    "in chunks": {
        "gcpr": 1.60945053148596,
        "fgr": 0.7675347720509528,
        "mlm": 4.2320560105670255,
        "tgd": 2.3025875851101505,
        "fgd": 1.9012938191432505,
        "gradient norm": 1.1668794527188129,
    },
    "frozen": {
        "gcpr": 1.60945053148596,
        "fgr": 0.7675347720509527,
        "mlm": 4.2320560105670255,
        "tgd": 2.3025875851101505,
        "fgd": 1.9012938191432505,
        "gradient norm": 1.1643291378835035,
    },
    "no mlm": {
        "gcpr": 1.60945053148596,
        "fgr": 0.7675346947040247,
        "tgd": 2.3025875851101505,
        "fgd": 1.9012938191432505,
        "gradient norm": 0.758686321492378,
    },
    "no fgd": {
        "gcpr": 1.60945053148596,
        "fgr": 0.7675347720509527,
        "mlm": 4.2320560105670255,
        "tgd": 2.3025875851101505,
        "gradient norm": 1.1080395958018803,
    },
    "no gcpr": {
        "fgr": 0.7675347720509527,
        "mlm": 4.2320560105670255,
        "tgd": 2.3025875851101505,
        "fgd": 1.9012938191432505,
        "gradient norm": 1.1668657824350055,
    },
    "late": {
        "gcpr": 1.60945053148596,
        "mlm": 4.2320560105670255,
        "fgd": 1.9012938191432505,
        "gradient norm": 0.9633263011321057,
    },
}


def fill(model: nn.Module) -> None:
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.dim():
                steps = torch.arange(weight.numel()).double() * (0.7 + 0.01 * number)
                weight.copy_((steps + number).sin().view_as(weight) * 0.4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradient_are_as_recorded(name: str) -> None:
    model = tiny_model(cross_layers=1)
    fill(model)
    if name == "frozen":
        model.image_tower.requires_grad_(False)
    objectives = Objectives.model_validate({"tgd": {"queue_size": 6}} | OBJECTIVES[name])
    mask_id = tiny_processor().tokenizer.mask_token_id
    training = PreTraining(model, objectives, mask_id, 2 if name == "in chunks" else None).train()
    batch = replace(tiny_batch(5, image_ids=[0, 1, 2, 1, 3]), swapped_ids=torch.tensor([0, 0, 1, 0, 2]))
    values: dict[str, float] = {}
    for seed in (1, 2):
        model.zero_grad()
        losses, _ = training.losses(batch, 0.5, torch.Generator().manual_seed(seed))
        training.total(losses).backward()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        values["gradient norm"] = float(torch.cat(gradients).norm())
        with torch.no_grad():
            model.text_projection.weight.mul_(-0.5)
        training.after_step()
    assert_same(values, RECORDED[name])
