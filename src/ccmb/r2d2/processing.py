"""R2D2Processor: pictures and texts to the tensors that R2D2Model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ccmb.data.transforms import normalise, square
from ccmb.errors import CcmbError
from ccmb.files import read_json, write_json

FILE_NAME = "ccmb_processor.json"


class R2D2Processor:
    """Pictures (resized to a square, CLIP-normalised) and texts (tokenized, cut at the context length)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_size: int, max_text_tokens: int = 64) -> None:
        self.tokenizer, self.image_size, self.max_text_tokens = tokenizer, image_size, max_text_tokens

    def images(self, pictures: Sequence[Image.Image | str | Path]) -> Tensor:
        """PIL pictures or paths to (B, 3, S, S) float32.

        Raises:
            CcmbError: a file is missing or not a readable picture; the message names it.
        """
        return normalise(torch.from_numpy(np.stack([square(_open(picture), self.image_size) for picture in pictures])))

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts to `input_ids` and `attention_mask`, each (B, T) int64, padded to the longest of the batch."""
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_text_tokens, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def maskable(self, input_ids_BT: Tensor) -> Tensor:
        """(B, T) True where a token is a word: not padding, [CLS], [SEP] or another special token."""
        special = torch.tensor(self.tokenizer.all_special_ids, device=input_ids_BT.device)
        return ~torch.isin(input_ids_BT, special)

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """One or many pictures and texts to the keyword arguments of the model."""
        inputs: dict[str, Tensor] = {}
        if images is not None:
            inputs["pixel_values"] = self.images(images if isinstance(images, (list, tuple)) else [images])
        if text is not None:
            inputs |= self.texts([text] if isinstance(text, str) else text)
        return inputs

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and the sizes into a model folder."""
        self.tokenizer.save_pretrained(folder)
        write_json(Path(folder) / FILE_NAME, {"image_size": self.image_size, "max_text_tokens": self.max_text_tokens})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> R2D2Processor:
        """Read from a model folder.

        Raises:
            CcmbError: the folder or one of its files is missing or damaged; the message names it.
        """
        folder = Path(folder)
        for name in (FILE_NAME, "tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise CcmbError(f"{folder / name}: missing; the folder is not a whole model folder")
        sizes = read_json(folder / FILE_NAME)
        try:
            image_size, max_text_tokens = int(sizes["image_size"]), int(sizes["max_text_tokens"])
        except (KeyError, TypeError, ValueError):
            raise CcmbError(f"{folder / FILE_NAME}: needs the whole numbers image_size and max_text_tokens") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # whatever tokenizers makes of a damaged file
            reason = " ".join(str(error).split())[:200]
            raise CcmbError(
                f"{folder}: tokenizer.json or tokenizer_config.json is not a readable tokenizer ({reason})"
            ) from None
        return cls(tokenizer, image_size, max_text_tokens)


def _open(picture: Image.Image | str | Path) -> Image.Image:
    # RGB before any resizing: in palette pictures neighbouring numbers are not neighbouring colours.
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    try:
        with Image.open(picture) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise CcmbError(f"{picture}: no such picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CcmbError(f"{picture}: not a readable picture ({error})") from None
