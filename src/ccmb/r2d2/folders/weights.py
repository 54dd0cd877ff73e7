"""The weight files of a model folder, one file or shards, and checks that they belong to its configuration."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Buffers that older releases of transformers saved and that no network reads.
NO_MATTER = re.compile(r".*position_ids$")
# From the prefix of tensors' names to the key of config.json that decides how many such layers there are.
LAYER_KEYS = {
    "image_tower.": "vision_config.num_hidden_layers",
    "text_tower.": "text_config.num_hidden_layers",
    "text_image_encoder.": "cross_layers",
    "image_text_encoder.": "cross_layers",
    "mlm_head.": "mlm_head",
    "text_image_match.": "match_heads",
    "image_text_match.": "match_heads",
    "image_to_cross.": "match_heads",
    "likelihood.": "decoder_layers",
    "token_reduction.": "reduced_tokens",
}


def weight_files(folder: Path) -> list[Path]:
    """The file of a folder's weights, or the files of its shards, sorted by name.

    Raises:
        CcmbError: a file is missing, or the list of the shards is damaged; the message names it.
    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        names = [WEIGHTS]
    else:
        content = read_json(folder / INDEX)
        names_of = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(names_of, dict) or not names_of:
            raise CcmbError(f"{folder / INDEX}: not a list of shards; it needs a weight_map")
        names = sorted({str(name) for name in names_of.values()})
        if outside := [name for name in names if Path(name).name != name]:
            raise CcmbError(f"{folder / INDEX}: names {outside[0]!r}, which is no file of this folder")
    for name in names:
        if not (folder / name).is_file():
            raise CcmbError(f"{folder / name}: missing; the folder is not a whole model folder")
    return [folder / name for name in names]


def weights_path(folder: Path) -> Path:
    """The file that messages about a folder's weights name: the weights, or the list of shards."""
    return folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)


def check_loaded(folder: Path, info: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Check that the weights are exactly those of the network that config.json describes.

    Args:
        info: the report of `from_pretrained` with `output_loading_info=True` and `ignore_mismatched_sizes=True`.
        config: of the network.

    Raises:
        CcmbError: a tensor is missing, left over or of another shape; the message names the file, the first such
            tensor and, where it is plain, the key of config.json.
    """
    file, fix = weights_path(folder), "take the config.json that belongs to the weights"
    if missing := sorted(info["missing_keys"]):
        raise CcmbError(f"{file}: lacks {missing[0]}{and_more(missing)}{_config_value(missing[0], config)}; {fix}")
    if mismatched := sorted(tuple(mismatch) for mismatch in info["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise CcmbError(
            f"{file}: {name} is {tuple(stored)}{and_more(mismatched)}, but config.json asks for {tuple(wanted)}; {fix}"
        )
    if unexpected := sorted(name for name in info["unexpected_keys"] if not NO_MATTER.match(name)):
        raise CcmbError(
            f"{file}: holds {unexpected[0]}{and_more(unexpected)}, for which config.json has no place"
            f"{_config_value(unexpected[0], config)}; {fix}"
        )


def check_finite(where: str | Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights that are not finite, since nothing computed with them is finite either.

    Raises:
        CcmbError: a tensor holds NaN or infinity; the message names it and where it is from.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise CcmbError(
                f"{where}: {name} holds {count:,} values that are not finite (NaN or infinity), of {tensor.numel():,}; "
                "the training that wrote it went wrong, or the file is damaged: take an earlier one"
            )


def and_more(names: Collection[object]) -> str:
    """The count of names after the first, for a message: " and 3 more"."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _config_value(name: str, config: Mapping[str, Any]) -> str:
    """The value in config.json that decides about a tensor's part, for a message."""
    key = next((key for prefix, key in LAYER_KEYS.items() if name.startswith(prefix)), None)
    if key == "cross_layers" and config.get("cross_layers") and not config.get("match_heads"):
        key = "match_heads"  # without which there is no such encoder at all
    if key is None or (key.endswith("layers") and not re.search(r"[._]layers?\.", name)):
        return ""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else f" ({key} is {value})"
