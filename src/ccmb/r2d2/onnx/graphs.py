"""The graphs of an export: both towers, and both cross encoders with their match heads or a decoder, as ONNX files.

Shapes: B items, I images of S tokens of width C, U texts of T tokens of width W, N pairs, P texts an image. Only the
widths, S and the size of an image are fixed; the others may differ from call to call.

A graph consists of the network's own layers, so its outputs are theirs. int8 quantises the weights of matrix products
by output channel in advance, and their other inputs at run time. Embeddings, norms, softmax and the last product of
each graph, which makes the embedding or the logits, stay in float32.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ccmb.core.choices import ExportPrecision
from ccmb.core.errors import CcmbError, one_line
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.cross_encoder import CrossLayer
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput

PRODUCTS = ("MatMul", "Gemm")
OPSET = 18


class ImageTower(nn.Module):
    def __init__(self, model: R2D2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model.encode_image(pixel_values)
        return output.embed, output.states


class TextTower(nn.Module):
    def __init__(self, model: R2D2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model.encode_text(input_ids, attention_mask)
        return output.embed, output.states


class TextImage(nn.Module):
    """The text-image encoder on pairs of I images with P texts each.

    The tokens of all texts of an image attend to it together, so the image's keys and values are never copied.
    """

    def __init__(self, model: R2D2Model) -> None:
        super().__init__()
        self.layers, self.head = model.text_image_encoder.layer, model.text_image_match

    def forward(self, image_states: Tensor, text_states: Tensor, text_mask: Tensor, text_index: Tensor) -> Tensor:
        """Logits (N, 2) of every image with the texts (I, P) of these indices, image by image."""
        *before, last = cast(list[CrossLayer], list(self.layers))
        mask, text_index_N = text_mask.bool(), text_index.flatten()
        states = (before or [last])[0].attend_self(text_states, mask).index_select(0, text_index_N)
        mask = mask.index_select(0, text_index_N)
        for layer_index, layer in enumerate(before):
            if layer_index:
                states = layer.attend_self(states, mask)
            states = _ask_each(layer, states, image_states)
        states = last.attend_self(states, mask, 1) if before else states[:, :1]
        return self.head(_ask_each(last, states, image_states)[:, 0])


def _ask_each(layer: CrossLayer, states_NTW: Tensor, image_states: Tensor) -> Tensor:
    """Cross-attention of N = I * P texts to I images, P texts to each, and the feed-forward layer."""
    keys, values = layer.crossattention.keys_values(image_states)
    asking = states_NTW.reshape(image_states.shape[0], -1, states_NTW.shape[2])
    return layer.attend_other(asking, keys, values, None).reshape(states_NTW.shape)


class ImageText(nn.Module):
    """The image-text encoder on N pairs picked by index; a text has few keys and values, so copying them is cheap."""

    def __init__(self, model: R2D2Model) -> None:
        super().__init__()
        self.layers, self.head = model.image_text_encoder.layer, model.image_text_match
        self.image_to_cross = model.image_to_cross

    def forward(
        self, image_states: Tensor, image_index: Tensor, text_states: Tensor, text_mask: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2)."""
        *before, last = cast(list[CrossLayer], list(self.layers))
        mask = text_mask.bool().index_select(0, text_index)
        states = self.image_to_cross(image_states)
        states = (before or [last])[0].attend_self(states, None).index_select(0, image_index)
        for layer_index, layer in enumerate(before):
            if layer_index:
                states = layer.attend_self(states, None)
            states = layer.attend_other(states, *_picked(layer, text_states, text_index), mask)
        states = last.attend_self(states, None, 1) if before else states[:, :1]
        return self.head(last.attend_other(states, *_picked(last, text_states, text_index), mask)[:, 0])


class Likelihood(nn.Module):
    """The decoder that ranks, on N pairs picked by index."""

    def __init__(self, model: R2D2Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, image_states: Tensor, image_index: Tensor, text_states: Tensor, text_mask: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2)."""
        images = TowerOutput(image_states[:, 0], image_states)
        texts = TowerOutput(text_states[:, 0], text_states, text_mask)
        return self.model.match_text_image(images, texts, image_index, text_index)


def _picked(layer: CrossLayer, text_states: Tensor, text_index: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = layer.crossattention.keys_values(text_states)
    return keys.index_select(0, text_index), values.index_select(0, text_index)


@dataclass(frozen=True, eq=False, slots=True)
class Graph:
    """One part of an export.

    Attributes:
        name: of its file, without the suffix.
        inputs: names of the inputs, each with the names of the dimensions that may differ from call to call.
        outputs: names of the outputs, in the network's order.
        module: makes the module that computes the graph from a network.
    """

    name: str
    inputs: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    module: Callable[[R2D2Model], nn.Module]

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"


IMAGE_TOWER = Graph("image_tower", {"pixel_values": {0: "B"}}, ("embed", "states"), ImageTower)
TEXT_TOWER = Graph(
    "text_tower", {"input_ids": {0: "B", 1: "T"}, "attention_mask": {0: "B", 1: "T"}}, ("embed", "states"), TextTower
)
_TEXTS = {"text_states": {0: "U", 1: "T"}, "text_mask": {0: "U", 1: "T"}}
TEXT_IMAGE = Graph(
    "text_image_encoder", {"image_states": {0: "I"}} | _TEXTS | {"text_index": {0: "I", 1: "P"}}, ("logits",), TextImage
)
IMAGE_TEXT = Graph(
    "image_text_encoder",
    {"image_states": {0: "I"}, "image_index": {0: "N"}} | _TEXTS | {"text_index": {0: "N"}},
    ("logits",),
    ImageText,
)
LIKELIHOOD = Graph("likelihood", IMAGE_TEXT.inputs, ("logits",), Likelihood)


def graphs(config: R2D2Config) -> tuple[Graph, ...]:
    """The parts of a network: its towers, and its second stage if it has one."""
    if config.decoder_layers:
        return IMAGE_TOWER, TEXT_TOWER, LIKELIHOOD
    return (IMAGE_TOWER, TEXT_TOWER) + ((TEXT_IMAGE, IMAGE_TEXT) if config.match_heads else ())


def write_graph(model: R2D2Model, graph: Graph, path: Path, precision: ExportPrecision) -> None:
    """Write one part of a network as an ONNX file.

    Raises:
        CcmbError: torch cannot make a graph of the part, or it is larger than the 2 GB that one file can hold.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    module, inputs = graph.module(model).eval(), example_inputs(model, graph)
    exact = path if precision == "fp32" else path.with_suffix(".fp32")
    with _quiet():
        try:
            # Tracing takes a fifteenth of the time of torch.export and gives the same graph.
            torch.onnx.export(
                module, inputs, exact, dynamo=False, input_names=list(graph.inputs), output_names=list(graph.outputs),
                dynamic_axes=graph.inputs, opset_version=OPSET,
            )  # fmt: skip
            if precision == "int8":
                # Weights of 7 bits: with 8 bits, processors without VNNI saturate the sum of two products at 16 bits.
                quantize_dynamic(
                    exact, path, op_types_to_quantize=list(PRODUCTS), per_channel=True, reduce_range=True,
                    weight_type=QuantType.QInt8, nodes_to_exclude=[_last_product(exact)],
                )  # fmt: skip
                exact.unlink()
        except Exception as error:  # whatever torch and protobuf make of a backbone or a size that is not for them
            raise CcmbError(f"the {graph.name.replace('_', ' ')} cannot be exported ({one_line(error)})") from None


def example_inputs(model: R2D2Model, graph: Graph) -> tuple[Tensor, ...]:
    """Example inputs of a graph, in order. Dimensions that may differ have different sizes, none of them 1."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    size = config.image_size
    pixels = torch.randn(2, 3, size, size, generator=generator)
    if graph is IMAGE_TOWER:
        return (pixels,)
    ids = torch.ones(3, 5, dtype=torch.long)
    mask = ids.clone()
    mask[1:, 4:] = 0
    if graph is TEXT_TOWER:
        return ids, mask
    with torch.inference_mode():
        images = model.encode_image(pixels).states
        texts = model.encode_text(ids, mask).states
    images, texts = images.clone(), texts.clone()
    if graph is not LIKELIHOOD:
        texts = torch.randn(3, 5, config.text_config.hidden_size, generator=generator)
    if graph is TEXT_IMAGE:
        return images, texts, mask, torch.tensor([[0, 1, 2, 1], [1, 2, 0, 0]])
    return images, torch.tensor([0, 0, 1, 1]), texts, mask, torch.tensor([0, 1, 2, 1])


def _last_product(path: Path) -> str:
    import onnx

    return [node.name for node in onnx.load(path).graph.node if node.op_type in PRODUCTS][-1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the prints, logs and warnings of the exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
