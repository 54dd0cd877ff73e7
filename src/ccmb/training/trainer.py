"""One loop for pre-training and every fine-tuning.

The loop knows neither batch keys nor losses: a task does. It can be stopped at any moment and continues exactly: all
random numbers come from the seed and the step.

A run folder holds `metrics.jsonl` (one object a line, of every `log_every`-th step), `checkpoints/step-N/` and
`tensorboard/`; `stopped/step-N.json` where a loss or gradient was not finite.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ccmb.core.device import choose_device, computes_bf16, precision
from ccmb.core.errors import CcmbError, Stopped, one_line
from ccmb.core.progress import progress
from ccmb.core.signals import stop_signals
from ccmb.training.averaging import AveragedWeights
from ccmb.training.checkpoints import load_checkpoint, load_latest, remove_old, save_checkpoint
from ccmb.training.distributed import all_reduce_max, all_reduce_sum, barrier, world
from ccmb.training.log import append_line, drop_lines_after
from ccmb.training.metrics_log import event_files
from ccmb.training.model_selection import best_step, forget_after, judge
from ccmb.training.nonfinite import save_nonfinite_step, what_to_lower
from ccmb.training.optimizers import ParameterGroup, make_optimizers, set_learning_rates
from ccmb.training.parallel import clip_gradients, full_state_dict, load_module, load_optimizer, wrap
from ccmb.training.recipe import OptimizerRecipe, TrainingRecipe
from ccmb.training.throughput import Meter
from ccmb.training.validation import PREFIX, Validation


class Task(Protocol):
    """A training task: a module with all state of a checkpoint, and the way from a batch to losses."""

    @property
    def module(self) -> nn.Module:
        """The module. A call returns unweighted losses, scalars by name, and the aux outputs for `report`.

        Its arguments are a batch (anything with `.to(device)`), the share of the training that is done, in [0, 1), and
        a generator. All random numbers must come from the generator, which has one state on all ranks, or from torch's
        global one, which has not.
        """

    def units(self) -> list[nn.Module]:
        """The blocks that are sharded one by one, see `Sharded`."""

    def groups(self) -> list[ParameterGroup]:
        """The trained parameters, with their learning rates."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The loss that is differentiated (scalar)."""

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def report(self, aux: Any) -> dict[str, float]:
        """Further metrics for the log, from the aux outputs of a step."""


class Trainer:
    """Runs a task for `recipe.steps` steps in the run folder `out`, with all ranks of the world.

    With a validation, the first rank measures and the others wait. The metrics are logged, and `recipe.best` may name
    one of them.
    """

    def __init__(
        self,
        task: Task,
        optimizer: OptimizerRecipe,
        recipe: TrainingRecipe,
        out: Path,
        validation: Validation | None = None,
    ) -> None:
        self.task, self.options, self.recipe, self.out = task, optimizer, recipe, out
        self.validation = validation
        # Whether held-out data choose the best checkpoint.
        self.chooses = bool(validation and recipe.best and recipe.best.metric.startswith(PREFIX))
        self.label = "train"  # of the progress
        self.on_line: Callable[[dict[str, float]], None] = lambda line: None  # what else is done with a line of the log
        self.world, self.device = world(), choose_device(recipe.device)
        widen(task.module).to(self.device)
        self.module = wrap(task.module, recipe.parallel, task.units())
        self.optimizers = make_optimizers(
            task.groups(), optimizer, task.module, computes_bf16(self.device, recipe.precision)
        )
        decay = recipe.model_ema_decay
        self.average = None if decay is None else AveragedWeights(task.module, decay)
        self.step = 0

    def resume(self) -> int:
        """Load the newest checkpoint, if there is one, and return the number of steps done.

        Raises:
            CcmbError: the checkpoint cannot be read or is of another network.
        """
        latest = load_latest(self.out / "checkpoints")
        if latest:
            self.step, state = latest
            try:
                load_module(self.task.module, state["module"])
                for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                    load_optimizer(optimizer, saved)
                self._load_average(state)
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise CcmbError(
                    f"{self.out}: checkpoint {self.step} is of another network ({one_line(error)})"
                ) from None
        if self.world.is_main:
            drop_lines_after(self.out / "metrics.jsonl", self.step)
            forget_after(self.out / "checkpoints", self.step)
            self._judge()  # again: the process may have died between saving and judging
        return self.step

    def fit(self, batches: Callable[[int, int], Iterator[Any]]) -> None:
        """Train from the current step to the last; `batches(start, stop)` yields the batches of those steps.

        Ctrl-C and SIGTERM let the step in progress end and save it; a second one stops at once.

        Raises:
            Stopped: a signal asked for it; the step is saved.
            CcmbError: a loss or gradient is not finite, or the disk is full.
        """
        recipe = self.recipe
        self.task.module.train()
        source = batches(self.step, recipe.steps)  # before the bar, since they may have one of their own
        with (
            progress(self.label, recipe.steps * recipe.batch_size, "samples", self.step * recipe.batch_size) as advance,
            stop_signals() as stop,
            event_files(self.out / "tensorboard", self.step, recipe.tensorboard) as board,
        ):
            meter = Meter(self.task, recipe, self.device)
            clock, logged = time.monotonic(), self.step
            for batch in meter.watch(source, self.step):
                losses, aux, norm = self._train_step(batch)
                self.step += 1
                note = ""
                validated = bool(self.validation and self.validation.is_due(self.step, recipe.steps))
                if self.step % recipe.log_every == 0 or self.step == recipe.steps or validated:
                    now = time.monotonic()
                    rate = (self.step - logged) * recipe.batch_size / max(1e-9, now - clock)
                    clock, logged = now, self.step
                    losses = {name: all_reduce_sum(loss) / self.world.size for name, loss in losses.items()}
                    if self.world.is_main:
                        line = self._metrics(losses, aux, norm, rate) | meter.read()
                        if validated:
                            line |= self._validate()
                            meter.restart()
                            clock = time.monotonic()
                        self._log(line)
                        board(line)
                    note = " ".join(f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items())
                advance(recipe.batch_size, note)
                finished = self.step == recipe.steps
                asked = all_reduce_max(stop.signal)  # once, and of all ranks: a signal may come at any moment
                if self.step % recipe.checkpoint_every == 0 or finished or asked or (validated and self.chooses):
                    self.save()
                if asked and not finished:
                    message = f"stopped at step {self.step}; run the same command again to go on"
                    raise Stopped(message, by_user=asked == signal.SIGINT)

    def finish(self) -> None:
        """Give the module the weights of the finished model; nothing is trained or saved afterwards.

        They are those of the best checkpoint, if held-out data has chosen one, else of the last step; and their
        average, if the recipe keeps one. All ranks take part.

        Raises:
            CcmbError: the best checkpoint cannot be read.
        """
        step = best_step(self.out / "checkpoints") if self.chooses else None
        if step is not None and step != self.step:
            state = load_checkpoint(self.out / "checkpoints", step)
            load_module(self.task.module, state["module"])
            self._load_average(state)
        if self.average is not None:
            self.average.exchange()

    def _load_average(self, state: dict[str, Any]) -> None:
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def save(self) -> None:
        """Write a checkpoint of the current step; all ranks take part, one writes."""
        state = {
            "module": full_state_dict(self.task.module.state_dict()),
            "optimizers": [full_state_dict(optimizer.state_dict()) for optimizer in self.optimizers],
            **({} if self.average is None else {"average": full_state_dict(self.average.state_dict())}),
        }
        if self.world.is_main:
            save_checkpoint(self.out / "checkpoints", self.step, state, self.recipe.save_total_limit)
            self._judge()
        barrier()

    def _judge(self) -> None:
        """Mark the checkpoint of this step if it is the best so far.

        A checkpoint that only a signal asked for does not count: the best one must not depend on when a run was
        stopped.
        """
        recipe = self.recipe
        interval = self.validation.interval if self.validation and self.chooses else recipe.checkpoint_every
        if recipe.best is None or not self.step or (self.step % interval and self.step != recipe.steps):
            return
        folder, window = self.out / "checkpoints", 1 if self.chooses else interval
        if judge(folder, self.out / "metrics.jsonl", self.step, window, recipe.best):
            remove_old(folder, recipe.save_total_limit)  # the one that was best before

    def _validate(self) -> dict[str, float]:
        assert self.validation is not None
        with nullcontext() if self.average is None else self.average.applied():
            metrics = self.validation.metrics()
        self.task.module.train()  # of whatever was put into evaluation mode
        return metrics

    def _train_step(self, batch: Any) -> tuple[dict[str, Tensor], Any, Tensor]:
        """One step: its losses, the aux outputs for the task's report, and the gradient's norm."""
        seed = self.recipe.seed * 1_000_003 + self.step
        torch.manual_seed(seed + self.world.rank)
        generator = torch.Generator(self.device).manual_seed(seed)
        set_learning_rates(self.optimizers, self.step, self.recipe.steps, self.options)
        with precision(self.device, self.recipe.precision):
            losses, aux = self.module(batch.to(self.device), self.step / self.recipe.steps, generator)
        loss = self.task.total(losses)
        loss.backward()
        self.module.after_backward()
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        parameters = [p for group in groups for p in group["params"]]
        norm = clip_gradients(parameters, self.options.max_grad_norm or math.inf)
        # The loss of all ranks, as the norm is of all: a rank that stops alone leaves the others waiting.
        if not math.isfinite(norm + all_reduce_sum(loss)):
            named = self.recipe.precision
            fix = what_to_lower(named, computes_bf16(self.device, named), self.options.lr)
            raise save_nonfinite_step(
                self.out, self.task, self.step, batch=batch, losses=losses, norm=norm, seed=seed, fix=fix
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.task.after_step()
        if self.average is not None:
            self.average.update(self.step + 1)
        return losses, aux, norm

    def _log(self, line: dict[str, float]) -> None:
        append_line(self.out / "metrics.jsonl", line)
        self.on_line(line)

    def _metrics(self, losses: dict[str, Tensor], aux: Any, norm: Tensor, rate: float) -> dict[str, float]:
        return {
            "step": self.step,
            "loss": float(self.task.total(losses).detach()),
            **{name: float(loss.detach()) for name, loss in losses.items()},
            **self.task.report(aux),
            "gradient_norm": float(norm),
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "samples_per_second": round(rate, 1),
        }


@torch.no_grad()
def widen(module: nn.Module) -> nn.Module:
    """Convert half-precision weights to float32: most steps are too small to move a weight in less."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor.data = tensor.data.float()
    return module
