"""GCPR against loops in float64."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ccmb.objectives.pre_ranking import (
    gcpr_loss,
    multi_positive_targets,
    positive_mask,
    similarity,
    soft_cross_entropy,
    text_to_text_loss,
)
from tests.helpers.exact import PROOFS, assert_same

pytestmark = PROOFS


def plain_gcpr(image: Tensor, text: Tensor, temperature: Tensor, ids: list[int]) -> Tensor:
    count, total = len(ids), torch.zeros((), dtype=torch.double)
    for rows, columns in ((image, text), (text, image)):
        for i in range(count):
            s = [rows[i].dot(columns[j]) / temperature for j in range(count)]
            log_sum = torch.stack(s).exp().sum().log()
            same = [j for j in range(count) if ids[j] == ids[i]]
            for j in same:
                total = total - (s[j] - log_sum) / len(same) / (2 * count)
    return total


@settings(max_examples=25)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 1000))
def test_loss_and_gradients_equal_the_plain_sum(ids: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(len(ids), 5, generator=generator), dim=1) for _ in range(2))
    inputs = [image.requires_grad_(), text.requires_grad_(), torch.tensor(0.2, requires_grad=True)]
    loss = gcpr_loss(*inputs, multi_positive_targets(positive_mask(torch.tensor(ids))))
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    plain = plain_gcpr(*doubles, ids)
    assert_same(loss.double(), plain)
    for gradient, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, doubles), strict=True):
        assert_same(gradient.double(), expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_positives_share_a_row_evenly(ids: list[int]) -> None:
    targets = multi_positive_targets(positive_mask(torch.tensor(ids)))
    for i, row in enumerate(targets.tolist()):
        for j, value in enumerate(row):
            assert math.isclose(value, (ids[i] == ids[j]) / ids.count(ids[i]), rel_tol=1e-6)


def test_a_column_of_minus_infinity_is_as_good_as_absent_in_value_and_gradient() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.1], [1.0, 0.4, -0.9]], requires_grad=True)
    targets = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    closed = soft_cross_entropy(logits + torch.tensor([0.0, 0.0, -torch.inf]), targets)
    absent = soft_cross_entropy(logits[:, :2], targets[:, :2])
    assert_same(closed, absent)
    (gradient,), (expected,) = torch.autograd.grad(closed, logits), torch.autograd.grad(absent, logits)
    assert_same(gradient, expected)


def test_similarities_stay_float32_under_autocast() -> None:
    image, text = F.normalize(torch.randn(4, 64), dim=1), F.normalize(torch.randn(4, 64), dim=1)
    temperature = torch.tensor(0.01)
    exact = image.double() @ text.double().T / 0.01
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(similarity(image, text, temperature).double(), exact)


def test_spared_columns_count_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(4, 5, generator=generator), dim=1) for _ in range(2))
    ignore_mask = torch.zeros(4, 4, dtype=torch.bool)
    ignore_mask[0, 1] = ignore_mask[1, 0] = True
    temperature, targets = torch.tensor(0.2), torch.eye(4)
    loss = gcpr_loss(image, text, temperature, targets, ignore_mask_RB=ignore_mask)
    rows = []
    for queries, columns in ((image, text), (text, image)):
        for row in range(4):
            kept = [column for column in range(4) if not ignore_mask[row, column]]
            logits = queries[row] @ columns[kept].T / temperature
            rows.append(-logits.log_softmax(0)[kept.index(row)])
    assert_same(loss, torch.stack(rows).mean())
    chunked = gcpr_loss(image.requires_grad_(), text, temperature, targets, chunk=3, ignore_mask_RB=ignore_mask)
    assert_same(chunked, loss)


def plain_text_to_text(text: Tensor, temperature: Tensor, image_ids: list[int], text_ids: list[int]) -> Tensor:
    """Texts of one image are positives, a row and texts equal to it are neither positives nor negatives."""
    count, total = len(image_ids), torch.zeros((), dtype=torch.double)
    for i in range(count):
        others = [j for j in range(count) if text_ids[j] != text_ids[i]]
        positives = [j for j in others if image_ids[j] == image_ids[i]]
        if positives:
            log_sum = torch.stack([text[i].dot(text[j]) / temperature for j in others]).exp().sum().log()
            for j in positives:
                total = total - (text[i].dot(text[j]) / temperature - log_sum) / len(positives) / count
    return total


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=7),
    st.integers(0, 1000),
    st.sampled_from([None, 2]),
)
def test_texts_against_texts_equal_the_plain_sum(ids: list[tuple[int, int]], seed: int, chunk: int | None) -> None:
    image_ids, text_ids = ([pair[side] for pair in ids] for side in (0, 1))
    generator = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(len(ids), 5, generator=generator), dim=1).requires_grad_()
    inputs = [text, torch.tensor(0.2, requires_grad=True)]
    equal = positive_mask(torch.tensor(text_ids))
    loss = text_to_text_loss(
        text, *inputs, positives_RB=positive_mask(torch.tensor(image_ids)), left_out_RB=equal, chunk=chunk
    )
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    plain = plain_text_to_text(*doubles, image_ids, text_ids)
    assert_same(loss.double(), plain)
    if plain.requires_grad:
        expected = torch.autograd.grad(plain, doubles)
        for gradient, other in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
            assert_same(gradient.double(), other)
    else:
        assert float(loss) == 0.0
