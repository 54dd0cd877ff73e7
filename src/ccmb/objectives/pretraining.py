"""R2D2's pre-training, Figure 2 of the paper: the sum of GCPR, FGR, MLM, TgD and FgD on one batch; and LM beside them.

Each objective has a weight (0 switches it off) and may start after a share of the training.

Shapes: B pairs in the global batch, R rows of this process, N = 3R ranked pairs, T text tokens, D and W widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ccmb.objectives.batch import Batch, pad_to_global_longest
from ccmb.objectives.config import Objectives, check_objectives, hardness_at
from ccmb.objectives.distillation import (
    EmaTeacher,
    FeatureQueue,
    TeacherFeatures,
    fgd_loss,
    tgd_loss,
)
from ccmb.objectives.forward import (
    encode_texts,
    images_of,
    measure_features,
    rank_all,
    rank_rows,
    read_own,
    texts_of_rows,
)
from ccmb.objectives.language_modeling import lm_loss, mask_tokens, mlm_loss
from ccmb.objectives.positives import identities
from ccmb.objectives.pre_ranking import (
    gcpr_loss,
    multi_positive_targets,
    positive_mask,
    similarity,
    text_to_text_loss,
)
from ccmb.objectives.ranking import MatchPairs, draw_pairs, fgr_loss, listwise_fgr_loss, taught_by_ranker_loss
from ccmb.objectives.step import Masked, PretrainAux, Step
from ccmb.objectives.token_wise import Tokens, token_wise_loss
from ccmb.r2d2.cross_encoder import CrossEncoder
from ccmb.r2d2.decoders.likelihood import TextLikelihood
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.packing import Packing
from ccmb.r2d2.projection import standardize_of
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers, l2_normalize
from ccmb.training.distributed import gather, rank_slice_of, world
from ccmb.training.gradient_cache import in_chunks


def sharding_units(model: R2D2Model, teacher: EmaTeacher | None = None) -> list[nn.Module]:
    """The modules that FSDP gathers one by one: each layer of both models' towers, and each cross encoder."""
    units = list[nn.Module]()
    for towers in filter(None, (model, teacher)):
        for tower in (towers.image_tower, towers.text_tower):
            stacks = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
            units += [layer for stack in stacks for layer in stack if not isinstance(layer, nn.ModuleList)]
    units += [part for part in model.children() if isinstance(part, CrossEncoder | TextLikelihood)]
    return list(dict.fromkeys(units))  # student and teacher share a frozen tower


class PreTraining(nn.Module):
    """R2D2's pre-training: the student, its EMA teacher and the feature queue, and the losses of a batch.

    Args:
        model: the student; a tower of it that is frozen is the teacher's too.
        mask_id: id of the [MASK] token.
        chunk: pairs that towers and cross encoders compute at a time, see `in_chunks`; by default all.
        has_other_loss: whether another loss is active from the start; then none of these objectives need be.

    Raises:
        UsageError: the network and the objectives do not fit, see `check_objectives`.
    """

    def __init__(
        self,
        model: R2D2Model,
        objectives: Objectives,
        mask_id: int,
        chunk: int | None = None,
        has_other_loss: bool = False,
    ) -> None:
        super().__init__()
        check_objectives(objectives, model.config, has_other_loss)
        self.model, self.objectives, self.mask_id, self.chunk = model, objectives, mask_id, chunk
        self.vocabulary = model.config.text_config.vocab_size
        tgd, fgd = objectives.tgd, objectives.fgd
        self.teacher = EmaTeacher(model) if tgd.weight or fgd.weight else None
        self._is_measured = False
        self.queue = FeatureQueue(tgd.queue_size, model.config.embed_dim, tgd.queue_decay) if tgd.weight else None

    def losses(
        self,
        batch: Batch,
        progress: float,
        generator: torch.Generator | None = None,
        images: TowerOutput | None = None,
    ) -> tuple[dict[str, Tensor], PretrainAux]:
        """Unweighted losses (scalars) of the objectives that are on and have started, by name; and outputs for the log.

        Args:
            progress: share of the training that is done, in [0, 1).
            generator: source of the masks and hard negatives; the same state gives the same losses.
            images: the encoded images of the batch, if they are encoded already.
        """
        active = frozenset(name for name in self.objectives.on() if progress >= getattr(self.objectives, name).start_at)
        if not active:
            return {}, PretrainAux()
        self._measure_features(batch)
        step = self._encode(pad_to_global_longest(batch), progress, generator, images)
        losses: dict[str, Tensor] = {}
        states_RTW = None  # of masked texts, each read with its own image

        if "gcpr" in active:
            losses["gcpr"] = self._gcpr(step)
        masked = self._mask(step) if active & {"mlm", "fgd"} else None
        if "fgr" in active:
            # Enhanced training: the forward pass of the positives serves MLM too.
            shared = masked if self.objectives.fgr.enhanced_training and "mlm" in active else None
            losses["fgr"], states_RTW = self._fgr(step, shared)
        if "mlm" in active and masked is not None:
            losses["mlm"] = self._mlm(step, masked, states_RTW)
        if "lm" in active:
            losses["lm"] = self._lm(step)
        if "tokenwise" in active:
            losses["tokenwise"] = self._token_wise(step)
        teacher = self._teach(step) if active & {"tgd", "fgd"} else None
        if "tgd" in active and teacher is not None:
            losses["tgd"] = self._tgd(step, teacher)
        if "fgd" in active and teacher is not None and masked is not None:
            losses["fgd"] = fgd_loss(masked.texts.embed, teacher.text_RD)
        return losses, PretrainAux() if teacher is None else PretrainAux(teacher, step.known)

    forward = losses  # what DDP and FSDP wrap

    def embeds(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The embeddings (R, D) of a batch's images and texts, of this process alone."""
        return self._images(self.model, batch).embed, self._clean_texts(self.model, batch, None).embed

    def _encode(
        self,
        batch: Batch,
        progress: float,
        generator: torch.Generator | None,
        images: TowerOutput | None,
    ) -> Step:
        """Encode the batch with both towers, gather the embeddings, and find positives and ignored columns."""
        known = identities(batch)
        positives_RB, image_positives_RB = known.texts_of_images(), known.images_of_texts()
        swapped_RB = None
        if self.objectives.gcpr.ignore_swapped and batch.swapped_ids is not None:
            swapped_RB = positive_mask(batch.swapped_ids, gather(batch.swapped_ids))
        # First of all, since it waits for a GPU: then the images' long pass, while which the texts' are prepared.
        packing = self.model.packing(batch.attention_mask) if self.chunk is None else None
        images = self._images(self.model, batch) if images is None else images
        texts = self._clean_texts(self.model, batch, packing)
        return Step(
            batch=batch,
            progress=progress,
            generator=generator,
            rows=world().rows(len(batch.image_ids)),
            known=known,
            positives_RB=positives_RB,
            image_positives_RB=image_positives_RB,
            ignore_mask_RB=None if swapped_RB is None else swapped_RB & ~positives_RB,
            image_ignore_mask_RB=None if swapped_RB is None else swapped_RB & ~image_positives_RB,
            packing=packing,
            images=images,
            texts=texts,
            all_image_BD=gather(images.embed),
            all_text_BD=gather(texts.embed),
        )

    def _measure_features(self, batch: Batch) -> None:
        """Before the first step: measure what projections with a hidden layer and cross encoders standardise by."""
        if self._is_measured:  # known here, since a GPU would have to be waited for
            return
        self._is_measured, model = True, self.model
        pooled = standardize_of(model.image_projection), standardize_of(model.text_projection)
        states = model.image_standardize, model.text_standardize
        if not self.objectives.reads_tokens():
            states = None, None  # no objective reads tokens, and they are not always there
        if all(norm is None or norm.measured for norm in pooled + states):
            return
        model.eval()
        with torch.no_grad():
            outputs = self._images(model, batch), self._clean_texts(model, batch, None)
        model.train()
        for output, of_pooled, of_states in zip(outputs, pooled, states, strict=True):
            if of_pooled is not None and not of_pooled.measured:
                assert output.pooled is not None, "directly from the towers"
                measure_features(of_pooled, output.pooled)
            if of_states is not None and not of_states.measured:
                measure_features(of_states, output.real_states)
        if self.teacher is not None:
            self.teacher.update(model, rate=1.0)  # its weights stay, and what was measured is copied

    def _gcpr(self, step: Step) -> Tensor:
        """GCPR: the rows' images and texts against those of the global batch; and texts against texts, if wanted."""
        embeds = step.images.embed, step.texts.embed, step.all_image_BD, step.all_text_BD
        loss = self._gcpr_of(step, embeds, self.model.config.projection_heads)
        for dim, weight in self.objectives.gcpr.prefixes.items():
            short = tuple(l2_normalize(embed[:, :dim]) for embed in embeds)
            loss = loss + weight * self._gcpr_of(step, short, heads=1)
        weight, known = self.objectives.gcpr.text_to_text, step.known
        if not weight:
            return loss
        return loss + weight * text_to_text_loss(
            step.texts.embed,
            step.all_text_BD,
            self.model.temperature,
            positives_RB=positive_mask(known.image_ids_R, known.image_ids_B),
            left_out_RB=known.equal_texts(),
            chunk=self.chunk,
            heads=self.model.config.projection_heads,
        )

    def _gcpr_of(self, step: Step, embeds: tuple[Tensor, ...], heads: int) -> Tensor:
        """GCPR of embeddings: of the rows' images and texts, and of those of the global batch."""
        image_RD, text_RD, image_BD, text_BD = embeds
        return gcpr_loss(
            image_RD,
            text_RD,
            self.model.temperature,
            multi_positive_targets(step.positives_RB),
            image_BD=image_BD,
            text_BD=text_BD,
            chunk=self.chunk,
            ignore_mask_RB=step.ignore_mask_RB,
            image_targets_RB=multi_positive_targets(step.image_positives_RB),
            image_ignore_mask_RB=step.image_ignore_mask_RB,
            heads=heads,
        )

    def _mask(self, step: Step) -> Masked:
        """Mask words of the texts, and encode the masked texts."""
        batch, probability = step.batch, self.objectives.mlm.probability
        words = mask_tokens(
            batch.input_ids,
            batch.maskable,
            self.mask_id,
            self.vocabulary,
            probability=probability,
            generator=step.generator,
        )
        return Masked(words, self._texts(self.model, words.input_ids, batch, step.packing))

    def _fgr(self, step: Step, shared: Masked | None) -> tuple[Tensor, Tensor | None]:
        """FGR: both cross encoders on the rows' positives and hard negatives.

        Args:
            shared: the masked texts, if they are ranked instead of the clean ones (enhanced training). Their states,
                each read with its own image, are the second result, unless all negatives are ranked.
        """
        texts = step.texts if shared is None else shared.texts
        if self.objectives.fgr.negatives == "all":
            log_odds_RB2 = rank_all(self.model, step.images, texts, self.chunk)
            of_images_RB2 = gather(log_odds_RB2)[:, step.rows].transpose(0, 1)
            loss = listwise_fgr_loss(log_odds_RB2, of_images_RB2, step.image_positives_RB, step.positives_RB)
            if weight := self.objectives.fgr.teach_towers:
                loss = loss + weight * self._taught_by_ranker(step, log_odds_RB2, of_images_RB2)
            return loss, None
        pairs = self._hard_negatives(step)
        text_image_N2, image_text_N2, states_RTW = rank_rows(
            self.model, step.images, texts, pairs, read=shared is not None, chunk=self.chunk
        )
        return fgr_loss(text_image_N2, image_text_N2, pairs.labels), None if shared is None else states_RTW

    def _taught_by_ranker(self, step: Step, log_odds_RB2: Tensor, of_images_RB2: Tensor) -> Tensor:
        """The towers' distance from the order of the cross encoders, both ways."""
        temperature, weight = self.model.temperature, self.model.config.match_weight
        to_images_RB = similarity(step.texts.embed, step.all_image_BD, temperature)
        to_texts_RB = similarity(step.images.embed, step.all_text_BD, temperature)
        return (
            taught_by_ranker_loss(to_images_RB, log_odds_RB2, weight, step.image_ignore_mask_RB)
            + taught_by_ranker_loss(to_texts_RB, of_images_RB2, weight, step.ignore_mask_RB)
        ) / 2

    def _hard_negatives(self, step: Step) -> MatchPairs:
        """The ranked pairs: positives, and negatives sampled by the similarity of the towers' embeddings."""
        count, device = len(step.images), step.positives_RB.device
        rows = torch.arange(count, device=device)[: max(1, round(count * self.objectives.fgr.batch_share))]
        with torch.no_grad():
            image_rows = similarity(step.images.embed[rows], step.all_text_BD, self.model.temperature)
            text_rows = similarity(step.texts.embed[rows], step.all_image_BD, self.model.temperature)
        uniform_R2 = rank_slice_of(lambda size: torch.rand(size, 2, generator=step.generator, device=device), count)
        return draw_pairs(
            image_rows,
            text_rows,
            step.positives_RB[rows],
            rows + step.rows.start,
            uniform_R2[rows],
            hardness=hardness_at(self.objectives.fgr, step.progress),
            image_positives_RB=step.image_positives_RB[rows],
        )

    def _mlm(self, step: Step, masked: Masked, states_RTW: Tensor | None) -> Tensor:
        """MLM: predict the masked words from FGR's `states_RTW`; texts that FGR has not read get their own pass."""
        states = [] if states_RTW is None else [states_RTW]
        unread = torch.arange(len(step.images), device=step.positives_RB.device)[sum(map(len, states)) :]
        states += in_chunks(
            lambda part: read_own(self.model, step.images, masked.texts, unread[part]), len(unread), self.chunk
        )
        return mlm_loss(self.model.mlm_logits(masked.words.pick(torch.cat(states))), masked.words.labels)

    def _lm(self, step: Step) -> Tensor:
        """LM: the decoder on the rows' clean texts and images."""
        assert self.model.likelihood is not None, "see check_objectives"
        return lm_loss(
            self.model.likelihood,
            step.batch,
            step.images,
            self.objectives.lm,
            generator=step.generator,
            chunk=self.chunk,
        )

    def _token_wise(self, step: Step) -> Tensor:
        """The token-wise loss: the rows' tokens against those of the global batch."""
        options, mask_RT = self.objectives.tokenwise, step.texts.mask
        image_RSD = self.model.image_tokens(step.images.states, options.dim)
        text_RTD = self.model.text_tokens(step.texts.states, options.dim)
        return token_wise_loss(
            Tokens(image_RSD),
            Tokens(text_RTD, mask_RT),
            Tokens(gather(image_RSD)),
            Tokens(gather(text_RTD), None if mask_RT is None else gather(mask_RT)),
            self.model.temperature,
            targets_RB=multi_positive_targets(step.positives_RB),
            image_targets_RB=multi_positive_targets(step.image_positives_RB),
            ignore_mask_RB=step.ignore_mask_RB,
            image_ignore_mask_RB=step.image_ignore_mask_RB,
            padding=options.padding,
        )

    @torch.no_grad()
    def _teach(self, step: Step) -> TeacherFeatures:
        """The teacher's features of the clean images and texts."""
        teacher, batch = self.teacher, step.batch
        assert teacher is not None, "TgD or FgD is on"
        if teacher.shares_image_tower:
            image_RD = teacher.shared_image_embed(step.images)
        else:
            image_RD = self._images(teacher, batch).embed
        if teacher.shares_text_tower:
            return TeacherFeatures(image_RD, teacher.shared_text_embed(step.texts))
        return TeacherFeatures(image_RD, self._clean_texts(teacher, batch, step.packing).embed)

    def _tgd(self, step: Step, teacher: TeacherFeatures) -> Tensor:
        """TgD: the loss; then the teacher's features go into the queue."""
        assert self.queue is not None, "TgD is on"
        known, all_image_BD, all_text_BD = step.known, gather(teacher.image_RD), gather(teacher.text_RD)
        loss = tgd_loss(
            step.images.embed,
            step.texts.embed,
            teacher_image_BD=all_image_BD,
            teacher_text_BD=all_text_BD,
            image_ids_B=known.image_ids_B,
            queue=self.queue,
            temperature=self.model.temperature,
            alpha=self.objectives.tgd.alpha,
            rows=step.rows,
            ignore_mask_RB=step.ignore_mask_RB,
            known=known,
            image_ignore_mask_RB=step.image_ignore_mask_RB,
        )
        self.queue.push(all_image_BD, all_text_BD, known.image_ids_B, known.text_ids_BW[:, 0])
        return loss

    def _images(self, towers: TwoTowers, batch: Batch) -> TowerOutput:
        return images_of(towers, batch, self.model.config.image_size, self.chunk)

    def _clean_texts(self, towers: TwoTowers, batch: Batch, packing: Packing | None) -> TowerOutput:
        if batch.text_rows is None:
            return self._texts(towers, batch.input_ids, batch, packing)
        ids, mask = batch.input_ids, batch.attention_mask
        return texts_of_rows(towers, ids, mask, batch.text_rows, chunk=self.chunk, packing=packing)

    def _texts(self, towers: TwoTowers, input_ids: Tensor, batch: Batch, packing: Packing | None) -> TowerOutput:
        return encode_texts(towers, input_ids, batch.attention_mask, self.chunk, packing)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the losses (scalar)."""
        return torch.stack([getattr(self.objectives, name).weight * loss for name, loss in losses.items()]).sum()

    def after_step(self) -> None:
        """After each optimiser step: clamp the temperature and update the teacher."""
        self.model.clamp_temperature()
        if self.teacher is not None:
            self.teacher.update(self.model, self.objectives.ema_decay)
