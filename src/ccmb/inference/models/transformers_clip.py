"""Two-tower models of transformers: Chinese-CLIP, SigLIP and SigLIP 2, AltCLIP, CLIP, and similar ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, AutoImageProcessor, AutoModel, PreTrainedTokenizerBase

from ccmb.core.device import choose_device
from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.inference.models.base import OneStage, context_within, embedding, fingerprint
from ccmb.inference.user_images import open_image
from ccmb.r2d2.pretrained.sources import load_text_tokenizer, load_weights, read_config
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.tokenizer import straighten_quotes
from ccmb.r2d2.towers.two_towers import TowerOutput

# What the models were evaluated with by their authors; others take what their tokenizer says.
CONTEXT = {"chinese_clip": 52, "altclip": 77, "clip": 77, "siglip": 64, "siglip2": 64}
# Trained on lower-case texts padded to the full length, whose padding is read like words.
SIGLIPS = ("siglip", "siglip2", "fgclip2")
# Tensors that no feature depends on, and that some checkpoints lack.
UNUSED = r".*position_ids$|text_model\.pooler\."


class TwoTowersModel(OneStage):
    """A model of transformers with `get_image_features` and `get_text_features`, which orders by cosine."""

    def __init__(
        self,
        name: str,
        model: Any,
        image_processor: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_length: int | None = None,
        source: str = "",
    ) -> None:
        self.name, self.kind, self.source = name, model.config.model_type, source or name
        self._model = model.eval()
        default, longest = self.context_lengths(tokenizer)
        self.context_length: int | None = context_within(name, context_length, default, longest)
        processing = [image_processor.to_dict(), sorted(tokenizer.get_vocab().items()), self.context_length]
        if self.kind == "chinese_clip":
            tokenizer = straighten_quotes(tokenizer)
            processing.append("quotes are straight")
        self._images, self._tokenizer = image_processor, tokenizer
        self.fingerprint = fingerprint(model, {"kind": self.kind, "processing": processing})
        self._device = choose_device("auto")
        self._model.to(self._device)

    def context_lengths(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int | None]:
        """The usual and the longest text in tokens; None if any is long enough."""
        return CONTEXT.get(self.kind, min(tokenizer.model_max_length, 512)), _positions(self._model.config)

    def prepare(self, image: ImageInput) -> dict[str, Tensor]:
        """The image processor's tensors of one image, such as `pixel_values` (1, 3, S, S)."""
        return dict(self._images(images=[open_image(image)], return_tensors="pt"))

    def encode_prepared(self, images: Sequence[dict[str, Tensor]]) -> TowerOutput:
        inputs = {name: torch.cat([image[name] for image in images]) for name in images[0]}
        return self._features(self._model.get_image_features, inputs)

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        is_siglip = self.kind in SIGLIPS
        inputs = self._tokens(texts, "max_length" if is_siglip else "longest")
        names = ("input_ids",) if is_siglip else ("input_ids", "attention_mask")
        return self._features(self._model.get_text_features, {name: inputs[name] for name in names})

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        special = {*self._tokenizer.all_special_ids}
        return [not {*ids} - special for ids in self._tokens(texts, "do_not_pad")["input_ids"]] if texts else []

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(map(len, self._tokens(texts, "do_not_pad")["input_ids"])) if texts else 0

    def _tokens(self, texts: Sequence[str], padding: str) -> Any:
        return self._tokenizer(
            [text.lower() for text in texts] if self.kind in SIGLIPS else list(texts),
            padding=padding,
            truncation=True,
            max_length=self.context_length,
            return_tensors=None if padding == "do_not_pad" else "pt",
        )

    def _features(self, features: Any, inputs: Any) -> TowerOutput:
        with torch.inference_mode():
            output = features(**{name: value.to(self._device) for name, value in inputs.items()})
        return embedding(output if isinstance(output, Tensor) else output.pooler_output)


def open_two_towers(
    name: str, source: str, context_length: int | None = None, adapter: type[TwoTowersModel] = TwoTowersModel
) -> TwoTowersModel:
    """Open a local folder or hub id, as a model of the class `adapter`.

    Raises:
        UsageError: the model is no two-tower one.
        CcmbError: it is not there, or its weights, tokenizer or image processor are not whole; the message names it.
    """
    config = read_config(source)
    kind = MODEL_MAPPING.get(type(config), None)
    if not all(hasattr(kind, method) for method in ("get_image_features", "get_text_features")):
        raise UsageError(
            f"{source}: {config.model_type} is no model of two towers; give R2D2, chinese_clip, siglip, altclip, clip "
            "or another with get_image_features and get_text_features"
        )
    model = load_weights(source, AutoModel, config, UNUSED, r"(?!)")
    try:
        image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, backend="pil")
    except Exception as error:  # no preprocessor_config.json, or one that transformers cannot read
        raise CcmbError(f"{source}: the image processor cannot be loaded ({one_line(error)})") from None
    tokenizer = load_text_tokenizer(source, config.text_config.vocab_size, masks=False)
    where = str(Path(source).resolve()) if Path(source).is_dir() else source
    return adapter(name, model, image_processor, tokenizer, context_length=context_length, source=where)


def _positions(config: Any) -> int | None:
    """The longest text by its positions, or None. RoBERTa counts positions from the one after the padding index."""
    positions = getattr(config.text_config, "max_position_embeddings", None)
    if positions is not None and config.model_type == "altclip":
        positions -= config.text_config.pad_token_id + 1
    return positions
