"""AdamW and Muon, which weights each moves, and the schedule of learning rates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from ccmb.training.optimizers import Muon, ParameterGroup, lr_factor, make_optimizers, orthogonalise, set_learning_rates
from ccmb.training.recipe import OptimizerRecipe
from tests.helpers.exact import PROOFS, assert_same, same

pytestmark = PROOFS


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"words": nn.Embedding(7, 6), "stem": nn.Conv2d(3, 6, 3), "up": nn.Linear(6, 9), "norm": nn.LayerNorm(9)}
    )


def polar(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_orthogonalising_keeps_the_directions_and_evens_out_the_lengths(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalise(matrices)
    for matrix, of_matrix in zip(matrices, made, strict=True):
        assert torch.allclose(orthogonalise(matrix[None])[0], of_matrix, rtol=0, atol=1e-10)
        values = torch.linalg.svdvals(of_matrix)
        assert values.min() > 0.3
        assert values.max() < 1.3
        # Newton-Schulz is odd in the singular values and so keeps U and V: U^T made V is diagonal.
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ of_matrix @ v.T
        assert torch.allclose(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-10)
        assert (of_matrix * polar(matrix)).sum() > 0.6 * min(shape)


@pytest.mark.parametrize("bf16", [False, True])
def test_muon_takes_the_steps_of_torchs_muon_one_matrix_at_a_time(bf16):
    torch.manual_seed(2)
    own_weights = [nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(7, 3))]
    torch_weights = [nn.Parameter(p.detach().clone()) for p in own_weights]
    start = [p.detach().clone() for p in own_weights]
    one = Muon(own_weights, lr=0.01, weight_decay=0.1, bf16=bf16)
    other = torch.optim.Muon(torch_weights, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for own, torch_weight in zip(own_weights, torch_weights, strict=True):
            own.grad = torch.randn_like(own)
            torch_weight.grad = own.grad.clone()
        one.step()
        other.step()
    for own, torch_weight, before in zip(own_weights, torch_weights, start, strict=True):
        way, its_way = (own - before).flatten().detach(), (torch_weight - before).flatten().detach()
        # torch's iteration is in bfloat16, hence not exactly ours.
        assert torch.nn.functional.cosine_similarity(way, its_way, dim=0) > 0.99
        assert way.norm() / its_way.norm() == pytest.approx(1, abs=0.05)


def test_only_float32_is_made_orthogonal_in_bfloat16():
    gradient = torch.randn(6, 9, generator=torch.Generator().manual_seed(5))
    moved = {}
    for dtype, bf16 in ((torch.float32, False), (torch.float32, True), (torch.float64, False), (torch.float64, True)):
        weight = nn.Parameter(torch.zeros(6, 9, dtype=dtype))
        weight.grad = gradient.to(dtype)
        Muon([weight], bf16=bf16).step()
        moved[dtype, bf16] = weight.detach()
    assert torch.equal(moved[torch.float64, False], moved[torch.float64, True])
    assert not torch.equal(moved[torch.float32, False], moved[torch.float32, True])


def test_a_convolution_moves_as_the_matrix_that_it_is():
    torch.manual_seed(3)
    convolution = nn.Parameter(torch.randn(4, 3, 2, 2))
    matrix = nn.Parameter(convolution.detach().flatten(1).clone())
    convolution.grad = torch.randn_like(convolution)
    matrix.grad = convolution.grad.flatten(1).clone()
    Muon([convolution]).step()
    Muon([matrix]).step()
    assert_same(convolution.flatten(1), matrix)


def test_a_step_is_as_long_as_one_of_adamw():
    matrix = nn.Parameter(torch.zeros(64, 256))
    matrix.grad = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(4))
    Muon([matrix], lr=0.01).step()
    assert float(matrix.detach().pow(2).mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.2)


def test_muon_moves_matrices_and_adamw_tables_and_vectors():
    net = network()
    groups = [ParameterGroup(list(net.parameters()), 0.1)]
    adamw, muon = make_optimizers(groups, OptimizerRecipe(muon_lr_scale=3.0), net)
    moved_by_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    assert moved_by_muon == {id(net["stem"].weight), id(net["up"].weight)}
    assert [group["peak"] for group in muon.param_groups] == [same(0.3)]
    moved_by_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert moved_by_adamw == {id(p) for p in net.parameters()} - moved_by_muon
    assert {group["peak"] for group in adamw.param_groups} == {0.1}


@pytest.mark.parametrize("muon", [None, 2.0])
def test_weight_decay_is_on_matrices_only(muon):
    net = network()
    net["norm"].requires_grad_(False)
    groups = [ParameterGroup(list(net.parameters()), 0.1)]
    seen: set[int] = set()
    for optimizer in make_optimizers(groups, OptimizerRecipe(muon_lr_scale=muon), net):
        for group in optimizer.param_groups:
            assert {parameter.dim() > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
            seen |= {id(parameter) for parameter in group["params"]}
    assert seen == {id(parameter) for parameter in net.parameters() if parameter.requires_grad}


def test_the_learning_rate_warms_up_and_falls_from_the_start_of_its_group():
    options = OptimizerRecipe(warmup_steps=10, min_lr_factor=0.1)
    factors = [lr_factor(step, 200, 0.5, options) for step in range(200)]
    assert factors[:100] == [0.0] * 100
    assert factors[100] == same(0.1)
    assert factors[104] == pytest.approx(0.5, abs=0.01)
    assert max(factors) == factors[109] == pytest.approx(1, abs=0.02)
    assert factors[109:] == sorted(factors[109:], reverse=True)
    assert factors[150] == same(0.1 + 0.9 / 2)
    assert factors[199] == pytest.approx(0.1, abs=0.001)


def test_every_group_follows_its_own_schedule():
    net, options = network(), OptimizerRecipe(muon_lr_scale=2.0, warmup_steps=1)
    groups = [ParameterGroup([net["up"].weight], 0.1), ParameterGroup([net["norm"].weight], 0.2, start=0.5)]
    optimizers = make_optimizers(groups, options, net)
    for step in (0, 3, 5, 9):
        set_learning_rates(optimizers, step, 10, options)
        (adamw,), (muon,) = (optimizer.param_groups for optimizer in optimizers)
        assert adamw["lr"] == same(0.2 * lr_factor(step, 10, 0.5, options))
        assert muon["lr"] == same(0.2 * (1 + math.cos(math.pi * step / 10)) / 2)


def test_the_vocabulary_of_the_official_recipes_leaves_the_usual_schedule_as_it_was():
    usual = OptimizerRecipe(warmup_steps=7, min_lr_factor=0.1)
    for step in range(100):
        warm, cosine = min(1.0, (step + 1) / 7), (1 + math.cos(math.pi * step / 100)) / 2
        assert lr_factor(step, 100, 0.0, usual) == warm * (0.1 + 0.9 * cosine)


def test_the_warm_up_may_begin_above_nothing():
    options = OptimizerRecipe(warmup_steps=10, warmup_start_factor=0.1, min_lr_factor=1.0)
    assert [lr_factor(step, 100, 0.0, options) for step in (0, 4, 9, 50)] == same([0.1, 0.46, 0.91, 1])


def official_lr(step, per_epoch, epochs):
    """The rate of a step by train_r2d2_retrieval.py and utils.py: 1e-5 on a cosine by epochs, warmed up from 1e-6."""
    epoch = step // per_epoch
    if epoch == 0 or step < 500:
        return min(1e-5, 1e-6 + (1e-5 - 1e-6) * step / 500)
    return 1e-5 * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


@pytest.mark.parametrize(("name", "epochs"), [("flickr30k-cna", 20), ("icr", 10)])
def test_the_rates_of_official_retrieval_are_those_of_the_released_code(name, epochs):
    recipe = load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), ["data.folder=x"])
    for step in (0, 1, 250, 499, 500, 579, 580, 581, 1300, 580 * epochs - 1):
        lr = recipe.optimizer.lr * lr_factor(step, 580 * epochs, 0.0, recipe.optimizer)
        assert lr == pytest.approx(official_lr(step, 580, epochs), rel=1e-9), step


@pytest.mark.parametrize("name", ["icm", "iqm"])
def test_the_rates_of_official_matching_are_those_of_its_cyclic_schedule(name):
    """The released code gives biases twice the rate, and then a schedule that gives every group the same one."""
    recipe = load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), ["data.folder=x"])
    net = network()
    named = [{"params": [p], "lr": 6e-6 if "bias" in key else 3e-6} for key, p in net.named_parameters()]
    official = torch.optim.AdamW(named)
    schedule = torch.optim.lr_scheduler.CyclicLR(official, 1.5e-7, 3e-6, step_size_up=3125, cycle_momentum=False)
    optimizers = make_optimizers([ParameterGroup(list(net.parameters()), recipe.optimizer.lr)], recipe.optimizer, net)
    for step in range(6300):
        if step in (0, 1, 1000, 3124, 3125, 3126, 6249, 6250, 6251):
            set_learning_rates(optimizers, step, 10**5, recipe.optimizer)
            [lr] = {group["lr"] for optimizer in optimizers for group in optimizer.param_groups}
            [wanted] = {group["lr"] for group in official.param_groups}
            assert lr == pytest.approx(wanted, rel=1e-9), step
        official.step()
        schedule.step()


@pytest.mark.parametrize(("name", "decays"), [("icr", {0.05}), ("flickr30k-cna", {0.05}), ("icm", {0.01, 0.0})])
def test_weight_decay_covers_what_it_covers_in_the_official_code(name, decays):
    """All parameters in retrieval; in matching all but those whose name holds "bias"."""
    recipe = load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), ["data.folder=x"])
    net = network()
    net.register_parameter("temperature", nn.Parameter(torch.tensor(0.07)))
    [adamw] = make_optimizers([ParameterGroup(list(net.parameters()), 0.1)], recipe.optimizer, net)
    decay_of = {id(p): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert set(decay_of.values()) == decays
    for key, parameter in net.named_parameters():
        assert decay_of[id(parameter)] == (0.0 if name == "icm" and "bias" in key else max(decays)), key
    assert {group["betas"] for group in adamw.param_groups} == {(0.9, 0.999)}  # AdamW's own, which the code leaves
    assert recipe.optimizer.max_grad_norm is None


def test_in_stairs_the_cosine_stays_the_same_for_an_epoch_and_falls_to_the_next():
    options = OptimizerRecipe(warmup_steps=0, lr_decay_stages=4)
    factors = [lr_factor(step, 42, 0.0, options) for step in range(42)]
    levels = [(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert sorted(set(factors), reverse=True) == levels
    assert [factors.index(level) for level in levels] == [0, 11, 21, 32]  # 10.5 steps each


def test_triangles_go_up_and_down_between_the_floor_and_the_peak():
    options = OptimizerRecipe(schedule="triangular", warmup_steps=10, min_lr_factor=0.05)
    factors = [lr_factor(step, 1000, 0.0, options) for step in range(41)]
    assert factors[::10] == same([0.05, 1, 0.05, 1, 0.05])
    assert factors[5] == factors[15] == factors[25] == same(0.525)


def test_biases_may_learn_faster_and_decay_and_norms_do_not():
    net = network()
    options = OptimizerRecipe(weight_decay=0.01, bias_lr_scale=2.0, bias_weight_decay=0.02)
    [adamw] = make_optimizers([ParameterGroup(list(net.parameters()), 0.1)], options, net)
    settings_of = {
        id(p): (group["peak"], group["weight_decay"]) for group in adamw.param_groups for p in group["params"]
    }
    assert len(settings_of) == len(list(net.parameters()))
    assert (
        settings_of[id(net["up"].bias)]
        == settings_of[id(net["stem"].bias)]
        == settings_of[id(net["norm"].bias)]
        == (0.2, 0.02)
    )
    assert settings_of[id(net["norm"].weight)] == (0.1, 0.0)
    assert settings_of[id(net["up"].weight)] == settings_of[id(net["words"].weight)] == (0.1, 0.01)
