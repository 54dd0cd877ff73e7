"""R2D2Config: the shape of an R2D2 network, in the form that transformers saves and loads."""

from __future__ import annotations

import math
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ccmb.core.choices import ImagePooling, RankingRule, one_of
from ccmb.core.errors import UsageError, did_you_mean
from ccmb.r2d2 import stem_vision as _registers_the_stem_tower  # noqa: F401

# The keywords of `from_pretrained` that locate a folder on the hub.
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "subfolder")
NO_CLASS_TOKEN = ("siglip_vision_model",)
NOT_CALIBRATED = 1.0  # the match temperature of a network that none was fitted to


class R2D2Config(PreTrainedConfig):
    """Two towers (pre-ranking) and two cross encoders (ranking).

    Args:
        vision_config, text_config: configurations of the towers, of any backbone that transformers knows
            (the paper's are a CLIP vision transformer and BERT-base). Dictionaries need a "model_type".
        embed_dim: width D of the shared embedding space (768 in the paper).
        image_pooling: the output of the image tower that is projected into that space: "first" (the paper: its raw
            first token) or "tower" (its own pooled output: CLIP's first token after the last norm, SigLIP's attention
            pooling). By default "first", but "tower" for backbones without a class token.
        cross_layers: layers in each cross encoder (6 in the paper); 0 makes PRD2, two towers alone.
        cross_heads, cross_ffn: attention heads and feed-forward width of the cross encoders, by default the text
            tower's. Their width is always the text tower's.
        cross_dropout: dropout after the layers of the cross encoders. The official ones also drop attention weights,
            ours do not (our choice).
        max_text_tokens: longest text, special tokens included (64 in the official code).
        match_heads: whether the network can rank: the image-text cross encoder and the two match heads.
        mlm_head: whether the network has a masked-language head on the text-image cross encoder.
        ranking_rule: how the second stage scores, see `ccmb.inference.scoring`: "sum" (the paper) or "log_odds".
        match_temperature: divides the match heads' logits where a calibrated probability is asked for; see
            `ccmb.tasks.matching.calibrate`. 1 says that the network is not calibrated, see `is_calibrated`.
        initial_temperature, temperature_min, temperature_max: start and clamp of the learned temperature (0.07 in
            [0.001, 0.5]).

    Raises:
        UsageError: a tower's "model_type" is missing or unknown to transformers, another choice is unknown, or
            `match_temperature` is not a number above 0.
    """

    model_type = "r2d2"
    attribute_map = {"projection_dim": "embed_dim"}  # noqa: RUF012 (the name that generic tools ask for)
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (the form of transformers)

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        embed_dim: int = 768,
        image_pooling: ImagePooling | None = None,
        cross_layers: int = 6,
        cross_heads: int | None = None,
        cross_ffn: int | None = None,
        cross_dropout: float = 0.1,
        max_text_tokens: int = 64,
        match_heads: bool = True,
        mlm_head: bool = True,
        ranking_rule: RankingRule = "sum",
        match_temperature: float = NOT_CALIBRATED,
        initial_temperature: float = 0.07,
        temperature_min: float = 0.001,
        temperature_max: float = 0.5,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _as_config("vision", vision_config, {"model_type": "clip_vision_model"})
        self.text_config = _as_config("text", text_config, {"model_type": "bert", "vocab_size": 21128})
        self.embed_dim = embed_dim
        image_pooling = image_pooling or ("first" if self.image_class_token else "tower")
        self.image_pooling: ImagePooling = one_of("image_pooling", image_pooling, ImagePooling)
        self.cross_layers = cross_layers
        self.cross_heads = cross_heads or self.text_config.num_attention_heads
        self.cross_ffn = cross_ffn or self.text_config.intermediate_size
        self.cross_dropout = cross_dropout
        self.max_text_tokens = max_text_tokens
        self.match_heads = match_heads and cross_layers > 0
        self.mlm_head = mlm_head and cross_layers > 0
        self.ranking_rule: RankingRule = one_of("ranking_rule", ranking_rule, RankingRule)
        self.match_temperature = _positive("match_temperature", match_temperature)
        self.initial_temperature = initial_temperature
        self.temperature_min = temperature_min
        self.temperature_max = temperature_max
        super().__init__(**kwargs)

    @property
    def is_calibrated(self) -> bool:
        """Whether a match temperature was fitted, so that there is a probability of a match."""
        return self.match_temperature != NOT_CALIBRATED

    @property
    def image_class_token(self) -> bool:
        """Whether the image tower's first token summarises the picture; SigLIP's tokens are all patches."""
        return self.vision_config.model_type not in NO_CLASS_TOKEN

    @property
    def image_size(self) -> int:
        """Side of the square input picture, in pixels."""
        return int(self.vision_config.image_size)

    @image_size.setter
    def image_size(self, value: int) -> None:
        self.vision_config.image_size = value


def _as_config(
    tower: str, value: PreTrainedConfig | dict[str, Any] | None, default: dict[str, Any]
) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    fields = dict(value or default)
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        known = list(CONFIG_MAPPING)
        raise UsageError(
            f"the {tower} tower's model_type is {kind!r}; give one that transformers knows, "
            f"such as {default['model_type']}{did_you_mean(str(kind), known)}"
        )
    return CONFIG_MAPPING[kind](**fields)


def _positive(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{key} is {value!r}; give a number above 0")
    return float(value)


AutoConfig.register("r2d2", R2D2Config)
