"""FG-CLIP 2 (360 AI Research): SigLIP 2's modules with a second set of text positions for long texts.

Its code is not of transformers, and comes with its weights. What retrieval needs of it is small, so it is written here
over SigLIP 2's modules with the tensors' published names, and no code of a download is run. Architecture, walk types
and budgets of patches are those of https://github.com/360CVGroup/FG-CLIP (`fgclip2/`, arXiv 2510.10921). Its region
features, which need boxes, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase, Siglip2Config, Siglip2Model
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.siglip2.configuration_siglip2 import Siglip2TextConfig, Siglip2VisionConfig

from ccmb.core.errors import UsageError
from ccmb.inference.models.transformers_clip import TwoTowersModel
from ccmb.inference.user_images import open_image
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput

KIND = "fgclip2"
PATCH = 16  # pixels; what the authors' rule counts in, whatever the model's own patches
READ = ("input_ids", "attention_mask")  # of what a tokenizer gives; its configuration says if there is a mask
# The authors' budgets: an image of more than so many patches gets the next one.
BUDGETS = (128, 256, 576, 784, 1024)


class FgClip2TextConfig(Siglip2TextConfig):
    """The text tower's: positions up to `max_position_embeddings` for short texts, `longtext_len` for long ones.

    The first `keep_len` positions of a long text have an embedding of their own.
    """

    model_type = "fgclip2_text_model"
    keep_len: int = 20
    longtext_len: int = 196


class FgClip2VisionConfig(Siglip2VisionConfig):
    model_type = "fgclip2_vision_model"


class FgClip2Config(Siglip2Config):
    model_type = KIND
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "text_config": FgClip2TextConfig,
        "vision_config": FgClip2VisionConfig,
    }


AutoConfig.register(KIND, FgClip2Config)


class FgClip2(Siglip2Model):
    """SigLIP 2 with long texts."""

    config_class = FgClip2Config

    def __init__(self, config: FgClip2Config) -> None:
        super().__init__(config)
        text: Any = config.text_config
        embeddings: Any = self.text_model.embeddings
        embeddings.position_embedding_ori = nn.Embedding(text.longtext_len, text.hidden_size)
        embeddings.position_embedding_res = nn.Embedding(text.longtext_len, text.hidden_size)
        self.longtext_head = nn.Linear(text.hidden_size, text.hidden_size)
        self.post_init()

    def get_long_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, D) features of texts by the "long" walk.

        Args:
            input_ids: (B, T) tokens, T at most `longtext_len`.
            attention_mask: (B, T) 1 at tokens that are read; None reads all, padding too.
        """
        text: Any = self.text_model
        embeddings, kept = text.embeddings, text.config.keep_len
        count = input_ids.shape[1]
        first, after = embeddings.position_embedding_ori.weight, embeddings.position_embedding_res.weight
        positions_TD = torch.cat([first[: min(kept, count)], after[kept:count]])
        states_BTD = embeddings.token_embedding(input_ids) + positions_TD
        mask = create_bidirectional_mask(config=text.config, inputs_embeds=states_BTD, attention_mask=attention_mask)
        states_BTD = text.encoder(inputs_embeds=states_BTD, attention_mask=mask).last_hidden_state
        features: Tensor = self.longtext_head(text.final_layer_norm(states_BTD)[:, -1])
        return features


AutoModel.register(FgClip2Config, FgClip2)


def patch_budget(image: Image.Image) -> int:
    """How many patches an image may have, by its size, as the authors' retrieval does."""
    patches = (image.width // PATCH) * (image.height // PATCH)
    return next((budget for budget in BUDGETS[:-1] if patches <= budget), BUDGETS[-1])


class FgClip2Model(TwoTowersModel):
    """FG-CLIP 2 by name. A context length of 196 takes its "long" walk, the usual one of 64 its "short" walk."""

    def __init__(self, name: str, *parts: Any, context_length: int | None = None, source: str = "") -> None:
        super().__init__(name, *parts, context_length=context_length, source=source)
        lengths = self.context_lengths(self._tokenizer)
        if self.context_length not in lengths:
            raise UsageError(
                f"--context-length is {self.context_length}; {name} reads texts padded to {lengths[0]} tokens, or long "
                f"ones padded to {lengths[1]}; give one of these"
            )

    def context_lengths(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
        text = self._model.config.text_config
        return text.max_position_embeddings, text.longtext_len

    def prepare(self, image: ImageInput) -> dict[str, Tensor]:
        opened = open_image(image)
        return dict(self._images(images=[opened], max_num_patches=patch_budget(opened), return_tensors="pt"))

    def encode_prepared(self, images: Sequence[dict[str, Tensor]]) -> TowerOutput:
        longest = max(image["pixel_values"].shape[1] for image in images)
        return super().encode_prepared([_padded(image, longest) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        short, _ = self.context_lengths(self._tokenizer)
        features = self._model.get_text_features if self.context_length == short else self._model.get_long_text_features
        inputs = self._tokens(texts, "max_length")
        return self._features(features, {name: inputs[name] for name in READ if name in inputs})


def _padded(image: dict[str, Tensor], patches: int) -> dict[str, Tensor]:
    """An image's patches (1, N, P) and their mask (1, N), padded to so many; padding is masked."""
    missing = patches - image["pixel_values"].shape[1]
    return image | {
        "pixel_values": pad(image["pixel_values"], (0, 0, 0, missing)),
        "pixel_attention_mask": pad(image["pixel_attention_mask"], (0, missing)),
    }
