"""The most memory that one process needs to encode a gallery to disk, or to rank its images for some texts.

Features are small, so that large galleries fit on any disk, and random: 17 tokens of width 64 an image. The network
that ranks them is small too, so that what the gallery needs would show.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccmb.benchmark.evaluation.feature_cache import open_gallery, store_gallery
from ccmb.inference.two_stage import two_stage_ranks
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput, l2_normalize
from paired import peak

WIDTH, IMAGE_TOKENS, TEXT_TOKENS, TEXTS, DEPTH = 64, 17, 12, 256, 64


class RandomEncoder:
    """An `Encoder` of random features."""

    def encode_images(self, names: Sequence[Any], load: Any) -> TowerOutput:
        return _random(len(names), IMAGE_TOKENS, names[0])

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return _random(len(texts), TEXT_TOKENS, 10**6 + int(texts[0]))


def _random(count: int, tokens: int, seed: int) -> TowerOutput:
    states = torch.randn(count, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))
    return TowerOutput(l2_normalize(states[:, 0]), states)


def small_model() -> R2D2Model:
    tower = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = R2D2Config(
        vision_config=tower | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
        text_config=tower | {"model_type": "bert", "vocab_size": 200, "pad_token_id": 0},
        embed_dim=WIDTH,
        cross_ffn=4 * WIDTH,
        cross_layers=1,
    )
    return R2D2Model(config).eval()


def encode(path: Path, count: int) -> None:
    store_gallery(path, RandomEncoder(), range(count), [str(text) for text in range(TEXTS)], lambda name: name)


def rank(path: Path, count: int) -> Tensor:
    """(texts,) ranks of the second stage."""
    gallery = open_gallery(path, count, torch.arange(TEXTS) % count)
    assert gallery is not None
    ranks = two_stage_ranks(small_model(), gallery, "text_to_image", DEPTH).ranking
    assert ranks is not None
    return ranks


def peak_of(what: str, path: Path, count: int) -> float:
    """MiB at the most of a process that does one of the two."""
    words = [sys.executable, __file__, what, str(path), str(count)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"encode": encode, "rank": rank}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(peak(torch.device("cpu")) / 2**20)
