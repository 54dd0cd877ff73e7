"""Any model of the benchmark as the scorer of a corpus's pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccmb.inference.models.open_model import open_model


class ModelScorer:
    """A model of the benchmark, see `open_model`, as a `ccmb.corpus.assembly.clip_scores.Scorer`."""

    def __init__(self, source: str) -> None:
        """Open the model.

        Raises:
            CcmbError: the model is not there, or of a kind that cannot score.
        """
        self._model = open_model(source)
        self.name, self.fingerprint = self._model.name, self._model.fingerprint

    def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        return self._model.encode_images(range(len(images)), images.__getitem__).embed.numpy()

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        return self._model.encode_texts(texts).embed.numpy()
