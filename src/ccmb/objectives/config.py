"""The objectives section of a recipe: each objective has a weight (0 switches it off) and a start."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ccmb.core.choices import NOT_THE_PAPERS, OBJECTIVE_NAMES, ObjectiveName, Padding
from ccmb.core.config.base import ConfigBase
from ccmb.core.errors import UsageError
from ccmb.r2d2.configuration import R2D2Config

Side = Literal["image", "text"]


class Objective(ConfigBase):
    """Weight and start of one objective in the sum."""

    RETIRED: ClassVar = {"start": "start_at"}
    weight: float = Field(1.0, ge=0, description="factor in the sum; 0 (or off) switches the objective off")
    start_at: float = Field(0.0, ge=0, lt=1, description="share of the training after which it joins")

    @model_validator(mode="before")
    @classmethod
    def _accept_off(cls, value: object) -> object:
        """`fgr: off` means weight 0, `fgr: on` the defaults."""
        return {"weight": 0.0} if value is False else {} if value is True else value


class PreRanking(Objective):
    """Settings of GCPR."""

    RETIRED: ClassVar = {"spare_twins": "ignore_swapped"}
    ignore_swapped: bool = Field(
        False,
        description="the towers need not tell attribute-swapped counterparts apart (equal `twin` in pairs.jsonl): "
        "neither GCPR nor TgD counts them as negatives, FGR alone does (our choice)",
    )
    prefixes: dict[int, float] = Field(
        {},
        description="Matryoshka: weights, beside GCPR's own, of the same loss on the first so many numbers of the "
        "embeddings, such as {96: 1.0}; such short vectors are then taken by MODEL?dim=96 (our choice)",
    )
    text_to_text: float = Field(
        0.0,
        ge=0,
        description="weight, beside GCPR's own, of a contrastive loss among texts, in which the texts of one image are "
        "positives, such as those of two languages; needs data.texts_per_image (our choice)",
    )


class Ranking(Objective):
    """Settings of FGR."""

    RETIRED: ClassVar = {"rows": "batch_share", "masked": "enhanced_training"}
    negatives: Literal["sampled", "all"] = Field(
        "sampled",
        description="sampled, as in the paper: a hard image and a hard text for each pair, and the loss asks for match "
        "or no match; all: every other image and text of the batch, and the loss asks which fits best (our choice)",
    )
    hardness: float = Field(
        1.0, ge=0, le=1, description="share of negatives drawn by softmax(s), as all are in the paper"
    )
    harden_until: float = Field(
        0.0, ge=0, le=1, description="share of the training by which hardness has grown from 0 to its value"
    )
    batch_share: float = Field(1.0, gt=0, le=1, description="share of the batch that is ranked")
    enhanced_training: bool = Field(
        True, description="enhanced training: while MLM is on, FGR shares its forward pass of the masked text"
    )
    teach_towers: float = Field(
        0.0,
        ge=0,
        description="weight, beside FGR's own, of a loss by which the towers learn the cross encoders' order of the "
        "batch; needs negatives: all (our choice)",
    )

    @model_validator(mode="after")
    def _check_taught(self) -> Ranking:
        if self.teach_towers and self.negatives != "all":
            raise ValueError("teach_towers needs negatives: all, for the towers learn from all pairs of a batch")
        return self


class MaskedLanguage(Objective):
    """Settings of MLM."""

    probability: float = Field(0.15, gt=0, lt=1, description="share of the words that are hidden")


class TargetGuided(Objective):
    """Settings of TgD."""

    RETIRED: ClassVar = {"queue": "queue_size", "decay": "queue_decay"}
    alpha: float = Field(0.4, ge=0, le=1, description="trust in the teacher's targets (our choice)")
    queue_size: int = Field(36864, gt=0, description="features kept of each side (our choice)")
    queue_decay: float = Field(
        0.99, gt=0, le=1, description="what a queued feature's weight is multiplied by each step"
    )


class LanguageModeling(Objective):
    """Settings of LM, which trains a decoder to rank by likelihood, see `ccmb.r2d2.decoders.likelihood`."""

    without_image: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the texts that the decoder predicts without their images: what it takes for the prior",
    )
    image_tokens: float = Field(
        1.0, gt=0, le=1, description="share of an image's tokens that the decoder sees, drawn anew in each step"
    )


class TokenWise(Objective):
    """Settings of the token-wise loss, which trains for late interaction, see `ccmb.objectives.token_wise`."""

    dim: int | None = Field(
        None,
        gt=0,
        description="contrast tokens by the first so many numbers of their embeddings, normalised anew; by default by "
        "all. late:MODEL?dim= ranks by as many",
    )
    padding: Padding = Field(
        "exact",
        description="exact: a text's padding is no token's partner; official: it is a zero vector, as in Wukong's code",
    )


class Objectives(ConfigBase):
    """The objectives of a run, by the names of the paper; those that are not its own are off unless asked for."""

    RETIRED: ClassVar = {"ema": "ema_decay"}
    gcpr: PreRanking = PreRanking()
    fgr: Ranking = Ranking()
    mlm: MaskedLanguage = MaskedLanguage()
    tgd: TargetGuided = TargetGuided()
    fgd: Objective = Objective()
    lm: LanguageModeling = LanguageModeling(weight=0.0)
    tokenwise: TokenWise = TokenWise(weight=0.0)
    ema_decay: float = Field(0.995, ge=0, lt=1, description="rate of the teacher's moving average (our choice)")

    def on(self) -> list[ObjectiveName]:
        """Names of the objectives whose weight is above 0."""
        return [name for name in OBJECTIVE_NAMES if getattr(self, name).weight > 0]

    def reads_tokens(self) -> frozenset[Side]:
        """The sides whose towers' token states an objective that is on reads: cross encoders both, a decoder images."""
        if self.fgr.weight or self.mlm.weight or self.tokenwise.weight:
            return frozenset[Side](("image", "text"))
        return frozenset[Side](("image",) if self.lm.weight else ())

    def off(self) -> list[ObjectiveName]:
        """Names of the paper's objectives whose weight is 0."""
        return [name for name in OBJECTIVE_NAMES if name not in NOT_THE_PAPERS and getattr(self, name).weight == 0]


def hardness_at(fgr: Ranking, progress: float) -> float:
    """Hardness of FGR's negatives: it grows linearly from 0 at the start of FGR to its value at `harden_until`."""
    if fgr.harden_until <= fgr.start_at:
        return fgr.hardness
    return fgr.hardness * min(1.0, max(0.0, progress - fgr.start_at) / (fgr.harden_until - fgr.start_at))


def check_objectives(objectives: Objectives, config: R2D2Config, has_other_loss: bool = False) -> None:
    """Check that a network of this configuration can be trained with these objectives.

    Args:
        has_other_loss: whether another loss is active from the start.

    Raises:
        UsageError: FGR, MLM or LM is on but the network lacks what it trains, or no loss is active at the start.
    """
    on = objectives.on()
    if not config.cross_layers and (ranked := [name for name in ("fgr", "mlm") if name in on]):
        off = " ".join(f"objectives.{name}=off" for name in ranked)
        raise UsageError(f"the network has no cross encoders (model.cross_layers is 0, PRD2); set {off}")
    if "fgr" in on and not config.match_heads:
        raise UsageError("the network has no match heads; set objectives.fgr=off")
    if "mlm" in on and not config.mlm_head:
        raise UsageError("the network has no masked-language head; set objectives.mlm=off")
    wrong = [dim for dim, weight in objectives.gcpr.prefixes.items() if not 0 < dim < config.embed_dim or weight < 0]
    if wrong:
        raise UsageError(
            f"objectives.gcpr.prefixes: {wrong[0]} needs to be below model.embed_dim={config.embed_dim}, with a weight "
            "of 0 or more"
        )
    if (dim := objectives.tokenwise.dim or 0) > config.embed_dim:
        raise UsageError(f"objectives.tokenwise.dim={dim}: embeddings have model.embed_dim={config.embed_dim} numbers")
    if "lm" in on and not config.decoder_layers:
        raise UsageError("the network has no decoder; set objectives.lm=off")
    if not has_other_loss and all(getattr(objectives, name).start_at > 0 for name in on):
        raise UsageError("no objective is on from the start of the training; give one of them start_at: 0")
