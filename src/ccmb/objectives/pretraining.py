"""R2D2's pre-training: the sum of GCPR, FGR, MLM, TgD and FgD on one batch.

Each objective has a weight (0 switches it off) and may start after a share of the training.
Shapes: B pairs in the batch, T text tokens, R rows that FGR ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ccmb.errors import UsageError
from ccmb.objectives.distillation import EmaTeacher, FeatureQueue, fgd_loss, is_frozen, tgd_loss
from ccmb.objectives.masked_language import mask_tokens, mlm_loss
from ccmb.objectives.pre_ranking import even_targets, gcpr_loss, same_image, similarity
from ccmb.objectives.ranking import draw_pairs, fgr_loss
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model

ObjectiveName = Literal["gcpr", "fgr", "mlm", "tgd", "fgd"]
PAPER_NAMES: dict[ObjectiveName, str] = {"gcpr": "GCPR", "fgr": "FGR", "mlm": "MLM", "tgd": "TgD", "fgd": "FgD"}


class Objective(BaseModel):
    """One objective's share in the sum."""

    model_config = ConfigDict(extra="forbid")
    weight: float = Field(1.0, ge=0, description="factor in the sum; 0 (or off) switches the objective off")
    start: float = Field(0.0, ge=0, lt=1, description="share of the training after which it joins")

    @model_validator(mode="before")
    @classmethod
    def _accept_off(cls, value: object) -> object:
        """`fgr: off` means weight 0, `fgr: on` the defaults."""
        return {"weight": 0.0} if value is False else {} if value is True else value


class Ranking(Objective):
    hardness: float = Field(
        1.0, ge=0, le=1, description="share of negatives drawn by softmax(s), as all are in the paper"
    )
    harden_until: float = Field(
        0.0, ge=0, le=1, description="share of the training by which hardness has grown from 0 to its value"
    )
    rows: float = Field(1.0, gt=0, le=1, description="share of the batch that is ranked")
    masked: bool = Field(
        True, description="enhanced training: while MLM is on, FGR shares its forward pass of the masked text"
    )


class MaskedLanguage(Objective):
    probability: float = Field(0.15, gt=0, lt=1, description="share of the words that are hidden")


class TargetGuided(Objective):
    alpha: float = Field(0.4, ge=0, le=1, description="trust in the teacher's targets (our choice)")
    queue: int = Field(36864, gt=0, description="features kept of each side (our choice)")
    decay: float = Field(0.99, gt=0, le=1, description="what a queued feature's weight is multiplied by each step")


class Objectives(BaseModel):
    """The objectives of a run, in the words of the paper."""

    model_config = ConfigDict(extra="forbid")
    gcpr: Objective = Objective()
    fgr: Ranking = Ranking()
    mlm: MaskedLanguage = MaskedLanguage()
    tgd: TargetGuided = TargetGuided()
    fgd: Objective = Objective()
    ema: float = Field(0.995, ge=0, lt=1, description="rate of the teacher's moving average (our choice)")

    def on(self) -> list[ObjectiveName]:
        return [name for name in PAPER_NAMES if getattr(self, name).weight > 0]

    def off(self) -> list[ObjectiveName]:
        return [name for name in PAPER_NAMES if getattr(self, name).weight == 0]

    @staticmethod
    def paper_names(names: Iterable[ObjectiveName]) -> list[str]:
        return [PAPER_NAMES[name] for name in names]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees; all on the model's device.

    Attributes:
        pixel_values: (B, 3, S, S) normalised pictures.
        input_ids, attention_mask: (B, T) texts.
        maskable: (B, T) True for real words.
        image_ids: (B,) samples with equal ids show the same picture.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    maskable: Tensor
    image_ids: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


def check_objectives(objectives: Objectives, config: R2D2Config) -> None:
    """Whether a network of this configuration can be trained with these objectives.

    Raises:
        UsageError: FGR or MLM is on but the network lacks what it trains, or nothing is trained at the start.
    """
    on = objectives.on()
    if not config.cross_layers and (ranked := [name for name in ("fgr", "mlm") if name in on]):
        off = " ".join(f"objectives.{name}=off" for name in ranked)
        raise UsageError(f"the network has no cross encoders (model.cross_layers is 0, PRD2); set {off}")
    if "fgr" in on and not config.match_heads:
        raise UsageError("the network has no match heads; set objectives.fgr=off")
    if "mlm" in on and not config.mlm_head:
        raise UsageError("the network has no masked-language head; set objectives.mlm=off")
    if all(getattr(objectives, name).start > 0 for name in on):
        raise UsageError("no objective is on from the start of the training; give one of them start: 0")


class PreTraining(nn.Module):
    """The student, its teacher and the queue, and the losses of a batch.

    Args:
        model: the student; if its image tower is frozen, the teacher shares it.
        mask_id: id of the [MASK] token.
        text_buckets: texts of like length are computed together in up to so many parts (on CPUs).

    Raises:
        UsageError: the network and the objectives do not fit, see `check_objectives`.
    """

    def __init__(self, model: R2D2Model, objectives: Objectives, mask_id: int, text_buckets: int = 1) -> None:
        super().__init__()
        check_objectives(objectives, model.config)
        self.model, self.objectives, self.mask_id = model, objectives, mask_id
        self.vocabulary = model.config.text_config.vocab_size
        tgd, fgd = objectives.tgd, objectives.fgd
        self.teacher = EmaTeacher(model) if tgd.weight or fgd.weight else None
        self.queue = FeatureQueue(tgd.queue, model.config.embed_dim, tgd.decay) if tgd.weight else None
        for towers in (model, self.teacher):
            if towers is not None:
                towers.text_buckets = text_buckets

    def train(self, mode: bool = True) -> PreTraining:
        super().train(mode)
        if is_frozen(self.model.image_tower):  # no dropout, no running statistics: the teacher reads it too
            self.model.image_tower.eval()
        return self

    def losses(self, batch: Batch, progress: float, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars by objective name, unweighted, of those that are on and have started.

        Args:
            progress: share of the training that is done, in [0, 1).
            generator: source of the masks and hard negatives; the same state gives the same losses.
        """
        options, model, temperature = self.objectives, self.model, self.model.temperature
        active = {name for name in options.on() if progress >= getattr(options, name).start}
        images = model.encode_image(batch.pixel_values)
        texts = model.encode_text(batch.input_ids, batch.attention_mask)
        positives = same_image(batch.image_ids)
        losses: dict[str, Tensor] = {}

        if "gcpr" in active:
            losses["gcpr"] = gcpr_loss(images.embed, texts.embed, temperature, even_targets(positives))

        if active & {"mlm", "fgd"}:
            masked = mask_tokens(
                batch.input_ids, batch.maskable, self.mask_id, self.vocabulary, options.mlm.probability, generator
            )
            masked_texts = model.encode_text(masked.input_ids, batch.attention_mask)

        everything = torch.arange(len(images), device=positives.device)
        shares = options.fgr.masked and "mlm" in active
        read: list[Tensor] = []  # states of masked texts, each read in sight of its own picture
        if "fgr" in active:
            rows = everything[: max(1, round(len(images) * options.fgr.rows))]
            with torch.no_grad():
                similarity_BB = similarity(images.embed, texts.embed, temperature)
            pairs = draw_pairs(similarity_BB, positives, rows, hardness_at(options.fgr, progress), generator)
            ranked = model.rank(
                images, masked_texts if shares else texts, pairs.image_index, pairs.text_index,
                read=len(rows) if shares else 0,
            )  # fmt: skip
            losses["fgr"] = fgr_loss(ranked.logits_text_image, ranked.logits_image_text, pairs.labels)
            if shares:  # enhanced training: the positives' pass serves MLM too
                read.append(ranked.states)

        if "mlm" in active:
            rest = everything[sum(map(len, read)) :]
            if len(rest):
                read.append(model.read_texts(images, masked_texts, rest, rest))
            losses["mlm"] = mlm_loss(model.mlm_logits(masked.pick(torch.cat(read))), masked.labels)

        if self.teacher is not None and active & {"tgd", "fgd"}:
            with torch.no_grad():
                if self.teacher.shares_image_tower:
                    teacher_image = self.teacher.shared_embed(images)
                else:
                    teacher_image = self.teacher.encode_image(batch.pixel_values).embed
                teacher_text = self.teacher.encode_text(batch.input_ids, batch.attention_mask).embed
            if self.queue is not None and "tgd" in active:
                losses["tgd"] = tgd_loss(
                    images.embed, texts.embed, teacher_image, teacher_text, batch.image_ids,
                    self.queue, temperature, options.tgd.alpha,
                )  # fmt: skip
                self.queue.push(teacher_image, teacher_text, batch.image_ids)
            if "fgd" in active:
                losses["fgd"] = fgd_loss(masked_texts.embed, teacher_text)
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return torch.stack([getattr(self.objectives, name).weight * loss for name, loss in losses.items()]).sum()

    def after_step(self) -> None:
        """What follows each optimiser step: the temperature's clamp and the teacher's update."""
        self.model.clamp_temperature()
        if self.teacher is not None:
            self.teacher.update(self.model, self.objectives.ema)


def hardness_at(fgr: Ranking, progress: float) -> float:
    """Hardness of the negatives: grows from 0 at the objective's start to its full value at `harden_until`."""
    if fgr.harden_until <= fgr.start:
        return fgr.hardness
    return fgr.hardness * min(1.0, max(0.0, progress - fgr.start) / (fgr.harden_until - fgr.start))
