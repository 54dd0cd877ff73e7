"""R2D2Processor: pictures and texts to the tensors that R2D2Model takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.utils.hub import PushToHubMixin, cached_file

from ccmb.data.pictures import picture_of
from ccmb.data.transforms import CLIP_MEAN, CLIP_STD, normalise, square
from ccmb.errors import CcmbError, one_line
from ccmb.files import read_json, write_json
from ccmb.r2d2.configuration import R2D2Config

# The name and form that transformers' own image processors read, so that AutoImageProcessor understands the folder.
PREPROCESSOR = "preprocessor_config.json"

Picture = Image.Image | str | Path | bytes | np.ndarray | Tensor


class R2D2Processor(PushToHubMixin):
    """Pictures (resized to a square, normalised) and texts (tokenized, cut at the context length).

    Args:
        tokenizer: any of transformers with padding, start and end tokens.
        image_size: side of the square S, in pixels.
        max_text_tokens: longest text, special tokens included.
        image_mean, image_std: statistics of RGB in [0, 1] that the image tower was trained with; by default CLIP's.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int,
        max_text_tokens: int = 64,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
    ) -> None:
        self.tokenizer, self.image_size, self.max_text_tokens = tokenizer, image_size, max_text_tokens
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)

    def images(self, pictures: Sequence[Picture] | np.ndarray | Tensor) -> Tensor:
        """Pictures to (B, 3, S, S) float32.

        Args:
            pictures: PIL pictures, paths, bytes of files, arrays (H, W, 3) or (H, W), or tensors (3, H, W); arrays and
                tensors hold uint8 or floats in [0, 1], and may be whole batches with one more dimension in front.

        Raises:
            CcmbError: a file is missing or not a readable picture, or an array is not a picture's; the message says
                which.
        """
        pixels_BSSC = np.stack([square(_open(picture), self.image_size) for picture in pictures])
        return self.normalise(torch.from_numpy(pixels_BSSC))

    def normalise(self, pixels_BSSC: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) to the pixel values (B, 3, S, S) that the image tower takes."""
        return normalise(pixels_BSSC, self.image_mean, self.image_std)

    def texts(
        self, texts: Sequence[str], padding: Literal["longest", "max_length"] = "longest", warn: bool = False
    ) -> dict[str, Tensor]:
        """Texts to `input_ids` and `attention_mask`, each (B, T) int64.

        Args:
            padding: up to the longest text of the batch, or to `max_text_tokens`.
            warn: say how many texts were too long and lost their end.
        """
        encoded = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.max_text_tokens, return_tensors="pt"
        )
        if warn and (cut := self._count_cut(texts, encoded["attention_mask"])):
            warnings.warn(
                f"{cut} of {len(texts)} texts have more than {self.max_text_tokens} tokens; their ends were cut off",
                stacklevel=3,
            )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def _count_cut(self, texts: Sequence[str], mask_BT: Tensor) -> int:
        full = (mask_BT.sum(1) == self.max_text_tokens).tolist()
        suspects = [text for text, is_full in zip(texts, full, strict=True) if is_full]
        if not suspects:
            return 0
        lengths = [len(ids) for ids in self.tokenizer(suspects, verbose=False)["input_ids"]]
        return sum(length > self.max_text_tokens for length in lengths)

    def maskable(self, input_ids_BT: Tensor) -> Tensor:
        """(B, T) True where a token is a word: not padding, [CLS], [SEP] or another special token."""
        special = torch.tensor(self.tokenizer.all_special_ids, device=input_ids_BT.device)
        return ~torch.isin(input_ids_BT, special)

    def __call__(
        self,
        images: Picture | Sequence[Picture] | None = None,
        text: str | Sequence[str] | None = None,
        padding: Literal["longest", "max_length"] = "longest",
        **_: Any,
    ) -> BatchFeature:
        """One or many pictures and texts to the keyword arguments of the model; see `images` and `texts`.

        The result has `.to(device)`. A text that is longer than the context is cut, with a warning.

        Raises:
            CcmbError: see `images`.
        """
        inputs: dict[str, Tensor] = {}
        if images is not None:
            inputs["pixel_values"] = self.images(_as_many(images))
        if text is not None:
            inputs |= self.texts([text] if isinstance(text, str) else text, padding, warn=True)
        return BatchFeature(inputs)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the tokenizer, the sizes and the statistics into a model folder; `push_to_hub` uploads them too."""
        folder = Path(save_directory)
        self.tokenizer.save_pretrained(folder)
        write_json(
            folder / PREPROCESSOR,
            {
                "processor_class": type(self).__name__,
                "image_processor_type": "ViTImageProcessor",
                "do_resize": True,
                "size": {"height": self.image_size, "width": self.image_size},
                "resample": int(Image.Resampling.BICUBIC),
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": list(self.image_mean),
                "image_std": list(self.image_std),
                "max_text_tokens": self.max_text_tokens,
            },
        )
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> R2D2Processor:
        """Read from a model folder or a model on the hub.

        Args:
            kwargs: what transformers' hub functions take (`revision`, `token`, `cache_dir`, ...).

        Raises:
            CcmbError: the folder or one of its files is missing or damaged; the message names it.
        """
        name = pretrained_model_name_or_path
        hub = {key: value for key, value in kwargs.items() if key in HUB_ARGUMENTS}
        if Path(name).is_dir():
            for file in (PREPROCESSOR, "tokenizer.json", "tokenizer_config.json"):
                if not (Path(name) / file).is_file():
                    raise CcmbError(f"{Path(name) / file}: missing; the folder is not a whole model folder")
        try:
            path = Path(str(cached_file(str(name), PREPROCESSOR, **hub)))
        except OSError as error:
            raise CcmbError(f"{name}: no model folder, nor one on the hub ({one_line(error)})") from None
        values = read_json(path)
        try:
            image_size, max_text_tokens = int(values["size"]["height"]), int(values["max_text_tokens"])
            mean, std = ([float(value) for value in values[key]] for key in ("image_mean", "image_std"))
        except (KeyError, TypeError, ValueError):
            raise CcmbError(f"{path}: needs size, max_text_tokens, image_mean and image_std") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name), **hub)
        except Exception as error:  # whatever tokenizers makes of a damaged file
            raise CcmbError(
                f"{name}: tokenizer.json or tokenizer_config.json is not a readable tokenizer ({one_line(error)})"
            ) from None
        return cls(tokenizer, image_size, max_text_tokens, mean, std)


HUB_ARGUMENTS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "subfolder")


def _as_many(images: Any) -> Any:
    """A batch, of one if need be."""
    if isinstance(images, np.ndarray | Tensor):
        return images if images.ndim == 4 else images[None]
    return images if isinstance(images, list | tuple) else [images]


def _open(picture: Picture) -> Image.Image:
    # RGB before any resizing: in palette pictures neighbouring numbers are not neighbouring colours.
    return picture_of(picture if isinstance(picture, str | Path | bytes | Image.Image) else _from_array(picture))


def _from_array(picture: np.ndarray | Tensor) -> Image.Image:
    values = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    if isinstance(picture, Tensor) and values.ndim == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or 0 in values.shape:
        raise CcmbError(
            f"an array of shape {tuple(picture.shape)} is not a picture; give (H, W, 3), or a tensor (3, H, W)"
        )
    if values.dtype != np.uint8:
        if not np.issubdtype(values.dtype, np.floating) or not (values.min() >= 0 and values.max() <= 1):
            raise CcmbError("pixels of an array must be uint8, or floats in [0, 1]")
        values = (values * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))


AutoProcessor.register(R2D2Config, R2D2Processor)
