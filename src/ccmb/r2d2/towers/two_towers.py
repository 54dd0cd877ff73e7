"""Two towers: from images and texts to embeddings, which pre-rank, and to token states, which cross encoders read.

Shapes: B items, S image tokens, T text tokens, D embedding width, W tower width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ccmb.core.choices import ImagePooling, TextPooling
from ccmb.core.floats import at_least_float32
from ccmb.r2d2.backbones import is_packable, mask_for, read_packed
from ccmb.r2d2.packing import Packing, mean_state, padded_right
from ccmb.r2d2.projection import Standardize
from ccmb.r2d2.towers.boundary import Boundary
from ccmb.r2d2.towers.image_forms import as_tokens, pooled_state

CPU_BATCH = (
    4  # images: a convolutional network's maps of more do not fit into the caches; of 16 they take half as long again
)


@dataclass(frozen=True, slots=True)
class TowerOutput:
    """A tower's outputs for a batch of images or texts.

    Attributes:
        embed: (B, D), L2-normalised; the cosine of an image's and a text's embedding is the pre-ranking score.
        states: (B, tokens, W), the token states that the cross encoders read.
        mask: (B, tokens), 1 where a token is real; None if all tokens are.
        pooled: (B, W), the input of the projection; only for items that come directly from the tower.
    """

    embed: Tensor
    states: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return self.embed.shape[0]

    def __getitem__(self, index: slice | Tensor) -> TowerOutput:
        return TowerOutput(self.embed[index], self.states[index], None if self.mask is None else self.mask[index])

    @property
    def real_states(self) -> Tensor:
        """(N, W) the states of all real tokens of all items."""
        return self.states.flatten(0, 1) if self.mask is None else self.states[self.mask.bool()]

    def embeds(self, rows: slice) -> Tensor:
        """(B, D) embeddings of a slice of the items."""
        return self.embed[rows]

    def lengths(self, index: Tensor) -> Tensor:
        """(B,) the number of real tokens of each indexed item."""
        if self.mask is None:
            return torch.full_like(index, self.states.shape[1])
        return self.mask[index].sum(1)

    def detach(self) -> TowerOutput:
        return TowerOutput(self.embed.detach(), self.states.detach(), self.mask)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TowerOutput:
        """The same outputs on a device; `dtype` is the precision of the token states."""
        mask = None if self.mask is None else self.mask.to(device)
        return TowerOutput(self.embed.to(device), self.states.to(device, dtype), mask)

    @staticmethod
    def cat(outputs: list[TowerOutput]) -> TowerOutput:
        """Join batches; texts of different padded lengths are padded to the longest."""
        if len(outputs) == 1:
            return outputs[0]
        longest = max(output.states.shape[1] for output in outputs)
        masks, pooled = [output.mask for output in outputs], [output.pooled for output in outputs]
        return TowerOutput(
            torch.cat([output.embed for output in outputs]),
            torch.cat([_pad_tokens(output.states, longest) for output in outputs]),
            None if masks[0] is None else torch.cat([_pad_tokens(mask, longest) for mask in masks if mask is not None]),
            None if pooled[0] is None else torch.cat([states for states in pooled if states is not None]),
        )


class TwoTowers:
    """The encoding methods of a module with both towers and projections: the model or its teacher."""

    image_tower: PreTrainedModel
    text_tower: PreTrainedModel
    image_projection: nn.Module
    text_projection: nn.Module
    image_pooling: ImagePooling
    image_class_token: bool
    text_pooling: TextPooling
    # What standardises the states that the cross encoders read; None: they read them as they are.
    image_standardize: Standardize | None
    text_standardize: Standardize | None
    # What makes fewer of an image's tokens, for late interaction; None: they stay as they are. A teacher has none.
    token_reduction: nn.Module | None
    pack_texts: bool = True  # do not compute padding, see packing.py
    # Up to where stored states replace the towers; None is their end. See towers/stored.py.
    image_boundary: Boundary | None = None
    text_boundary: Boundary | None = None

    def encode_image(self, pixel_values: Tensor) -> TowerOutput:
        """Encode normalised images (B, 3, S, S)."""
        return self.image_output(*self.run_image_tower(pixel_values))

    def run_image_tower(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled states (B, W) of normalised images, and their token states (B, tokens, W)."""
        output = self.image_tower(pixel_values=pixel_values)
        states = as_tokens(output.last_hidden_state)
        pooled = pooled_state(self.image_pooling, output, states)
        if not self.image_class_token:  # the match heads read the first token, so it has to summarise the image
            states = torch.cat([pooled[:, None], states], 1)
        return pooled, states

    def image_output(self, pooled_BW: Tensor, states_BSW: Tensor) -> TowerOutput:
        """What `encode_image` gives of the image tower's states."""
        embed_BD = l2_normalize(self.image_projection(pooled_BW))
        if self.image_standardize is not None:
            states_BSW = self.image_standardize(states_BSW)
        return TowerOutput(embed_BD, states_BSW, pooled=pooled_BW)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TowerOutput:
        """Encode token ids (B, T); `attention_mask` (B, T) is 1 for real tokens.

        Texts that are padded on the left are moved to the front, since the first token is read; the returned mask is
        that of the moved tokens.
        """
        if attention_mask is not None and not torch.jit.is_tracing():
            input_ids, attention_mask = padded_right(input_ids, attention_mask)
        packing = None if attention_mask is None else self.packing(attention_mask)
        return self.encode_packed(input_ids, attention_mask, packing)

    def encode_packed(self, input_ids: Tensor, attention_mask: Tensor | None, packing: Packing | None) -> TowerOutput:
        """Like `encode_text` for padded-right texts whose `packing` is known; None computes the padding too."""
        return self.text_output(self.run_text_tower(input_ids, attention_mask, packing), attention_mask)

    def run_text_tower(self, input_ids: Tensor, attention_mask: Tensor | None, packing: Packing | None) -> Tensor:
        """The token states (B, T, W) of texts; see `encode_packed`."""
        if packing is not None:
            return read_packed(self.text_tower, input_ids, packing)
        mask = None if attention_mask is None else mask_for(self.text_tower, attention_mask)
        return cast(Tensor, self.text_tower(input_ids=input_ids, attention_mask=mask).last_hidden_state)

    def text_output(self, states_BTW: Tensor, mask_BT: Tensor | None, pooled_BW: Tensor | None = None) -> TowerOutput:
        """What `encode_text` gives of the text tower's states.

        Args:
            pooled_BW: the pooled states, if they are known.
        """
        if pooled_BW is None:
            pooled_BW = self.pool_text(states_BTW, mask_BT)
        embed_BD = l2_normalize(self.text_projection(pooled_BW))
        if self.text_pooling == "mean":  # as for images: the match heads read the first token
            states_BTW = torch.cat([pooled_BW[:, None], states_BTW[:, 1:]], 1)
        if self.text_standardize is not None:
            states_BTW = self.text_standardize(states_BTW)
        return TowerOutput(embed_BD, states_BTW, mask_BT, pooled_BW)

    def image_tokens(self, states_BSW: Tensor, dim: int | None = None) -> Tensor:
        """(B, S, D) L2-normalised embeddings of an image's tokens, or of fewer sums of them, for late interaction.

        Args:
            states_BSW: as `TowerOutput` has them.
            dim: take the first so many numbers; by default all.
        """
        tokens_BSD = l2_normalize(self.image_projection(states_BSW))
        if self.token_reduction is not None:
            tokens_BSD = self.token_reduction(tokens_BSD)
        return l2_normalize(tokens_BSD[..., :dim])

    def text_tokens(self, states_BTW: Tensor, dim: int | None = None) -> Tensor:
        """(B, T, D) of a text's, likewise; of padding too."""
        return l2_normalize(l2_normalize(self.text_projection(states_BTW))[..., :dim])

    def pool_text(self, states_BTW: Tensor, mask_BT: Tensor | None) -> Tensor:
        """(B, W) what of the text tower's states is projected."""
        return states_BTW[:, 0] if self.text_pooling == "first" else mean_state(states_BTW, mask_BT)

    def packing(self, mask_BT: Tensor) -> Packing | None:
        """The packing of texts with this mask; None if the text tower computes the padding too. Waits for a GPU."""
        return Packing.from_mask(mask_BT) if self._packs() and is_packable(self.text_tower) else None

    def _packs(self) -> bool:
        return self.pack_texts and not torch.jit.is_tracing()  # a traced graph must take texts of any length


def l2_normalize(embed_BD: Tensor) -> Tensor:
    """The rows (B, D), L2-normalised, in float32 or more."""
    # float32 whatever the autocast type: cosine differences between near neighbours are small.
    return F.normalize(at_least_float32(embed_BD), dim=-1)


def _pad_tokens(tokens: Tensor, length: int) -> Tensor:
    missing = length - tokens.shape[1]
    return tokens if not missing else F.pad(tokens, (0, 0) * (tokens.dim() - 2) + (0, missing))


def fast_parts(pixels_B3SS: Tensor) -> tuple[Tensor, ...]:
    """Images in the parts and the memory layout that convolutional networks compute fastest."""
    pixels_B3SS = pixels_B3SS.contiguous(memory_format=torch.channels_last)
    return pixels_B3SS.split(CPU_BATCH) if pixels_B3SS.device.type == "cpu" else (pixels_B3SS,)
