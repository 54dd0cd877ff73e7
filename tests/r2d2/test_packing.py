"""Packed texts against the same texts padded, and torch's varlen attention as it is called against its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.objectives.batch import Batch
from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2 import packing
from ccmb.r2d2.cross_encoder import CrossEncoder
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.packing import PackedPairs, Packing
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import prepare_network
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_model, tiny_processor

pytestmark = PROOFS

MASK_ID = tiny_processor().tokenizer.mask_token_id
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def plain_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    query_starts: Tensor,
    key_starts: Tensor,
    max_queries: int,
    max_keys: int,
) -> Tensor:
    """What varlen attention is to compute: run by run, by two products and a softmax."""
    assert query_starts.dtype == key_starts.dtype == torch.int32
    assert max_queries >= query_starts.diff().max()
    assert max_keys >= key_starts.diff().max()
    mixed = torch.zeros_like(query)
    for run in range(len(query_starts) - 1):
        q, k = slice(*query_starts[run : run + 2].tolist()), slice(*key_starts[run : run + 2].tolist())
        scores = torch.einsum("qhd,khd->hqk", query[q], key[k]) / query.shape[-1] ** 0.5
        mixed = mixed.index_copy(
            0,
            torch.arange(q.start, q.stop, device=query.device),
            torch.einsum("hqk,khd->qhd", scores.softmax(2), value[k]),
        )
    return mixed


@pytest.fixture(params=["padded for attention", "varlen"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention as on CPUs, and with what calls varlen attention on GPUs."""
    if request.param == "varlen":
        monkeypatch.setattr(packing, "has_varlen", lambda query: True)
        monkeypatch.setattr(packing, "varlen_attention", plain_varlen)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the varlen kernel is a GPU's")


@needs_gpu
def test_the_kernel_computes_what_varlen_attention_is() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value = (
        torch.randn(11, 2, 64, generator=generator, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    packed = Packing.from_mask(MASK.cuda())
    assert packing.has_varlen(query)
    starts, weights = packing.starts_of(packed.counts), torch.randn(11, 2, 64, generator=generator, device="cuda")
    result, expected = (
        (mixed, *torch.autograd.grad((mixed * weights).sum(), (query, key, value)))
        for attention in (packing.varlen_attention, plain_varlen)
        for mixed in [attention(query, key, value, query_starts=starts, key_starts=starts, max_queries=5, max_keys=5)]
    )
    # Products are rounded to 8 bits and added in float32: 2^-8 of a weight, a value and their mean each, and as much of
    # the gradient, which a few terms of the size 3 enlarge.
    torch.testing.assert_close(result, expected, rtol=0.05, atol=0.05)


@needs_gpu
@pytest.mark.usefixtures("float32")
def test_a_packed_step_on_a_gpu_equals_the_padded_step_in_bf16() -> None:
    result = list[dict[str, Tensor]]()
    for packs in (False, True):
        model = tiny_model()
        model.pack_texts = packs
        training = PreTraining(model, Objectives.model_validate({"tgd": {"queue_size": 6}}), MASK_ID).train().cuda()
        with torch.autocast("cuda", torch.bfloat16):
            generator = torch.Generator("cuda").manual_seed(0)
            losses, _ = training.losses(uneven_batch(5).to("cuda"), 0.0, generator)
        training.total(losses).backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        result.append(losses)
    torch.testing.assert_close(result[1], result[0], rtol=0.05, atol=0.05)  # a few roundings to 8 bits: 2^-8 each


def test_packing_keeps_the_real_tokens_in_order_and_pads_them_back() -> None:
    states = torch.arange(20.0).view(4, 5, 1)
    packed = Packing.from_mask(MASK)
    assert packed.pack(states).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 15]
    assert torch.equal(packed.pad(packed.pack(states)), states * MASK[..., None])
    assert packed.columns.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 0]
    assert packed.counts.tolist() == [5, 2, 3, 1]
    assert packed.firsts.tolist() == [0, 5, 7, 10]


def test_rows_are_picked_and_narrowed_by_their_tokens() -> None:
    packed = Packing.from_mask(MASK)
    picked, tokens = packed.pick(torch.tensor([2, 0, 2]))
    assert picked.counts.tolist() == [3, 5, 3]
    assert tokens.tolist() == [7, 8, 9, 0, 1, 2, 3, 4, 7, 8, 9]
    narrow, tokens = packed.narrow(torch.tensor([0, 0, 1, 0])[:, None].expand(4, 5))
    assert narrow.counts.tolist() == [1, 1, 3, 1]
    assert tokens.tolist() == [0, 5, 7, 8, 9, 10]


def test_a_row_without_tokens_is_one_of_one_token() -> None:
    assert Packing.from_mask(torch.tensor([[0, 0], [1, 1]])).counts.tolist() == [1, 2]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("image_index", [[1, 0, 2, 0, 0, 1], [1, 1, 1, 1, 1, 1], [0, 1, 2, 2, 1, 0]])
@pytest.mark.parametrize("whole", [0, 3, 6])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_packed_pairs_equal_padded_pairs_in_value_and_gradient(layers: int, whole: int, image_index: list[int]) -> None:
    torch.manual_seed(0)
    cross = CrossEncoder(layers, 12, 3, 20, 10, dropout=0.0).double()
    states = torch.randn(4, 5, 12, dtype=torch.double, requires_grad=True)
    images = torch.randn(3, 7, 10, dtype=torch.double, requires_grad=True)
    texts, index = torch.tensor([3, 1, 0, 0, 2, 3]), torch.tensor(image_index)
    real = MASK.bool()[texts][:whole]
    weights = torch.randn(6, 5, 12, dtype=torch.double)

    def run(pairs: PackedPairs | None) -> tuple[Tensor, ...]:
        out = cross(states, MASK, images, None, texts, index, whole, pairs)
        assert out.whole.shape == (whole, 5, 12)
        loss = (out.first * weights[:, 0]).sum() + (out.whole * weights[:whole])[real].sum()
        return out.first, out.whole[real], *torch.autograd.grad(loss, [states, images, *cross.parameters()])

    assert_same(run(PackedPairs.from_indices(MASK, 3, texts, index, whole)), run(None))


def text_tower(kind: str) -> R2D2Model:
    text = tiny_config().text_config.to_dict() | {"model_type": kind, "max_position_embeddings": 30}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return R2D2Model(tiny_config(text_config=text)).eval()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "ernie"])
def test_packed_texts_are_read_as_padded_ones(kind: str) -> None:
    model, batch = text_tower(kind), uneven_batch(5)
    packed = model.encode_text(batch.input_ids, batch.attention_mask)
    assert model.packing(batch.attention_mask) is not None
    model.pack_texts = False
    padded = model.encode_text(batch.input_ids, batch.attention_mask)
    real = batch.attention_mask.bool()
    assert not torch.equal(packed.states[real][1:], packed.states[real][:-1])
    assert_same(packed.states[real], padded.states[real])
    assert_same(packed.embed, padded.embed)
    assert not packed.states[~real].any()


def test_a_tower_of_another_kind_is_given_its_texts_padded() -> None:
    text = tiny_config().text_config.to_dict() | {"model_type": "electra", "embedding_size": 32}
    model, batch = R2D2Model(tiny_config(text_config=text)).eval(), uneven_batch(3)
    assert model.packing(batch.attention_mask) is None
    out = model.encode_text(batch.input_ids, batch.attention_mask)
    expected = model.text_tower(batch.input_ids, batch.attention_mask).last_hidden_state
    assert torch.equal(out.states, expected)


def test_dropout_falls_on_packed_attention_too() -> None:
    query, packed = torch.randn(11, 2, 8), Packing.from_mask(MASK)
    torch.manual_seed(0)
    dropped = packing.row_attention(packed, packed, dropout=0.5)(query, query, query)
    assert not torch.equal(dropped, packing.row_attention(packed, packed)(query, query, query))


def uneven_batch(count: int, **options: Any) -> Batch:
    """A batch with a text of one word among longer ones, and columns of padding that no text fills."""
    batch = tiny_batch(count, **options)
    mask = batch.attention_mask.clone()
    mask[1, 3:] = 0
    ids = batch.input_ids * mask
    texts = {"input_ids": ids, "attention_mask": mask, "maskable": batch.maskable & mask.bool()}
    padded: dict[str, Any] = {name: F.pad(part, (0, 3)) for name, part in texts.items()}
    return replace(batch, **padded)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize(
    "changes", [{}, {"fgr": {"enhanced_training": False}}, {"fgr": {"batch_share": 0.5}}, {"fgr": False}]
)
def test_a_packed_step_equals_the_padded_step_in_losses_and_gradients(
    changes: dict[str, Any], chunk: int | None
) -> None:
    batch = uneven_batch(5, image_ids=[0, 1, 2, 1, 3])
    objectives = Objectives.model_validate({"tgd": {"queue_size": 6}} | changes)
    runs = []
    for packs in (False, True):
        model = tiny_model()
        model.pack_texts = packs
        training = PreTraining(model, objectives, MASK_ID, chunk).train()
        losses, _ = training.losses(batch, 0.0, torch.Generator().manual_seed(0))
        training.total(losses).backward()
        runs.append((losses, {name: p.grad for name, p in training.model.named_parameters() if p.grad is not None}))
    assert_same(runs[1], runs[0])


def test_no_layer_computes_padding() -> None:
    """Tokens that the feed-forward layers of the text tower and of the text-image encoder are given."""
    model, batch = tiny_model(), uneven_batch(4)
    given = list[int]()
    for module in (model.text_tower.encoder.layer[0], model.text_image_encoder.layer[0].intermediate):
        module.register_forward_hook(lambda _, inputs, __: given.append(inputs[0].numel() // 32))
    rows, real = torch.arange(4), int(batch.attention_mask.sum())
    texts = model.encode_text(batch.input_ids, batch.attention_mask)
    model.rank(model.encode_image(batch.pixel_values), texts, torch.cat([rows, rows]), torch.cat([rows, rows]))
    assert given == [real, 2 * real]
    assert real < batch.attention_mask.numel() - 20


def test_the_recipe_can_leave_texts_padded() -> None:
    recipe = load_recipe(PretrainRecipe, find_recipe("quickstart"))
    model = tiny_model()
    prepare_network(model, recipe)
    assert model.pack_texts
    recipe.training.pack_texts = False
    prepare_network(model, recipe)
    assert not model.pack_texts
