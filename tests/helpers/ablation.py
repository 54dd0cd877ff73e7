"""The runs of an ablation in the test's own process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccmb.tasks.ablation.plan import Base, Run
from ccmb.tasks.pretraining.run import pretrain


class Ended:
    """A process that has ended."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        return self.code

    def send_signal(self, sig: int) -> None:
        """Nothing, as of a process that has ended."""

    def kill(self) -> None:
        raise AssertionError("it has ended")


class InThisProcess:
    """Trains in the test's own process in the place of `ccmb pretrain`, and remembers what it trained."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.failing, self.started = failing, list[str]()

    def __call__(self, base: Base, lock: Any) -> InThisProcess:
        return self

    def start(self, wanted: Run, environment: Mapping[str, str]) -> Ended:
        self.started.append(wanted.name)
        wanted.log.parent.mkdir(parents=True, exist_ok=True)
        if wanted.name in self.failing:
            wanted.log.write_text("much\nccmb: a loss is not finite\n")
            return Ended(1)
        pretrain(wanted.recipe, wanted.folder)
        return Ended(0)
