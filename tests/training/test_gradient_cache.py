"""Chunks with recompute: the same losses and gradients as all at once, the temperature's included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.training.gradient_cache import in_chunks
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import tiny_batch, tiny_model, tiny_processor

pytestmark = PROOFS

IDS = [0, 1, 1, 3, 4, 3, 6]


def losses_and_gradients(chunk: int | None, objectives: dict[str, Any]) -> dict[str, Tensor]:
    options = Objectives.model_validate(objectives)
    options.tgd.queue_size = 16
    model = tiny_model(cross_dropout=0.0)
    pretraining = PreTraining(model, options, tiny_processor().tokenizer.mask_token_id, chunk)
    batch = tiny_batch(len(IDS), seed=3, image_ids=IDS)
    losses, _ = pretraining(batch, 0.0, torch.Generator().manual_seed(0))
    pretraining.total(losses).backward()
    gradients = {name: p.grad for name, p in pretraining.named_parameters() if p.grad is not None}
    return {**{f"loss {name}": loss.detach() for name, loss in losses.items()}, **gradients}


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("rows", [1.0, 0.5])
def test_chunks_change_neither_losses_nor_gradients(chunk: int, masked: bool, rows: float) -> None:
    objectives = {"fgr": {"enhanced_training": masked, "batch_share": rows}}
    plain, chunked = losses_and_gradients(None, objectives), losses_and_gradients(chunk, objectives)
    assert set(plain) == set(chunked) > {"loss tgd", "model.temperature"}
    for name, expected in plain.items():
        assert_same(chunked[name], expected, lambda text, name=name: f"{name}: {text}")


def test_chance_inside_a_chunk_is_the_same_when_it_is_computed_again() -> None:
    layer, dropout = nn.Linear(3, 3), nn.Dropout(0.5)
    torch.manual_seed(0)
    out = torch.cat(in_chunks(lambda rows: dropout(layer(torch.ones(4, 3)[rows])), 4, 2))
    out.sum().backward()
    # The bias of each output has a gradient of 2 for every element that dropout has kept.
    assert torch.equal(layer.bias.grad, 2.0 * (out != 0).sum(0))


def test_only_one_chunk_holds_its_activations_at_a_time() -> None:
    held: list[int] = []

    class Watched(torch.autograd.Function):
        alive = 0

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            Watched.alive += 1
            held.append(Watched.alive)
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            _ = ctx.saved_tensors
            Watched.alive -= 1
            return gradients[0] * 2

    x = torch.ones(6, 2, requires_grad=True)
    out = torch.cat(in_chunks(lambda rows: Watched.apply(x[rows]), 6, 2))
    Watched.alive, held[:] = 0, []
    out.sum().backward()
    assert held == [1, 1, 1]
    assert torch.equal(x.grad, torch.full((6, 2), 2.0))
