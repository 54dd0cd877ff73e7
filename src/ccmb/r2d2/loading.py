"""Open a model by what a user calls it: a run folder, a model folder, or its id on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ccmb.errors import CcmbError, one_line
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.export_record import RECORD, ExportRecord, is_export
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import PREPROCESSOR, R2D2Processor

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Never code, and no weights in a form that can carry it.
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def model_folder(name: str | Path) -> Path:
    """The folder with the weights: the given one, `model` inside a run folder, or the local copy of a hub model.

    Raises:
        CcmbError: there is no such folder or model, or a file of it is missing; the message names it.
    """
    path = Path(name)
    if not path.is_dir():
        if not HUB_ID.fullmatch(str(name)) or path.parent.is_dir():
            raise CcmbError(f"{path}: no such model folder")
        path = _download(str(name))
    if not (path / "config.json").is_file() and (path / "model").is_dir():
        path = path / "model"
    elif not (path / "config.json").is_file() and (path / "recipe.yaml").is_file():
        raise CcmbError(f"{path}: this run has not finished; run its command again to continue it")
    for file in ("config.json", RECORD if is_export(path) else "model.safetensors"):
        if not (path / file).is_file():
            raise CcmbError(f"{path / file}: missing; the folder is not a whole model folder")
    return path


def _download(hub_id: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # no network, no such model, no right to it, a full disk
        raise CcmbError(f"{hub_id}: no such model folder, and not to be had from the hub ({one_line(error)})") from None


def load_model(name: str | Path) -> tuple[R2D2Model, R2D2Processor]:
    """Model (in evaluation mode) and processor of a run folder, model folder or hub id.

    Raises:
        CcmbError: something is missing or damaged, or it is an export; the message names the file.
    """
    folder = model_folder(name)
    if is_export(folder):
        raise CcmbError(
            f"{folder}: an export, which only encodes and ranks; give the model it was made of, "
            f"{ExportRecord.read(folder).source}"
        )
    processor = R2D2Processor.from_pretrained(folder)
    try:
        loaded: Any = R2D2Model.from_pretrained(folder, output_loading_info=True)
        model, info = loaded
    except Exception as error:  # whatever transformers or safetensors make of a damaged file
        raise CcmbError(f"{folder}: the model cannot be loaded ({one_line(error)})") from None
    if info["missing_keys"]:
        raise CcmbError(f"{folder / 'model.safetensors'}: lacks {sorted(info['missing_keys'])[0]} and maybe more")
    check_picture_size(folder, model.config, processor)
    return model.eval(), processor


def check_picture_size(folder: Path, config: R2D2Config, processor: R2D2Processor) -> None:
    """Raise a CcmbError if a folder's processor makes pictures of another size than its network takes."""
    if processor.image_size != config.image_size:
        raise CcmbError(
            f"{folder / PREPROCESSOR}: size {processor.image_size}, but the network's pictures are "
            f"{config.image_size} pixels wide; take the file that belongs to the model"
        )


def fingerprint(model: Path) -> str:
    """SHA-256 of a model folder's weights; of an export, of the weights that it was made of."""
    if is_export(model):
        return ExportRecord.read(model).fingerprint
    with open(model / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
