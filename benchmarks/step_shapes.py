"""What the step is measured on: networks of the presets' shapes, batches of captions of real lengths, and their work.

Pictures and words are random, since neither changes the work; the lengths of the texts do. By default they are drawn
from a gamma distribution with mean 15 and deviation 6 tokens, [CLS] and [SEP] included: between the captions that
people wrote for Flickr8k-CN (11 +- 2) and those translated for it (19 +- 6).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ccmb.objectives.batch import Batch
from ccmb.objectives.options import Objectives
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
    objectives = Objectives.model_validate({"tgd": {"queue": queue}})
    return PreTraining(model, objectives, MASK_ID).train().to(device)


def draw_lengths(count: int, most: int, seed: int) -> list[int]:
    """Tokens of `count` captions, see above."""
    rng = random.Random(seed)
    shape = (MEAN / DEVIATION) ** 2
    return [min(most, max(SHORTEST, round(rng.gammavariate(shape, MEAN / shape)))) for _ in range(count)]


def read_lengths(path: Path, count: int, most: int, seed: int) -> list[int]:
    """Tokens of `count` captions drawn from a JSON-lines file with `texts` (or another list of texts) a line."""
    lengths: list[int] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        texts = next((value for value in json.loads(line).values() if isinstance(value, list)), [])
        lengths += [min(most, len(text) + 2) for text in texts]  # a Chinese character is a token
    return random.Random(seed).choices(lengths, k=count)


def make_batch(config: R2D2Config, lengths: Sequence[int], tokens: int, seed: int) -> Batch:
    """A batch of texts of these lengths, padded to `tokens`; every picture is another one."""
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
    return Batch(pixels, ids, mask.long(), maskable, torch.arange(count))


def flops_per_sample(
    config: R2D2Config, lengths: Sequence[int], frozen: bool = False, words_masked: float = 0.15
) -> float:
    """3 x (picture + clean text + masked text + ranking of three pairs + MLM) + teachers of picture and text; where the
    image tower is frozen, 1 x picture in all.

    Real tokens only; what a picture's or a text's pairs share counts once; nothing that is computed twice counts twice.
    """
    with torch.device("meta"):
        model = R2D2Model(config).eval()
        pixels = torch.empty(1, 3, config.image_size, config.image_size)
    image = _count(lambda: model.encode_image(pixels))
    # A text's and a pair's work are polynomials of degree two in its length: three points give them.
    points = [4, config.max_text_tokens // 2, config.max_text_tokens]
    texts, pairs = zip(*(_text_and_pairs(model, tokens) for tokens in points), strict=True)
    text = sum(_through(points, texts, length) for length in lengths) / len(lengths)
    cross = sum(_through(points, pairs, length) for length in lengths) / len(lengths)
    guessed = words_masked * (sum(lengths) / len(lengths) - 2)
    width = config.text_config.hidden_size
    head = guessed * 2 * width * (width + config.text_config.vocab_size)
    return (1 if frozen else 4) * image + 3 * (2 * text + cross + head) + text


def _text_and_pairs(model: R2D2Model, tokens: int) -> tuple[int, int]:
    with torch.device("meta"):
        ids, zeros = torch.empty(1, tokens, dtype=torch.long), torch.zeros(3, dtype=torch.long)
        pixels = torch.empty(1, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        images, texts = model.encode_image(pixels), model.encode_text(ids)
    return _count(lambda: model.encode_text(ids)), _count(lambda: model.rank(images, texts, zeros, zeros, read=1))


def _count(work: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _through(xs: Sequence[int], ys: Sequence[int], x: float) -> float:
    """The parabola through three points, at x."""
    total = 0.0
    for at, y in zip(xs, ys, strict=True):
        others = [other for other in xs if other != at]
        total += y * (x - others[0]) * (x - others[1]) / ((at - others[0]) * (at - others[1]))
    return total
