"""The model section of a recipe: the network that is trained."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from ccmb.core.choices import LICENSE_PATTERN, ImagePooling, RankingRule, TextPooling
from ccmb.core.config.base import ConfigBase

LONGEST = 64  # tokens of a text, by default


def _shape_or_source(tower: Any) -> Any:
    if not isinstance(tower, dict) and not (isinstance(tower, str) and tower.strip()):
        raise ValueError("give a mapping with a model_type, or a folder or hub id to start from")
    return tower


Tower = Annotated[dict[str, Any] | str, BeforeValidator(_shape_or_source)]

TowerName = Literal["image", "text"]
License = Annotated[str, Field(pattern=rf"^{LICENSE_PATTERN}$")]
Frozen = Literal["all"] | Annotated[int, Field(gt=0)]


class FreezeRecipe(ConfigBase):
    """The frozen parts of the towers: no gradients, no dropout, fixed batch norm."""

    image: Frozen | None = Field(
        None,
        description="all, or so many of the image tower's lowest layers (blocks, or stages where it has stages), and "
        "what stands before them",
    )
    text: Frozen | None = Field(None, description="all, or so many of the text tower's lowest layers, likewise")


class LoraRecipe(ConfigBase):
    """Low-rank adapters of the towers; all else of an adapted tower is frozen."""

    rank: int = Field(8, gt=0, description="of the adapters' matrices")
    alpha: float = Field(16.0, gt=0, description="adapters are scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the adapters")
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all-linear",
        description="all linear modules of the layers, or the ends of the names of linear modules and convolutions, as "
        "in [query, value]",
    )
    towers: list[TowerName] | None = Field(
        None, min_length=1, description="the adapted ones; by default those that are not frozen as a whole"
    )


class LicensesRecipe(ConfigBase):
    """Licences of the weights to start from, in place of what their model cards say."""

    image: License | None = Field(None, description="of the image tower's weights, such as Apache-2.0")
    text: License | None = Field(None, description="of the text tower's weights")
    model: License | None = Field(None, description="of a whole model, such as a Chinese-CLIP or an R2D2 of the hub")


class ModelRecipe(ConfigBase):
    """The network: a model to start from, two towers to start from, or the shape of a new one."""

    RETIRED: ClassVar = {"start": "init_from", "vocabulary": "vocab_size"}
    init_from: str | None = Field(
        None, description="model folder, or Chinese-CLIP folder or hub id, to start from; its tokenizer is taken too"
    )
    preset: str | None = Field(
        None, description="name of a preset, which gives the towers, embed_dim and cross_layers of a new network"
    )
    vision: Tower = Field(
        {},
        description="configuration of the image tower with its model_type, or a folder or hub id to start from; "
        "folders are also looked for under $CCMB_DATA",
    )
    text: Tower = Field(
        {},
        validate_default=True,
        description="configuration of the text tower with its model_type, or a folder or hub id to start from, whose "
        "tokenizer is taken too; folders are also looked for under $CCMB_DATA",
    )
    embed_dim: int = Field(768, gt=0)
    image_pooling: ImagePooling | None = Field(
        None,
        description="what of the image tower the embedding is made of: first token, the tower's own pooled output, or "
        "mean; by default the first where it is a class token, else the pooled output, else the mean",
    )
    text_pooling: TextPooling | None = Field(
        None,
        description="the same of the text tower: first token, or mean of the real ones; by default as the sentence "
        "encoder to start from says, else first",
    )
    text_prefix: str = Field("", description="what stands before every text, such as E5's `query: `")
    projection_hidden: int | None = Field(
        None, gt=0, description="width of a hidden layer in both projections; empty: they are linear, the paper's"
    )
    projection_heads: int = Field(
        1,
        gt=0,
        description="heads of projections with a hidden layer, each for an equal share of the embedding and trained by "
        "GCPR by itself: an ensemble",
    )
    projection_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout of the projections' hidden layer, and of what goes into it"
    )
    cross_layers: int = Field(6, ge=0, description="layers of each cross encoder; 0 trains PRD2")
    cross_dropout: float = Field(0.1, ge=0, lt=1)
    standardize_states: bool = Field(
        False,
        description="the cross encoders read the towers' states with mean 0 and deviation 1 in each feature, as the "
        "first batch has them; from pre-trained towers they may learn nothing otherwise",
    )
    decoder_layers: int = Field(
        2,
        gt=0,
        description="layers of the decoder that objectives.lm trains and that ranks by likelihood; for networks "
        "without cross encoders",
    )
    decoder_max_tokens: int | None = Field(
        None,
        gt=9,
        description="most frequent tokens of the texts that a new decoder knows; all others are one to it; by default "
        "it knows all, of which texts in many languages have so many that they take most of its time",
    )
    reduced_tokens: int = Field(
        0,
        ge=0,
        description="sums of an image's tokens, with learned weights, that objectives.tokenwise contrasts and "
        "late:MODEL ranks by, as in Wukong; 0: the tokens themselves",
    )
    image_size: int | None = Field(
        None,
        gt=2,
        description="side of the images in pixels; positions that the model or tower to start from has for others are "
        "interpolated",
    )
    max_text_tokens: int | None = Field(
        None,
        gt=2,
        validate_default=True,
        description="longest text; by default 64, or that of the R2D2 to start from, whose positions are interpolated "
        "where it has fewer",
    )
    ranking_rule: RankingRule = Field("sum", description="how the second stage scores; sum is the paper's")
    match_weight: float = Field(1.0, gt=0, description="factor of the match heads' log-odds in the rule log_odds")
    rerank_k: int | None = Field(
        None, gt=0, description="candidates that the model's second stage ranks unless a command says otherwise"
    )
    freeze_image_tower: bool = Field(
        False, description="train all but the image tower; its teacher is then the tower itself"
    )
    freeze: FreezeRecipe = FreezeRecipe()
    lora: LoraRecipe | None = Field(
        None,
        description="train low-rank adapters instead of the weights of the towers, as in {rank: 8, alpha: 16}; they "
        "are merged into the finished model; needs peft",
    )
    licenses: LicensesRecipe = LicensesRecipe()
    train_batch_norm: bool | None = Field(
        None,
        description="whether batch norm computes with a batch's statistics and gathers them; by default in new "
        "networks alone: pre-trained towers keep theirs",
    )
    initial_temperature: float = Field(0.07, gt=0)
    temperature_min: float = Field(0.001, gt=0)
    vocab_size: int = Field(8000, gt=10, description="size of the tokenizer trained on the run's texts, if it is")

    @field_validator("max_text_tokens")
    @classmethod
    def _of_a_new_network(cls, length: int | None, info: ValidationInfo) -> int | None:
        return LONGEST if length is None and not info.data.get("init_from") else length

    @field_validator("text")
    @classmethod
    def _both_towers_alike(cls, text: Tower, info: ValidationInfo) -> Tower:
        if "vision" in info.data and isinstance(text, str) != isinstance(info.data["vision"], str):
            raise ValueError("model.vision and model.text must both be mappings, or both folders or hub ids")
        return text

    @field_validator("freeze")
    @classmethod
    def _once(cls, freeze: FreezeRecipe, info: ValidationInfo) -> FreezeRecipe:
        if info.data.get("freeze_image_tower") and freeze.image is not None:
            raise ValueError("model.freeze_image_tower and model.freeze.image say the same; give one")
        return freeze

    @field_validator("lora")
    @classmethod
    def _of_towers_that_learn(cls, lora: LoraRecipe | None, info: ValidationInfo) -> LoraRecipe | None:
        if lora is None or "freeze" not in info.data:
            return lora
        frozen = _frozen(info.data["freeze_image_tower"], info.data["freeze"])
        whole = [name for name in lora.towers or ("image", "text") if frozen.get(name) == "all"]
        if whole and (lora.towers or len(whole) == 2):
            raise ValueError(f"the {' and the '.join(whole)} tower is frozen as a whole; adapters would do nothing")
        return lora

    @field_validator("train_batch_norm")
    @classmethod
    def _of_weights_that_learn(cls, trains: bool | None, info: ValidationInfo) -> bool | None:
        lora = info.data.get("lora")
        if trains and lora is not None and "image" in (lora.towers or ("image",)):
            raise ValueError("model.lora leaves all but its adapters of the image tower as it is; give one of both")
        return trains

    def adapted(self) -> list[TowerName]:
        """The names of the towers that get adapters."""
        if self.lora is None:
            return []
        frozen = self.frozen()
        names: list[TowerName] = ["image", "text"]
        return self.lora.towers or [name for name in names if frozen.get(name) != "all"]

    def frozen(self) -> dict[str, Literal["all"] | int]:
        """The frozen part of each tower, by the tower's name; towers without one are left out."""
        return _frozen(self.freeze_image_tower, self.freeze)


def _frozen(image_tower: bool, freeze: FreezeRecipe) -> dict[str, Literal["all"] | int]:
    frozen = {"image": "all" if image_tower else freeze.image, "text": freeze.text}
    return {name: part for name, part in frozen.items() if part is not None}
