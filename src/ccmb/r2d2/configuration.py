"""R2D2Config: the shape of an R2D2 network, in the form that transformers saves and loads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ccmb.core.choices import ImagePooling, RankingRule, TextPooling, one_of
from ccmb.core.errors import UsageError, did_you_mean
from ccmb.r2d2 import stem_vision as _registers_the_stem_tower  # noqa: F401
from ccmb.r2d2.folders.weight_sources import check_sources
from ccmb.r2d2.towers.image_forms import USUAL_SIZE, ImageForm, image_form, image_side, set_image_side
from ccmb.r2d2.towers.token_reduction import GROUPS

# The keywords of `from_pretrained` that locate a folder on the hub.
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "subfolder")
NOT_CALIBRATED = 1.0  # the match temperature of a network that none was fitted to


class R2D2Config(PreTrainedConfig):
    """Two towers (pre-ranking) and two cross encoders (ranking).

    Args:
        vision_config, text_config: configurations of the towers, of any backbone that transformers knows
            (the paper's are a CLIP vision transformer and BERT-base). Dictionaries need a "model_type".
        embed_dim: width D of the shared embedding space (768 in the paper).
        image_width: width of the image tower's states; by default what the backbone gives.
        image_class_token: whether the image tower's first token sums the image up; all of SigLIP's or of a feature map
            are places of the image. By default what the backbone gives; "first" below takes the first for such a token.
        image_pooling: what of the image tower is projected into that space: "first" (the paper: its raw first token),
            "tower" (its own pooled output: CLIP's first token after the last norm, SigLIP's attention pooling, the
            normed mean of a convolutional network's cells), or "mean" (of all its tokens or cells). By default "first";
            for backbones without a class token "tower", and "mean" where they have no pooled output.
        text_pooling: what of the text tower is projected: "first" (the paper) or "mean" (of the states of a text's real
            tokens, as in E5 and GTE).
        text_prefix: what the processor puts before every text, such as E5's "query: ".
        projection_hidden: width of a hidden layer in both projections; None: they are linear, as in the paper.
        projection_heads: independent heads of such projections, each for an equal share of the embedding.
        projection_dropout: dropout of that hidden layer and of what goes into it, see `HiddenProjection`.
        train_batch_norm: whether batch norm in the towers computes with a batch's statistics in training and gathers
            them, as new networks need it; else with those that it has, as pre-trained towers want it in small batches.
        cross_layers: layers in each cross encoder (6 in the paper); 0 makes PRD2, two towers alone.
        cross_heads, cross_ffn: attention heads and feed-forward width of the cross encoders, by default the text
            tower's. Their width is always the text tower's.
        cross_dropout: dropout after the layers of the cross encoders. The official ones also drop attention weights,
            ours do not (our choice).
        standardize_states: whether the cross encoders read states whose features have mean 0 and deviation 1, by their
            statistics in the first batch of training: without it they learn nothing from the raw states of some
            pre-trained towers, whose features differ by orders of magnitude.
        max_text_tokens: longest text, special tokens included (64 in the official code).
        match_heads: whether the network can rank: the image-text cross encoder and the two match heads.
        mlm_head: whether the network has a masked-language head on the text-image cross encoder.
        decoder_layers: layers of the decoder that ranks by likelihood, see `ccmb.r2d2.decoders.likelihood`; 0: there is
            none. A network has either cross encoders or it.
        decoder_vocab_size: tokens that it knows, one for all others among them.
        decoder_skipped_tokens: how many tokens after the first one it passes over, since all texts begin with them
            (`text_prefix`).
        reduced_tokens: how many sums of an image's tokens late interaction reads, see
            `ccmb.r2d2.towers.token_reduction`; 0: the tokens themselves.
        match_weight: factor of the match heads' log-odds in the ranking rule "log_odds".
        rerank_k: how many candidates the second stage ranks where nothing else is asked for; None: as many as the
            caller's default says.
        ranking_rule: how the second stage scores, see `ccmb.inference.scoring`: "sum" (the paper) or "log_odds".
        match_temperature: divides the match heads' logits where a calibrated probability is asked for; see
            `ccmb.tasks.matching.calibrate`. 1 says that the network is not calibrated, see `is_calibrated`.
        initial_temperature, temperature_min, temperature_max: start and clamp of the learned temperature (0.07 in
            [0.001, 0.5]).
        sources: where the weights come from and under which licences, see `ccmb.r2d2.folders.weight_sources`; empty for
            a network that began with random ones.

    Raises:
        UsageError: a tower's "model_type" is missing or unknown to transformers, another choice is unknown,
            `match_temperature` is not a number above 0, or `sources` are not what they should be.
    """

    model_type = "r2d2"
    attribute_map = {"projection_dim": "embed_dim"}  # noqa: RUF012 (the name that generic tools ask for)
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (the form of transformers)

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        embed_dim: int = 768,
        image_width: int | None = None,
        image_class_token: bool | None = None,
        image_pooling: ImagePooling | None = None,
        text_pooling: TextPooling = "first",
        text_prefix: str = "",
        projection_hidden: int | None = None,
        projection_heads: int = 1,
        projection_dropout: float = 0.0,
        train_batch_norm: bool = True,
        cross_layers: int = 6,
        cross_heads: int | None = None,
        cross_ffn: int | None = None,
        cross_dropout: float = 0.1,
        standardize_states: bool = False,
        max_text_tokens: int = 64,
        match_heads: bool = True,
        mlm_head: bool = True,
        decoder_layers: int = 0,
        decoder_vocab_size: int = 0,
        decoder_skipped_tokens: int = 0,
        reduced_tokens: int = 0,
        match_weight: float = 1.0,
        rerank_k: int | None = None,
        ranking_rule: RankingRule = "sum",
        match_temperature: float = NOT_CALIBRATED,
        initial_temperature: float = 0.07,
        temperature_min: float = 0.001,
        temperature_max: float = 0.5,
        sources: Iterable[Mapping[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        self.vision_config = _as_config("vision", vision_config, {"model_type": "clip_vision_model"})
        self.text_config = _as_config("text", text_config, {"model_type": "bert", "vocab_size": 21128})
        self.embed_dim, self.text_prefix = embed_dim, text_prefix
        self._set_image_form(image_width, image_class_token, image_pooling)
        self.text_pooling: TextPooling = one_of("text_pooling", text_pooling, TextPooling)
        self.projection_hidden, self.projection_heads = projection_hidden, projection_heads
        self.projection_dropout = projection_dropout
        self.train_batch_norm, self.cross_layers = train_batch_norm, cross_layers
        self.cross_heads = cross_heads or self.text_config.num_attention_heads
        self.cross_ffn = cross_ffn or self.text_config.intermediate_size
        self.cross_dropout, self.max_text_tokens = cross_dropout, max_text_tokens
        self.match_heads, self.mlm_head = match_heads and cross_layers > 0, mlm_head and cross_layers > 0
        self.decoder_layers, self.decoder_vocab_size = decoder_layers, decoder_vocab_size
        self.decoder_skipped_tokens, self.reduced_tokens = decoder_skipped_tokens, reduced_tokens
        self.standardize_states = standardize_states and max(cross_layers, decoder_layers) > 0
        self.ranking_rule: RankingRule = one_of("ranking_rule", ranking_rule, RankingRule)
        self.match_temperature = _positive("match_temperature", match_temperature)
        self.match_weight, self.rerank_k = _positive("match_weight", match_weight), rerank_k
        self.initial_temperature = initial_temperature
        self.temperature_min, self.temperature_max = temperature_min, temperature_max
        self.sources = check_sources(sources)
        self._check_parts()
        super().__init__(**kwargs)

    def _check_parts(self) -> None:
        heads, cross, decoder = self.projection_heads, self.cross_layers, self.decoder_layers
        if heads > 1 and (self.projection_hidden is None or self.embed_dim % heads):
            raise UsageError(f"projection_heads is {heads}: needs projection_hidden, and an embed_dim that it divides")
        if self.reduced_tokens and self.embed_dim % GROUPS:
            raise UsageError(f"reduced_tokens: needs an embed_dim that {GROUPS} divides, and it is {self.embed_dim}")
        if cross and decoder:
            raise UsageError(f"cross_layers is {cross} and decoder_layers {decoder}: only one of them can rank")

    def _set_image_form(self, width: int | None, class_token: bool | None, pooling: ImagePooling | None) -> None:
        """What the image tower gives: as a folder's file says, so that nothing is tried out, or as it does itself."""
        if image_side(self.vision_config) is None:
            set_image_side(self.vision_config, USUAL_SIZE)
        if pooling is not None:
            one_of("image_pooling", pooling, ImagePooling)
        if width is not None and class_token is not None and pooling is not None:
            self.image_width, self.image_class_token = width, class_token
            self.image_pooling: ImagePooling = pooling
            return
        form = image_form(self.vision_config)
        if pooling is None:
            pooling = "first" if form.class_token else "tower" if form.pooled else "mean"
        _check_pooling(pooling, form, self.vision_config.model_type)
        self.image_width = form.width if width is None else width
        if class_token is None:
            # "first" takes the first token for such a one, but SigLIP's folders were always read as without.
            first = pooling == "first" and self.vision_config.model_type != "siglip_vision_model"
            class_token = form.class_token or first
        self.image_class_token = class_token
        self.image_pooling = pooling

    def to_diff_dict(self) -> dict[str, Any]:
        """The content of `config.json`, without the local folders that the towers were opened from."""
        values: dict[str, Any] = super().to_diff_dict()
        for tower in self.sub_configs:
            values.get(tower, {}).pop("_name_or_path", None)  # transformers leaves out only that of the whole
        return values

    @property
    def is_calibrated(self) -> bool:
        """Whether a match temperature was fitted, so that there is a probability of a match."""
        return self.match_temperature != NOT_CALIBRATED

    @property
    def image_size(self) -> int:
        """Side of the square input image, in pixels."""
        return image_side(self.vision_config) or USUAL_SIZE

    @image_size.setter
    def image_size(self, value: int) -> None:
        set_image_side(self.vision_config, value)


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


def _check_pooling(pooling: ImagePooling, form: ImageForm, kind: str) -> None:
    if pooling == "first" and form.is_map:
        raise UsageError(f"image_pooling is 'first', but a {kind} gives a feature map; give 'tower' or 'mean'")
    if pooling == "tower" and not form.pooled:
        raise UsageError(f"image_pooling is 'tower', but a {kind} has no pooled output; give 'first' or 'mean'")


def _positive(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{key} is {value!r}; give a number above 0")
    return float(value)


AutoConfig.register("r2d2", R2D2Config)
