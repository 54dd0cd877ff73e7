"""One loop for pre-training and every fine-tuning.

The loop knows neither batch keys nor losses: a task does. It can be stopped at any moment and continues exactly; all
chance comes from the seed and the step.

A run folder holds `metrics.jsonl` (one object a line, of every `log_every`-th step) and `checkpoints/step-N/`.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ccmb.errors import CcmbError, one_line
from ccmb.files import atomic_write
from ccmb.progress import progress
from ccmb.training.checkpoints import load_latest, save_checkpoint
from ccmb.training.optimizers import ParameterGroup, make_optimizers, set_learning_rates
from ccmb.training.recipe import OptimizerRecipe, TrainingRecipe


class Task(Protocol):
    """What is trained: a module that holds all that a checkpoint must, and how a batch becomes losses."""

    @property
    def module(self) -> nn.Module: ...

    def losses(self, batch: Any, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Unweighted scalars by name of a batch (anything with `.to(device)`); `progress` is the share of the training
        that is done, in [0, 1). All chance must come from `generator` or torch's global one."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """What is differentiated."""

    def after_step(self) -> None:
        """What follows each optimiser step."""

    def report(self) -> dict[str, float]:
        """Further figures for the log."""


class Trainer:
    """Runs a task for `recipe.steps` steps in the run folder `out`."""

    def __init__(
        self,
        task: Task,
        groups: Iterable[ParameterGroup],
        optimizer: OptimizerRecipe,
        recipe: TrainingRecipe,
        out: Path,
    ) -> None:
        self.task, self.options, self.recipe, self.out = task, optimizer, recipe, out
        self.device = choose_device(recipe.device)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        task.module.to(self.device)
        self.optimizers = make_optimizers(groups, optimizer, task.module)
        self.step = 0

    def resume(self) -> int:
        """Load the newest checkpoint, if there is one, and return the number of steps done.

        Raises:
            CcmbError: the checkpoint cannot be read or is of another network.
        """
        found = load_latest(self.out / "checkpoints")
        if found:
            self.step, state = found
            try:
                self.task.module.load_state_dict(state["module"])
                for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                    optimizer.load_state_dict(saved)
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise CcmbError(
                    f"{self.out}: checkpoint {self.step} is of another network ({one_line(error)})"
                ) from None
        _drop_lines_after(self.out / "metrics.jsonl", self.step)
        return self.step

    def fit(self, batches: Callable[[int, int], Iterator[Any]]) -> None:
        """Train from the current step to the last; `batches(start, stop)` yields the batches of those steps.

        Ctrl-C and SIGTERM let the step in progress end and save it; a second one stops at once.

        Raises:
            CcmbError: a gradient is not finite, the disk is full, or the user stopped the run.
        """
        recipe = self.recipe
        self.task.module.train()
        with (
            progress("train", recipe.steps * recipe.batch, "samples", self.step * recipe.batch) as advance,
            stop_signals() as stop,
        ):
            clock, logged = time.monotonic(), self.step
            for batch in batches(self.step, recipe.steps):
                losses, norm = self._train_step(batch)
                self.step += 1
                note = ""
                if self.step % recipe.log_every == 0 or self.step == recipe.steps:
                    now = time.monotonic()
                    rate = (self.step - logged) * recipe.batch / max(1e-9, now - clock)
                    clock, logged = now, self.step
                    self._log(self._metrics(losses, norm, rate))
                    note = " ".join(f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items())
                advance(recipe.batch, note)
                finished = self.step == recipe.steps
                asked = stop.asked  # once: a signal may come at any moment
                if self.step % recipe.checkpoint_every == 0 or finished or asked:
                    self.save()
                if asked and not finished:
                    raise CcmbError(f"stopped at step {self.step}; run the same command again to go on")

    def save(self) -> None:
        """Write a checkpoint of the current step."""
        state = {
            "module": self.task.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        save_checkpoint(self.out / "checkpoints", self.step, state, self.recipe.keep)

    def _train_step(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        seed = self.recipe.seed * 1_000_003 + self.step
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        set_learning_rates(self.optimizers, self.step, self.recipe.steps, self.options)
        with precision(self.device, self.recipe.precision):
            losses = self.task.losses(batch.to(self.device), self.step / self.recipe.steps, generator)
        total = self.task.total(losses)
        total.backward()
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        parameters = [p for group in groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.options.clip)
        if not math.isfinite(norm):
            values = ", ".join(f"{name} {float(loss.detach())}" for name, loss in losses.items())
            raise CcmbError(
                f"step {self.step}: the gradient is not finite ({values}); "
                f"lower optimizer.lr or set training.precision=fp32; checkpoints are in {self.out / 'checkpoints'}"
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.task.after_step()
        return losses, norm

    def _log(self, line: dict[str, float]) -> None:
        path = self.out / "metrics.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        except OSError as error:
            raise CcmbError(f"{path}: could not be written ({error.strerror})") from None

    def _metrics(self, losses: dict[str, Tensor], norm: Tensor, rate: float) -> dict[str, float]:
        return {
            "step": self.step,
            "loss": float(self.task.total(losses).detach()),
            **{name: float(loss.detach()) for name, loss in losses.items()},
            **self.task.report(),
            "gradient_norm": float(norm),
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "samples_per_second": round(rate, 1),
        }


@dataclass(slots=True)
class Stop:
    """Whether the user has asked the run to stop."""

    asked: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within, the first SIGINT or SIGTERM only sets `asked`, so that no step is torn; the next one interrupts.

    Outside the main thread, which alone receives signals, nothing is set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def receive(number: int, frame: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU.

    Raises:
        CcmbError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CcmbError(f"training.device={name}: not a device; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise CcmbError(f"training.device={name}: not a device; use auto, cpu or cuda")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise CcmbError(f"training.device={name}: this machine has {gpus} usable GPUs; use cpu or auto")
    return device


@contextmanager
def precision(device: torch.device, name: str) -> Iterator[None]:
    """bf16 autocast where `name` (auto, bf16 or fp32) says so, and the attention that is fastest for short sequences.

    On CPUs the fused attention's backward pass in bf16 is several times slower than two matrix products at the lengths
    of small pictures and Chinese captions (in fp32 it is not), and bf16 that the processor must emulate ten times
    slower than fp32.
    """
    bf16 = _native_bf16(device) if name == "auto" else name == "bf16"
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and bf16 else nullcontext()
    with attention, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        yield


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    return bool(capabilities.get("avx512_bf16", False))


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and back."""
    before = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(before)


def _drop_lines_after(path: Path, step: int) -> None:
    """Remove log lines of steps that a crash undid; a last line cut short goes too."""
    if not path.exists():
        return
    with atomic_write(path) as file:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    file.write(line + "\n")
