"""What the step is measured on: networks of the presets' shapes, batches of captions of real lengths, and their work.

Images and words are random, since neither changes the work; the lengths of the texts do. By default they are drawn
from a gamma distribution with mean 15 and deviation 6 tokens, [CLS] and [SEP] included: between the captions that
people wrote for Flickr8k-CN (11 +- 2) and those translated for it (19 +- 6).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from ccmb.objectives.batch import Batch
from ccmb.objectives.config import Objectives
from ccmb.objectives.flops import StepFlops
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.presets import preset

MASK_ID, FIRST_WORD = 103, 106  # of BERT's Chinese vocabulary
MEAN, DEVIATION, SHORTEST = 15.0, 6.0, 4
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12}  # dense bf16, by a part of the device's name


def shape_config(name: str) -> R2D2Config:
    """A preset without dropout, so that the losses of two steps can be compared; `test` is one for tests."""
    if name != "test":
        config = preset(f"r2d2-{name}", cross_dropout=0.0)
    else:
        tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = R2D2Config(
            vision_config=tower | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16},
            text_config=tower | {"model_type": "bert", "vocab_size": 200, "pad_token_id": 0},
            embed_dim=16, cross_layers=2, cross_dropout=0.0,
        )  # fmt: skip
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    return config


def new_training(shape: str, queue: int, device: torch.device, freeze: bool = False) -> PreTraining:
    """All five objectives of the paper on a new network."""
    torch.manual_seed(0)
    model = R2D2Model(shape_config(shape))
    model.image_tower.requires_grad_(not freeze)
    objectives = Objectives.model_validate({"tgd": {"queue_size": queue}})
    return PreTraining(model, objectives, MASK_ID).train().to(device)


def draw_lengths(count: int, maximum: int, seed: int) -> list[int]:
    """Tokens of `count` captions, see above."""
    rng = random.Random(seed)
    shape = (MEAN / DEVIATION) ** 2
    return [min(maximum, max(SHORTEST, round(rng.gammavariate(shape, MEAN / shape)))) for _ in range(count)]


def read_lengths(path: Path, count: int, maximum: int, seed: int) -> list[int]:
    """Tokens of `count` captions drawn from a JSON-lines file with `texts` (or another list of texts) a line."""
    lengths: list[int] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        texts = next((value for value in json.loads(line).values() if isinstance(value, list)), [])
        lengths += [min(maximum, len(text) + 2) for text in texts]  # a Chinese character is a token
    return random.Random(seed).choices(lengths, k=count)


def make_batch(config: R2D2Config, lengths: Sequence[int], tokens: int, seed: int) -> Batch:
    """A batch of texts of these lengths, padded to `tokens`; every image is another one."""
    generator = torch.Generator().manual_seed(seed)
    size, count = config.image_size, len(lengths)
    pixels = torch.randn(count, 3, size, size, generator=generator)
    words = torch.randint(
        FIRST_WORD, config.text_config.vocab_size, (count, config.max_text_tokens), generator=generator
    )
    places, ends = torch.arange(tokens)[None, :], torch.tensor(lengths)[:, None]
    mask = places < ends
    ids = words[:, :tokens].masked_fill(~mask, 0)
    maskable = mask & (places > 0) & (places < ends - 1)
    return Batch(
        pixel_values=pixels, input_ids=ids, attention_mask=mask.long(), maskable=maskable, image_ids=torch.arange(count)
    )


def flops_per_sample(config: R2D2Config, lengths: Sequence[int], frozen: bool = False) -> float:
    """Operations of one pair of a step with all objectives, see `StepFlops`; lengths with [CLS] and [SEP]."""
    step = StepFlops(config, Objectives(), frozen)
    return step(list(lengths), sum(lengths) - 2 * len(lengths), 0.5) / len(lengths)
