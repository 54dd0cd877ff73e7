"""ExportedR2D2: a network's graphs in ONNX Runtime, for a CPU, with the methods that search and evaluation use.

Shapes: B items, I images, N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ccmb.core.errors import CcmbError, one_line
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.decoders.likelihood import CHUNK
from ccmb.r2d2.folders.export_manifest import ExportRecord, needs_runtime
from ccmb.r2d2.loading import check_processor, read_r2d2_config
from ccmb.r2d2.onnx.bucketing import CALL_TOKENS, cut
from ccmb.r2d2.onnx.graphs import IMAGE_TEXT, IMAGE_TOWER, LIKELIHOOD, TEXT_IMAGE, TEXT_TOWER, Graph, graphs
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput

PARTS = 4  # the most parts into which texts of similar length are cut
TEXT_PRODUCTS, IMAGE_PRODUCTS = 14, 2  # multiply-adds of a layer's weights for one token, in units of W * W
Run = Callable[..., tuple[Tensor, ...]]


class ExportedR2D2(nn.Module):
    """Both towers and, where there are any, both cross encoders; see `ccmb.inference.interface.TwoStageModel`.

    int8 takes the range of what it quantises from the whole batch, so the outputs for an item depend a little on the
    other items of the batch.

    Args:
        config: of the network that was exported.
        record: of the export.
        parts: the function that computes each graph.
    """

    temperature: Tensor

    def __init__(self, config: R2D2Config, record: ExportRecord, parts: Mapping[Graph, Run]) -> None:
        super().__init__()
        self.config, self.record, self._parts = config, record, dict(parts)
        self.register_buffer("temperature", torch.tensor(record.temperature))
        self.eval()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def can_rank(self) -> bool:
        """Whether there is a second stage (R2D2) or not (PRD2)."""
        return self.config.match_heads or self.config.decoder_layers > 0

    @property
    def cross_dtype(self) -> torch.dtype:
        """The type in which the cross encoders take token states."""
        return torch.float32

    def check_can_rank(self) -> None:
        """Refuse a network without cross encoders.

        Raises:
            ValueError: the network can only pre-rank (PRD2).
        """
        if not self.can_rank:
            raise ValueError("this network has no second stage (PRD2): it can pre-rank but not rank")

    def encode_image(self, pixel_values: Tensor) -> TowerOutput:
        """Encode normalised images (B, 3, S, S)."""
        embed, states = self._parts[IMAGE_TOWER](pixel_values)
        return TowerOutput(embed, states)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TowerOutput:
        """Encode token ids (B, T); `attention_mask` (B, T) is 1 for real tokens."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embed, states = self._parts[TEXT_TOWER](input_ids, mask)
        return TowerOutput(embed, states, attention_mask)

    def match_text_image(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the text-image encoder's match head, or of the decoder."""
        logits_N2 = torch.empty(len(text_index), 2)
        if LIKELIHOOD in self._parts:
            for part in torch.arange(len(text_index)).split(CHUNK):
                used, text_P = text_index[part].unique(return_inverse=True)
                shown, image_P = image_index[part].unique(return_inverse=True)
                inputs = images.states[shown], image_P, texts.states[used], _mask(texts)[used], text_P
                (logits_N2[part],) = self._parts[LIKELIHOOD](*inputs)
            return logits_N2
        length_N = _lengths(texts)[text_index]
        for part in _parts(image_index, length_N, images.states.shape[1]):
            used, text_P = text_index[part].unique(return_inverse=True)
            longest = int(length_N[part].max())
            states, mask = texts.states[used, :longest], _mask(texts)[used, :longest]
            order_P = image_index[part].argsort(stable=True)
            image_I, count_I = image_index[part[order_P]].unique_consecutive(return_counts=True)
            for count in count_I.unique():  # images with equally many pairs
                alike_I = count_I == count
                pairs = order_P[alike_I.repeat_interleave(count_I)]
                (logits_N2[part[pairs]],) = self._parts[TEXT_IMAGE](
                    images.states[image_I[alike_I]], states, mask, text_P[pairs].view(-1, int(count))
                )
        return logits_N2

    def match_image_text(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the image-text encoder's match head, or of the decoder."""
        if LIKELIHOOD in self._parts:
            return self.match_text_image(images, texts, image_index, text_index)
        (logits_N2,) = self._parts[IMAGE_TEXT](images.states, image_index, texts.states, _mask(texts), text_index)
        return logits_N2


def _mask(texts: TowerOutput) -> Tensor:
    return torch.ones(texts.states.shape[:2], dtype=torch.long) if texts.mask is None else texts.mask.long()


def _lengths(texts: TowerOutput) -> Tensor:
    """(B,) the end of each text's last real token."""
    mask = _mask(texts)
    return (mask.bool() * torch.arange(1, mask.shape[1] + 1)).amax(1)


def _parts(image_index_N: Tensor, length_N: Tensor, tokens: int) -> list[Tensor]:
    """The pairs as one part, or as up to PARTS parts of similar text length, whichever is less work.

    Every pair costs as much as its part's longest text. The keys and values of an image's `tokens` are computed anew
    in each part.
    """
    order_N = length_N.argsort(stable=True)
    ends = cut(length_N[order_N].tolist(), PARTS, CALL_TOKENS)
    several = list(order_N.tensor_split(ends[:-1]))

    def work(parts: list[Tensor]) -> int:
        products = ((len(part) * int(length_N[part].max()), len(image_index_N[part].unique())) for part in parts)
        return sum(TEXT_PRODUCTS * text_tokens + IMAGE_PRODUCTS * tokens * images for text_tokens, images in products)

    return min([order_N], several, key=work)


def load_exported(folder: Path) -> tuple[ExportedR2D2, R2D2Processor]:
    """An export folder's network and processor; it computes with as many threads as torch does.

    Raises:
        UsageError: ONNX Runtime is not installed.
        CcmbError: a file is missing, damaged, of another export, or not to be trusted; the message names it.
    """
    needs_runtime()
    record, processor = ExportRecord.read(folder), R2D2Processor.from_pretrained(folder)
    config = read_r2d2_config(folder)
    check_processor(folder, config, processor)
    parts = {graph: _runner(folder, record, graph) for graph in graphs(config)}
    model = ExportedR2D2(config, record, parts)
    _try_out(folder, model, processor)
    return model, processor


def _runner(folder: Path, record: ExportRecord, graph: Graph) -> Run:
    runtime, data = needs_runtime(), record.read_graph(folder, graph.file)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads of four graphs that spin while they wait would take the cores from whoever works.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever ONNX Runtime makes of it
        raise CcmbError(
            f"{folder / graph.file}: ONNX Runtime cannot load it ({one_line(error)}); export anew"
        ) from None
    if {graph_input.name for graph_input in session.get_inputs()} != set(graph.inputs):
        raise CcmbError(f"{folder / graph.file}: not the graph of a {graph.name.replace('_', ' ')}; export anew")

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        arrays = {name: value.detach().contiguous().numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(list(graph.outputs), arrays)))

    return run


@torch.no_grad()
def _try_out(folder: Path, model: ExportedR2D2, processor: R2D2Processor) -> None:
    """Use every part once, since only this shows whether they go together."""
    config, first = model.config, torch.zeros(1, dtype=torch.long)
    try:
        images = model.encode_image(torch.zeros(1, 3, config.image_size, config.image_size))
        texts = model.encode_text(**processor.texts(["图"]))
        if images.embed.shape[1] != config.embed_dim or texts.embed.shape[1] != config.embed_dim:
            raise ValueError(f"embeddings are not {config.embed_dim} wide")
        if model.can_rank:
            model.match_text_image(images, texts, first, first)
            model.match_image_text(images, texts, first, first)
    except Exception as error:  # whatever ONNX Runtime makes of sizes that do not fit
        raise CcmbError(f"{folder}: its parts do not go together ({one_line(error)}); export anew") from None
