"""A small vision transformer with a convolutional stem, for training from scratch on few images.

It is transformers' CLIP vision tower with three changes:

* A few 3x3 convolutions of stride 2 replace the one big patch convolution: early convolutions help small transformers
  to see better (Xiao et al. 2021, arXiv 2106.14881).
* The final layer norm is applied to every token, and the maximum over the patches is added to the first token. Without
  a large pre-training, the first token alone learns too slowly where to look.
* Each patch's position is added to its state once more, as in DETR (Carion et al. 2020, arXiv 2005.12872), so that the
  cross encoders soon find what a text places on the left.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, CLIPVisionModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from ccmb.r2d2.sinusoidal import grid_positions


class StemVisionConfig(CLIPVisionConfig):
    """A CLIPVisionConfig whose `patch_size` is reached by log2(patch_size) convolutions of `stem_channels` widths."""

    model_type = "stem_vision"
    stem_channels: list[int] | tuple[int, ...] = (24, 48, 96)


class ConvStem(nn.Sequential):
    """3x3 convolutions of stride 2 with GroupNorm and GELU between: (B, 3, S, S) -> (B, width, S/p, S/p)."""

    def __init__(self, channels: list[int], width: int) -> None:
        layers: list[nn.Module] = []
        before = 3
        for channel in channels:
            layers += [nn.Conv2d(before, channel, 3, stride=2, padding=1), nn.GroupNorm(1, channel), nn.GELU()]
            before = channel
        super().__init__(*layers, nn.Conv2d(before, width, 3, stride=2, padding=1))

    @property
    def weight(self) -> Tensor:
        """The last convolution's weight: CLIP's embedding layer reads its data type."""
        return self[-1].weight  # type: ignore[return-value]


class Places(nn.Embedding):
    """(patches, width) learned positions that are added to the states of the patches."""


class StemVisionModel(CLIPVisionModel):
    """A CLIP vision transformer behind a convolutional stem; states (B, 1 + (S/p)^2, width), all layer-normed."""

    config_class = StemVisionConfig

    def __init__(self, config: StemVisionConfig) -> None:
        super().__init__(config)
        if 2 ** (len(config.stem_channels) + 1) != config.patch_size:
            raise ValueError(
                f"patch_size {config.patch_size} needs log2({config.patch_size}) - 1 stem_channels, "
                f"got {list(config.stem_channels)}"
            )
        self.embeddings.patch_embedding = ConvStem(  # type: ignore[assignment]
            list(config.stem_channels), config.hidden_size
        )
        self.places = Places(self.embeddings.num_patches, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # `from_pretrained` calls this too; only `nn.init` and `initialization` then leave loaded weights alone.
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, CLIPVisionEmbeddings):
            # Random positions of CLIP's scale would be lost beside the output of the convolutions.
            side = math.isqrt(module.num_patches)
            initialization.copy_(module.position_embedding.weight, grid_positions(side, module.embed_dim))
        elif isinstance(module, Places):
            places_PW = grid_positions(math.isqrt(module.num_embeddings), module.embedding_dim)[1:]
            initialization.copy_(module.weight, places_PW / places_PW.std())

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        output = super().forward(pixel_values=pixel_values, **kwargs)
        states_BSW = self.post_layernorm(output.last_hidden_state)
        summary_BW = states_BSW[:, 0] + states_BSW[:, 1:].amax(1)
        patches_BPW = states_BSW[:, 1:] + self.places.weight
        states_BSW = torch.cat([summary_BW[:, None], patches_BPW], 1)
        return BaseModelOutputWithPooling(last_hidden_state=states_BSW, pooler_output=states_BSW[:, 0])


AutoConfig.register("stem_vision", StemVisionConfig)
AutoModel.register(StemVisionConfig, StemVisionModel)
