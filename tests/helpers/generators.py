"""A small generator of images, for tests."""

from __future__ import annotations

import torch

from ccmb.objectives.generation import GenerationOptions
from ccmb.r2d2.generative.generator import R2D2Generator
from ccmb.tasks.generation.finetune import new_shape
from tests.helpers.tiny import tiny_model

SMALL = GenerationOptions(image_size=16, patch_size=4, channels=[16, 32], attention_head_dim=8)


def tiny_generator(seed: int = 0) -> R2D2Generator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = R2D2Generator.from_r2d2(tiny_model(), new_shape(SMALL)).eval()
        torch.nn.init.normal_(generator.painter.nothing)
    return generator
