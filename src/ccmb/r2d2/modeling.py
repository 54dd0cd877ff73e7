"""R2D2Model: two towers for pre-ranking, two cross encoders for ranking (Figure 2 of the paper).

Shapes: B items, S image tokens, T text tokens, N pairs, D embedding width, W tower width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForZeroShotImageClassification, PreTrainedModel

from ccmb.core.floats import at_least_float32
from ccmb.r2d2.backbones import new_text_tower, new_tower
from ccmb.r2d2.common_api import CommonApi
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.cross_encoder import CrossEncoder, CrossOutput, RankOutput
from ccmb.r2d2.decoders.likelihood import TextLikelihood
from ccmb.r2d2.decoders.word_head import MaskedLanguageHead
from ccmb.r2d2.packing import PackedPairs, Packing
from ccmb.r2d2.projection import Standardize, new_projection
from ccmb.r2d2.towers.stillness import keep_still
from ccmb.r2d2.towers.token_reduction import TokenReduction
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers


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
        reduced = config.reduced_tokens
        self.token_reduction = TokenReduction(config.embed_dim, reduced) if reduced else None
        self.temperature = nn.Parameter(torch.tensor(config.initial_temperature))
        width = text.hidden_size
        self.image_standardize = Standardize(config.image_width) if config.standardize_states else None
        self.text_standardize = Standardize(width) if config.standardize_states and config.cross_layers else None
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
        self.likelihood = TextLikelihood(config) if config.decoder_layers else None
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
        elif isinstance(module, Standardize | TokenReduction):
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
        return self.config.match_heads or self.likelihood is not None

    @property
    def cross_dtype(self) -> torch.dtype:
        """The type in which the second stage takes token states; a decoder takes token ids, which float32 holds."""
        return self.image_to_cross.weight.dtype if self.likelihood is None else torch.float32

    def encode_packed(self, input_ids: Tensor, attention_mask: Tensor | None, packing: Packing | None) -> TowerOutput:
        """See `TwoTowers.encode_packed`. Where a decoder ranks, the `states` (B, T, 2) are what it reads of a text.

        These are the token ids and, in every place, the text's log-likelihood without an image.
        """
        output = super().encode_packed(input_ids, attention_mask, packing)
        if self.likelihood is None or self.training:  # in training nothing ranks by it
            return output
        mask_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prior_B = at_least_float32(self.likelihood(input_ids, mask_BT, None))
        return replace(
            output, states=torch.stack([input_ids.to(prior_B.dtype), prior_B[:, None].expand(input_ids.shape)], 2)
        )

    def check_can_rank(self) -> None:
        """Refuse a network without cross encoders.

        Raises:
            ValueError: the network can only pre-rank (PRD2).
        """
        if not self.can_rank:
            raise ValueError("this network has no second stage (PRD2): it can pre-rank but not rank")

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
        if self.likelihood is not None:
            logits_N2 = self.match_text_image(images, texts, image_index, text_index)
            return RankOutput(logits_N2, logits_N2, texts.states[:0])
        # Packing waits for a GPU, so it comes first; the long pass comes next, so that the short one can be prepared
        # while it runs.
        pairs = self._packed_pairs(images, texts, image_index, text_index, read)
        image_text = self.match_image_text(images, texts, image_index, text_index)
        text_image = self._text_image(images, texts, image_index, text_index, whole=read, pairs=pairs)
        return RankOutput(self._head(self.text_image_match, text_image.first), image_text, text_image.whole)

    def match_text_image(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the text-image encoder's match head alone, or of the decoder's log-odds."""
        if self.likelihood is not None:
            return self._likelihood_logits(self.likelihood, images, texts, image_index, text_index)
        return self._head(self.text_image_match, self._text_image(images, texts, image_index, text_index, 0).first)

    def match_image_text(
        self, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        """Logits (N, 2) of the image-text encoder's match head alone; where a decoder ranks, those of its log-odds."""
        if self.likelihood is not None:
            return self.match_text_image(images, texts, image_index, text_index)
        states = self.image_to_cross(images.states)
        pairs = self.image_text_encoder(states, images.mask, texts.states, texts.mask, image_index, text_index)
        return self._head(self.image_text_match, pairs.first)

    def rank_all(self, images: TowerOutput, texts: TowerOutput) -> tuple[Tensor, Tensor]:
        """Logits (V texts, U images, 2) of both match heads, the text-image encoder's first, for all pairs.

        Equal to `rank` for each pair; for training, where all pairs of a batch are wanted.
        """
        text_image = self.text_image_encoder(texts.states, texts.mask, images.states, images.mask)  # (images, texts, W)
        states = self.image_to_cross(images.states)
        image_text = self.image_text_encoder(states, images.mask, texts.states, texts.mask)
        return (
            self._head(self.text_image_match, text_image.first).transpose(0, 1),
            self._head(self.image_text_match, image_text.first),
        )

    @staticmethod
    def _likelihood_logits(
        likelihood: TextLikelihood, images: TowerOutput, texts: TowerOutput, image_index: Tensor, text_index: Tensor
    ) -> Tensor:
        ids_BT, prior_B = texts.states[..., 0].long(), texts.states[:, 0, 1]
        mask_BT = torch.ones_like(ids_BT) if texts.mask is None else texts.mask
        log_p_N = likelihood.pairs(ids_BT, mask_BT, images.states, image_index, text_index)
        # A text that the decoder cannot read, as of another language, is left in the order of the towers.
        known_B = likelihood.knows(ids_BT, mask_BT)
        log_odds_N = (log_p_N - prior_B[text_index]) * known_B[text_index]
        return torch.stack([torch.zeros_like(log_odds_N), log_odds_N], 1)

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


AutoModel.register(R2D2Config, R2D2Model)
AutoModelForZeroShotImageClassification.register(R2D2Config, R2D2Model)
