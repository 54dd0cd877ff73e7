"""A tiny reranker of sentence-transformers on disk: how near an image's mean colour is to a text's length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import InputModule
from torch import Tensor


class PairModule(InputModule):
    """Scores pairs of a text and an image by a linear layer of the mean colour and the text's length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1, dtype=torch.float64)

    @property
    def modalities(self) -> list[Any]:
        return ["text", "image"]

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        rows = [[len(text), *(np.asarray(image, dtype=np.float64).mean((0, 1)) / 64)] for text, image in inputs]
        return {"features": torch.tensor(rows, dtype=torch.float64)}

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        return {**features, "scores": self.layer(features["features"])}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> PairModule:
        module = cls()
        keys = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        kept = {key: kwargs[key] for key in keys if key in kwargs}
        cls.load_torch_weights(model_name_or_path, model=module, **kept)
        return module


def save_ranker(folder: Path, seed: int = 0) -> Path:
    """A folder that `CrossEncoder` opens."""
    torch.manual_seed(seed)
    CrossEncoder(modules=[PairModule()], device="cpu").save_pretrained(str(folder))
    return folder
