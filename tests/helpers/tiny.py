"""Small random networks, processors and batches for tests; everything is built in milliseconds and fixed by a seed."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from PIL import Image

from ccmb.objectives.batch import Batch
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.second_stage import add_decoder
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import train_tokenizer

SIZE = 32
TEXTS = (
    "一只红色的小船停在海边",
    "两只猫睡在沙发上",
    "夜里的城市灯火通明",
    "左边是绿树,右边是一座白色的房子",
    "男孩在草地上踢足球",
    "桌上放着3个苹果和一杯牛奶",
    "雪山下的蓝色湖泊",
    "女孩骑着黄色自行车",
)


@cache
def _tokenizer() -> Any:
    return train_tokenizer(TEXTS, vocabulary=200, max_length=24)


def tiny_processor(size: int = SIZE) -> R2D2Processor:
    """A processor whose tokenizer is trained on TEXTS; images become (3, size, size)."""
    return R2D2Processor(_tokenizer(), size, max_text_tokens=24)


def tiny_config(**changes: Any) -> R2D2Config:
    """Towers and cross encoders of width 32 with two heads; five image tokens. No dropout."""
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 24}
    # Large initial weights, so that what a random network says differs from item to item.
    fields: dict[str, Any] = {
        "vision_config": tower | {"model_type": "clip_vision_model", "image_size": SIZE, "patch_size": 16},
        "text_config": tower
        | text
        | {"model_type": "bert", "vocab_size": len(_tokenizer()), "pad_token_id": 0, "initializer_range": 0.3},
        "embed_dim": 16,
        "cross_layers": 2,
        "cross_dropout": 0.0,
        "max_text_tokens": 24,
    }
    return R2D2Config(**(fields | changes))


def tiny_model(seed: int = 0, **changes: Any) -> R2D2Model:
    """A random network in evaluation mode; `changes` go to R2D2Config."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return R2D2Model(tiny_config(**changes)).eval()


def tiny_images(count: int, seed: int = 0) -> list[Image.Image]:
    """Images of random coloured blocks."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 4, 4, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(block.numpy()).resize((SIZE, SIZE), Image.Resampling.NEAREST) for block in pixels]


def tiny_batch(count: int = 4, seed: int = 0, image_ids: list[int] | None = None) -> Batch:
    """A pre-training batch of `count` pairs; without `image_ids` every image is another one."""
    processor = tiny_processor()
    encoded = processor.texts([TEXTS[index % len(TEXTS)] for index in range(count)])
    return Batch(
        pixel_values=processor.images(tiny_images(count, seed)),
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        maskable=processor.maskable(encoded["input_ids"]),
        image_ids=torch.tensor(image_ids or list(range(count))),
    )


def tiny_decoder_model(seed: int = 0, *, standardize_states: bool = False, **changes: Any) -> R2D2Model:
    """The same with a decoder of two layers in the place of the cross encoders; it knows the tokens of TEXTS."""
    model = tiny_model(seed, cross_layers=0, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        add_decoder(model, tiny_processor(), 2, standardize_states, TEXTS)
    return model
