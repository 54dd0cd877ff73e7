"""A task of a few numbers, to train in no time."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ccmb.training.optimizers import ParameterGroup
from ccmb.training.recipe import OptimizerRecipe, TrainingRecipe
from ccmb.training.throughput import MEASURED
from ccmb.training.trainer import Trainer
from ccmb.training.validation import Validation

STEPS = 12


class Toy(nn.Module):
    def __init__(self, at: dict[int, object]) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(0.3))
        self.head = nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.at = at

    def forward(self, batch: Tensor, progress: float, generator: torch.Generator) -> tuple[dict[str, Tensor], None]:
        action = self.at.get(round(progress * STEPS))
        if callable(action):
            action()
        noise = torch.randn(batch.shape, generator=generator)
        value = self.head(self.layer(batch + noise)).squeeze(1)
        losses = {"square": (value - batch.sum(1)).pow(2).mean(), "size": value.abs().mean()}
        return {name: loss * float("nan") if action == "nan" else loss for name, loss in losses.items()}, None


class ToyTask:
    """Regression with chance from both sources, a buffer that remembers, and a head that starts late."""

    def __init__(self, at: dict[int, object] | None = None) -> None:
        torch.manual_seed(0)
        self.module = Toy(at or {})

    def units(self) -> list[nn.Module]:
        return [self.module.layer]

    def groups(self) -> list[ParameterGroup]:
        layer, head = self.module.layer.parameters(), self.module.head.parameters()
        return [ParameterGroup(list(layer), 0.02), ParameterGroup(list(head), 0.05, start=0.25)]

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["square"] + 0.1 * losses["size"]

    def after_step(self) -> None:
        self.module.seen += 1

    def report(self, aux: None) -> dict[str, float]:
        return {"seen": float(self.module.seen)}


def batches(start: int, stop: int) -> Iterator[Tensor]:
    for step in range(start, stop):
        yield torch.randn(6, 4, generator=torch.Generator().manual_seed(step))


def make(
    out: Path,
    at: dict[int, object] | None = None,
    precision: str = "fp32",
    muon: float | None = None,
    validate: Callable[[Toy], dict[str, float]] | None = None,
    **recipe: int,
) -> Trainer:
    """Where there is `validate`, the module is validated every three steps."""
    out.mkdir(exist_ok=True)
    task = ToyTask(at)
    values = {"steps": STEPS, "batch_size": 6, "log_every": 2, "checkpoint_every": 5, "precision": precision, **recipe}
    training = TrainingRecipe.model_validate({"device": "cpu", **values})
    validation = None if validate is None else Validation(3, lambda: validate(task.module))
    return Trainer(task, OptimizerRecipe(warmup_steps=3, muon_lr_scale=muon), training, out, validation)


def run(out: Path, at: dict[int, object] | None = None, **recipe: object) -> Trainer:
    """What a command does: continue where the folder stands."""
    trainer = make(out, at, **recipe)
    trainer.resume()
    trainer.fit(batches)
    return trainer


def losses_of(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def assert_same_run(one: Trainer, other: Trainer) -> None:
    assert losses_of(one.out) == losses_of(other.out)
    for name, value in one.task.module.state_dict().items():
        assert torch.equal(value, other.task.module.state_dict()[name]), name
    for optimizer, its_twin in zip(one.optimizers, other.optimizers, strict=True):
        moments, others = optimizer.state_dict()["state"], its_twin.state_dict()["state"]
        assert moments.keys() == others.keys()
        for index, state in moments.items():
            for name, value in state.items():
                assert torch.equal(value, others[index][name]), (index, name)


def send(number: int):
    return lambda: os.kill(os.getpid(), number)
