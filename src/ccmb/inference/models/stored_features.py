"""Stored features as a model: embeddings that any other program has computed.

A folder has `images.npy` (images, D), `texts.npy` (texts, D) and `ids.json`, which names the items of the rows:
{"images": ["cat.jpg", ...], "texts": ["一只猫", ...]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json
from ccmb.data.grouping import image_key
from ccmb.inference.models.base import OneStage, embedding
from ccmb.inference.stages import ImageLoader
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput

FILES = ("images.npy", "texts.npy", "ids.json")


def is_features(folder: Path) -> bool:
    """Whether a folder holds features rather than a model."""
    return (folder / "images.npy").is_file() or (folder / "texts.npy").is_file()


class StoredFeatures(OneStage):
    """Features looked up by the image's name and by the text itself."""

    kind = "features"

    def __init__(self, name: str, folder: Path, context_length: int | None = None) -> None:
        """Read a folder of features.

        Raises:
            UsageError: a context length is asked for.
            CcmbError: a file is missing, damaged, or does not go with the others; the message names it.
        """
        if context_length is not None:
            raise UsageError(f"{name}: features are made already; leave out --context-length")
        for file in FILES:
            if not (folder / file).is_file():
                raise CcmbError(f"{folder / file}: missing; features are {', '.join(FILES)}")
        self.name, self.source, self._folder = name, str(folder.resolve()), folder
        self.context_length: int | None = None
        digest = hashlib.sha256()
        for file in FILES:
            digest.update(hashlib.sha256((folder / file).read_bytes()).digest())
        self.fingerprint = digest.hexdigest()
        self._images, self._image_rows = self._read("images")
        self._texts, self._text_rows = self._read("texts")
        if self._images.shape[1] != self._texts.shape[1]:
            raise CcmbError(
                f"{folder}: images have {self._images.shape[1]} numbers each, but texts {self._texts.shape[1]}"
            )

    @property
    def embed_dim(self) -> int:
        return int(self._images.shape[1])

    def prepare(self, image: ImageInput) -> Any:
        raise self._of_no_other_images()

    def encode_prepared(self, images: Sequence[Any]) -> TowerOutput:
        raise self._of_no_other_images()

    def _of_no_other_images(self) -> UsageError:
        return UsageError(f"{self.name}: features that are made already, of no other images; give the model itself")

    def count_tokens(self, texts: Sequence[str]) -> int:
        return 0

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self._rows(self._images, self._image_rows, names, "images")

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self._rows(self._texts, self._text_rows, texts, "texts")

    def _read(self, which: str) -> tuple[np.ndarray, dict[str, int]]:
        path = self._folder / f"{which}.npy"
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CcmbError(f"{path}: not a whole .npy of numbers ({error})") from None
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all():
            raise CcmbError(f"{path}: needs finite floats (items, D), found {values.dtype} {values.shape}")
        ids = read_json(self._folder / "ids.json")
        ids = ids.get(which) if isinstance(ids, dict) else None
        if not isinstance(ids, list) or len(ids) != len(values):
            raise CcmbError(f'{self._folder / "ids.json"}: "{which}" must list the {len(values)} items of {path.name}')
        return values, {image_key(str(item)) if which == "images" else str(item): row for row, item in enumerate(ids)}

    def _rows(self, values: np.ndarray, rows: dict[str, int], items: Sequence[Any], which: str) -> TowerOutput:
        missing = [item for item in items if item not in rows]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CcmbError(f'{self._folder / "ids.json"}: "{which}" lacks {missing[0]!r}{more}; make its features too')
        features = torch.from_numpy(values[[rows[item] for item in items]].astype(np.float32))
        return embedding(features)
