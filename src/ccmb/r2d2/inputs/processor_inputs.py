"""Inputs of the processor: images and texts in any unambiguous form, and the options of a call.

Every input is either used, or refused by an error that names it and says what is accepted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ccmb.core.errors import CcmbError, did_you_mean
from ccmb.data.images.source import UnreadableImageError, image_of

ImageInput = Image.Image | str | Path | bytes | np.ndarray | Tensor

IMAGES = "PIL images, paths, bytes of image files, arrays (H, W, 3) or tensors (3, H, W), one or a flat list"
TEXTS = "a str or a list of str"
# The names under which generic code groups options. Groups of audio and videos are accepted, but hold nothing of use.
GROUPS = ("common_kwargs", "text_kwargs", "images_kwargs", "audio_kwargs", "videos_kwargs")
OPTIONS = ("padding", "truncation", "max_length", "return_tensors")
# Options of other processors that are fixed in this one, with their only values.
FIXED: dict[str, Any] = {
    "add_special_tokens": True,
    "return_attention_mask": True,
    "return_token_type_ids": False,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
}
PADDINGS: dict[Any, str | bool] = {True: "longest", "longest": "longest", "max_length": "max_length"} | {
    False: False,
    "do_not_pad": False,
}
TRUNCATIONS = {True: True, "longest_first": True, "only_first": True, False: False, "do_not_truncate": False}
TENSORS = {None: None, "pt": "pt", "np": "np"}


class InputTypeError(CcmbError, TypeError):
    """An input of a type that the processor does not take, or an unknown keyword."""


class InputValueError(CcmbError, ValueError):
    """An input of the right type that the processor cannot use."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How texts are made equally long, and the type of the results.

    Attributes:
        padding: "longest", "max_length" or False.
        truncation: whether texts are cut at the maximum length; None (not given) cuts them with a warning.
        max_length: tokens, special ones included; None is as many as the network reads.
        return_tensors: "pt" for torch, "np" for numpy, None for lists.
    """

    padding: str | bool = "longest"
    truncation: bool | None = None
    max_length: int | None = None
    return_tensors: str | None = "pt"


def call_options(given: Mapping[str, Any]) -> CallOptions:
    """The options among the keywords of a call, given directly or in groups such as `text_kwargs`.

    Raises:
        InputTypeError: a keyword is unknown, or of a wrong type.
        InputValueError: a keyword has an unknown value, or is given twice with different values.
    """
    options: dict[str, Any] = {}
    alone = {key: value for key, value in given.items() if key not in GROUPS}
    for group in (given.get("common_kwargs"), given.get("text_kwargs"), given.get("images_kwargs"), alone):
        if group is not None and not isinstance(group, Mapping):
            raise InputTypeError(f"{type(group).__name__}: groups of options such as text_kwargs are dicts")
        for key, value in (group or {}).items():
            if key in FIXED:
                if value is not None and value != FIXED[key]:
                    raise InputValueError(f"{key}={value!r}: this processor has {key}={FIXED[key]} always")
                continue
            if key not in OPTIONS:
                known = ["images", "text", *OPTIONS, *GROUPS]
                raise InputTypeError(f"unknown keyword '{key}'{did_you_mean(key, known)}; known: {', '.join(known)}")
            if key in options and options[key] != value:
                raise InputValueError(f"{key} is given twice, as {options[key]!r} and as {value!r}")
            options[key] = value
    return CallOptions(
        _chosen("padding", "longest" if options.get("padding") is None else options["padding"], PADDINGS),
        None if options.get("truncation") is None else _chosen("truncation", options["truncation"], TRUNCATIONS),
        _length(options.get("max_length")),
        _chosen("return_tensors", options.get("return_tensors", "pt"), TENSORS),
    )


def _chosen(key: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    plain = value.value if isinstance(value, Enum) else value
    if isinstance(plain, bool | str | None) and plain in choices:
        return choices[plain]
    raise InputValueError(f"{key} is {value!r}; give one of {', '.join(map(repr, choices))}")


def as_kind(tensor: Tensor, kind: str | None) -> Any:
    """A batch as a tensor of torch ("pt"), an array of numpy ("np"), or (None) a list of one array for each item."""
    if kind == "pt":
        return tensor
    return tensor.numpy() if kind == "np" else list(tensor.numpy())


def _length(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputTypeError(f"max_length is {value!r}; give a whole number of tokens")
    return int(value)


def as_texts(texts: Any) -> list[str]:
    """One or many texts as a list.

    Raises:
        InputTypeError: something is not a text; the message names the first such item.
        InputValueError: the list is empty.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, np.ndarray) and texts.ndim == 1:
        texts = texts.tolist()
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Sequence):
        raise InputTypeError(f"text is of type {type(texts).__name__}; give {TEXTS}")
    if not len(texts):
        raise InputValueError(f"text is empty; give {TEXTS}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(f"text[{index}] is of type {type(text).__name__}; give {TEXTS}")
    return list(texts)


def check_encodable(texts: Sequence[str]) -> None:
    """Refuse texts with half of a character (a lone surrogate), as broken JSON leaves them.

    Raises:
        InputValueError: there is such a text; the message names the first.
    """
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputValueError(f"text[{index}]: character {error.start} is half of one (a surrogate)") from None


def as_images(images: Any) -> Sequence[ImageInput] | np.ndarray | Tensor:
    """One or many images as a sequence or batch.

    Raises:
        InputTypeError: something is not an image; the message names the first such item.
        InputValueError: the sequence is empty.
    """
    if isinstance(images, np.ndarray | Tensor):
        batch = images if images.ndim == 4 else images[None]
    elif isinstance(images, list | tuple):
        batch = images  # type: ignore[assignment]
        for index, image in enumerate(images):
            _check_image(image, f"images[{index}]")
    else:
        _check_image(images, "images")
        batch = [images]  # type: ignore[assignment]
    if not len(batch):
        raise InputValueError(f"images is empty; give {IMAGES}")
    return batch


def _check_image(image: Any, name: str) -> None:
    if not isinstance(image, Image.Image | str | os.PathLike | bytes | np.ndarray | Tensor):
        raise InputTypeError(f"{name} is of type {type(image).__name__}; give {IMAGES}")


def open_image(image: ImageInput) -> Image.Image:
    """One image as RGB.

    Raises:
        CcmbError: a file is missing or not a readable image, or an array is not an image's; the message says which.
    """
    # RGB before any resizing: in palette images neighbouring numbers are not neighbouring colours.
    if isinstance(image, str) and image.lower().startswith(("http://", "https://", "data:")):
        raise InputValueError(f"{image[:80]}: an address is not fetched; download it and give the file")
    if isinstance(image, os.PathLike):
        image = os.fspath(image)
    if isinstance(image, bytes):
        try:
            return image_of(image)
        except UnreadableImageError as error:
            raise InputValueError(str(error)) from None
    return image_of(image if isinstance(image, str | Image.Image) else _from_array(image))


def _from_array(array: np.ndarray | Tensor) -> Image.Image:
    if isinstance(array, Tensor):
        tensor = array.detach().cpu()
        values = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    else:
        values = array
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or 0 in values.shape:
        raise InputValueError(
            f"an array of shape {tuple(array.shape)} is not an image; give (H, W, 3), or a tensor (3, H, W)"
        )
    if values.dtype != np.uint8:
        if not np.issubdtype(values.dtype, np.floating) or not (values.min() >= 0 and values.max() <= 1):
            raise InputValueError("pixels of an array must be uint8, or floats in [0, 1]")
        values = (values * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))
