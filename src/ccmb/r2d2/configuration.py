"""R2D2Config: the shape of an R2D2 network, in the form that transformers saves and loads."""

from __future__ import annotations

from typing import Any, get_args

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ccmb.errors import UsageError, did_you_mean
from ccmb.r2d2 import stem_vision as _registers_the_stem_tower  # noqa: F401
from ccmb.rules import RankingRule


class R2D2Config(PreTrainedConfig):
    """Two towers (pre-ranking) and two cross encoders (ranking).

    Args:
        vision_config, text_config: configurations of the towers, of any backbone that transformers knows
            (the paper's are a CLIP vision transformer and BERT-base). Dictionaries need a "model_type".
        embed_dim: width D of the shared embedding space (768 in the paper).
        cross_layers: layers in each cross encoder (6 in the paper); 0 makes PRD2, two towers alone.
        cross_heads, cross_ffn: shape of the cross encoders, whose width is the text tower's; by default also the
            text tower's.
        cross_dropout: dropout in the cross encoders.
        max_text_tokens: longest text, special tokens included (64 in the official code).
        match_heads: whether the network can rank: the image-text cross encoder and the two match heads.
        mlm_head: whether the network has a masked-language head on the text-image cross encoder.
        ranking_rule: how the second stage scores, see `ccmb.r2d2.ranking`: "sum" (the paper) or "log_odds".
        initial_temperature, temperature_min, temperature_max: start and clamp of the learned temperature (0.07 in
            [0.001, 0.5]).

    Raises:
        UsageError: a tower's "model_type" is missing or unknown to transformers, or the ranking rule is unknown.
    """

    model_type = "r2d2"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (the form of transformers)

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        embed_dim: int = 768,
        cross_layers: int = 6,
        cross_heads: int | None = None,
        cross_ffn: int | None = None,
        cross_dropout: float = 0.1,
        max_text_tokens: int = 64,
        match_heads: bool = True,
        mlm_head: bool = True,
        ranking_rule: RankingRule = "sum",
        initial_temperature: float = 0.07,
        temperature_min: float = 0.001,
        temperature_max: float = 0.5,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _as_config("vision", vision_config, {"model_type": "clip_vision_model"})
        self.text_config = _as_config("text", text_config, {"model_type": "bert", "vocab_size": 21128})
        self.embed_dim = embed_dim
        self.cross_layers = cross_layers
        self.cross_heads = cross_heads or self.text_config.num_attention_heads
        self.cross_ffn = cross_ffn or self.text_config.intermediate_size
        self.cross_dropout = cross_dropout
        self.max_text_tokens = max_text_tokens
        self.match_heads = match_heads and cross_layers > 0
        self.mlm_head = mlm_head and cross_layers > 0
        if ranking_rule not in get_args(RankingRule):
            raise UsageError(f"ranking_rule is {ranking_rule!r}; give one of {', '.join(get_args(RankingRule))}")
        self.ranking_rule = ranking_rule
        self.initial_temperature = initial_temperature
        self.temperature_min = temperature_min
        self.temperature_max = temperature_max
        super().__init__(**kwargs)

    @property
    def image_size(self) -> int:
        """Side of the square input picture, in pixels."""
        return int(self.vision_config.image_size)


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


AutoConfig.register("r2d2", R2D2Config)
