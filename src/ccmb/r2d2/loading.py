"""Open a model by name: a run folder, a model folder, or an id on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.hashing import sha256_of_files
from ccmb.fetch.hub import HUB_ID, hub_hint, local_name
from ccmb.r2d2.backbones import max_tokens
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.checkpoint_files import what_file
from ccmb.r2d2.folders.export_manifest import ExportRecord, is_export
from ccmb.r2d2.folders.kinds import check_kind
from ccmb.r2d2.folders.weights import check_finite, check_loaded, weight_files, weights_path
from ccmb.r2d2.inputs.processor_file import PREPROCESSOR
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor

# The files that are downloaded: no code, and no weights in a form that can carry code.
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def model_folder(name: str | Path, any_kind: bool = False) -> Path:
    """The folder with the weights: the given one, `model` inside a run folder, or the local copy of a hub model.

    Args:
        any_kind: whether models of other kinds, such as a Chinese-CLIP, are accepted too.

    Raises:
        CcmbError: there is no such folder or model, it is of another kind, or a file of it is missing; the message
            names it.
    """
    path = Path(name := local_name(str(name)))
    if path.is_file():
        raise CcmbError(f"{path}: {what_file(path)}, no model folder; `ccmb convert` makes one of an R2D2's checkpoint")
    if not path.is_dir():
        if not HUB_ID.fullmatch(str(name)) or path.parent.is_dir():
            raise CcmbError(f"{path}: no such model folder")
        path = _download(str(name))
    if not (path / "config.json").is_file() and (path / "model").is_dir():
        path = path / "model"
    elif not (path / "config.json").is_file() and (path / "recipe.yaml").is_file():
        raise CcmbError(f"{path}: this run has not finished; run its command again to continue it")
    if not any_kind:
        check_kind(path)
    if not (path / "config.json").is_file():
        raise CcmbError(f"{path / 'config.json'}: missing; the folder is not a whole model folder")
    if not is_export(path):
        weight_files(path)
    return path


def _download(hub_id: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # no network, no such model, no right to it, a full disk
        raise CcmbError(
            f"{hub_id}: no such model folder, and not to be had from the hub ({one_line(error)}){hub_hint()}"
        ) from None


def load_model(
    name: str | Path, dtype: torch.dtype | Literal["auto"] | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[R2D2Model, R2D2Processor]:
    """Model (in evaluation mode) and processor of a run folder, model folder or hub id.

    Args:
        dtype: of the weights. By default torch's default type, float32 unless the program has set another, whatever the
            weights were saved in: in half precision most steps of a training are too small to move a weight, and
            float16 overflows. "auto" keeps the file's type.
        changes: fields of R2D2Config that override the folder's; the weights must suit them.

    Raises:
        CcmbError: something is missing or damaged, files do not belong together, a weight is not finite, or it is an
            export; the message names the file.
    """
    folder = model_folder(name)
    if is_export(folder):
        raise CcmbError(
            f"{folder}: an export, which only encodes and ranks; give the model it was made of, "
            f"{ExportRecord.read(folder).source}"
        )
    processor, config = R2D2Processor.from_pretrained(folder), read_r2d2_config(folder)
    for key, value in (changes or {}).items():
        setattr(config, key, value)
    check_processor(folder, config, processor)
    try:
        loaded: Any = R2D2Model.from_pretrained(
            folder,
            config=config,
            dtype=dtype or torch.get_default_dtype(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        model, info = loaded
    except Exception as error:  # whatever transformers or safetensors make of a damaged file
        raise CcmbError(f"{folder}: the model cannot be loaded ({one_line(error)})") from None
    check_loaded(folder, info, config.to_dict())
    check_finite(weights_path(folder), model.state_dict().items())
    return model.eval(), processor


def read_r2d2_config(folder: Path) -> R2D2Config:
    """The configuration in a model folder.

    Raises:
        CcmbError: it is missing or not an R2D2's; the message names it.
    """
    try:
        return R2D2Config.from_pretrained(folder)
    except Exception as error:  # not there, not JSON, or not its fields
        raise CcmbError(f"{folder / 'config.json'}: not a network's ({one_line(error)})") from None


def check_processor(folder: Path, config: R2D2Config, processor: R2D2Processor) -> None:
    """Check that a folder's tokenizer and image size suit its network.

    Raises:
        CcmbError: the tokenizer has tokens without an embedding or has no padding token, texts may be longer than there
            are positions or have another prefix, or the images have another size; the message names file and key.
    """
    vocabulary, tokenizer = config.text_config.vocab_size, processor.tokenizer
    highest = max(tokenizer.get_vocab().values(), default=-1) + 1
    if highest > vocabulary:
        raise CcmbError(
            f"{folder / 'tokenizer.json'}: has {highest:,} tokens, but the network embeddings for {vocabulary:,} "
            "(text_config.vocab_size of config.json); take the tokenizer that belongs to the model"
        )
    if tokenizer.pad_token_id is None:
        raise CcmbError(f"{folder / 'tokenizer_config.json'}: names no pad_token, which batches need")
    limit = max_tokens(config.text_config)
    for file, longest in (("config.json", config.max_text_tokens), (PREPROCESSOR, processor.max_text_tokens)):
        if limit is not None and longest > limit:
            raise CcmbError(
                f"{folder / file}: max_text_tokens is {longest}, but the text tower has positions for {limit} tokens"
            )
    if processor.max_text_tokens > config.max_text_tokens:
        raise CcmbError(
            f"{folder / PREPROCESSOR}: max_text_tokens is {processor.max_text_tokens}, but that of config.json is "
            f"{config.max_text_tokens}; take the file that belongs to the model"
        )
    if processor.text_prefix != config.text_prefix:
        raise CcmbError(
            f"{folder / PREPROCESSOR}: text_prefix is {processor.text_prefix!r}, but that of config.json is "
            f"{config.text_prefix!r}; take the file that belongs to the model"
        )
    if processor.image_size != config.image_size:
        raise CcmbError(
            f"{folder / PREPROCESSOR}: size {processor.image_size}, but the network's images are "
            f"{config.image_size} pixels wide; take the file that belongs to the model"
        )


def weights_fingerprint(model: Path) -> str:
    """SHA-256 of a model folder's weights (all shards in order), or of the weights that an export was made of.

    Raises:
        CcmbError: a file of weights cannot be read.
    """
    if is_export(model):
        return ExportRecord.read(model).fingerprint
    return sha256_of_files(weight_files(model))
