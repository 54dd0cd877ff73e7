"""Generation: predict noise or velocity from a noisy image and its text.

Shapes: B pairs of this process, C channels of what is painted and its H x W.
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ccmb.core.config.base import ConfigBase
from ccmb.objectives.batch import Batch
from ccmb.r2d2.generative.generator import R2D2Generator
from ccmb.training.averaging import move_average, warmed_up


class GenerationOptions(ConfigBase):
    """What paints, how it learns, and how it paints when the model is measured."""

    RETIRED: ClassVar = {
        "side": "image_size",
        "fold": "patch_size",
        "layers": "layers_per_block",
        "heads": "attention_head_dim",
        "trained": "trainable",
        "silent": "condition_dropout",
        "ema": "ema_decay",
        "steps": "sampling_steps",
        "guidance": "guidance_scale",
    }
    pipeline: str | None = Field(
        None, description="folder or hub id of a pipeline of diffusers to start from; without it the painter is new"
    )
    image_size: int | None = Field(
        None, gt=0, description="of the images in pixels; by default 48, or the pipeline's own"
    )
    patch_size: int = Field(4, gt=0, description="of a new painter: side of the blocks of pixels that become channels")
    channels: list[int] = Field(
        [96, 192], min_length=1, description="of a new painter: of its levels, each half as wide and high as the last"
    )
    layers_per_block: int = Field(1, gt=0, description="of a new painter: blocks of each level on the way down")
    attention_head_dim: int = Field(
        32, gt=0, description="of a new painter: channels of an attention head, which divide the others"
    )
    trainable: Literal["all", "attention"] = Field(
        "all", description="the whole painter, or its cross-attention and what reads the text alone"
    )
    condition_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of the texts that are not read, so that guidance has something to leave"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the average of the weights, which is what paints")
    sampling_steps: int = Field(20, gt=0, description="when the model is measured")
    guidance_scale: float = Field(3.0, gt=0, description="when the model is measured")


class Generation(nn.Module):
    """The generator, whose painter is an average over the training, and the one that is trained.

    R2D2 and the autoencoder stay as they are.
    """

    updates: Tensor

    def __init__(self, generator: R2D2Generator, options: GenerationOptions) -> None:
        super().__init__()
        self.options = options
        self.model = generator.requires_grad_(False).eval()
        self.student = copy.deepcopy(generator.painter).requires_grad_(options.trainable == "all")
        if options.trainable == "attention":
            for name, parameter in self.student.named_parameters():
                parameter.requires_grad_(not name.startswith("unet.") or ".attn2." in name)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> Generation:
        super().train(mode)
        self.model.eval()
        return self

    def losses(
        self, batch: Batch, progress: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], None]:
        """The mean squared error of the prediction (scalar), by its name; there is nothing else for the log."""
        with torch.no_grad():
            texts = self.model.encode_text(batch.input_ids, batch.attention_mask)
        clean_BCHW = self.model.to_latent(batch.pixel_values)
        noise_BCHW = torch.randn_like(clean_BCHW)
        count, device, noise = len(clean_BCHW), clean_BCHW.device, self.model.process
        time_B = noise.sample_timesteps(count, device)
        drop_condition_B = torch.rand(count, device=device) < self.options.condition_dropout
        prediction_BCHW = self.student(noise.mix(clean_BCHW, noise_BCHW, time_B), time_B, texts, drop_condition_B)
        return {"generation": noise.loss(prediction_BCHW, clean_BCHW, noise_BCHW, time_B)}, None

    forward = losses  # what DDP and FSDP wrap

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average; in the beginning it forgets faster."""
        self.updates += 1
        rate = warmed_up(self.options.ema_decay, int(self.updates))
        move_average(list(self.model.painter.parameters()), list(self.student.parameters()), rate)
