"""What is frozen stays as it is in training, layer by layer, and so does batch norm that is not trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ccmb.core.errors import UsageError
from ccmb.objectives.config import Objectives
from ccmb.objectives.distillation import EmaTeacher
from ccmb.objectives.pretraining import PreTraining, sharding_units
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.stillness import Frozen, freeze, in_words, layers_of
from ccmb.training.distributed import all_reduce_sum, world
from ccmb.training.parallel import put_together, wrap
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.processes import run_in_processes
from tests.helpers.sources import BACKBONES, STAGES, made_backbone
from tests.helpers.tiny import tiny_batch, tiny_model, tiny_processor

pytestmark = PROOFS

LAYERS = {
    "clip_vision_model": 2, "vit": 2, "siglip_vision_model": 2, "dinov2": 2, "efficientnet": 8, "resnet": 4,
    "regnet": 4, "convnext": 4, "convnextv2": 4, "mobilenet_v1": 26, "mobilenet_v2": 16, "swin": 2, "swinv2": 2,
    "pvt": 4, "pvt_v2": 4, "segformer": 4, "poolformer": 4,
}  # fmt: skip
RESNET = {"model_type": "resnet", "image_size": 32, "embedding_size": 8} | STAGES
OBJECTIVES = Objectives.model_validate({"tgd": {"queue": 6}, "ema": 0.9})


@pytest.mark.parametrize("kind", LAYERS)
def test_the_lowest_layers_are_frozen_with_all_that_stands_before_them(kind: str) -> None:
    tower: nn.Module = made_backbone(kind) if kind in BACKBONES else nn.Identity()
    layers = layers_of(tower)
    assert len(layers) == LAYERS[kind]
    freeze(tower, 1, "image")
    lowest, above = layers[0], layers[1:]
    assert not any(p.requires_grad for part in lowest for p in part.parameters())
    assert all(p.requires_grad for layer in above for part in layer for p in part.parameters())
    # What leads into the lowest layer is frozen, what comes after the highest is not.
    assert not next(tower.parameters()).requires_grad
    assert in_words(tower, 1) == f"the lowest 1 of {len(layers)} layers"
    freeze(tower, "all", "image")
    assert not any(p.requires_grad for p in tower.parameters())


@pytest.mark.parametrize("count", [3, 99])
def test_more_layers_than_there_are_cannot_be_frozen(count: int) -> None:
    with pytest.raises(UsageError, match=rf"model.freeze.text={count}: the text tower has 1 layers; give all, or 1"):
        freeze(tiny_model().text_tower, count, "text")


def with_dropout(layers: int = 2) -> R2D2Model:
    vision, text = (
        getattr(tiny_model().config, f"{name}_config").to_dict() | {"num_hidden_layers": layers}
        for name in ("vision", "text")
    )
    dropouts = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    return tiny_model(vision_config=vision | {"attention_dropout": 0.3}, text_config=text | dropouts)


@pytest.mark.parametrize("frozen", ["all", 1, 2])
def test_frozen_layers_have_no_gradients_and_no_dropout(frozen: Frozen) -> None:
    model = with_dropout()
    for name in ("image", "text"):
        freeze(model.get_submodule(f"{name}_tower"), frozen, name)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = PreTraining(model, OBJECTIVES, tiny_processor().tokenizer.mask_token_id).train()
    assert model.training
    heard: dict[str, list[torch.Tensor]] = {}
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        (layer,) = layers_of(tower)[0]
        layer.register_forward_hook(lambda *call, name=name: heard.setdefault(name, []).append(call[-1]))
    batch = tiny_batch(4)
    for seed in (0, 1):  # of the dropout
        torch.manual_seed(seed)
        model.encode_image(batch.pixel_values)
        model.encode_text(batch.input_ids, batch.attention_mask)
    for first, second in heard.values():
        assert torch.equal(*(states[0] if isinstance(states, tuple) else states for states in (first, second)))
    losses, _ = training.losses(batch, 0.0, torch.Generator().manual_seed(0))
    training.total(losses).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                assert parameter.requires_grad
                parameter.sub_(parameter.grad, alpha=0.1)
    training.after_step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    for tower, layer in (("image_tower", "image_tower.encoder.layers"), ("text_tower", "text_tower.encoder.layer")):
        assert not any(name.startswith((f"{layer}.0.", f"{tower}.embeddings")) for name in moved)
        assert any(name.startswith(f"{layer}.1.") for name in moved) == (frozen == 1)
    assert any(name.startswith("image_projection") for name in moved)
    assert any(name.startswith("text_image_encoder") for name in moved)


def test_what_is_not_frozen_has_dropout() -> None:
    model = with_dropout().train()
    batch = tiny_batch(4)
    torch.manual_seed(0)
    first = model.encode_image(batch.pixel_values).embed
    assert not torch.equal(first, model.encode_image(batch.pixel_values).embed)


def resnet(train_batch_norm: bool) -> R2D2Model:
    model = tiny_model(vision_config=RESNET, train_batch_norm=train_batch_norm)
    with torch.no_grad():
        for norm in (part for part in model.image_tower.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.running_mean.fill_(0.1)
            norm.running_var.fill_(0.5)
    return model


def train_steps(train_batch_norm: bool, strategy: str = "ddp", steps: int = 2) -> dict[str, Any]:
    model = resnet(train_batch_norm)
    training = PreTraining(model, OBJECTIVES, tiny_processor().tokenizer.mask_token_id).train()
    module = wrap(training, strategy, sharding_units(model, training.teacher))
    batch, result = tiny_batch(4), dict[str, Any]()
    rows = world().rows(4 // world().size)
    own = batch.rows(list(range(rows.start, rows.stop)))
    for step in range(steps):
        losses, _ = module(own, 0.0, torch.Generator().manual_seed(step))
        training.total(losses).backward()
        module.after_backward()
        result |= {f"{step} loss {name}": all_reduce_sum(loss) / world().size for name, loss in losses.items()}
        with torch.no_grad():
            for parameter in training.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.1)
                    parameter.grad = None
        training.after_step()
    return result | {name: put_together(tensor).clone() for name, tensor in training.state_dict().items()}


def statistics(state: dict[str, Any], prefix: str) -> list[torch.Tensor]:
    return [value for name, value in state.items() if name.startswith(prefix) and "running" in name]


def test_still_batch_norm_keeps_its_statistics_and_trains_its_weights() -> None:
    before, after = resnet(False).state_dict(), train_steps(False)
    norms = [name for name in before if "normalization" in name]
    assert norms
    for name in norms:
        same = torch.equal(before[name], after[f"model.{name}"])
        assert same == (not name.endswith(("weight", "bias")))


def test_trained_batch_norm_gathers_statistics_and_the_teacher_has_them_too() -> None:
    after = train_steps(True)
    students, teachers = statistics(after, "model."), statistics(after, "teacher.")
    assert len(students) == len(teachers) > 0
    assert not any(torch.equal(value, torch.full_like(value, 0.1)) for value in students)
    assert all(torch.equal(*pair) for pair in zip(students, teachers, strict=True))


def test_the_teacher_copies_statistics_and_averages_weights() -> None:
    student, other = resnet(True), resnet(True)
    with torch.no_grad():
        for tensor in other.image_tower.state_dict().values():
            tensor.add_(1)
    teacher = EmaTeacher(student)
    teacher.update(other, 0.9)
    teacher_state, latest = teacher.image_tower.state_dict(), other.image_tower.state_dict()
    before = student.image_tower.state_dict()
    for name, value in teacher_state.items():
        is_buffer = "running" in name or "batches" in name
        assert_same(value, latest[name] if is_buffer else 0.9 * before[name] + 0.1 * latest[name])


def both_strategies() -> dict[str, dict[str, Any]]:
    return {strategy: train_steps(False, strategy) for strategy in ("ddp", "fsdp")}


def test_two_processes_are_one_with_still_batch_norm(tmp_path: Path) -> None:
    one = train_steps(False)
    for rank in run_in_processes(2, both_strategies, tmp_path):
        for result in rank.values():
            assert set(result) == set(one)
            for name, expected in one.items():
                if torch.is_floating_point(expected):
                    assert_same(result[name], expected, lambda text, name=name: f"{name}: {text}")


def test_a_copy_of_a_network_in_training_is_as_still() -> None:
    model = resnet(False).train()
    freeze(model.text_tower, "all", "text")
    other = copy.deepcopy(model).train()
    assert not other.text_tower.training
    assert not any(part.training for part in other.image_tower.modules() if isinstance(part, nn.BatchNorm2d))
