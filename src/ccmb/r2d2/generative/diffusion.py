"""Diffusion processes, from images to noise and back: flow matching, or the process of a published network.

Shapes: B images, C channels, H x W.
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

# A network's prediction for noisy images (B, C, H, W) at times (B,).
Predict = Callable[[Tensor, Tensor], Tensor]

MIN_TIME = 0.2  # below it, the error of the velocity would outweigh all others
SHIFT = 4.0  # of our own networks


class DiffusionProcess(Protocol):
    """A way from images to noise and back. Times are in the unit that the network was trained with."""

    def sample_timesteps(self, count: int, device: torch.device) -> Tensor:
        """(B,) random times for training, from torch's global generator."""

    def mix(self, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        """The noisy images (B, C, H, W) at these times."""

    def loss(self, prediction_BCHW: Tensor, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
        """Mean squared error (scalar) of the network's prediction."""

    def sample(self, predict: Predict, noise_BCHW: Tensor, steps: int, solver: Solver) -> Tensor:
        """Generate images from noise in so many steps."""


class FlowMatching:
    """Flow matching: straight lines from images to noise (Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022,
    arXiv 2209.03003).

    The line is x = (1 - t) image + t noise, with the velocity noise - image. Our own networks predict the image,
    not the velocity: images are simpler than noise, and a block of pixels holds more numbers of noise than a small
    network can pass on (Li and He 2025, arXiv 2511.13720). The loss is still the error of the velocity, which is
    (x - image) / t. Networks read t in thousandths, or in the unit of the published scheduler.

    In training and in sampling, evenly spaced times t are shifted to shift t / (1 + (shift - 1) t). Since neighbouring
    pixels are alike, an image can be seen through much noise; the text decides only where there is even more noise
    (Esser et al. 2024, arXiv 2403.03206).

    A published network predicts the velocity. It is sampled at the times of diffusers' FlowMatchEulerDiscreteScheduler:
    even from 1 to the smallest time of its training, shifted a second time, then 0. For our own networks the times
    are deliberately even from 1 to 0 and shifted once: diffusers' last step, which starts from a few thousandths of
    noise, would change next to nothing.

    Args:
        shift: above 1 moves times towards noise.
        predicts_velocity: whether the network predicts the velocity, as published ones do.
        scheduler: configuration of a published network's scheduler, which then also gives the shift.

    Raises:
        UsageError: the scheduler needs something that is not supported; the message names it.
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
            ((at_least_float32(prediction_BCHW) - clean_BCHW) / self._share(time_B).clamp(min=MIN_TIME)).square().mean()
        )

    def times(self, steps: int) -> Tensor:
        """(steps + 1,) times of sampling, from 1 (noise) to 0.

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
        """Generate images by Euler's method, or by Heun's with two calls in each step but the last."""
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
        """(B, 1, 1, 1) the share of noise at these times."""
        return (time_B / self.time_scale)[:, None, None, None]


FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")  # both have the same times
# Options of a flow's scheduler beyond its times that are not supported.
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
    """The diffusion process of a published network, by diffusers' own schedulers; it is sampled by DDIM.

    Args:
        config: of the pipeline's scheduler.

    Raises:
        UsageError: it is not a scheduler of diffusion.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        try:
            self.training = DDPMScheduler.from_config(config)
            # Latents have no range at which they could be clipped.
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
    """The diffusion process of a pipeline's scheduler; flow matching if there is no scheduler."""
    if config is None:
        return FlowMatching(SHIFT)
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        return FlowMatching(scheduler=config)
    return Diffusion(config)
