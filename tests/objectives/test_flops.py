"""Operations of a training step against counting by hand, and the metrics that the log makes of them."""

import time

import pytest
import torch

from ccmb.objectives.config import Objectives
from ccmb.objectives.distillation import teacher_agreement
from ccmb.objectives.flops import Quadratic, StepFlops
from ccmb.objectives.pretraining import PreTraining
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import PretrainTask
from ccmb.training import throughput as meters
from ccmb.training.recipe import TrainingRecipe
from ccmb.training.throughput import Meter, known_peak
from tests.helpers.parameter_counts import layer, linear
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_model

# The tiny network: width, feed-forward width of towers and cross encoders, image tokens, embedding, cross layers.
W, FFN, CROSS, S, E, LAYERS = 32, 48, 48, 5, 16, 2
IMAGE = linear(4, 3 * 16 * 16, W) + layer(S, W, FFN) + linear(1, W, E)
LENGTHS = [7, 10, 24, 13]
COUNT = len(LENGTHS)
RECIPE = PretrainRecipe.model_validate({"data": {"folder": "corpus"}, "training": {"steps": 10}})


def text(tokens: int) -> int:
    return layer(tokens, W, FFN) + linear(1, W, E)


def reads(queries: int, keys: int, asked: int | None = None) -> int:
    """One attention of `asked` (all) of the query tokens to `keys` tokens, without projecting keys and values."""
    asked = queries if asked is None else asked
    return 2 * linear(asked, W, W) + 2 * linear(asked, W, keys)


def cross(tokens: int, other: int, pairs: int, items: int, others: int, whole: int) -> int:
    """Two cross layers over pairs of `items` (of `tokens` tokens) and `others` (of `other` tokens)."""
    shared = items * (reads(tokens, tokens) + 2 * linear(tokens, W, W))  # the first self-attention, once an item
    keys = LAYERS * others * 2 * linear(other, W, W)  # in each layer, once an item of the other side
    first = pairs * (reads(tokens, other) + 2 * linear(tokens, W, CROSS))
    last_keys = pairs * 2 * linear(tokens, W, W)
    last = 0
    for count, asked in ((whole, tokens), (pairs - whole, 1)):
        last += count * (reads(tokens, tokens, asked) + reads(tokens, other, asked) + 2 * linear(asked, W, CROSS))
    return shared + keys + first + last_keys + last


def both(tokens: int, rows: int, count: int, whole: int = 0) -> int:
    """Both cross encoders and their heads on the 3 x rows pairs of FGR."""
    return both_on(tokens, 3 * rows, count, whole)


def both_on(tokens: int, pairs: int, count: int, whole: int = 0) -> int:
    text_image = cross(tokens, S, pairs, count, count, whole)
    image_text = cross(S, tokens, pairs, count, count, 0) + count * linear(S, W, W)  # through a linear layer first
    return text_image + image_text + 2 * pairs * linear(1, W, 2)


@pytest.fixture(scope="module")
def flops():
    def make(**options: object) -> StepFlops:
        off = dict.fromkeys(("gcpr", "fgr", "mlm", "tgd", "fgd"), False)
        return StepFlops(tiny_config(), Objectives.model_validate(off | options))

    return make


def test_a_step_of_the_towers_alone(flops):
    assert flops(gcpr=True)(LENGTHS, 40, 0.0) == 3 * sum(IMAGE + text(tokens) for tokens in LENGTHS)


def test_the_teacher_costs_its_forward_pass_and_joins_in_time(flops):
    count_flops = flops(gcpr=True, tgd={"start_at": 0.5})
    towers = sum(IMAGE + text(tokens) for tokens in LENGTHS)
    assert count_flops(LENGTHS, 40, 0.4) == 3 * towers
    assert count_flops(LENGTHS, 40, 0.5) == 4 * towers


def test_all_pairs_of_the_batch_are_ranked_where_all_negatives_are(flops):
    towers = sum(IMAGE + text(tokens) for tokens in LENGTHS)
    ranked = sum(both_on(tokens, COUNT**2, COUNT) for tokens in LENGTHS) / COUNT
    assert flops(gcpr=True, fgr={"negatives": "all"})(LENGTHS, 40, 0.0) == 3 * (towers + ranked)


def test_a_frozen_image_tower_costs_its_forward_pass_and_no_teacher():
    on = Objectives.model_validate({"fgr": False, "mlm": False, "fgd": False})
    texts = sum(text(tokens) for tokens in LENGTHS)
    assert StepFlops(tiny_config(), on, frozen=True)(LENGTHS, 40, 0.0) == len(LENGTHS) * IMAGE + 4 * texts


def test_towers_whose_states_are_stored_cost_nothing_but_masked_texts():
    on = Objectives.model_validate({"fgr": False, "mlm": False, "tgd": False, "fgd": False})
    stored = {"frozen": True, "frozen_text": True, "stored": True, "stored_text": True}
    assert StepFlops(tiny_config(), on, **stored)(LENGTHS, 40, 0.0) == 0
    texts = sum(text(tokens) for tokens in LENGTHS)
    masked = Objectives.model_validate({"fgr": False, "mlm": False, "tgd": False})
    assert StepFlops(tiny_config(), masked, **stored)(LENGTHS, 40, 0.0) == texts
    trained = StepFlops(tiny_config(), on, stored=True, stored_text=True)  # in part alone: counted as trained
    assert trained(LENGTHS, 40, 0.0) == 3 * (len(LENGTHS) * IMAGE + texts)


def test_fgr_costs_both_cross_encoders(flops):
    count_flops, tokens = flops(gcpr=True, fgr={"batch_share": 0.5}), 9
    towers = COUNT * (IMAGE + text(tokens))
    assert count_flops([tokens] * COUNT, 40, 0.0) == 3 * (towers + both(tokens, rows=2, count=COUNT))


def test_mlm_costs_the_masked_text_its_reading_and_its_words(flops):
    count_flops, tokens, words = flops(gcpr=True, mlm={"probability": 0.25}), 9, 40
    vocabulary = tiny_config().text_config.vocab_size
    masked = COUNT * text(tokens) + cross(tokens, S, COUNT, COUNT, COUNT, COUNT)
    head = 0.25 * words * (linear(1, W, W) + linear(1, W, vocabulary))
    assert count_flops([tokens] * COUNT, words, 0.0) == 3 * (COUNT * (IMAGE + text(tokens)) + masked + head)


def test_in_enhanced_training_fgr_and_mlm_share_a_pass(flops):
    tokens, words = 9, 0
    shared = flops(gcpr=True, fgr=True, mlm=True)([tokens] * COUNT, words, 0.0)
    apart = flops(gcpr=True, fgr={"enhanced_training": False}, mlm=True)([tokens] * COUNT, words, 0.0)
    towers = COUNT * (IMAGE + 2 * text(tokens))
    assert shared == 3 * (towers + both(tokens, COUNT, COUNT, whole=COUNT))
    assert apart == 3 * (towers + both(tokens, COUNT, COUNT) + cross(tokens, S, COUNT, COUNT, COUNT, COUNT))


def test_the_quadratic_is_exact_at_lengths_it_was_not_fitted_to(flops):
    count_flops = flops(gcpr=True)
    assert count_flops.text.sum([24]) == text(24)
    assert Quadratic.through(lambda t: 5 + 3 * t + 2 * t**2) == Quadratic(5, 3, 2)


def test_the_log_of_a_run_says_how_well_the_machine_is_used(monkeypatch):
    objectives = Objectives.model_validate({"tgd": {"queue_size": 8}})
    task, batch = PretrainTask(PreTraining(tiny_model(), objectives, 4), RECIPE), tiny_batch(4)
    now = iter([0.0, 1.0, 3.0, 4.0, 7.0, 10.0, 10.0])  # made; waited 1 .. 3 and 4 .. 7; read at 10
    monkeypatch.setattr(meters, "time", type("", (), {"monotonic": staticmethod(lambda: next(now))}))
    meter = Meter(task, TrainingRecipe(steps=10, peak_tflops=1e-3), torch.device("cpu"))
    batches = meter.watch([batch] * 3, 0)
    assert next(batches) is next(batches) is batch
    metrics = meter.read()
    real = int(batch.attention_mask.sum())
    assert metrics["data_wait"] == 0.5
    assert metrics["padding"] == round(1 - real / batch.attention_mask.numel(), 4)
    assert metrics["mfu"] == pytest.approx(2 * task.flops(batch, 0.0) / (10 * 1e9), abs=1e-4)
    assert 0.1 < metrics["memory_gb"] < 64


def test_mfu_is_left_out_where_the_peak_is_not_known(monkeypatch):
    meter = Meter(object(), TrainingRecipe(steps=1), torch.device("cpu"))
    assert set(meter.read()) == {"data_wait", "memory_gb"}
    for name, peak in (("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H200", 989), ("NVIDIA H100 PCIe", 756), ("T4", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert known_peak(torch.device("cuda")) == peak
        assert known_peak(torch.device("cuda"), "fp32") is None


def test_the_teacher_agrees_where_its_nearest_is_a_positive():
    basis = torch.eye(4)
    ids = torch.arange(4)
    assert teacher_agreement(basis, basis, ids) == 1
    assert teacher_agreement(basis, basis.roll(1, 0), ids) == 0
    assert teacher_agreement(basis, basis[[1, 0, 2, 3]], ids) == 0.5
    # Two samples of one image: either text will do.
    assert teacher_agreement(basis, basis[[1, 0, 2, 3]], torch.tensor([0, 0, 1, 2])) == 1


def test_the_log_says_how_far_the_teacher_agrees_once_it_has_joined():
    objectives = Objectives.model_validate({"tgd": {"queue_size": 8, "start_at": 0.5}, "fgd": False})
    pretraining = PreTraining(tiny_model(), objectives, 4)
    task, batch = PretrainTask(pretraining, RECIPE), tiny_batch(4)
    _, before = pretraining(batch, 0.0, torch.Generator())
    assert set(task.report(before)) == {"temperature"}
    _, joined = pretraining(batch, 0.5, torch.Generator())
    assert 0 <= task.report(joined)["teacher_agreement"] <= 1


def test_counting_takes_no_time_worth_speaking_of(flops):
    count_flops = flops(gcpr=True, fgr=True, mlm=True, tgd=True, fgd=True)
    count_flops(LENGTHS, 40, 0.0)
    began = time.process_time()  # of this process alone: the machine may be busy
    for _ in range(100):
        count_flops(LENGTHS * 32, 40, 0.0)
    assert time.process_time() - began < 5
