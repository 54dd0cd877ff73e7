"""The loss of labelled pairs: against plain loops, with its gradient, in chunks, and on two processes as on one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.objectives.batch import LabelledBatch
from ccmb.objectives.matching import Matching, MatchingLoss, MatchingOptions, labelled_gcpr_loss, matching_loss
from ccmb.objectives.pretraining import sharding_units
from ccmb.training.distributed import all_reduce_sum, world
from ccmb.training.parallel import put_together, wrap
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.processes import run_in_processes
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

# Images of the pairs: one of them stands in both halves, and once with a text that another image has too.
SHOWN = [0, 1, 1, 2, 1, 3]
SAID = [0, 1, 2, 3, 4, 1]
LABELS = [1, 1, 0, 0, 1, 1]


def labelled_batch() -> LabelledBatch:
    processor = tiny_processor()
    encoded = processor.texts([TEXTS[text_index] for text_index in SAID])
    shown = torch.tensor(SHOWN)
    return LabelledBatch(
        pixel_values=processor.images(tiny_images(4)),
        image_index=shown,
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        labels=torch.tensor(LABELS),
        image_ids=shown,
        text_ids=torch.tensor(SAID),
        names=tuple(map(str, SHOWN)),
        texts=tuple(TEXTS[text_index] for text_index in SAID),
    )


def softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    return [power / sum(powers) for power in powers]


def plain_loss(first: Tensor, second: Tensor, labels: list[int], kind: MatchingLoss) -> float:
    losses = []
    for one, other, label in zip(first.tolist(), second.tolist(), labels, strict=True):
        mean = [(a + b) / 2 for a, b in zip(softmax(one), softmax(other), strict=True)]
        losses.append(-math.log((softmax(mean) if kind == "official" else mean)[label]))
    return sum(losses) / len(losses)


logits = st.lists(st.floats(-8, 8), min_size=2, max_size=2)
pairs = st.lists(st.tuples(logits, logits, st.integers(0, 1)), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", ["likelihood", "official"])
@settings(max_examples=60, deadline=None)
@given(pairs=pairs)
def test_the_loss_is_that_of_a_plain_loop(pairs: list[Any], kind: MatchingLoss) -> None:
    first, second = (torch.tensor([pair[head] for pair in pairs]) for head in (0, 1))
    labels = [pair[2] for pair in pairs]
    loss = float(matching_loss(first, second, torch.tensor(labels), kind))
    assert loss == same(plain_loss(first, second, labels, kind))


@pytest.mark.parametrize("kind", ["likelihood", "official"])
def test_the_gradient_is_that_of_finite_differences(kind: MatchingLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, 5, 2, generator=generator, requires_grad=True)
    labels = [1, 0, 0, 1, 1]
    matching_loss(both[0], both[1], torch.tensor(labels), kind).backward()
    assert both.grad is not None
    step = 1e-4
    for index in range(both.numel()):
        values = []
        for sign in (1, -1):
            moved = both.detach().clone().flatten()
            moved[index] += sign * step
            values.append(plain_loss(*moved.view(2, 5, 2), labels, kind))
        slope = (values[0] - values[1]) / (2 * step)
        assert float(both.grad.flatten()[index]) == pytest.approx(slope, abs=1e-7)  # step^2, and rounding by it


def test_the_likelihood_stays_finite_and_pulls_where_the_official_loss_does_not() -> None:
    """A pair that both heads judge wrong, and are sure of it."""
    gradients = {}
    for kind in ("likelihood", "official"):
        wrong = torch.tensor([[60.0, -60.0]], requires_grad=True)
        loss = matching_loss(wrong, wrong, torch.tensor([1]), kind)  # type: ignore[arg-type]
        assert loss.isfinite()
        loss.backward()
        assert wrong.grad is not None
        gradients[kind] = float(wrong.grad.abs().max())
    assert gradients["likelihood"] == same(1.0)
    assert gradients["official"] < 1e-20
    right = torch.tensor([[-60.0, 60.0]])
    assert float(matching_loss(right, right, torch.tensor([1]))) == same(0)
    assert float(matching_loss(right, right, torch.tensor([1]), "official")) == same(math.log(1 + 1 / math.e))


def test_gcpr_of_labelled_pairs_is_that_of_a_plain_loop() -> None:
    batch = labelled_batch()
    model = tiny_model()
    with torch.no_grad():
        image = model.encode_image(batch.pixel_values).embed[batch.image_index]
        text = model.encode_text(batch.input_ids, batch.attention_mask).embed
        loss = labelled_gcpr_loss(
            image,
            text,
            model.temperature,
            labels_B=batch.labels,
            image_ids_B=batch.image_ids,
            text_ids_B=batch.text_ids,
        )
    fits = {
        (shown_image, text_index) for shown_image, text_index, label in zip(SHOWN, SAID, LABELS, strict=True) if label
    }
    sums = []
    for row, (shown_image, text_index, label) in enumerate(zip(SHOWN, SAID, LABELS, strict=True)):
        if not label:
            continue
        for own, others, right in (
            (
                image,
                text,
                [text_index == t or (shown_image == p and (p, t) in fits) for p, t in zip(SHOWN, SAID, strict=True)],
            ),
            (
                text,
                image,
                [shown_image == p or (text_index == t and (p, t) in fits) for p, t in zip(SHOWN, SAID, strict=True)],
            ),
        ):
            chances = softmax((own[row] @ others.T / model.temperature.detach()).tolist())
            sums.append(-sum(math.log(c) for c, fit in zip(chances, right, strict=True) if fit) / sum(right))
    assert float(loss) == same(sum(sums) / len(sums))


@pytest.mark.parametrize("chunk", [1, 2, 4, 99])
def test_in_chunks_losses_and_gradients_are_the_same(chunk: int) -> None:
    whole, parts = (_step(MatchingOptions(gcpr_weight=0.5), size) for size in (None, chunk))
    assert whole.keys() == parts.keys()
    for name, expected in whole.items():
        assert_same(parts[name], expected, msg=name)


def test_each_pair_is_judged_as_it_is_alone() -> None:
    batch, matching = labelled_batch(), Matching(tiny_model(), MatchingOptions())
    with torch.no_grad():
        _, aux = matching.losses(batch)
        log_probabilities, labels = aux.log_probabilities_B2, aux.labels_B
        assert labels.tolist() == LABELS
        for row in range(len(SHOWN)):
            alone = batch.rows([row])
            _, aux = matching.losses(alone)
            assert_same(aux.log_probabilities_B2[0], log_probabilities[row])


def test_an_image_is_encoded_once_however_often_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, model = labelled_batch(), tiny_model()
    sizes: list[int] = []
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda pixels: sizes.append(len(pixels)) or encode(pixels))
    matching = Matching(model, MatchingOptions())
    matching.losses(batch)
    matching.losses(batch.rows([1, 2, 4]))
    assert sizes == [4, 1]


def test_rows_of_a_batch_hold_the_images_they_show() -> None:
    batch = labelled_batch()
    part = batch.rows([5, 0, 5, 2])
    assert torch.equal(part.pixel_values[part.image_index], batch.pixel_values[torch.tensor([3, 0, 3, 1])])
    assert (part.names, part.labels.tolist()) == (("3", "0", "3", "1"), [1, 1, 1, 0])
    assert len(part.pixel_values) == 3
    moved = part.to("cpu")
    assert torch.equal(moved.text_ids, part.text_ids)


def test_a_network_without_match_heads_is_refused() -> None:
    with pytest.raises(UsageError, match="no match heads"):
        Matching(tiny_model(cross_layers=0), MatchingOptions())


# --- several processes

SETTINGS = {
    "matching alone": MatchingOptions(),
    "official": MatchingOptions(loss="official"),
    "with GCPR": MatchingOptions(gcpr_weight=0.5),
}


def _step(options: MatchingOptions, chunk: int | None = None, strategy: Any = "ddp") -> dict[str, Tensor]:
    """Losses and gradients of one step."""
    matching = Matching(tiny_model(), options, chunk)
    module = wrap(matching, strategy, sharding_units(matching.model))
    batch = labelled_batch()
    if world().size > 1:  # unequally many matches and images on the two
        batch = batch.rows([[0, 1, 2], [3, 4, 5]][world().rank])
    losses, _ = module(batch, 0.0, None)
    matching.total(losses).backward()
    module.after_backward()
    result = {f"loss {name}": all_reduce_sum(loss) / world().size for name, loss in losses.items()}
    trained = ((name, parameter.grad) for name, parameter in matching.named_parameters())
    return result | {name: put_together(grad).clone() for name, grad in trained if grad is not None}


def all_settings() -> dict[str, dict[str, Tensor]]:
    return {
        f"{strategy} {name}": _step(options, strategy=strategy)
        for strategy in ("ddp", "fsdp")
        for name, options in SETTINGS.items()
    }


def test_two_processes_compute_what_one_computes_on_the_joined_batch(tmp_path: Path) -> None:
    one = {name: _step(options) for name, options in SETTINGS.items()}
    for rank in run_in_processes(2, all_settings, tmp_path):
        for key, result in rank.items():
            expected = one[key.partition(" ")[2]]
            assert result.keys() == expected.keys()
            for name, value in expected.items():
                assert_same(result[name], value, lambda text, key=key, name=name: f"{key}, {name}: {text}")
