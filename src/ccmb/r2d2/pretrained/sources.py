"""The source of a pre-trained tower, a local folder or hub id: its configuration, weights, tokenizer and statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from ccmb.core.choices import TextPooling
from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.core.files import read_json
from ccmb.data.images.transforms import CLIP_MEAN, CLIP_STD
from ccmb.fetch.hub import hub_hint, local_name
from ccmb.r2d2.folders.weights import and_more, check_finite
from ccmb.r2d2.inputs.processor_file import PREPROCESSOR
from ccmb.r2d2.tokenizer import load_tokenizer

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

CLIP: Statistics = (CLIP_MEAN, CLIP_STD)
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Pixel statistics by model_type for sources that do not give their own; ImageNet's for all other types.
FAMILIES = {
    "clip_vision_model": CLIP,
    "siglip_vision_model": HALF,
    "vit": HALF,
    "beit": HALF,
    "mobilenet_v1": HALF,
    "mobilenet_v2": HALF,
}


POOLING = "1_Pooling/config.json"  # where sentence-transformers keeps it
_POOLINGS: dict[str, TextPooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
LAYER = re.compile(r"\.layers?\.\d+\.")  # a layer of a stack, in a tensor's name


def read_config(name: str | Path) -> Any:
    """The configuration of the source's model.

    Raises:
        CcmbError: there is no such folder and no such model on the hub, or it is of a kind unknown to transformers.
    """
    try:
        return AutoConfig.from_pretrained(local_name(str(name)), trust_remote_code=False)
    except Exception as error:  # not there, not JSON, or nothing that transformers knows
        if Path(name).is_dir():
            raise CcmbError(f"{Path(name) / 'config.json'}: not a model's ({one_line(error)})") from None
        raise CcmbError(f"{name}: no such model folder, nor one on the hub ({one_line(error)}){hub_hint()}") from None


def load_weights(
    name: str | Path, kind: Any, config: PreTrainedConfig, optional: str, left: str | None = None, **options: Any
) -> Any:
    """A float32 model of the class `kind` with the source's weights, whatever their precision.

    Args:
        optional: a regular expression for the tensors that the source may lack; these start at random.
        left: a regular expression for layers that the source may have in addition; a further layer of any other name is
            an error. None allows any further layers.
        options: arguments of `kind.from_pretrained`.

    Raises:
        CcmbError: there are no weights, they are damaged, of another shape or not finite, lack a tensor, or have more
            layers than the configuration; the message names it.
    """
    try:
        model, info = kind.from_pretrained(
            str(name), config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True,
            **options,
        )  # fmt: skip
    except Exception as error:  # whatever transformers or safetensors make of missing or damaged files
        raise CcmbError(f"{name}: the weights cannot be loaded ({one_line(error)})") from None
    missing = sorted(key for key in info["missing_keys"] if not re.match(optional, key))
    if missing:
        raise CcmbError(
            f"{name}: the weights lack the tensor {missing[0]}{and_more(missing)}; give a source with whole weights"
        )
    if mismatched := sorted(tuple(mismatch) for mismatch in info["mismatched_keys"]):
        key, stored, wanted = mismatched[0]
        raise CcmbError(
            f"{name}: {key} is {tuple(stored)}{and_more(mismatched)} in the weights, but {tuple(wanted)} by config.json"
        )
    if left is not None:
        further = sorted(key for key in info["unexpected_keys"] if LAYER.search(key) and not re.match(left, key))
        if further:
            raise CcmbError(
                f"{name}: the weights hold {further[0]}{and_more(further)}, for which config.json has no layer; take "
                "the config.json that belongs to them"
            )
    check_finite(name, model.state_dict().items())
    return model


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a source's preprocessor makes of an image.

    Attributes:
        mean, std: of RGB in [0, 1], which are subtracted and divided by; None where the source tells none.
        size: side in pixels of what a square image becomes; None likewise.
    """

    statistics: Statistics | None = None
    size: int | None = None


def preprocessing(name: str | Path) -> Preprocessing:
    """What the source's file of preprocessing says, if there is one.

    Raises:
        CcmbError: the file is damaged, or asks for what R2D2's processor does not do; the message names it.
    """
    statistics = size = None
    for file in (PREPROCESSOR, "processor_config.json"):
        try:
            path = Path(str(cached_file(str(name), file)))
        except OSError:
            continue
        values = read_json(path)
        values = values.get("image_processor", values)
        if values.get("do_flip_channel_order"):
            raise CcmbError(f"{path}: do_flip_channel_order: the tower wants blue first, which R2D2 does not give")
        size = size or _size_in(values)
        statistics = statistics or _statistics_in(values, path)
    return Preprocessing(statistics, size)


def _size_in(values: Mapping[str, Any]) -> int | None:
    cropped = values.get("crop_size") if values.get("do_center_crop", True) else None
    for size in (cropped, values.get("size")):
        sides = list(size.values()) if isinstance(size, dict) else size if isinstance(size, list) else [size]
        if sides and isinstance(sides[0], int):
            return sides[0]
    return None


def _statistics_in(values: Mapping[str, Any], path: Path) -> Statistics | None:
    """Mean and standard deviation, be they told so or by how transformers' image processors use them."""
    if "image_mean" not in values or "image_std" not in values:
        return None
    try:
        mean, std = (tuple(map(float, values[key])) for key in ("image_mean", "image_std"))
    except (TypeError, ValueError):
        raise CcmbError(f"{path}: needs image_mean and image_std, three numbers each") from None
    if values.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if values.get("include_top"):  # EfficientNet's divides by the deviation twice
        std = tuple(value * value for value in std)
    if values.get("do_rescale", True) is False:
        raise CcmbError(f"{path}: do_rescale is off: the tower wants pixels in [0, 255]; R2D2 gives them in [0, 1]")
    # Pixels p in [0, 1] become (p * whole - offset - mean) / std.
    whole, offset = 255 * float(values.get("rescale_factor", 1 / 255)), float(bool(values.get("rescale_offset")))
    if math.isclose(whole, 1) and not offset:
        return mean, std
    return tuple((value + offset) / whole for value in mean), tuple(value / whole for value in std)


def text_pooling(name: str | Path) -> TextPooling:
    """How a sentence encoder pools its tokens by the source's file of it; "first" where there is none.

    Raises:
        UsageError: in another way; the message names the file.
    """
    try:
        path = Path(str(cached_file(str(name), POOLING)))
    except OSError:
        return "first"
    values = read_json(path)
    modes = {key for key, value in values.items() if key.startswith("pooling_mode_") and value is True}
    for mode, pooling in _POOLINGS.items():
        if modes == {mode}:
            return pooling
    raise UsageError(f"{path}: {', '.join(sorted(modes)) or 'no pooling'}; say text_pooling=first or text_pooling=mean")


def load_text_tokenizer(name: str | Path, vocabulary: int, masks: bool) -> PreTrainedTokenizerBase:
    """The source's tokenizer, which must suit its tower.

    Args:
        vocabulary: number of the tower's word embeddings.
        masks: whether a mask token is needed.

    Raises:
        CcmbError: its files are missing or damaged, it has more tokens than the tower, or it lacks a special token.
    """
    tokenizer = load_tokenizer(name)
    # Without its files transformers makes a tokenizer of special tokens alone, and says nothing.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)) + 1:
        raise CcmbError(f"{name}: no tokenizer; its files (tokenizer.json or vocab.txt) must be there too")
    highest = max(tokenizer.get_vocab().values()) + 1
    if highest > vocabulary:
        raise CcmbError(f"{name}: the tokenizer has {highest} tokens, but the tower only {vocabulary}")
    for token in ("pad_token", "mask_token") if masks else ("pad_token",):
        if getattr(tokenizer, token) is None:
            raise CcmbError(f"{name}: the tokenizer has no {token}; name one in its tokenizer_config.json")
    return tokenizer
