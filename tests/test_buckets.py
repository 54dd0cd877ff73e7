"""Texts computed in buckets of like length against the same texts padded to the longest."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ccmb.objectives.batch import Batch
from ccmb.objectives.options import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2 import buckets
from ccmb.r2d2.buckets import cut, make_buckets, put_back
from ccmb.r2d2.cross_encoder import CrossEncoder
from ccmb.tasks.pretraining import text_buckets
from ccmb.training.recipe import TrainingRecipe
from tiny import tiny_batch, tiny_model, tiny_processor

MASK_ID = tiny_processor().tokenizer.mask_token_id


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts are cut into as many buckets as allowed."""
    monkeypatch.setattr(buckets, "CALL_TOKENS", 0)


def cost(lengths: list[int], ends: tuple[int, ...], call_tokens: int) -> int:
    starts = (0, *ends[:-1])
    return sum((end - start) * lengths[end - 1] + call_tokens for start, end in zip(starts, ends, strict=True))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7).map(sorted), st.integers(1, 4), st.integers(0, 12))
def test_the_cut_is_the_cheapest_of_all(lengths: list[int], most: int, call_tokens: int) -> None:
    count = len(lengths)
    all_cuts = [(*inner, count) for parts in range(most) for inner in itertools.combinations(range(1, count), parts)]
    ends = cut(lengths, most, call_tokens)
    assert len(ends) <= most
    assert ends[-1] == count
    assert cost(lengths, tuple(ends), call_tokens) == min(cost(lengths, ends, call_tokens) for ends in all_cuts)


def test_a_part_that_saves_less_than_its_calls_cost_is_not_made() -> None:
    assert cut([10, 10, 20], 4, call_tokens=21) == [3]
    assert cut([10, 10, 20], 4, call_tokens=19) == [2, 3]


@pytest.mark.usefixtures("eager")
def test_every_row_is_in_one_bucket_that_is_as_long_as_its_longest_text() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 0, 0]])
    found = make_buckets(mask, 2)
    assert sorted(row for bucket in found for row in bucket.rows.tolist()) == [0, 1, 2, 3]
    assert [bucket.tokens for bucket in found] == [1, 4]
    back = put_back([mask[b.rows, : b.tokens, None] for b in found], [b.rows for b in found], tokens=5)
    assert torch.equal(back[..., 0], mask)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("whole", [0, 3, 6])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_pairs_in_buckets_equal_pairs_at_once_in_value_and_gradient(layers: int, whole: int) -> None:
    torch.manual_seed(0)
    cross = CrossEncoder(layers, 12, 3, 20, 10, dropout=0.0).double()
    states = torch.randn(4, 5, 12, dtype=torch.double, requires_grad=True)
    context = torch.randn(2, 3, 10, dtype=torch.double, requires_grad=True)
    mask = torch.arange(5)[None, :] < torch.tensor([5, 2, 3, 2])[:, None]
    context_mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    # The third text stands in no pair: its bucket has none of the first pairs, or none at all.
    index = torch.tensor([0, 1, 3, 0, 1, 3]), torch.tensor([0, 1, 0, 1, 0, 0])
    real = mask[index[0]][:whole]
    weights = torch.randn(6, 5, 12, dtype=torch.double)

    def run(parts: list[buckets.Bucket]) -> tuple[Tensor, ...]:
        out = cross(states, mask, context, context_mask, *index, whole, parts)
        loss = (out.first * weights[:, 0]).sum() + (out.whole * weights[:whole])[real].sum()
        return out.first, out.whole[real], *torch.autograd.grad(loss, [states, context, *cross.parameters()])

    parts = make_buckets(mask, 3)
    assert len(parts) == 3
    torch.testing.assert_close(run(parts), run([]))


def uneven_batch(count: int, **options: Any) -> Batch:
    """A batch with a text of one word among longer ones, and columns of padding that no text fills."""
    batch = tiny_batch(count, **options)
    mask = batch.attention_mask.clone()
    mask[1, 3:] = 0
    padded = [torch.nn.functional.pad(part, (0, 3)) for part in (batch.input_ids, mask)]
    maskable = torch.nn.functional.pad(batch.maskable & mask.bool(), (0, 3))
    return Batch(batch.pixel_values, *padded, maskable, batch.image_ids)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("changes", [{}, {"fgr": {"masked": False}}, {"fgr": {"rows": 0.5}}, {"fgr": False}])
def test_a_step_in_buckets_equals_the_padded_step_in_losses_and_gradients(changes: dict[str, Any]) -> None:
    batch = uneven_batch(5, image_ids=[0, 1, 2, 1, 3])
    objectives = Objectives.model_validate({"tgd": {"queue": 6}} | changes)
    runs = []
    for most in (1, 3):
        training = PreTraining(tiny_model(), objectives, MASK_ID, text_buckets=most).train()
        losses = training.losses(batch, 0.0, torch.Generator().manual_seed(0))
        training.total(losses).backward()
        runs.append((losses, {name: p.grad for name, p in training.model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-4, atol=1e-5)


def test_buckets_are_for_cpus_unless_the_recipe_says_so() -> None:
    recipe = TrainingRecipe(steps=1, device="cpu")
    assert text_buckets(recipe) > 1
    assert text_buckets(recipe.model_copy(update={"buckets": 1})) == 1
