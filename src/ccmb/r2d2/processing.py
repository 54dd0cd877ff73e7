"""R2D2Processor: turns images and texts into the tensors that R2D2Model takes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from ccmb.core.errors import CcmbError, did_you_mean, one_line
from ccmb.core.files import write_json
from ccmb.data.images.transforms import CLIP_MEAN, CLIP_STD, normalise
from ccmb.r2d2.configuration import HUB_ARGUMENTS, R2D2Config
from ccmb.r2d2.inputs.image_processing import R2D2ImageProcessor
from ccmb.r2d2.inputs.processor_file import PREPROCESSOR, read_settings
from ccmb.r2d2.inputs.processor_inputs import (
    CallOptions,
    ImageInput,
    InputTypeError,
    InputValueError,
    as_kind,
    as_texts,
    call_options,
    check_encodable,
)


class R2D2Processor(ProcessorMixin):
    """Images (resized to a square, normalised) and texts (tokenized, cut at the context length).

    Args:
        tokenizer: any of transformers with padding, start and end tokens.
        image_size: side of the square S, in pixels.
        max_text_tokens: longest text, special tokens included.
        image_mean, image_std: statistics of RGB in [0, 1] that the image tower was trained with; by default CLIP's.
        text_prefix: what is put before every text, such as E5's "query: "; its tokens count in a text's length.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: R2D2ImageProcessor

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int,
        max_text_tokens: int = 64,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        text_prefix: str = "",
    ) -> None:
        super().__init__(image_processor=R2D2ImageProcessor(image_size, image_mean, image_std), tokenizer=tokenizer)
        self.max_text_tokens = max_text_tokens
        self.text_prefix = text_prefix
        self._tokenizer_length = tokenizer.model_max_length

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The names of the parts, in the form of transformers."""
        return ["image_processor", "tokenizer"]

    @property
    def image_size(self) -> int:
        """Side of the square S, in pixels."""
        return self.image_processor.image_size

    @property
    def image_mean(self) -> tuple[float, ...]:
        """Mean of RGB in [0, 1]."""
        return self.image_processor.image_mean

    @property
    def image_std(self) -> tuple[float, ...]:
        """Standard deviation of RGB in [0, 1]."""
        return self.image_processor.image_std

    def images(self, images: ImageInput | Sequence[ImageInput]) -> Tensor:
        """Images to (B, 3, S, S) float32.

        Args:
            images: PIL images, paths, bytes of files, arrays (H, W, 3) or (H, W), or tensors (3, H, W); arrays and
                tensors hold uint8 or floats in [0, 1], and may be whole batches with one more dimension in front.

        Raises:
            CcmbError: a file is missing or not a readable image, or an array is not an image's; the message says
                which.
            InputTypeError: something is no image at all.
            InputValueError: there are none.
        """
        return self.image_processor.pixels(images)

    def normalise(self, pixels_BSSC: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) to the pixel values (B, 3, S, S) that the image tower takes."""
        return normalise(pixels_BSSC, self.image_mean, self.image_std)

    def texts(self, texts: Sequence[str], padding: str | bool = "longest", warn: bool = False) -> dict[str, Tensor]:
        """Texts to `input_ids` and `attention_mask`, each (B, T) int64.

        Args:
            padding: up to the longest text of the batch ("longest"), or to `max_text_tokens` ("max_length").
            warn: warn how many texts were too long and lost their end.

        Raises:
            InputTypeError: something is no text.
            InputValueError: there are none, or a text is not valid Unicode.
        """
        return self._encode(as_texts(texts), call_options({"padding": padding}), warn)

    def _encode(self, texts: list[str], options: CallOptions, warn: bool) -> dict[str, Any]:
        longest = self._longest(options.max_length)
        texts = [self.text_prefix + text for text in texts]
        cuts = options.truncation is not False
        try:
            encoded = self.tokenizer(
                texts,
                padding=options.padding,
                truncation=cuts,
                max_length=longest,
                padding_side="right",  # whatever the tokenizer's own: the network reads the first token
                return_tensors="pt" if options.padding else None,
                verbose=False,
            )
        except Exception:
            check_encodable(texts)
            raise
        if warn and options.truncation is None and (cut := self._count_cut(texts, encoded["attention_mask"], longest)):
            warnings.warn(
                f"{cut} of {len(texts)} texts have more than {longest} tokens; their ends were cut off", stacklevel=3
            )
        return {name: self._of_kind(encoded[name], options) for name in ("input_ids", "attention_mask")}

    def _longest(self, requested: int | None) -> int:
        """The length at which texts are cut, or to which they are padded."""
        longest = self.max_text_tokens
        if self.tokenizer.model_max_length != self._tokenizer_length:  # generic code sets a shorter one there
            longest = min(longest, int(self.tokenizer.model_max_length))
        if requested is None:
            return longest
        shortest = self._shortest
        if not shortest <= requested <= self.max_text_tokens:
            raise InputValueError(
                f"max_length is {requested}; give {shortest} to {self.max_text_tokens}, which is the most that the "
                "network reads (max_text_tokens)"
            )
        return requested

    @property
    def _shortest(self) -> int:
        """Fewest tokens that leave room for one of a text."""
        return self.tokenizer.num_special_tokens_to_add() + len(self._prefix_ids) + 1

    @property
    def _prefix_ids(self) -> list[int]:
        """What the prefix is in tokens, special ones not counted; a space at its end is part of the first word."""
        prefix = self.text_prefix.rstrip()
        return self.tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []

    @staticmethod
    def _of_kind(rows: Any, options: CallOptions) -> Any:
        if isinstance(rows, Tensor):
            return rows.tolist() if options.return_tensors is None else as_kind(rows, options.return_tensors)
        if options.return_tensors is None:
            return rows
        if len({len(row) for row in rows}) > 1:
            raise InputValueError(
                f"padding is off and the texts differ in length: return_tensors={options.return_tensors!r} needs "
                "padding, or give return_tensors=None for lists"
            )
        return as_kind(torch.tensor(rows), options.return_tensors)

    def _count_cut(self, texts: Sequence[str], masks: Any, longest: int) -> int:
        suspects = [text for text, mask in zip(texts, masks, strict=True) if int(sum(mask)) == longest]
        if not suspects:
            return 0
        lengths = [len(ids) for ids in self.tokenizer(suspects, verbose=False)["input_ids"]]
        return sum(length > longest for length in lengths)

    def maskable(self, input_ids_BT: Tensor) -> Tensor:
        """(B, T) True where a token is a word of the text: not of the prefix, and not padding, [CLS], [SEP] or another
        special token."""
        special = torch.tensor(self.tokenizer.all_special_ids, device=input_ids_BT.device)
        words_BT = ~torch.isin(input_ids_BT, special)
        if prefix := sum(token not in self.tokenizer.all_special_ids for token in self._prefix_ids):
            words_BT &= words_BT.cumsum(1) > prefix
        return words_BT

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before it is cut, prefix and special ones included."""
        whole = [self.text_prefix + text for text in texts]
        return [len(ids) for ids in self.tokenizer(whole, verbose=False)["input_ids"]] if whole else []

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput] | None = None,
        text: str | Sequence[str] | None = None,
        padding: str | bool | None = None,
        **options: Any,
    ) -> BatchFeature:
        """One or many images and texts to the keyword arguments of the model; see `images` and `texts`.

        The result has `.to(device)`. A text that is longer than the context is cut, with a warning.

        Args:
            padding: "longest" (or True), which is the default, "max_length", or False.
            options: `truncation` (True cuts without a warning, False does not cut), `max_length` in tokens,
                `return_tensors` ("pt", by default, "np", or None for lists); also in groups `text_kwargs`,
                `images_kwargs` and `common_kwargs`, as transformers' processors take them.

        Raises:
            CcmbError: see `images`.
            InputTypeError: an unknown keyword, or something that is neither an image nor a text.
            InputValueError: a value that is not known, or nothing is given.
        """
        chosen = call_options(options if padding is None else options | {"padding": padding})
        if images is None and text is None:
            raise InputValueError("neither images nor text are given")
        inputs: dict[str, Any] = {}
        if images is not None:
            inputs["pixel_values"] = as_kind(self.images(images), chosen.return_tensors)
        if text is not None:
            inputs |= self._encode(as_texts(text), chosen, warn=True)
        return BatchFeature(inputs)

    def resized(self, image_size: int | None = None, max_text_tokens: int | None = None) -> R2D2Processor:
        """The processor for images and texts of other sizes; the network must be for them too, see `resizing.py`."""
        longest, tokenizer = max_text_tokens or self.max_text_tokens, self.tokenizer
        if tokenizer.model_max_length < longest:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.model_max_length = longest
        side = image_size or self.image_size
        return R2D2Processor(tokenizer, side, longest, self.image_mean, self.image_std, text_prefix=self.text_prefix)

    def to_dict(self) -> dict[str, Any]:
        """The settings that a folder stores beside the tokenizer."""
        prefix = {"text_prefix": self.text_prefix} if self.text_prefix else {}
        return self.image_processor.to_dict() | {"max_text_tokens": self.max_text_tokens} | prefix

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the tokenizer, the sizes and the statistics into a model folder; `push_to_hub` uploads them too."""
        folder = Path(save_directory)
        self.tokenizer.save_pretrained(folder)
        write_json(folder / PREPROCESSOR, self.to_dict())
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> R2D2Processor:  # type: ignore[override]
        """Read from a model folder or a model on the hub.

        Args:
            kwargs: what transformers' hub functions take (`revision`, `token`, `cache_dir`, ...), and `image_size` or
                `max_text_tokens` where the model is opened with another too.

        Raises:
            CcmbError: the folder or one of its files is missing or damaged; the message names it.
            InputTypeError: an unknown keyword.
        """
        name = pretrained_model_name_or_path
        if unknown := sorted(set(kwargs) - {*HUB_ARGUMENTS, *SIZES, *WITHOUT_EFFECT}):
            hint = did_you_mean(unknown[0], [*HUB_ARGUMENTS, *SIZES])
            raise InputTypeError(f"unknown keyword '{unknown[0]}'{hint}; known: {', '.join((*HUB_ARGUMENTS, *SIZES))}")
        hub = {key: value for key, value in kwargs.items() if key in HUB_ARGUMENTS}
        path, values = read_settings(name, hub)
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
        prefix = values.get("text_prefix", "")
        if not isinstance(prefix, str):
            raise CcmbError(f"{path}: text_prefix is {prefix!r}; give a text")
        processor = cls(tokenizer, image_size, max_text_tokens, mean, std, text_prefix=prefix)
        if kwargs.get("image_size") or kwargs.get("max_text_tokens"):
            processor = processor.resized(kwargs.get("image_size"), kwargs.get("max_text_tokens"))
        if kwargs.get("model_max_length"):
            processor.tokenizer.model_max_length = int(kwargs["model_max_length"])
        return processor


SIZES = ("image_size", "max_text_tokens", "model_max_length")
# Arguments that generic code of transformers gives to all processors; they have no effect on this one.
WITHOUT_EFFECT = ("trust_remote_code", "_from_auto", "_from_pipeline", "use_fast", "proxies", "user_agent", "config")


AutoProcessor.register(R2D2Config, R2D2Processor)
