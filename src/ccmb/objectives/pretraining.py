"""R2D2's pre-training: the sum of GCPR, FGR, MLM, TgD and FgD on one batch.

Each objective has a weight (0 switches it off) and may start after a share of the training.
Shapes: B pairs of this process, T text tokens, R rows that FGR ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ccmb.errors import UsageError
from ccmb.objectives.batch import Batch, level
from ccmb.objectives.chunks import in_chunks
from ccmb.objectives.distillation import EmaTeacher, FeatureQueue, fgd_loss, is_frozen, tgd_loss
from ccmb.objectives.masked_language import mask_tokens, mlm_loss
from ccmb.objectives.pre_ranking import even_targets, gcpr_loss, same_image, similarity
from ccmb.objectives.ranking import MatchPairs, draw_pairs, fgr_loss
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.cross_encoder import CrossEncoder
from ccmb.r2d2.modeling import R2D2Model, TowerOutput, TwoTowers
from ccmb.training.distributed import draw_rows, gather, world

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


def rank_rows(
    model: R2D2Model, images: TowerOutput, texts: TowerOutput, pairs: MatchPairs, read: bool, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Match the pairs of R rows, whose negatives may be other processes' pictures and texts.

    Args:
        images, texts: of this process.
        read: whether the states of the positives' texts are wanted too.
        chunk: rows at a time, see `in_chunks`.

    Returns:
        Logits (3R, 2) of both match heads, and the states (R, T, W), or none of them.
    """
    count = len(pairs.labels) // 3
    if world().size > 1:
        images, texts = gather_output(images), gather_output(texts)

    def rank(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        some, of_images, of_texts = pairs.rows(rows), images, texts
        if world().size > 1 or chunk is not None:
            needed_images, needed_texts, some = some.needed()
            of_images, of_texts = images[needed_images], texts[needed_texts]
        wanted = len(some.labels) // 3 if read else 0
        ranked = model.rank(of_images, of_texts, some.image_index, some.text_index, wanted)
        return ranked.logits_text_image.view(3, -1, 2), ranked.logits_image_text.view(3, -1, 2), ranked.states

    text_image, image_text, states = zip(*in_chunks(rank, count, chunk), strict=True)
    return torch.cat(text_image, 1).flatten(0, 1), torch.cat(image_text, 1).flatten(0, 1), torch.cat(states)


def read_own(model: R2D2Model, images: TowerOutput, texts: TowerOutput, rows: Tensor) -> Tensor:
    """States (rows, T, W) of some texts, each read in sight of its own picture."""
    own = torch.arange(len(rows), device=rows.device)
    return model.read_texts(images[rows], texts[rows], own, own)


def gather_output(output: TowerOutput) -> TowerOutput:
    """A tower's output of all processes, with gradient to each."""
    mask = None if output.mask is None else gather(output.mask)
    return TowerOutput(gather(output.embed), gather(output.states), mask)


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


def sharding_units(pretraining: PreTraining) -> list[nn.Module]:
    """What FSDP gathers at a time: each layer of the towers, student's and teacher's, and each cross encoder."""
    model, units = pretraining.model, list[nn.Module]()
    for towers in filter(None, (model, pretraining.teacher)):
        for tower in (towers.image_tower, towers.text_tower):
            stacks = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
            units += [layer for stack in stacks for layer in stack]
    units += [part for part in model.children() if isinstance(part, CrossEncoder)]
    return list(dict.fromkeys(units))  # a frozen tower is the student's and the teacher's


class PreTraining(nn.Module):
    """The student, its teacher and the queue, and the losses of a batch.

    Args:
        model: the student; if its image tower is frozen, the teacher shares it.
        mask_id: id of the [MASK] token.
        chunk: pairs that towers and cross encoders compute at a time, see `in_chunks`; by default all.
        text_buckets: texts of like length are computed together in up to so many parts (on CPUs).

    Raises:
        UsageError: the network and the objectives do not fit, see `check_objectives`.
    """

    def __init__(
        self,
        model: R2D2Model,
        objectives: Objectives,
        mask_id: int,
        chunk: int | None = None,
        text_buckets: int = 1,
    ) -> None:
        super().__init__()
        check_objectives(objectives, model.config)
        self.model, self.objectives, self.mask_id, self.chunk = model, objectives, mask_id, chunk
        self.vocabulary = model.config.text_config.vocab_size
        tgd, fgd = objectives.tgd, objectives.fgd
        self.teacher = EmaTeacher(model) if tgd.weight or fgd.weight else None
        self.queue = FeatureQueue(tgd.queue, model.config.embed_dim, tgd.decay) if tgd.weight else None
        # The teacher's features of the latest batch, and its image ids, for the log.
        self.taught: tuple[Tensor, Tensor, Tensor] | None = None
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
        batch = level(batch)
        own = world().rows(len(batch.image_ids))
        image_ids = gather(batch.image_ids)
        positives = same_image(batch.image_ids, image_ids)
        images = self._images(model, batch)
        texts = self._texts(model, batch.input_ids, batch.attention_mask)
        all_image, all_text = gather(images.embed), gather(texts.embed)
        losses: dict[str, Tensor] = {}

        if "gcpr" in active:
            targets = even_targets(positives)
            losses["gcpr"] = gcpr_loss(images.embed, texts.embed, temperature, targets, all_image, all_text, self.chunk)

        if active & {"mlm", "fgd"}:
            masked = mask_tokens(
                batch.input_ids, batch.maskable, self.mask_id, self.vocabulary, options.mlm.probability, generator
            )
            masked_texts = self._texts(model, masked.input_ids, batch.attention_mask)

        everything = torch.arange(len(images), device=positives.device)
        shares = options.fgr.masked and "mlm" in active
        read: list[Tensor] = []  # states of masked texts, each read in sight of its own picture
        if "fgr" in active:
            rows = everything[: max(1, round(len(images) * options.fgr.rows))]
            with torch.no_grad():
                image_rows = similarity(images.embed[rows], all_text, temperature)
                text_rows = similarity(texts.embed[rows], all_image, temperature)
            uniform = draw_rows(
                lambda count: torch.rand(count, 2, generator=generator, device=positives.device), len(images)
            )
            hardness = hardness_at(options.fgr, progress)
            pairs = draw_pairs(image_rows, text_rows, positives[rows], rows + own.start, uniform[rows], hardness)
            of_texts = masked_texts if shares else texts
            text_image, image_text, states = rank_rows(model, images, of_texts, pairs, shares, self.chunk)
            losses["fgr"] = fgr_loss(text_image, image_text, pairs.labels)
            if shares:  # enhanced training: the positives' pass serves MLM too
                read.append(states)

        if "mlm" in active:
            rest = everything[sum(map(len, read)) :]
            read += in_chunks(lambda part: read_own(model, images, masked_texts, rest[part]), len(rest), self.chunk)
            losses["mlm"] = mlm_loss(model.mlm_logits(masked.pick(torch.cat(read))), masked.labels)

        if self.teacher is not None and active & {"tgd", "fgd"}:
            with torch.no_grad():
                if self.teacher.shares_image_tower:
                    teacher_image = self.teacher.shared_embed(images)
                else:
                    teacher_image = self._images(self.teacher, batch).embed
                teacher_text = self._texts(self.teacher, batch.input_ids, batch.attention_mask).embed
            self.taught = (teacher_image, teacher_text, batch.image_ids)
            if self.queue is not None and "tgd" in active:
                all_teacher_image, all_teacher_text = gather(teacher_image), gather(teacher_text)
                losses["tgd"] = tgd_loss(
                    images.embed, texts.embed, all_teacher_image, all_teacher_text, image_ids,
                    self.queue, temperature, options.tgd.alpha, own,
                )  # fmt: skip
                self.queue.push(all_teacher_image, all_teacher_text, image_ids)
            if "fgd" in active:
                losses["fgd"] = fgd_loss(masked_texts.embed, teacher_text)
        return losses

    forward = losses  # what DDP and FSDP attend

    def _images(self, towers: TwoTowers, batch: Batch) -> TowerOutput:
        pixels = batch.pixel_values
        return TowerOutput.cat(in_chunks(lambda rows: towers.encode_image(pixels[rows]), len(pixels), self.chunk))

    def _texts(self, towers: TwoTowers, input_ids: Tensor, mask: Tensor) -> TowerOutput:
        return TowerOutput.cat(
            in_chunks(lambda rows: towers.encode_text(input_ids[rows], mask[rows]), len(input_ids), self.chunk)
        )

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
