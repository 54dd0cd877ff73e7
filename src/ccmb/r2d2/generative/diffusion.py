"""How pictures become noise and noise becomes pictures again: flow matching, or what a published network learned.

Shapes: B pictures, C channels, H x W.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.choices import Solver
from ccmb.core.errors import UsageError, one_line
from ccmb.core.floats import at_least_float32

# What a network says of pictures at a time (B,).
Predict = Callable[[Tensor, Tensor], Tensor]

LEAST_TIME = 0.2  # below which the error of a speed would drown all others
SHIFT = 4.0  # of networks of ours


class DiffusionProcess(Protocol):
    """A way from pictures to noise and back. Times are as the network was trained to read them."""

    def sample_timesteps(self, count: int, device: torch.device) -> Tensor:
        """(B,) at which to train, from torch's global generator."""

    def mix(self, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        """The pictures at these times."""

    def loss(self, prediction_BCHW: Tensor, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        """Mean squared error (scalar) of what the network says of them."""

    def sample(self, predict: Predict, noise_BCHW: Tensor, steps: int, solver: Solver) -> Tensor:
        """From noise to pictures in so many steps."""


class FlowMatching:
    """Straight lines from pictures to noise: x = (1 - t) picture + t noise, whose speed is noise - picture (Lipman et
    al. 2022, arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003).

    A network of ours says the picture and not the speed: pictures are simpler than noise, and the blocks of pixels that
    it sees hold more numbers of noise than a small network passes on (Li and He 2025, arXiv 2511.13720). The error is
    that of the speed, (x - picture) / t, all the same. Networks read t in thousandths, or as the scheduler says.

    Times are even but for the shift, in training and in sampling: t' = shift t / (1 + (shift - 1) t). Where neighbours
    are alike, a picture shines through much noise, and it is only beyond that the text decides (Esser et al. 2024,
    arXiv 2403.03206).

    A published network, which says the speed, is sampled at the times of diffusers' FlowMatchEulerDiscreteScheduler:
    even from 1 to the least time of its training, shifted a second time, then 0. For networks of ours they stay
    deliberately even from 1 to 0, with one shift alone: diffusers' last step, from a few thousandths of noise, would
    change next to nothing.

    Args:
        shift: above 1 moves times towards noise.
        says_speed: the network says the speed, as published ones do.
        scheduler: configuration of the published network's, which then also gives the shift.

    Raises:
        UsageError: the scheduler asks for something that is not done here; the message names it.
    """

    def __init__(
        self, shift: float = 1.0, predicts_velocity: bool = False, scheduler: dict[str, Any] | None = None
    ) -> None:
        self.predicts_velocity = predicts_velocity or scheduler is not None
        self.published = _flow_scheduler(scheduler or {"shift": shift}) if self.predicts_velocity else None
        self.shift = shift if self.published is None else float(self.published.config.shift)
        self.time_scale = 1000 if self.published is None else int(self.published.config.num_train_timesteps)

    def sample_timesteps(self, count: int, device: torch.device) -> Tensor:
        return self._shifted(torch.rand(count, device=device)) * self.time_scale

    def mix(self, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        return clean_BCHW.lerp(noise_BCHW, self._share(time_B))

    def loss(self, prediction_BCHW: Tensor, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        if self.predicts_velocity:
            return F.mse_loss(at_least_float32(prediction_BCHW), noise_BCHW - clean_BCHW)
        return (
            ((at_least_float32(prediction_BCHW) - clean_BCHW) / self._share(time_B).clamp(min=LEAST_TIME))
            .square()
            .mean()
        )

    def times(self, steps: int) -> Tensor:
        """(steps + 1,) from 1, noise, to 0.

        Raises:
            UsageError: the published scheduler has no times for so few steps.
        """
        if self.published is None:
            return self._shifted(torch.linspace(1, 0, steps + 1))
        with np.errstate(invalid="ignore"):
            self.published.set_timesteps(steps)
        times = torch.as_tensor(self.published.sigmas)
        if not times.isfinite().all():
            raise UsageError(f"the pipeline's scheduler has no times for {steps} steps; take more")
        return times

    def _shifted(self, time: Tensor) -> Tensor:
        return self.shift * time / (1 + (self.shift - 1) * time)

    def sample(self, predict: Predict, noise_BCHW: Tensor, steps: int, solver: Solver) -> Tensor:
        """Euler's method; or Heun's, which asks the network twice a step, but for the last."""
        x, times = noise_BCHW, self.times(steps).to(noise_BCHW)

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            prediction = predict(x, time.expand(len(x)) * self.time_scale)
            return prediction if self.predicts_velocity else (x - prediction) / time

        for this_time, next_time in itertools.pairwise(times):
            slope = velocity(x, this_time)
            if solver == "heun" and next_time > 0:
                slope = (slope + velocity(x + (next_time - this_time) * slope, next_time)) / 2
            x = x + (next_time - this_time) * slope
        return x

    def _share(self, time_B: Tensor) -> Tensor:
        """(B, 1, 1, 1) of noise."""
        return (time_B / self.time_scale)[:, None, None, None]


FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")  # both have the same times
# What a flow's scheduler may ask for beyond its times, and that is not done here.
NOT_DONE = ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling")


def _flow_scheduler(config: dict[str, Any]) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    kind = str(config.get("_class_name", FLOWS[0]))
    if kind not in FLOWS:
        raise UsageError(f"scheduler: {kind} is not known here; flows are sampled as {' or '.join(FLOWS)} does")
    if asked := [name for name in NOT_DONE if config.get(name)]:
        raise UsageError(f"scheduler: {asked[0]} of {kind} is not known here; take a pipeline without it")
    try:
        return FlowMatchEulerDiscreteScheduler.from_config({**config, "shift": config.get("shift") or 1.0})
    except Exception as error:  # whatever diffusers makes of a wrong configuration
        raise UsageError(f"scheduler: not one of flow matching ({one_line(error)})") from None


class Diffusion:
    """The noise of a published network, by diffusers' own schedulers; it is sampled by DDIM.

    Args:
        config: of the pipeline's scheduler.

    Raises:
        UsageError: it is none of diffusion.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        try:
            self.training = DDPMScheduler.from_config(config)
            # Pictures of a latent network have no range to be cut at.
            self.sampling = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
        except Exception as error:  # whatever diffusers makes of a wrong configuration
            raise UsageError(f"scheduler: not one of diffusion ({one_line(error)})") from None
        self.prediction = self.training.config.prediction_type

    def sample_timesteps(self, count: int, device: torch.device) -> Tensor:
        return torch.randint(self.training.config.num_train_timesteps, (count,), device=device)

    def mix(self, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        return self.training.add_noise(clean_BCHW, noise_BCHW, time_B)

    def loss(self, prediction_BCHW: Tensor, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        wanted = {"epsilon": noise_BCHW, "sample": clean_BCHW}.get(self.prediction)
        if wanted is None:
            wanted = self.training.get_velocity(clean_BCHW, noise_BCHW, time_B)
        return F.mse_loss(at_least_float32(prediction_BCHW), at_least_float32(wanted))

    def sample(self, predict: Predict, noise_BCHW: Tensor, steps: int, solver: Solver) -> Tensor:
        self.sampling.set_timesteps(steps)
        x = noise_BCHW
        for time in self.sampling.timesteps:
            x = self.sampling.step(predict(x, time.to(x.device).expand(len(x))), time, x).prev_sample
        return x


def diffusion_process_of(config: dict[str, Any] | None) -> DiffusionProcess:
    """Of a pipeline's scheduler; flow matching where there is none."""
    if config is None:
        return FlowMatching(SHIFT)
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        return FlowMatching(scheduler=config)
    return Diffusion(config)
