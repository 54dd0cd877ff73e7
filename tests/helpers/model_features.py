"""Features of models, as files for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from torch import Tensor


def save_features(folder: Path, images: Tensor, texts: Tensor, names: list[str], lines: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", images.numpy())
    np.save(folder / "texts.npy", texts.numpy())
    (folder / "ids.json").write_text(json.dumps({"images": names, "texts": lines}), encoding="utf-8")
    return folder
