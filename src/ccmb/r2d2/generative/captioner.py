"""R2D2Captioner: an R2D2 with a decoder that writes captions of an image, token by token.

The decoder starts as a copy of parts of R2D2: the token embeddings of the text tower, its layers made causal, the
layers of the text-image cross encoder with a causal mask on their self-attention, and the masked-language head. [CLS]
starts a caption and [SEP] ends it. The paper names no decoder; this one is our choice. The R2D2 itself is kept
unchanged beside it, so that its match score can choose among several captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.core.files import read_json, write_json
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.decoders.caption_decoder import CaptionDecoder, KeysValues, bert_parts
from ccmb.r2d2.folders.weights import check_finite
from ccmb.r2d2.loading import load_model, model_folder
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor

CONFIG, WEIGHTS = "captioner.json", "captioner.safetensors"  # beside the R2D2's own files
PREFIX = "decoder."


@dataclass(frozen=True, slots=True)
class CaptionerConfig:
    """The shape of a decoder beside that of its R2D2.

    Attributes:
        text_layers: number of the text tower's layers that the decoder copies and makes causal.
        start_id, end_id: tokens that start and end a caption.
        never_ids: the other special tokens, which no caption contains.
        cross_layers: number of layers that read the image; the first copy the text-image cross encoder's. None: as many
            as that has.
        standardize_states: whether the image's states are standardised before the decoder reads them.
    """

    text_layers: int
    start_id: int
    end_id: int
    never_ids: tuple[int, ...] = ()
    cross_layers: int | None = None
    standardize_states: bool = False


class R2D2Captioner(R2D2Model):
    """An R2D2 and the decoder beside it."""

    resizable = False

    def __init__(self, config: R2D2Config, shape: CaptionerConfig) -> None:
        super().__init__(config)
        self.shape = shape
        self.decoder = CaptionDecoder(
            config,
            shape.text_layers,
            config.cross_layers if shape.cross_layers is None else shape.cross_layers,
            standardize_states=shape.standardize_states,
        )

    @classmethod
    def from_r2d2(
        cls,
        model: R2D2Model,
        processor: R2D2Processor,
        text_layers: int | None = None,
        cross_layers: int | None = None,
        standardize_states: bool = False,
    ) -> R2D2Captioner:
        """A captioner whose decoder starts with a model's own weights.

        What the model lacks is new, from torch's global generator: a masked-language head, further cross layers.

        Args:
            text_layers: how many of the text tower's layers to take, from the first on; by default all.
            cross_layers, standardize_states: see `CaptionerConfig`.

        Raises:
            UsageError: the model has no cross encoders and `cross_layers` is not given, or a text tower that is not
                BERT's kind.
        """
        if not hasattr(model, "text_image_encoder") and cross_layers is None:
            raise UsageError(
                "the model has no cross encoders (PRD2), which a captioner is made of; start from an R2D2, or give "
                "captioning.cross_layers"
            )
        layers = len(bert_parts(model)[1])
        if text_layers is not None and text_layers > layers:
            raise UsageError(f"captioning.text_layers={text_layers}: the text tower has {layers}")
        activation = model.config.text_config.hidden_act
        if text_layers != 0 and activation != "gelu":
            raise UsageError(f"the text tower's layers have {activation}, not gelu; set captioning.text_layers=0")
        tokenizer = processor.tokenizer
        start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        never = tuple(sorted({*tokenizer.all_special_ids} - {end}))
        text_layers = layers if text_layers is None else text_layers
        shape = CaptionerConfig(
            text_layers, start, end, never, cross_layers=cross_layers, standardize_states=standardize_states
        )
        made = cls(model.config, shape)
        made.load_state_dict(model.state_dict(), strict=False)
        made.decoder.cross_layers.apply(made._init_weights)
        made.decoder.begin(model)
        return made.train(model.training)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        """Write a whole R2D2 model folder, with the decoder in two further files."""
        state = self.state_dict() if state_dict is None else state_dict
        decoder_state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
        model_state = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in decoder_state.items()}, folder / WEIGHTS)
        write_json(folder / CONFIG, asdict(self.shape))
        super().save_pretrained(folder, state_dict=model_state, **kwargs)  # last, for it may upload all

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a model folder that `save_pretrained` wrote; see `load_captioner`, which reads the processor too."""
        return load_captioner(*args, **kwargs)[0]

    def look(self, pixel_values: Tensor) -> list[KeysValues]:
        """The keys and values that the decoder reads of normalised images (V, 3, S, S)."""
        return self.decoder.see(self.encode_image(pixel_values).states)


def has_captioner(name: str | Path) -> bool:
    """Whether a run, model folder or hub id has a decoder.

    Raises:
        CcmbError: there is no such model.
    """
    return (model_folder(name) / CONFIG).is_file()


def load_captioner(name: str | Path, changes: Mapping[str, Any] | None = None) -> tuple[R2D2Captioner, R2D2Processor]:
    """Captioner (in evaluation mode, float32) and processor of a run folder, model folder or hub id.

    Args:
        changes: see `load_model`.

    Raises:
        CcmbError: the model has no decoder, or something is missing or damaged; the message names the file.
    """
    if not has_captioner(name):
        raise CcmbError(
            f"{name}: this model writes no captions yet; make one that does: ccmb finetune captioning --model {name}"
        )
    folder, (model, processor) = model_folder(name), load_model(name, changes=changes)
    values = read_json(folder / CONFIG)
    try:
        shape = CaptionerConfig(**values | {"never_ids": tuple(values["never_ids"])})
    except (TypeError, KeyError):
        raise CcmbError(f"{folder / CONFIG}: not the shape of a decoder; save the captioner anew") from None
    try:
        captioner = R2D2Captioner(model.config, shape)
        captioner.load_state_dict(model.state_dict(), strict=False)
        captioner.decoder.load_state_dict(load_file(folder / WEIGHTS))
    except OSError as error:
        raise CcmbError(f"{folder / WEIGHTS}: {error.strerror or one_line(error)}") from None
    except Exception as error:  # whatever torch and safetensors make of a damaged file
        raise CcmbError(f"{folder / WEIGHTS}: the decoder cannot be loaded ({one_line(error)})") from None
    check_finite(folder / WEIGHTS, captioner.decoder.state_dict().items())
    return captioner.eval(), processor
