"""The source of a pre-trained tower, a local folder or hub id: its configuration, weights, tokenizer and statistics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.files import read_json
from ccmb.data.images.transforms import CLIP_MEAN, CLIP_STD
from ccmb.r2d2.folders.weights import and_more, check_finite
from ccmb.r2d2.processing import PREPROCESSOR
from ccmb.r2d2.tokenizer import load_tokenizer

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

CLIP: Statistics = (CLIP_MEAN, CLIP_STD)
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Image towers by model_type, with the pixel statistics for sources that do not give their own.
FAMILIES = {
    "clip_vision_model": CLIP,
    "siglip_vision_model": HALF,
    "vit": HALF,
    "beit": HALF,
    "dinov2": IMAGENET,
    "dinov2_with_registers": IMAGENET,
    "dinov3_vit": IMAGENET,
}


LAYER = re.compile(r"\.layers?\.\d+\.")  # a layer of a stack, in a tensor's name


def read_config(name: str | Path) -> Any:
    """The configuration of the source's model.

    Raises:
        CcmbError: there is no such folder and no such model on the hub, or it is of a kind unknown to transformers.
    """
    try:
        return AutoConfig.from_pretrained(str(name), trust_remote_code=False)
    except Exception as error:  # not there, not JSON, or nothing that transformers knows
        if Path(name).is_dir():
            raise CcmbError(f"{Path(name) / 'config.json'}: not a model's ({one_line(error)})") from None
        raise CcmbError(f"{name}: no such model folder, nor one on the hub ({one_line(error)})") from None


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


def pixel_statistics(name: str | Path, family: str) -> Statistics:
    """Mean and standard deviation of RGB in [0, 1] of the source's training; by default those of its family.

    Raises:
        CcmbError: the source's file of statistics is damaged; the message names it.
    """
    for file in (PREPROCESSOR, "processor_config.json"):
        try:
            path = Path(str(cached_file(str(name), file)))
        except OSError:
            continue
        values = read_json(path)
        values = values.get("image_processor", values)
        if "image_mean" not in values or "image_std" not in values:
            continue
        try:
            mean, std = (tuple(map(float, values[key])) for key in ("image_mean", "image_std"))
        except (TypeError, ValueError):
            raise CcmbError(f"{path}: needs image_mean and image_std, three numbers each") from None
        return mean, std
    return FAMILIES[family]


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
