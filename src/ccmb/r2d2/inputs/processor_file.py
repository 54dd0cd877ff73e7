"""The file in a model folder that says what the processor does to images and how long texts may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.files import read_json

# The name and form that transformers' own image processors read, so that AutoImageProcessor understands the folder.
PREPROCESSOR = "preprocessor_config.json"
# The file in which transformers' own processors keep the same settings.
PROCESSOR = "processor_config.json"


def read_settings(name: str | Path, hub: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The file of sizes and statistics with its content, in our form or in that of transformers' processors."""
    file = PREPROCESSOR
    if (folder := Path(name) / str(hub.get("subfolder") or "")).is_dir():
        if not (folder / PREPROCESSOR).is_file() and (folder / PROCESSOR).is_file():
            file = PROCESSOR
        for needed in (file, "tokenizer.json", "tokenizer_config.json"):
            if not (folder / needed).is_file():
                raise CcmbError(f"{folder / needed}: missing; the folder is not a whole model folder")
    try:
        path = Path(str(cached_file(str(name), file, **hub)))
    except OSError as error:
        raise CcmbError(f"{name}: no model folder, nor one on the hub ({one_line(error)})") from None
    values = read_json(path)
    if not isinstance(values, dict):
        raise CcmbError(f"{path}: expected keys and values")
    part = values.get("image_processor")
    return path, (part if isinstance(part, dict) else {}) | values
