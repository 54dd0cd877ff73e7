"""The sum of the objectives on one batch: what is on, what is shared, what a step changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from ccmb.core.choices import NOT_THE_PAPERS, OBJECTIVE_NAMES
from ccmb.core.errors import UsageError
from ccmb.objectives.config import Objectives
from ccmb.objectives.language_modeling import mask_tokens, mlm_loss
from ccmb.objectives.pre_ranking import gcpr_loss, multi_positive_targets, positive_mask
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.cross_encoder import RankOutput
from ccmb.r2d2.towers.two_towers import TowerOutput
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.tiny import tiny_batch, tiny_model, tiny_processor

pytestmark = PROOFS

ALL = [name for name in OBJECTIVE_NAMES if name not in NOT_THE_PAPERS]  # the others: test_lm.py, test_token_wise.py
MASK_ID = tiny_processor().tokenizer.mask_token_id


def pretraining(cross_layers: int = 1, **objectives: Any) -> PreTraining:
    values: dict[str, Any] = {"tgd": {"queue_size": 6}} | objectives
    model = tiny_model(cross_layers=cross_layers)
    return PreTraining(model, Objectives.model_validate(values), MASK_ID).train()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def take_step(training: PreTraining, progress: float = 0.0, seed: int = 0) -> dict[str, float]:
    optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
    losses, _ = training.losses(tiny_batch(4), progress, seeded(seed))
    training.total(losses).backward()
    optimizer.step()
    training.after_step()
    return {name: float(loss.detach()) for name, loss in losses.items()}


@pytest.mark.parametrize("off", [[], *([name] for name in ALL), ["fgr", "mlm"], ["tgd", "fgd"], ["mlm", "fgd"]])
def test_an_objective_that_is_off_is_absent_and_the_step_works(off: list[str]) -> None:
    training = pretraining(**dict.fromkeys(off, False))
    losses = take_step(training)
    assert sorted(losses) == sorted(set(ALL) - set(off))
    assert all(torch.isfinite(torch.tensor(loss)) for loss in losses.values())
    assert (training.teacher is None) == ({"tgd", "fgd"} <= set(off))
    assert (training.queue is None) == ("tgd" in off)


@pytest.mark.parametrize("only", ALL)
def test_each_objective_alone_trains_what_it_is_about(only: str) -> None:
    training = pretraining(
        **{name: name == only and {"queue_size": 6} if name == "tgd" else name == only for name in ALL}
    )
    training.total(training.losses(tiny_batch(4), 0.0, seeded())[0]).backward()
    touched = {
        name.split(".")[0]
        for name, parameter in training.model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    towers = {"image_tower", "text_tower"}
    projected = towers | {"image_projection", "text_projection", "temperature"}
    text_image = towers | {"text_image_encoder"}
    expected = {
        "gcpr": projected,
        "tgd": projected,
        "fgd": {"text_tower", "text_projection"},
        "mlm": text_image | {"mlm_head"},
        "fgr": text_image | {"image_text_encoder", "image_to_cross", "text_image_match", "image_text_match"},
    }
    assert touched == expected[only]


def test_objectives_join_at_their_start() -> None:
    training = pretraining(
        fgr={"start_at": 0.5}, mlm={"start_at": 0.2}, tgd={"start_at": 0.5, "queue_size": 6}, fgd={"start_at": 0.9}
    )
    assert list(take_step(training, 0.1)) == ["gcpr"]
    assert sorted(take_step(training, 0.2)) == ["gcpr", "mlm"]
    assert sorted(take_step(training, 0.9)) == sorted(ALL)


def test_prd2_trains_on_its_towers_alone() -> None:
    losses = take_step(pretraining(cross_layers=0, fgr=False, mlm=False))
    assert sorted(losses) == ["fgd", "gcpr", "tgd"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_layers": 0}, "set objectives.fgr=off objectives.mlm=off"),
        ({"cross_layers": 0, "fgr": False}, "set objectives.mlm=off"),
        ({"gcpr": False, **{name: {"start_at": 0.5} for name in ALL[1:]}}, "start_at: 0"),
        (dict.fromkeys(ALL, False), "start_at: 0"),
    ],
)
def test_objectives_that_the_network_cannot_train_are_one_clear_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pretraining(**changes)


def test_a_network_without_mlm_head_cannot_train_mlm() -> None:
    with pytest.raises(UsageError, match=r"set objectives\.mlm=off"):
        PreTraining(tiny_model(mlm_head=False), Objectives(), MASK_ID)


@pytest.mark.parametrize("rows", [0.5, 1.0])
def test_enhanced_training_gives_the_mlm_loss_of_a_pass_of_its_own(rows: float) -> None:
    batch, shared = tiny_batch(4), pretraining(fgr={"batch_share": rows})
    model = shared.model
    loss = shared.losses(batch, 0.0, seeded())[0]["mlm"]

    masked = mask_tokens(batch.input_ids, batch.maskable, MASK_ID, shared.vocabulary, generator=seeded())
    images = model.encode_image(batch.pixel_values)
    texts = model.encode_text(masked.input_ids, batch.attention_mask)
    own = torch.arange(4)
    plain = mlm_loss(model.mlm_logits(model.read_texts(images, texts, own, own)[masked.positions]), masked.labels)
    assert_same(loss, plain)
    parameters = [model.mlm_head.dense.weight, model.image_projection.weight, model.text_image_match.weight]
    parameters += [*model.text_tower.parameters(), *model.image_tower.parameters()]
    for gradient, expected in zip(
        torch.autograd.grad(loss, parameters, allow_unused=True),
        torch.autograd.grad(plain, parameters, allow_unused=True),
        strict=True,
    ):
        assert_same(gradient, expected)


def test_fgr_reads_the_masked_texts_only_while_it_shares_them_with_mlm() -> None:
    batch = tiny_batch(4)
    read: list[torch.Tensor] = []

    def texts_ranked(**objectives: Any) -> torch.Tensor:
        training = pretraining(**objectives)
        rank = training.model.rank

        def noting(images: TowerOutput, texts: TowerOutput, *index: torch.Tensor, **options: int) -> RankOutput:
            read.append(texts.embed)
            return rank(images, texts, *index, **options)

        training.model.rank = noting  # type: ignore[method-assign]
        training.losses(batch, 0.0, seeded())
        return read.pop()

    clean = tiny_model(cross_layers=1).encode_text(batch.input_ids, batch.attention_mask).embed
    assert_same(texts_ranked(mlm=False), clean)
    assert_same(texts_ranked(fgr={"enhanced_training": False}), clean)
    assert not torch.allclose(texts_ranked(), clean, atol=1e-3)


def test_fgd_compares_the_masked_text_with_the_teachers_clean_text() -> None:
    training, batch = pretraining(), tiny_batch(4)
    masked = mask_tokens(batch.input_ids, batch.maskable, MASK_ID, training.vocabulary, generator=seeded())
    student = training.model.encode_text(masked.input_ids, batch.attention_mask).embed
    clean = training.model.encode_text(batch.input_ids, batch.attention_mask).embed  # the teacher is still its equal
    expected = (1 - (student * clean).sum(1)).mean()
    assert_same(training.losses(batch, 0.0, seeded())[0]["fgd"], expected)


def test_the_same_seed_gives_the_same_steps() -> None:
    runs = []
    for _ in range(2):
        training = pretraining()
        losses = [take_step(training, seed=step) for step in range(3)]
        runs.append((losses, training.state_dict()))
    (first, state), (second, other) = runs
    assert first == second
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_one_image_filling_the_batch_leaves_fgr_its_positives() -> None:
    batch = tiny_batch(3, image_ids=[5, 5, 5])
    losses, _ = pretraining().losses(batch, 0.0, seeded())
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_after_a_step_the_temperature_is_within_its_range() -> None:
    training = pretraining()
    for beyond, limit in ((-3.0, 0.001), (3.0, 0.5)):
        with torch.no_grad():
            training.model.temperature.fill_(beyond)
        training.after_step()
        assert float(training.model.temperature.detach()) == same(limit)


def test_the_teacher_follows_after_each_step() -> None:
    training = pretraining(ema_decay=0.9)
    assert training.teacher is not None
    before = training.teacher.text_projection.weight.clone()
    take_step(training)
    expected = 0.9 * before + 0.1 * training.model.text_projection.weight
    assert_same(training.teacher.text_projection.weight, expected)


def test_the_total_is_the_weighted_sum() -> None:
    training = pretraining(gcpr={"weight": 2.0}, mlm={"weight": 0.5}, fgr=False, tgd=False, fgd=False)
    total = training.total({"gcpr": torch.tensor(3.0), "mlm": torch.tensor(4.0)})
    assert float(total) == 8.0


def test_objectives_are_on_and_off_in_the_order_of_the_paper() -> None:
    objectives = Objectives.model_validate({"fgr": False, "tgd": {"weight": 0}})
    assert objectives.on() == ["gcpr", "mlm", "fgd"]
    assert objectives.off() == ["fgr", "tgd"]


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        Objectives.model_validate({"fgr": {"hardnes": 1}})


def test_spared_twins_are_negatives_of_fgr_alone() -> None:
    batch = replace(tiny_batch(4), swapped_ids=torch.tensor([0, 0, 1, 1]))

    def losses(spare: bool) -> dict[str, Tensor]:
        return pretraining(gcpr={"ignore_swapped": spare}).losses(batch, 0.0, seeded())[0]

    ignoring, plain = losses(True), losses(False)
    assert ignoring["gcpr"] < plain["gcpr"]
    assert ignoring["tgd"] < plain["tgd"]
    for name in ("fgr", "mlm", "fgd"):
        assert ignoring[name] == plain[name]
    everything = replace(batch, swapped_ids=torch.zeros(4, dtype=torch.long))
    assert pretraining(gcpr={"ignore_swapped": True}).losses(everything, 0.0, seeded())[0]["gcpr"] == 0


def test_short_vectors_are_taught_by_the_same_loss_on_their_own() -> None:
    batch, weights = tiny_batch(4, image_ids=[0, 1, 1, 2]), {4: 0.5, 6: 2.0}
    off = {name: {"weight": 0.0} for name in ("fgr", "mlm", "tgd", "fgd")}
    mask = tiny_processor().tokenizer.mask_token_id
    model = tiny_model().double()
    whole = PreTraining(model, Objectives.model_validate(off), mask)
    both = PreTraining(model, Objectives.model_validate(off | {"gcpr": {"prefixes": weights}}), mask)
    batch = replace(batch, pixel_values=batch.pixel_values.double())
    value = float(both.losses(batch, 0.0)[0]["gcpr"])
    images, texts = whole.embeds(batch)
    targets = multi_positive_targets(positive_mask(batch.image_ids))
    expected = float(whole.losses(batch, 0.0)[0]["gcpr"])
    for dim, weight in weights.items():
        short = [normalize(embed[:, :dim], dim=-1) for embed in (images, texts)]
        expected += weight * float(gcpr_loss(*short, model.temperature, targets))
    assert value == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UsageError, match="prefixes: 4096 needs to be below"):
        PreTraining(model, Objectives.model_validate(off | {"gcpr": {"prefixes": {4096: 1.0}}}), mask)
