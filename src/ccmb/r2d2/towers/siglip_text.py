"""The text half of a SigLIP or SigLIP 2 as a text tower of R2D2.

SigLIP reads texts padded to its full length, padding not masked, and sums a text up in its last place, by a head (Zhai
et al. 2023, arXiv 2303.15343; Tschannen et al. 2025, arXiv 2502.14786). R2D2 looks for that in the first token. So this
tower pads by itself, and gives SigLIP's own pooled state in the place of the first token; the other tokens are as
SigLIP gives them.

Shapes: B texts of T tokens, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, Siglip2TextModel, SiglipTextModel
from transformers.modeling_outputs import BaseModelOutput

from ccmb.core.errors import UsageError


class _SumsUpFirst:
    """What both kinds do otherwise than transformers' classes."""

    config: Any

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> BaseModelOutput:
        """The token states (B, T, W) of token ids (B, T), the pooled state first; 0 in the mask is padding."""
        if attention_mask is not None:
            input_ids = torch.where(attention_mask.bool(), input_ids, self.config.pad_token_id)
        length = self.config.max_position_embeddings
        padding = torch.full_like(input_ids[:, :1], self.config.pad_token_id).expand(-1, length)
        # Cut, not filled up to the length: so a traced graph takes texts of any length.
        full = super().forward(input_ids=torch.cat([input_ids, padding], 1)[:, :length], **options)  # type: ignore[misc]
        others = full.last_hidden_state[:, 1 : input_ids.shape[1]]
        return BaseModelOutput(last_hidden_state=torch.cat([full.pooler_output[:, None], others], 1))


class SiglipText(_SumsUpFirst, SiglipTextModel):
    """SigLIP's text half."""


class Siglip2Text(_SumsUpFirst, Siglip2TextModel):
    """SigLIP 2's, of its NaFlex models."""


_CLASSES: dict[str, type[PreTrainedModel]] = {"siglip_text_model": SiglipText, "siglip2_text_model": Siglip2Text}


def is_siglip_text(config: PreTrainedConfig) -> bool:
    """Whether a text tower of this configuration is a SigLIP's."""
    return config.model_type in _CLASSES


def siglip_text_class(config: Any) -> type[PreTrainedModel]:
    """The tower's class.

    Raises:
        UsageError: the pooled state is wider or narrower than the tokens, so that it cannot stand in a token's place.
    """
    if config.projection_size != config.hidden_size:
        raise UsageError(
            f"{config.model_type}: its pooled state is {config.projection_size} wide and its tokens "
            f"{config.hidden_size}; a text tower needs both of the same width"
        )
    return _CLASSES[config.model_type]
