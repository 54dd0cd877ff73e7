"""Two processes are one: the same losses, gradients, queue and weights as one process on the joined batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ccmb.objectives.batch import Batch
from ccmb.objectives.config import Objectives
from ccmb.objectives.forward import rank_rows
from ccmb.objectives.pretraining import PreTraining, sharding_units
from ccmb.objectives.ranking import MatchPairs
from ccmb.training.distributed import (
    all_reduce_max,
    all_reduce_sum,
    average_gradients,
    gather,
    global_mean,
    rank_slice_of,
    world,
)
from ccmb.training.parallel import clip_gradients, put_together, wrap
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.processes import Arrivals, run_in_processes
from tests.helpers.tiny import tiny_batch, tiny_decoder_model, tiny_model, tiny_processor

pytestmark = PROOFS

IDS = [0, 1, 1, 3, 4, 3]  # positives within a rank and across both
OFF = {name: {"weight": 0.0} for name in ("gcpr", "fgr", "mlm", "tgd", "fgd")}
LM = OFF | {"lm": {"weight": 1.0, "without_image": 0.4, "image_tokens": 0.6}}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: OFF | {name: {}} for name in OFF},
    "all": {},
    "all, FGR on clean texts": {"fgr": {"enhanced_training": False}},
    "all, in chunks": {},
    "all, FGR on all pairs": {"fgr": {"negatives": "all"}},
    "FGR on all pairs, in chunks": OFF | {"fgr": {"negatives": "all"}},
    "GCPR, texts against texts": OFF | {"gcpr": {"text_to_text": 0.5}},
    "GCPR, texts against texts, in chunks": OFF | {"gcpr": {"text_to_text": 0.5}},
    "GCPR of short vectors too": OFF | {"gcpr": {"prefixes": {4: 0.5, 8: 1.0}}},
    "towers taught by the cross encoders": {"fgr": {"negatives": "all", "teach_towers": 2.0}},
    "token-wise": OFF | {"tokenwise": {"weight": 1.0, "dim": 8}},
    "token-wise, in chunks": OFF | {"tokenwise": {"weight": 1.0, "padding": "official"}},
    "LM": LM,
    "LM, in chunks": LM,
}
# Of the two processes' three rows each, against all rows at once of one.
CHUNK = {name: 2 for name in SETTINGS if name.endswith(", in chunks")}
STRATEGIES = ("ddp", "fsdp")


def joined_batch() -> Batch:
    return tiny_batch(len(IDS), seed=3, image_ids=IDS)


def half(batch: Batch) -> Batch:
    """This rank's rows, padded no further than its own longest text, as a loader makes them."""
    rows = world().rows(len(batch.image_ids) // world().size)
    own_batch = batch.rows(list(range(rows.start, rows.stop)))
    longest = int(own_batch.attention_mask.sum(1).max())
    texts = {name: getattr(own_batch, name)[:, :longest] for name in ("input_ids", "attention_mask", "maskable")}
    return Batch(pixel_values=own_batch.pixel_values, **texts, image_ids=own_batch.image_ids)


def train_steps(objectives: dict[str, Any], strategy: str, chunk: int | None = None, steps: int = 2) -> dict[str, Any]:
    """Losses, gradients and what they leave behind after some steps of plain gradient descent."""
    options = Objectives.model_validate(objectives)
    options.tgd.queue_size = 16
    make = tiny_decoder_model if options.lm.weight else tiny_model
    model = make(standardize_states=True)
    pretraining = PreTraining(model, options, tiny_processor().tokenizer.mask_token_id, chunk)
    module = wrap(pretraining, strategy, sharding_units(pretraining.model, pretraining.teacher))
    result: dict[str, Any] = {}
    for step in range(steps):
        batch = joined_batch()
        generator = torch.Generator().manual_seed(step)
        losses, _ = module(half(batch) if world().size > 1 else batch, 0.0, generator)
        pretraining.total(losses).backward()
        module.after_backward()
        for name, loss in losses.items():
            result[f"{step} loss {name}"] = all_reduce_sum(loss) / world().size
        trained = {name: p for name, p in pretraining.named_parameters() if p.grad is not None}
        for name, parameter in trained.items():
            result[f"{step} gradient {name}"] = put_together(parameter.grad).clone()
        result[f"{step} norm"] = clip_gradients(trained.values(), 0.5)
        with torch.no_grad():
            for parameter in trained.values():
                parameter.sub_(parameter.grad, alpha=0.1)
                parameter.grad = None
        pretraining.after_step()
    result |= {f"state {name}": put_together(tensor).clone() for name, tensor in pretraining.state_dict().items()}
    return result


def all_settings() -> dict[str, dict[str, Any]]:
    results = {
        f"{strategy}: {name}": train_steps(objectives, strategy, CHUNK.get(name))
        for strategy in STRATEGIES
        for name, objectives in SETTINGS.items()
    }
    return results | {"collectives": collectives(), "arrivals": {str(chunk): arrivals(chunk) for chunk in (None, 1)}}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What each of two processes computes."""
    return run_in_processes(2, all_settings, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_compute_what_one_computes_on_the_joined_batch(
    name: str, strategy: str, two: list[dict[str, dict[str, Any]]]
) -> None:
    one = train_steps(SETTINGS[name], strategy)
    for rank in two:
        result = rank[f"{strategy}: {name}"]
        assert set(result) == set(one)
        for key, expected in one.items():
            assert_same(result[key], expected, lambda text, key=key: f"{key}: {text}")


def collectives() -> dict[str, Any]:
    rank = world().rank
    rows = torch.tensor([[10.0 * rank + 1], [10.0 * rank + 2]], requires_grad=True)
    everything = gather(rows)
    (everything.flatten() * torch.tensor([1.0, 2, 3, 4]) * (rank + 1)).sum().backward()
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 3.0]) * (rank + 1)
    average_gradients([weight, torch.nn.Parameter(torch.zeros(1))])
    generator = torch.Generator().manual_seed(0)
    return {
        "gathered": everything.detach(),
        "gradient": rows.grad,
        "bools": gather(torch.tensor([rank == 0])),
        "averaged": weight.grad,
        "drawn": rank_slice_of(lambda count: torch.rand(count, generator=generator), 2),
        "largest": all_reduce_max(5 - rank),
        "mean": global_mean(torch.tensor(1.0 + rank), torch.tensor(1.0 + 2 * rank)),
        "nothing": global_mean(torch.tensor(0.0), torch.tensor(0.0)),
    }


def test_rows_are_gathered_in_rank_order_and_gradients_come_back_to_their_rank(
    two: list[dict[str, dict[str, Any]]],
) -> None:
    first, second = (rank["collectives"] for rank in two)
    assert first["gathered"].flatten().tolist() == second["gathered"].flatten().tolist() == [1, 2, 11, 12]
    assert first["gradient"].flatten().tolist() == [3, 6]  # what both ranks have for its rows
    assert second["gradient"].flatten().tolist() == [9, 12]
    assert first["bools"].tolist() == [True, False]
    assert first["averaged"].tolist() == second["averaged"].tolist() == [1.5, 4.5]
    together = torch.rand(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([first["drawn"], second["drawn"]]), together)
    assert first["largest"] == second["largest"] == 5
    assert (first["mean"] + second["mean"]) / 2 == 3 / 4
    assert first["nothing"] == 0


# Of each process's rows 0 .. 2 and 3 .. 5: of the six wrong images three are another process's, and of these two are
# one; of the wrong texts three, which are one.
WRONG_IMAGES, WRONG_TEXTS = ([4, 4, 1], [0, 1, 5]), ([1, 2, 0], [2, 2, 2])


def arrivals(chunk: int | None) -> dict[str, Any]:
    """Numbers that come from the other process for the pairs above, and back in the backward pass."""
    rank, model, batch = world().rank, tiny_model(), half(joined_batch())
    images = model.encode_image(batch.pixel_values)
    texts = model.encode_text(batch.input_ids[:, :5], batch.attention_mask[:, :5])
    own, wrong_images, wrong_texts = (
        torch.tensor(rows) for rows in (range(3 * rank, 3 * rank + 3), WRONG_IMAGES[rank], WRONG_TEXTS[rank])
    )
    pairs = MatchPairs(torch.cat([own, wrong_images, own]), torch.cat([own, own, wrong_texts]), torch.zeros(9).long())
    with Arrivals() as forward:
        *logits, _ = rank_rows(model, images, texts, pairs, read=False, chunk=chunk)
    with Arrivals() as backward:
        torch.stack(logits).sum().backward()
    per_item = images.states[0].numel(), texts.states[0].numel()
    return {"forward": forward.elements(torch.double), "backward": backward.elements(torch.double), "item": per_item}


@pytest.mark.parametrize("chunk", [None, 1])
def test_only_drawn_images_and_texts_are_sent_and_once(chunk: int | None, two: list[dict[str, dict[str, Any]]]) -> None:
    first, second = (rank["arrivals"][str(chunk)] for rank in two)
    image, text = first["item"]
    assert first["forward"] == second["backward"] == image
    assert second["forward"] == first["backward"] == 2 * image + text


def test_alone_nothing_is_communicated() -> None:
    rows: Tensor = torch.rand(2, 3)
    assert gather(rows) is rows
    assert rank_slice_of(lambda count: torch.arange(count), 3).tolist() == [0, 1, 2]
    assert global_mean(torch.tensor(3.0), torch.tensor(4.0)) == 0.75
