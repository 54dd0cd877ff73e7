"""What makes a step fast changes nothing in it: each device-free or shared computation against the plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.objectives import language_modeling
from ccmb.objectives.config import Objectives
from ccmb.objectives.distillation import EmaTeacher
from ccmb.objectives.language_modeling import MaskedText, enough_places, list_positions, mask_tokens, mlm_loss
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.backbones import BERTS_KIND, new_text_tower, ready_mask
from ccmb.r2d2.compile import compile_blocks
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers import two_towers
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import pretrain
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.runs import tiny_corpus, tiny_recipe
from tests.helpers.tiny import tiny_batch, tiny_model, tiny_processor

pytestmark = PROOFS

MASK_ID = tiny_processor().tokenizer.mask_token_id
FREEZE = "model.freeze_image_tower=true"
OBJECTIVES = Objectives.model_validate({"tgd": {"queue_size": 6}})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(training: PreTraining) -> dict[str, Any]:
    losses, _ = training.losses(tiny_batch(4), 0.0, seeded())
    training.total(losses).backward()
    grads = {name: p.grad for name, p in training.model.named_parameters() if p.grad is not None}
    return {"losses": losses, "grads": grads}


# --- no waiting for the device


@pytest.mark.parametrize("places", [0, 1, 2, 5, 9])
def test_a_list_of_fixed_length_holds_the_positions_and_marks_what_is_left_over(places: int) -> None:
    positions = torch.tensor([[False, True, False], [True, False, True]])
    exact, all_taken = list_positions(positions)
    index, taken = list_positions(positions, places)
    assert all_taken.all()
    assert exact.tolist() == [1, 3, 5]
    assert index.tolist() == [1, 3, 5, 0, 2, 4][:places]
    assert taken.tolist() == [True, True, True, False, False, False][:places]


def test_there_are_places_for_all_masked_tokens_but_not_for_all_tokens() -> None:
    assert enough_places(10_000, 0.15) < 2_000
    for seed in range(50):
        assert int((torch.rand(10_000, generator=seeded(seed)) < 0.15).sum()) <= enough_places(10_000, 0.15)
    assert enough_places(3, 0.15) == 3


def in_fixed_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks and text masks as on a GPU, also on the CPU."""
    plain = list_positions
    monkeypatch.setattr(language_modeling, "list_positions", lambda positions, _: plain(positions, positions.numel()))

    monkeypatch.setattr(two_towers, "mask_for", lambda tower, mask: ready_mask(mask))


class Waits(TorchDispatchMode):
    """Notes operations that cannot end before the device has.

    Attributes:
        seen: their names.
        times: how often one comes after a matrix product, so that there is something to wait for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.times = 0
        self._product = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_truth = name in ("index", "index_put") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_truth or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            self.seen.append(name)
            self.times += self._product
            self._product = False
        elif name in ("mm", "addmm", "bmm", "convolution"):
            self._product = True
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("packs", "times"), [(False, 0), (True, 2)])
def test_losses_and_gradients_come_without_waiting_for_the_device_but_to_pack(
    packs: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To pack waits before the towers and before the cross encoders, and nothing waits after."""
    model = tiny_model()
    model.pack_texts = packs
    plain = step(PreTraining(tiny_model(), OBJECTIVES, MASK_ID).train())
    with Waits() as seen_before:
        step(PreTraining(tiny_model(), OBJECTIVES, MASK_ID).train())
    assert seen_before.times > times  # on a CPU it may wait, and does
    in_fixed_places(monkeypatch)
    training = PreTraining(model, OBJECTIVES, MASK_ID).train()
    with Waits() as waits:
        fast = step(training)
        training.after_step()
    assert waits.times == times
    assert bool(waits.seen) == packs
    assert_same(fast, plain)


def test_a_place_left_over_counts_for_nothing() -> None:
    batch = tiny_batch(2)
    masked = mask_tokens(batch.input_ids, batch.maskable, MASK_ID, 100, probability=0.4, generator=seeded())
    index, taken = list_positions(masked.positions, masked.positions.numel() - 1)
    labels = batch.input_ids.flatten()[index].masked_fill(~taken, language_modeling.IGNORED)
    longer = MaskedText(masked.input_ids, masked.positions, index, labels)
    logits = torch.randn(*batch.input_ids.shape, 100, generator=seeded())
    assert_same(mlm_loss(longer.pick(logits), longer.labels), mlm_loss(logits[masked.positions], masked.labels))


@pytest.mark.parametrize("kind", BERTS_KIND)
def test_a_ready_mask_is_read_as_the_plain_one(kind: str) -> None:
    config = AutoConfig.for_model(
        kind, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=100
    )
    torch.manual_seed(0)
    tower = new_text_tower(config).eval()
    ids = torch.randint(5, 100, (3, 6), generator=seeded())
    mask = torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
    plain = tower(input_ids=ids, attention_mask=mask).last_hidden_state
    ready = tower(input_ids=ids, attention_mask=ready_mask(mask)).last_hidden_state
    assert_same(ready[mask.bool()], plain[mask.bool()])


# --- the teacher


def test_the_teachers_average_is_that_of_each_parameter() -> None:
    student, other = tiny_model(0), tiny_model(1)
    teacher = EmaTeacher(student)
    teacher.update(other, 0.9)
    for name in EmaTeacher.PARTS:
        updates = zip(student.get_submodule(name).parameters(), other.get_submodule(name).parameters(), strict=True)
        for averaged, (before, now) in zip(teacher.get_submodule(name).parameters(), updates, strict=True):
            assert_same(averaged, 0.9 * before + 0.1 * now)


def frozen(freeze: bool, **changes: Any) -> PreTraining:
    vision = tiny_model().config.vision_config.to_dict() | {"attention_dropout": 0.2}
    model = tiny_model(**({"vision_config": vision} | changes))
    model.image_tower.requires_grad_(not freeze)
    return PreTraining(model, OBJECTIVES, MASK_ID).train()


@pytest.mark.parametrize("changes", [{}, {"image_pooling": "tower"}])
def test_a_frozen_tower_serves_the_teacher_too_and_gets_no_gradient(changes: dict[str, Any]) -> None:
    shared, plain = frozen(True, **changes), PreTraining(tiny_model(**changes), OBJECTIVES, MASK_ID).train()
    for training in (shared, plain):
        with torch.no_grad():  # a teacher whose projection lags behind
            assert training.teacher is not None
            training.teacher.image_projection.weight.mul_(-0.5)
    assert shared.teacher is not None
    assert not any(name.startswith("image_tower") for name in shared.teacher.state_dict())
    calls = []
    shared.model.image_tower.register_forward_hook(lambda *_: calls.append(1))
    fast, reference = step(shared), step(plain)
    assert len(calls) == 1
    assert not any(name.startswith("image_tower") for name in fast["grads"])
    assert_same(fast["losses"], reference["losses"])
    for name, gradient in fast["grads"].items():
        assert_same(gradient, reference["grads"][name])
    before = {name: p.clone() for name, p in shared.model.image_tower.named_parameters()}
    shared.after_step()
    assert all(torch.equal(p, before[name]) for name, p in shared.model.image_tower.named_parameters())


# --- compiled layers


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses_and_gradients() -> None:
    plain = PreTraining(tiny_model(), OBJECTIVES, MASK_ID).train()
    compiled = PreTraining(tiny_model(), OBJECTIVES, MASK_ID).train()
    assert compile_blocks(compiled) == 8  # one layer of each tower and its teacher's, two of each cross encoder
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert_same(step(compiled), step(plain))


# --- the recipe's switches


def tower_of(model: R2D2Model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("image_tower.")}


def test_a_run_leaves_a_frozen_tower_as_it_was(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "corpus")

    def run(out: str, steps: int, *changes: str) -> R2D2Model:
        name, *overrides = tiny_recipe(corpus, steps)
        recipe = load_recipe(PretrainRecipe, find_recipe(name), [*overrides, *changes])
        return R2D2Model.from_pretrained(pretrain(recipe, tmp_path / out))

    frozen, longer, free = run("a", 1, FREEZE), run("b", 3, FREEZE), run("c", 1)
    before, after, moved = tower_of(frozen), tower_of(longer), tower_of(free)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not all(torch.equal(value, moved[name]) for name, value in before.items())
    assert not torch.equal(frozen.image_projection.weight, longer.image_projection.weight)


@pytest.mark.slow
def test_the_recipe_compiles_and_the_checkpoint_is_that_of_the_plain_network(tmp_path: Path) -> None:
    name, *overrides = tiny_recipe(tiny_corpus(tmp_path / "corpus"), 1)
    states = []
    for switch in ("false", "true"):
        recipe = load_recipe(PretrainRecipe, find_recipe(name), [*overrides, f"training.compile={switch}"])
        states.append(R2D2Model.from_pretrained(pretrain(recipe, tmp_path / switch)).state_dict())
    assert_same(*states)
