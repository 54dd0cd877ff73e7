"""Small random two-tower models on disk, each with the processors that its kind comes with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import transformers as hf
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from ccmb.inference.models.fg_clip2 import FgClip2, FgClip2Config
from tests.helpers.sources import EYE, TOWER, WORDS, chinese_clip, saved
from tests.helpers.tiny import SIZE, tiny_model, tiny_processor

SQUARE = {"height": SIZE, "width": SIZE}
ALT = TOWER | {"vocab_size": WORDS, "project_dim": 12, "max_position_embeddings": 66, "pad_token_id": 0}
LATIN = TOWER | {"vocab_size": WORDS, "max_position_embeddings": 24, "bos_token_id": 2, "eos_token_id": 3}
PATCHES = TOWER | {"patch_size": 8, "num_patches": 16}
SHORT, LONG = 20, 40  # texts of FG-CLIP 2, in tokens
SIGLIP = TOWER | {"vocab_size": WORDS, "projection_size": 32, "max_position_embeddings": SHORT}

BUILDS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "chinese_clip": chinese_clip,
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(text_config=SIGLIP, vision_config=EYE)),
    "altclip": lambda: hf.AltCLIPModel(hf.AltCLIPConfig(text_config=ALT, vision_config=EYE, projection_dim=12)),
    "siglip2": lambda: hf.Siglip2Model(hf.Siglip2Config(text_config=SIGLIP, vision_config=PATCHES)),
    "fgclip2": lambda: FgClip2(
        FgClip2Config(text_config=SIGLIP | {"keep_len": 5, "longtext_len": LONG}, vision_config=PATCHES)
    ),
    "metaclip_2": lambda: hf.MetaClip2Model(
        hf.MetaClip2Config(text_config=LATIN, vision_config=EYE, projection_dim=12)
    ),
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=LATIN, vision_config=EYE, projection_dim=12)),
}


def save_two_towers(folder: Path, kind: str) -> Path:
    """A model folder of one of BUILDS."""
    saved(BUILDS[kind], folder)
    tiny_processor().tokenizer.save_pretrained(folder)
    if kind == "siglip":
        SiglipImageProcessorPil(size=SQUARE).save_pretrained(folder)
    elif kind in ("siglip2", "fgclip2"):  # NaFlex: as many patches as the image's shape gives, up to a budget
        Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    elif kind == "chinese_clip":
        ChineseCLIPImageProcessorPil(size=SQUARE, do_center_crop=False).save_pretrained(folder)
    else:
        CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=SQUARE).save_pretrained(folder)
    return folder


def save_r2d2(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A model folder of R2D2; `changes` go to R2D2Config."""
    tiny_model(seed, **changes).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder
