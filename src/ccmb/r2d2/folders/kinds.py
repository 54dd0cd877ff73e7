"""Folders and files that are given for a model but are not R2D2's: what they are, and which command takes them."""

from __future__ import annotations

from pathlib import Path

from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json

MODEL_TYPE = "r2d2"
USED = "`ccmb index`, `match`, `classify`, `evaluate` and `benchmark` take it by --model"
START = f"`ccmb finetune --model` and `ccmb pretrain RECIPE model.init_from=` take it, and {USED}"
VISION = "`ccmb pretrain RECIPE model.vision=... model.text=...` takes it for the image tower"
TEXT = "`ccmb pretrain RECIPE model.vision=... model.text=...` takes it for the text tower"
TWO_TOWERS = {"clip": "CLIP", "siglip": "SigLIP", "siglip2": "SigLIP 2", "altclip": "AltCLIP",
              "metaclip_2": "MetaCLIP 2"}  # fmt: skip
IMAGE_TOWERS = (
    "clip_vision_model", "siglip_vision_model", "vit", "beit", "dinov2", "dinov2_with_registers", "dinov3_vit",
)  # fmt: skip
# Files by which a folder without a config.json is recognised, the more specific first.
MARKS = {
    "model_index.json": "a pipeline of diffusers; `ccmb finetune generation generation.pipeline=` takes it",
    "adapter_config.json": "an adapter of PEFT (LoRA), which is no model by itself; merge it into its model first",
    "open_clip_config.json": "an open_clip model; --model open_clip:ARCHITECTURE/FILE takes it",
    "open_clip_pytorch_model.bin": "an open_clip model; --model open_clip:ARCHITECTURE/FILE takes it",
    "open_clip_model.safetensors": "an open_clip model; --model open_clip:ARCHITECTURE/FILE takes it",
    "images.npy": "a folder of stored features; `ccmb evaluate` and `benchmark` take it by --model",
    "thumbnails.db": "an index, no model; give the run or model folder that made it",
    "pairs.jsonl": "a folder of pairs, no model; give the run or model folder",
    "pytorch_model.bin": "weights in a form that can carry code; save the model anew as safetensors",
}


def other_kind(folder: Path) -> str | None:
    """A description of a folder that is not R2D2's, with the command that takes it.

    None if the folder is R2D2's or cannot be recognised.

    Raises:
        CcmbError: its config.json is not readable.
    """
    config = folder / "config.json"
    if config.is_file():
        values = read_json(config)
        kind = values.get("model_type") if isinstance(values, dict) else None
        if kind == MODEL_TYPE:
            return None
        if (folder / "adapter_config.json").is_file():
            return MARKS["adapter_config.json"]
        return kind_of(str(kind)) if kind else "a config.json without a model_type; it is no model of transformers"
    return next((kind for file, kind in MARKS.items() if (folder / file).is_file()), None) or _of_checkpoints(folder)


def kind_of(model_type: str) -> str:
    """A description of transformers' `model_type`, with the command that takes it."""
    if model_type == "chinese_clip":
        return f"a Chinese-CLIP; {START}"
    if model_type in TWO_TOWERS:
        both = ", and as well for the text tower" if model_type in ("siglip", "siglip2") else ""
        return f"a {TWO_TOWERS[model_type]} ({model_type}); {USED}, and {VISION}{both}"
    if model_type in IMAGE_TOWERS:
        return f"an image tower alone ({model_type}); {VISION}"
    if model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type] in MODEL_FOR_MASKED_LM_MAPPING:
        return f"a text encoder alone ({model_type}); {TEXT}"
    return f"a model of the kind {model_type}, which no command here takes"


def check_kind(folder: Path) -> None:
    """Refuse a folder that is not R2D2's.

    Raises:
        CcmbError: the folder is of another kind; the message says which, and which command takes it.
    """
    if kind := other_kind(folder):
        raise CcmbError(f"{folder}: not an R2D2 but {kind}")


def _of_checkpoints(folder: Path) -> str | None:
    """A description of a folder that holds a trainer's files."""
    if (folder / ".metadata").is_file() and any(folder.glob("*.distcp")):
        return (
            "a sharded checkpoint of torch; make one file of it (python -m torch.distributed.checkpoint.format_utils "
            "dcp_to_torch FOLDER FILE) for `ccmb convert`"
        )
    if (folder / "state.pt").is_file() or any(folder.glob("step-*/state.pt")):
        return "checkpoints of a run that is not finished; run its command again to continue it, then give the run"
    files = sorted(path.name for path in folder.iterdir() if path.suffix in (".pth", ".pt", ".ckpt", ".bin"))
    return (
        f"a folder with the checkpoint {files[0]}; `ccmb convert` makes a model folder of an R2D2's" if files else None
    )
