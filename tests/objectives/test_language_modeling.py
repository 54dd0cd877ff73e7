"""MLM: which tokens are hidden and how, and the loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccmb.objectives.language_modeling import mask_tokens, mlm_loss
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import TEXTS, tiny_processor

pytestmark = PROOFS

MASK, VOCABULARY = 4, 1000


def test_of_the_chosen_words_80_percent_are_masked_10_replaced_10_kept() -> None:
    ids = torch.full((400, 250), 500)
    masked = mask_tokens(
        ids, torch.ones_like(ids).bool(), MASK, VOCABULARY, probability=0.15, generator=torch.Generator().manual_seed(0)
    )
    chosen = masked.input_ids[masked.positions]
    shares = [
        float(masked.positions.float().mean()),
        float((chosen == MASK).float().mean()),
        float(((chosen != MASK) & (chosen != 500)).float().mean()),
        float((chosen == 500).float().mean()),
    ]
    assert shares == pytest.approx([0.15, 0.8, 0.1, 0.1], abs=0.01)
    replaced = chosen[(chosen != MASK) & (chosen != 500)]
    assert float(replaced.float().mean()) == pytest.approx(VOCABULARY / 2, rel=0.1)


@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
def test_only_words_are_touched_and_labels_restore_the_text(seed: int, probability: float) -> None:
    processor = tiny_processor()
    ids = processor.texts(TEXTS)["input_ids"]
    maskable = processor.maskable(ids)
    generator = torch.Generator().manual_seed(seed)
    masked = mask_tokens(
        ids, maskable, processor.tokenizer.mask_token_id, 60, probability=probability, generator=generator
    )
    assert not masked.positions[~maskable].any()
    assert torch.equal(masked.input_ids[~masked.positions], ids[~masked.positions])
    restored = masked.input_ids.clone()
    restored[masked.positions] = masked.labels
    assert torch.equal(restored, ids)


def test_loss_and_gradient_equal_the_plain_mean() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([3, 0, 6, 3, 2])
    doubles = logits.detach().double().requires_grad_()
    plain = torch.zeros((), dtype=torch.double)
    for row, label in zip(doubles, labels, strict=True):
        plain = plain - (row[label] - row.exp().sum().log()) / 5
    loss = mlm_loss(logits, labels)
    assert_same(loss.double(), plain)
    (gradient,), (expected,) = torch.autograd.grad(loss, logits), torch.autograd.grad(plain, doubles)
    assert_same(gradient.double(), expected)


def test_nothing_masked_gives_zero_loss_and_zero_gradient() -> None:
    states = torch.randn(3, 4, requires_grad=True)
    loss = mlm_loss(states[torch.zeros(3).bool()], torch.empty(0, dtype=torch.long))
    assert loss == 0
    assert not torch.autograd.grad(loss, states)[0].any()
