"""R2D2Model: two towers for pre-ranking, two cross encoders for ranking (Figure 2 of the paper).

Shapes: B items, S image tokens, T text tokens, N pairs, D embedding width, W tower width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForZeroShotImageClassification, PreTrainedModel

from ccmb.core.choices import ImagePooling, TextPooling
from ccmb.core.floats import at_least_float32
from ccmb.r2d2.backbones import is_packable, mask_for, new_text_tower, new_tower, read_packed
from ccmb.r2d2.common_api import CommonApi
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.cross_encoder import CrossEncoder, CrossOutput, RankOutput
from ccmb.r2d2.packing import PackedPairs, Packing, mean_state, padded_right
from ccmb.r2d2.projection import Standardize, new_projection
from ccmb.r2d2.towers.boundary import Boundary
from ccmb.r2d2.towers.image_forms import as_tokens, pooled_state
from ccmb.r2d2.towers.stillness import keep_still


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


class MaskedLanguageHead(nn.Module):
    """BERT's masked-language head; its output layer shares the text tower's word embeddings."""

    def __init__(self, width: int, vocabulary: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states_MW: Tensor, word_embeddings: Tensor) -> Tensor:
        """Logits (M, vocabulary) of M token states."""
        return F.linear(self.LayerNorm(F.gelu(self.dense(states_MW))), word_embeddings, self.bias)


class TwoTowers:
    """The encoding methods of a module with both towers and projections: the model or its teacher."""

    image_tower: PreTrainedModel
    text_tower: PreTrainedModel
    image_projection: nn.Module
    text_projection: nn.Module
    image_pooling: ImagePooling
    image_class_token: bool
    text_pooling: TextPooling
    pack_texts: bool = True  # do not compute padding, see packing.py
    # Up to where stored states replace the towers; None is their end. See towers/stored.py.
    image_boundary: Boundary | None = None
    text_boundary: Boundary | None = None

    def encode_image(self, pixel_values: Tensor) -> TowerOutput:
        """Encode normalised images (B, 3, S, S)."""
        output = self.image_tower(pixel_values=pixel_values)
        states = as_tokens(output.last_hidden_state)
        pooled = pooled_state(self.image_pooling, output, states)
        if not self.image_class_token:  # the match heads read the first token, so it has to summarise the image
            states = torch.cat([pooled[:, None], states], 1)
        return TowerOutput(l2_normalize(self.image_projection(pooled)), states, pooled=pooled)

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
        if packing is not None:
            states = read_packed(self.text_tower, input_ids, packing)
        else:
            mask = None if attention_mask is None else mask_for(self.text_tower, attention_mask)
            states = self.text_tower(input_ids=input_ids, attention_mask=mask).last_hidden_state
        pooled = states[:, 0] if self.text_pooling == "first" else mean_state(states, attention_mask)
        return TowerOutput(l2_normalize(self.text_projection(pooled)), states, attention_mask, pooled)

    def packing(self, mask_BT: Tensor) -> Packing | None:
        """The packing of texts with this mask; None if the text tower computes the padding too. Waits for a GPU."""
        return Packing.from_mask(mask_BT) if self._packs() and is_packable(self.text_tower) else None

    def _packs(self) -> bool:
        return self.pack_texts and not torch.jit.is_tracing()  # a traced graph must take texts of any length


class R2D2Model(CommonApi, TwoTowers, PreTrainedModel):  # type: ignore[misc]  # from_pretrained: more keywords
    """R2D2 (or, without cross encoders, PRD2)."""

    config_class = R2D2Config
    base_model_prefix = "r2d2"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    config: R2D2Config

    def __init__(self, config: R2D2Config) -> None:
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        self.image_pooling, self.image_class_token = config.image_pooling, config.image_class_token
        self.text_pooling = config.text_pooling
        self.image_tower = new_tower(vision, pooler=config.image_pooling == "tower")
        self.text_tower = new_text_tower(text)
        projection = partial(
            new_projection,
            embed_dim=config.embed_dim,
            hidden=config.projection_hidden,
            heads=config.projection_heads,
            dropout=config.projection_dropout,
        )
        self.image_projection = projection(config.image_width)
        self.text_projection = projection(text.hidden_size)
        self.temperature = nn.Parameter(torch.tensor(config.initial_temperature))
        width = text.hidden_size
        cross = (config.cross_layers, width, config.cross_heads, config.cross_ffn)
        if config.match_heads or config.mlm_head:
            self.text_image_encoder = CrossEncoder(*cross, config.image_width, config.cross_dropout)
        if config.match_heads:
            self.image_to_cross = nn.Linear(config.image_width, width)
            self.image_text_encoder = CrossEncoder(*cross, width, config.cross_dropout)
            self.text_image_match = nn.Linear(width, 2)
            self.image_text_match = nn.Linear(width, 2)
        if config.mlm_head:
            self.mlm_head = MaskedLanguageHead(width, text.vocab_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The towers are PreTrainedModels and initialise themselves; these are our own layers, initialised as BERT's.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=getattr(self.config.text_config, "initializer_range", 0.02))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Standardize):
            module.reset()
        elif isinstance(module, MaskedLanguageHead):
            nn.init.zeros_(module.bias)
        elif isinstance(module, R2D2Model):
            nn.init.constant_(module.temperature, self.config.initial_temperature)

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for what is frozen and for batch norm that stays as it is; see `keep_still`."""
        super().train(mode)
        for tower in (self.image_tower, self.text_tower):
            keep_still(tower, batch_norm=not self.config.train_batch_norm)
        return self

    @property
    def can_rank(self) -> bool:
        """Whether the network has a second stage (R2D2) or pre-ranks alone (PRD2)."""
        return self.config.match_heads

    @property
    def cross_dtype(self) -> torch.dtype:
        """The type in which the cross encoders take token states."""
        return self.image_to_cross.weight.dtype

    def check_can_rank(self) -> None:
        """Refuse a network without cross encoders.

        Raises:
            ValueError: the network can only pre-rank (PRD2).
        """
        if not self.can_rank:
            raise ValueError("this network has no match heads (PRD2): it can pre-rank but not rank")

    def read_texts(self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor) -> Tensor:
        """Token states (N, T, W) of each pair's text after the text-image cross encoder."""
        return self._text_image(images, texts, image_index, text_index, len(text_index)).whole

    def _text_image(
        self,
        images: TowerOutput,
        texts: TowerOutput,
        image_index: Tensor,
        text_index: Tensor,
        whole: int,
        pairs: PackedPairs | None = None,
    ) -> CrossOutput:
        pairs = pairs or self._packed_pairs(images, texts, image_index, text_index, whole)
        return self.text_image_encoder(
            texts.states, texts.mask, images.states, images.mask, text_index, image_index, whole, pairs
        )

    def _packed_pairs(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor, whole: int
    ) -> PackedPairs | None:
        if texts.mask is None or images.mask is not None or not self._packs():
            return None
        return PackedPairs.from_indices(texts.mask, len(images), text_index, image_index, whole)

    def rank(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor, read: int = 0
    ) -> RankOutput:
        """Match the N pairs (image_index[n], text_index[n]) with both cross encoders.

        Args:
            read: M: for the first M pairs, the text's token states are returned too.

        Raises:
            ValueError: the network has no cross encoders.
        """
        self.check_can_rank()
        # Packing waits for a GPU, so it comes first; the long pass comes next, so that the short one can be prepared
        # while it runs.
        pairs = self._packed_pairs(images, texts, image_index, text_index, read)
        image_text = self.match_image_text(images, texts, image_index, text_index)
        text_image = self._text_image(images, texts, image_index, text_index, whole=read, pairs=pairs)
        return RankOutput(self._head(self.text_image_match, text_image.first), image_text, text_image.whole)

    def match_text_image(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the text-image encoder's match head alone."""
        return self._head(self.text_image_match, self._text_image(images, texts, image_index, text_index, 0).first)

    def match_image_text(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the image-text encoder's match head alone."""
        states = self.image_to_cross(images.states)
        pairs = self.image_text_encoder(states, images.mask, texts.states, texts.mask, image_index, text_index)
        return self._head(self.image_text_match, pairs.first)

    @staticmethod
    def _head(head: nn.Linear, first_NW: Tensor) -> Tensor:
        # The encoders may have a lower precision than their heads.
        return at_least_float32(head(first_NW.to(head.weight.dtype)))

    def mlm_logits(self, states_MW: Tensor) -> Tensor:
        """Vocabulary logits (M, V) of M states of the text-image cross encoder."""
        return self.mlm_head(states_MW, self.text_tower.get_input_embeddings().weight)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the learned temperature within the configured range (the official code clamps it likewise)."""
        self.temperature.clamp_(self.config.temperature_min, self.config.temperature_max)

    def score_pairs(self, images: TowerOutput, texts: TowerOutput) -> Tensor:
        """Match scores (B texts, B images) of all pairs.

        Raises:
            ValueError: the network has no cross encoders.
        """
        text_index, image_index = torch.meshgrid(
            torch.arange(len(texts), device=texts.embed.device),
            torch.arange(len(images), device=images.embed.device),
            indexing="ij",
        )
        return self.rank(images, texts, image_index.flatten(), text_index.flatten()).score.view(len(texts), len(images))


def l2_normalize(embed_BD: Tensor) -> Tensor:
    """The rows (B, D), L2-normalised, in float32 or more."""
    # float32 whatever the autocast type: cosine differences between near neighbours are small.
    return F.normalize(at_least_float32(embed_BD), dim=-1)


def _pad_tokens(tokens: Tensor, length: int) -> Tensor:
    missing = length - tokens.shape[1]
    return tokens if not missing else F.pad(tokens, (0, 0) * (tokens.dim() - 2) + (0, missing))


AutoModel.register(R2D2Config, R2D2Model)
AutoModelForZeroShotImageClassification.register(R2D2Config, R2D2Model)
