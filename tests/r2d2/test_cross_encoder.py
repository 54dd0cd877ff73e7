"""The cross encoder against a plain computation that runs every pair by itself and shares nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.r2d2.cross_encoder import CrossEncoder, CrossLayer
from tests.helpers.exact import PROOFS, assert_same

pytestmark = PROOFS

WIDTH, CONTEXT, HEADS = 12, 10, 3


def encoder(layers: int = 2) -> CrossEncoder:
    torch.manual_seed(0)
    return CrossEncoder(layers, WIDTH, HEADS, 20, CONTEXT, dropout=0.0).double()


def items() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three texts of up to five tokens and two images of up to four."""
    torch.manual_seed(1)
    states = torch.randn(3, 5, WIDTH, dtype=torch.double, requires_grad=True)
    context = torch.randn(2, 4, CONTEXT, dtype=torch.double, requires_grad=True)
    return (
        states,
        torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]),
        context,
        torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    )


def plain_attention(block: nn.Module, states_TW: Tensor, context_SC: Tensor) -> Tensor:
    q, k, v = (block.self.query(states_TW), block.self.key(context_SC), block.self.value(context_SC))
    heads = []
    for columns in torch.arange(WIDTH).chunk(HEADS):
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(WIDTH // HEADS)
        heads.append(scores.softmax(1) @ v[:, columns])
    return plain_output(block.output, torch.cat(heads, 1), states_TW)


def plain_output(output: nn.Module, inner: Tensor, residual: Tensor) -> Tensor:
    norm = output.LayerNorm
    return F.layer_norm(output.dense(inner) + residual, (WIDTH,), norm.weight, norm.bias, 1e-12)


def plain_pair(cross: CrossEncoder, states_TW: Tensor, context_SC: Tensor) -> Tensor:
    """One pair without padding: padded tokens are cut off beforehand."""
    for layer in cross.layer:
        assert isinstance(layer, CrossLayer)
        states_TW = plain_attention(layer.attention, states_TW, states_TW)
        states_TW = plain_attention(layer.crossattention, states_TW, context_SC)
        states_TW = plain_output(layer.output, F.gelu(layer.intermediate.dense(states_TW)), states_TW)
    return states_TW


@pytest.mark.parametrize("whole", [0, 2, 5])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_pairs_picked_by_index_equal_pairs_computed_one_by_one_in_value_and_gradient(layers: int, whole: int) -> None:
    cross, (states, mask, context, context_mask) = encoder(layers), items()
    text_index, image_index = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 0, 1, 0])
    weights = torch.randn(5, 5, WIDTH, dtype=torch.double)

    fast = cross(states, mask, context, context_mask, text_index, image_index, whole)
    assert fast.first.shape == (5, WIDTH)
    assert len(fast.whole) == whole
    loss = torch.zeros((), dtype=torch.double)
    plain_loss = torch.zeros((), dtype=torch.double)
    for pair, (text, image) in enumerate(zip(text_index, image_index, strict=True)):
        real = mask[text].bool()
        plain = plain_pair(cross, states[text][real], context[image][context_mask[image].bool()])
        assert_same(fast.first[pair], plain[0])
        loss = loss + (fast.first[pair] * weights[pair, 0]).sum()
        plain_loss = plain_loss + (plain[0] * weights[pair, 0]).sum()
        if pair < whole:
            assert_same(fast.whole[pair][real], plain)
            loss = loss + (fast.whole[pair] * weights[pair])[real].sum()
            plain_loss = plain_loss + (plain * weights[pair][real]).sum()

    inputs = [states, context, *cross.parameters()]
    for gradient, expected in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(plain_loss, inputs), strict=True
    ):
        assert_same(gradient, expected)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_all_pairs_at_once_equal_pairs_picked_by_index_in_value_and_gradient(layers: int, masked: bool) -> None:
    cross, (states, mask, context, context_mask) = encoder(layers), items()
    masks = (mask, context_mask) if masked else (None, None)
    every = cross(states, masks[0], context, masks[1]).first
    context_index, state_index = torch.cartesian_prod(torch.arange(2), torch.arange(3)).T
    picked = cross(states, masks[0], context, masks[1], state_index, context_index).first.view(2, 3, WIDTH)
    assert_same(every, picked)
    weights, inputs = torch.randn_like(picked), [states, context, *cross.parameters()]
    gradients = [torch.autograd.grad((first * weights).sum(), inputs) for first in (every, picked)]
    for gradient, expected in zip(*gradients, strict=True):
        assert_same(gradient, expected)


def test_what_stands_in_padded_places_changes_nothing() -> None:
    cross, (states, mask, context, context_mask) = encoder(), items()
    index = torch.tensor([0, 1]), torch.tensor([1, 0])
    before = cross(states, mask, context, context_mask, *index, whole=2).whole
    other_states = states + 100 * (1 - mask)[..., None]
    other_context = context - 100 * (1 - context_mask)[..., None]
    after = cross(other_states, mask, other_context, context_mask, *index, whole=2).whole
    for pair, text in enumerate(index[0]):
        real = mask[text].bool()
        assert_same(after[pair][real], before[pair][real])


def test_without_masks_every_token_is_seen() -> None:
    cross, (states, mask, context, context_mask) = encoder(1), items()
    index = torch.tensor([0, 2]), torch.tensor([1, 1])
    everything = cross(states, torch.ones_like(mask), context, torch.ones_like(context_mask), *index).first
    assert_same(cross(states, None, context, None, *index).first, everything)


def test_gradients_of_items_in_many_pairs_repeat_bit_for_bit_with_several_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = CrossEncoder(2, 64, 4, 128, 64, 0.0)
    states, context = (torch.randn(8, 30, 64, generator=generator, requires_grad=True) for _ in range(2))
    state_index, context_index = (torch.randint(8, (300,), generator=generator) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        grads = []
        for _ in range(4):
            first = wide(states, None, context, None, state_index, context_index).first
            grads.append(torch.autograd.grad(first.pow(2).sum(), (states, context)))
    finally:
        torch.set_num_threads(before)
    for grad in grads[1:]:
        assert torch.equal(grad[0], grads[0][0])
        assert torch.equal(grad[1], grads[0][1])
