"""R2D2's pre-training: the sum of GCPR, FGR, MLM, TgD and FgD on one batch.

Each objective has a weight (0 switches it off) and may start after a share of the training.
Shapes: B pairs in the batch, T text tokens, R rows that FGR ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ccmb.objectives.distillation import EmaTeacher, FeatureQueue, fgd_loss, tgd_loss
from ccmb.objectives.masked_language import MaskedText, mask_tokens, mlm_loss
from ccmb.objectives.pre_ranking import even_targets, gcpr_loss, same_image
from ccmb.objectives.ranking import draw_pairs, fgr_loss
from ccmb.r2d2.modeling import R2D2Model, TowerOutput

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
    hardness: float = Field(1.0, ge=0, le=1, description="1: negatives by softmax(s) as in the paper; 0: evenly")
    harden_until: float = Field(
        0.0, ge=0, le=1, description="share of the training by which hardness has grown from 0 to its value"
    )
    rows: float = Field(1.0, gt=0, le=1, description="share of the batch that is ranked")
    masked: bool = Field(True, description="enhanced training: FGR shares the forward pass of the masked text")


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


class PreTraining(nn.Module):
    """The student, its teacher and the queue, and the losses of a batch."""

    def __init__(self, model: R2D2Model, objectives: Objectives, mask_id: int) -> None:
        super().__init__()
        self.model, self.objectives, self.mask_id = model, objectives, mask_id
        self.vocabulary = model.config.text_config.vocab_size
        distils = objectives.tgd.weight > 0 or objectives.fgd.weight > 0
        self.teacher = EmaTeacher(**self._taught()) if distils else None
        self.queue = (
            FeatureQueue(objectives.tgd.queue, model.config.embed_dim, objectives.tgd.decay)
            if objectives.tgd.weight > 0
            else None
        )

    def _taught(self) -> dict[str, nn.Module]:
        names = ("image_tower", "text_tower", "image_projection", "text_projection")
        return {name: getattr(self.model, name) for name in names}

    def _teach(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's features (B, D) of the full pictures and the clean texts."""
        assert self.teacher is not None
        with torch.no_grad():
            # The teacher has the towers' names, so the student's own two functions encode with its weights.
            image = R2D2Model.encode_image(self.teacher, batch.pixel_values)  # type: ignore[arg-type]
            text = R2D2Model.encode_text(self.teacher, batch.input_ids, batch.attention_mask)  # type: ignore[arg-type]
        return image.embed, text.embed

    def losses(self, batch: Batch, progress: float, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars by objective name, unweighted, of those that are on and have started.

        Args:
            progress: share of the training that is done, in [0, 1).
            generator: source of the masks and hard negatives; the same state gives the same losses.
        """
        options, model = self.objectives, self.model
        active = {name for name in options.on() if progress >= getattr(options, name).start}
        images = model.encode_image(batch.pixel_values)
        texts = model.encode_text(batch.input_ids, batch.attention_mask)
        positives = same_image(batch.image_ids)
        targets = even_targets(positives)
        losses: dict[str, Tensor] = {}
        if "gcpr" in active:
            losses["gcpr"] = gcpr_loss(images.embed, texts.embed, model.temperature, targets)
        if active & {"fgr", "mlm", "fgd"}:
            masked, masked_texts = self._mask(batch, active, generator)
        if active & {"fgr", "mlm"}:
            losses |= self._rank(images, texts, masked, masked_texts, positives, active, progress, generator)
        if active & {"tgd", "fgd"}:
            teacher_image, teacher_text = self._teach(batch)
            if "tgd" in active:
                assert self.queue is not None
                losses["tgd"] = tgd_loss(
                    images.embed, texts.embed, teacher_image, teacher_text,
                    self.queue, model.temperature, targets, options.tgd.alpha,
                )  # fmt: skip
                self.queue.push(teacher_image, teacher_text)
            if "fgd" in active:
                losses["fgd"] = fgd_loss(masked_texts.embed, teacher_text)
        return losses

    def _mask(
        self, batch: Batch, active: set[ObjectiveName], generator: torch.Generator | None
    ) -> tuple[MaskedText, TowerOutput]:
        masked = mask_tokens(
            batch.input_ids, batch.maskable, self.mask_id, self.vocabulary, self.objectives.mlm.probability, generator
        )
        return masked, self.model.encode_text(masked.input_ids, batch.attention_mask)

    def _rank(
        self,
        images: TowerOutput,
        texts: TowerOutput,
        masked: MaskedText,
        masked_texts: TowerOutput,
        positives: Tensor,
        active: set[ObjectiveName],
        progress: float,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        options, model, batch = self.objectives, self.model, len(images)
        losses: dict[str, Tensor] = {}
        ranked_texts = masked_texts if options.fgr.masked else texts
        mlm_states: Tensor | None = None
        if "fgr" in active:
            ranked = max(1, round(batch * options.fgr.rows))
            rows = torch.arange(batch, device=positives.device)[:ranked]
            similarity = images.embed @ texts.embed.T / model.temperature
            pairs = draw_pairs(similarity, positives, rows, hardness_at(options.fgr, progress), generator)
            output = model.rank(images, ranked_texts, pairs.image_index, pairs.text_index)
            losses["fgr"] = fgr_loss(output.logits_text_image, output.logits_image_text, pairs.labels)
            if options.fgr.masked and ranked == batch:
                mlm_states = output.states[:batch]
        if "mlm" in active:
            if mlm_states is None:
                everything = torch.arange(batch, device=positives.device)
                mlm_states = model.text_image_encoder(
                    masked_texts.states, masked_texts.mask, images.states, images.mask, everything, everything
                )
            losses["mlm"] = mlm_loss(model.mlm_logits(mlm_states[masked.positions]), masked.labels)
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return torch.stack([getattr(self.objectives, name).weight * loss for name, loss in losses.items()]).sum()

    def after_step(self) -> None:
        """What follows each optimiser step: the temperature's clamp and the teacher's update."""
        self.model.clamp_temperature()
        if self.teacher is not None:
            self.teacher.update(self.objectives.ema, **self._taught())


def hardness_at(fgr: Ranking, progress: float) -> float:
    """Hardness of the negatives: grows from 0 at the objective's start to its full value at `harden_until`."""
    if fgr.harden_until <= fgr.start:
        return fgr.hardness
    return fgr.hardness * min(1.0, max(0.0, progress - fgr.start) / (fgr.harden_until - fgr.start))
