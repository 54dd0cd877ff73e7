"""R2D2's pre-training: the sum of GCPR, FGR, MLM, TgD and FgD on one batch.

Each objective has a weight (0 switches it off) and may start after a share of the training.
Shapes: B pairs of this process, T text tokens, R rows that FGR ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ccmb.objectives.batch import Batch, level
from ccmb.objectives.config import Objectives, check_objectives, hardness_at
from ccmb.objectives.distillation import EmaTeacher, FeatureQueue, fgd_loss, tgd_loss
from ccmb.objectives.forward import encode_images, encode_texts, rank_rows, read_own
from ccmb.objectives.gradient_cache import in_chunks
from ccmb.objectives.masked_language import mask_tokens, mlm_loss
from ccmb.objectives.positives import identities
from ccmb.objectives.pre_ranking import even_targets, gcpr_loss, same_image, similarity
from ccmb.objectives.ranking import draw_pairs, fgr_loss
from ccmb.r2d2.cross_encoder import CrossEncoder
from ccmb.r2d2.modeling import R2D2Model, TowerOutput, TwoTowers
from ccmb.r2d2.packing import Packing
from ccmb.training.distributed import draw_rows, gather, world


def sharding_units(model: R2D2Model, teacher: EmaTeacher | None = None) -> list[nn.Module]:
    """What FSDP gathers at a time: each layer of the towers, student's and teacher's, and each cross encoder."""
    units = list[nn.Module]()
    for towers in filter(None, (model, teacher)):
        for tower in (towers.image_tower, towers.text_tower):
            stacks = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
            units += [layer for stack in stacks for layer in stack if not isinstance(layer, nn.ModuleList)]
    units += [part for part in model.children() if isinstance(part, CrossEncoder)]
    return list(dict.fromkeys(units))  # a frozen tower is the student's and the teacher's


class PreTraining(nn.Module):
    """The student, its teacher and the queue, and the losses of a batch.

    Args:
        model: the student; if its image tower is frozen, the teacher shares it.
        mask_id: id of the [MASK] token.
        chunk: pairs that towers and cross encoders compute at a time, see `in_chunks`; by default all.
        beside: another loss is there from the start, so that none of these need be.

    Raises:
        UsageError: the network and the objectives do not fit, see `check_objectives`.
    """

    def __init__(
        self,
        model: R2D2Model,
        objectives: Objectives,
        mask_id: int,
        chunk: int | None = None,
        beside: bool = False,
    ) -> None:
        super().__init__()
        check_objectives(objectives, model.config, beside)
        self.model, self.objectives, self.mask_id, self.chunk = model, objectives, mask_id, chunk
        self.vocabulary = model.config.text_config.vocab_size
        tgd, fgd = objectives.tgd, objectives.fgd
        self.teacher = EmaTeacher(model) if tgd.weight or fgd.weight else None
        self.queue = FeatureQueue(tgd.queue, model.config.embed_dim, tgd.decay) if tgd.weight else None
        # The teacher's features of the latest batch, and its ids of pictures and texts, for the log.
        self.taught: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def losses(
        self,
        batch: Batch,
        progress: float,
        generator: torch.Generator | None = None,
        images: TowerOutput | None = None,
    ) -> dict[str, Tensor]:
        """Scalars by objective name, unweighted, of those that are on and have started.

        Args:
            progress: share of the training that is done, in [0, 1).
            generator: source of the masks and hard negatives; the same state gives the same losses.
            images: the batch's pictures, where they are encoded already.
        """
        options, model, temperature = self.objectives, self.model, self.model.temperature
        active = {name for name in options.on() if progress >= getattr(options, name).start}
        if not active:
            return {}
        batch = level(batch)
        own = world().rows(len(batch.image_ids))
        known = identities(batch)
        # Which texts fit the rows' pictures, and which pictures the rows' texts.
        positives, of_images = known.texts_of_images(), known.images_of_texts()
        spared = image_spared = None
        if options.gcpr.spare_twins and batch.twin_ids is not None:
            twins = same_image(batch.twin_ids, gather(batch.twin_ids))
            spared, image_spared = twins & ~positives, twins & ~of_images
        # First of all, since it waits for a GPU: then the pictures' long pass, while which the texts' are prepared.
        packing = model.packing(batch.attention_mask) if self.chunk is None else None
        images = self._images(model, batch) if images is None else images
        texts = self._texts(model, batch.input_ids, batch, packing)
        all_image, all_text = gather(images.embed), gather(texts.embed)
        losses: dict[str, Tensor] = {}

        if "gcpr" in active:
            losses["gcpr"] = gcpr_loss(
                images.embed, texts.embed, temperature, even_targets(positives), all_image, all_text, self.chunk,
                spared, even_targets(of_images), image_spared,
            )  # fmt: skip

        if active & {"mlm", "fgd"}:
            masked = mask_tokens(
                batch.input_ids, batch.maskable, self.mask_id, self.vocabulary, options.mlm.probability, generator
            )
            masked_texts = self._texts(model, masked.input_ids, batch, packing)

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
            pairs = draw_pairs(
                image_rows, text_rows, positives[rows], rows + own.start, uniform[rows], hardness, of_images[rows]
            )
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
                teacher_text = self._texts(self.teacher, batch.input_ids, batch, packing).embed
            self.taught = (teacher_image, teacher_text, known.image_ids_R, known.text_ids_RW)
            if self.queue is not None and "tgd" in active:
                all_teacher_image, all_teacher_text = gather(teacher_image), gather(teacher_text)
                losses["tgd"] = tgd_loss(
                    images.embed, texts.embed, all_teacher_image, all_teacher_text, known.image_ids_B,
                    self.queue, temperature, options.tgd.alpha, own, spared, known, image_spared,
                )  # fmt: skip
                self.queue.push(all_teacher_image, all_teacher_text, known.image_ids_B, known.text_ids_BW[:, 0])
            if "fgd" in active:
                losses["fgd"] = fgd_loss(masked_texts.embed, teacher_text)
        return losses

    forward = losses  # what DDP and FSDP attend

    def _images(self, towers: TwoTowers, batch: Batch) -> TowerOutput:
        return encode_images(towers, batch.pixel_values, self.chunk)

    def _texts(self, towers: TwoTowers, input_ids: Tensor, batch: Batch, packing: Packing | None) -> TowerOutput:
        return encode_texts(towers, input_ids, batch.attention_mask, self.chunk, packing)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return torch.stack([getattr(self.objectives, name).weight * loss for name, loss in losses.items()]).sum()

    def after_step(self) -> None:
        """What follows each optimiser step: the temperature's clamp and the teacher's update."""
        self.model.clamp_temperature()
        if self.teacher is not None:
            self.teacher.update(self.model, self.objectives.ema)
