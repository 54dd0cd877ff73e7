"""The plain pre-training step that ours is measured against, written line by line as ALBEF's paper tells it.

It trains the same weights with the same five objectives, but the simple way: texts padded to the network's greatest
length, two passes of each cross encoder (B matches, then 2B mismatches whose states are copied), a negative drawn row
by row, a pass of its own for MLM with logits at all positions, and an average of the teacher that goes from parameter
to parameter. Losses of features (GCPR, TgD, FgD) are the package's: there is nothing to save in them.

Shapes: B pairs in the batch, T text tokens, S image tokens, N ranked pairs, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.floats import at_least_float32
from ccmb.objectives.batch import Batch
from ccmb.objectives.distillation import EmaTeacher, FeatureQueue, fgd_loss, tgd_loss
from ccmb.objectives.language_modeling import MaskedText, mask_tokens
from ccmb.objectives.pre_ranking import gcpr_loss, multi_positive_targets, positive_mask
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.cross_encoder import CrossEncoder, CrossLayer
from ccmb.r2d2.towers.two_towers import TowerOutput


@dataclass(frozen=True, slots=True)
class Draws:
    """All that is left to chance in a step, so that two steps can be given the same.

    Attributes:
        masked: the texts after masking.
        wrong_image, wrong_text: (B,) the hard negatives.
    """

    masked: MaskedText
    wrong_image: Tensor
    wrong_text: Tensor


@dataclass(frozen=True, slots=True)
class Match:
    """Logits (N, 2) of both cross encoders, and the text's token states if the pass has them for MLM too."""

    text_image: Tensor
    image_text: Tensor
    states: Tensor | None = None


class AlbefStep:
    """The plain step, on the weights of a PreTraining."""

    def __init__(self, training: PreTraining) -> None:
        assert training.teacher is not None
        assert training.queue is not None
        self.training, self.model, self.objectives = training, training.model, training.objectives
        self.teacher: EmaTeacher = training.teacher
        self.queue: FeatureQueue = training.queue

    def losses(self, batch: Batch, draws: Draws | None = None) -> dict[str, Tensor]:
        """Scalars by objective name, of all five."""
        model, temperature = self.model, self.model.temperature
        positives = positive_mask(batch.image_ids)
        images = model.encode_image(batch.pixel_values)
        texts = model.encode_text(batch.input_ids, batch.attention_mask)
        masked = draws.masked if draws else self.mask(batch)
        masked_texts = model.encode_text(masked.input_ids, batch.attention_mask)
        with torch.no_grad():
            teacher_image = self.teacher.encode_image(batch.pixel_values).embed  # of a frozen tower computed again
            teacher_text = self.teacher.encode_text(batch.input_ids, batch.attention_mask).embed

        losses = {"gcpr": gcpr_loss(images.embed, texts.embed, temperature, multi_positive_targets(positives))}
        losses["tgd"] = tgd_loss(
            images.embed, texts.embed, teacher_image_BD=teacher_image, teacher_text_BD=teacher_text,
            image_ids_B=batch.image_ids, queue=self.queue, temperature=temperature, alpha=self.objectives.tgd.alpha,
        )  # fmt: skip
        self.queue.push(teacher_image, teacher_text, batch.image_ids)
        losses["fgd"] = fgd_loss(masked_texts.embed, teacher_text)

        if draws:
            negatives = draws.wrong_image, draws.wrong_text
        else:
            with torch.no_grad():
                negatives = self.draw(images.embed @ texts.embed.T / temperature, positives)
        match = self.match(images, masked_texts if self.objectives.fgr.enhanced_training else texts, *negatives)
        losses["fgr"] = self.fgr_loss(match)
        losses["mlm"] = self.mlm_loss(images, masked_texts, masked, batch, match.states)
        return losses

    def mask(self, batch: Batch) -> MaskedText:
        training = self.training
        return mask_tokens(
            batch.input_ids,
            batch.maskable,
            training.mask_id,
            training.vocabulary,
            probability=self.objectives.mlm.probability,
        )

    def draw(self, similarity_BB: Tensor, positives_BB: Tensor) -> tuple[Tensor, Tensor]:
        """A wrong image and a wrong text (B,) for each row."""
        wrong_images, wrong_texts = [], []
        for row in range(len(similarity_BB)):
            weights = similarity_BB[row].softmax(0).masked_fill(positives_BB[row], 0) + 1e-12 * ~positives_BB[row]
            wrong_texts.append(torch.multinomial(weights, 1).item())
            weights = similarity_BB[:, row].softmax(0).masked_fill(positives_BB[row], 0) + 1e-12 * ~positives_BB[row]
            wrong_images.append(torch.multinomial(weights, 1).item())
        device = similarity_BB.device
        return torch.tensor(wrong_images, device=device), torch.tensor(wrong_texts, device=device)

    def match(self, images: TowerOutput, texts: TowerOutput, wrong_image_B: Tensor, wrong_text_B: Tensor) -> Match:
        """Logits of the B matches, then of the 2B mismatches."""
        assert texts.mask is not None
        right = self.rank(images.states, texts.states, texts.mask)
        wrong = self.rank(
            torch.cat([images.states[wrong_image_B], images.states]),
            torch.cat([texts.states, texts.states[wrong_text_B]]),
            torch.cat([texts.mask, texts.mask[wrong_text_B]]),
        )
        return Match(torch.cat([right.text_image, wrong.text_image]), torch.cat([right.image_text, wrong.image_text]))

    def rank(self, images_NSV: Tensor, texts_NTW: Tensor, mask_NT: Tensor) -> Match:
        """Both cross encoders on N pairs, each with its own copy of the states."""
        model = self.model
        text_image = cross_encode(model.text_image_encoder, texts_NTW, mask_NT, images_NSV, None)
        image_text = cross_encode(model.image_text_encoder, model.image_to_cross(images_NSV), None, texts_NTW, mask_NT)
        return Match(model.text_image_match(text_image[:, 0]), model.image_text_match(image_text[:, 0]))

    def fgr_loss(self, match: Match) -> Tensor:
        labels = torch.zeros(len(match.text_image), dtype=torch.long, device=match.text_image.device)
        labels[: len(labels) // 3] = 1
        weight = torch.tensor([1.0, 2.0], device=labels.device)
        return (
            F.cross_entropy(at_least_float32(match.text_image), labels, weight)
            + F.cross_entropy(at_least_float32(match.image_text), labels, weight)
        ) / 2

    def mlm_loss(
        self, images: TowerOutput, texts: TowerOutput, masked: MaskedText, batch: Batch, states: Tensor | None
    ) -> Tensor:
        """Of a pass of its own, unless the states (B, T, W) are there."""
        if states is None:
            states = cross_encode(self.model.text_image_encoder, texts.states, texts.mask, images.states, None)
        logits = self.model.mlm_logits(states)
        labels = batch.input_ids.masked_fill(~masked.positions, -100)
        return F.cross_entropy(at_least_float32(logits).flatten(0, 1), labels.flatten())

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.training.total(losses)

    def after_step(self) -> None:
        """The temperature's clamp, and the teacher's average parameter by parameter."""
        self.model.clamp_temperature()
        rate = self.objectives.ema_decay
        with torch.no_grad():
            for name in self.teacher.parts:
                students = self.model.get_submodule(name).parameters()
                for teacher, student in zip(self.teacher.get_submodule(name).parameters(), students, strict=True):
                    teacher.data = teacher.data * rate + student.data * (1.0 - rate)


def cross_encode(
    encoder: CrossEncoder, states_NTW: Tensor, mask_NT: Tensor | None, context_NSV: Tensor, mask_NS: Tensor | None
) -> Tensor:
    """States (N, T, W) of all tokens after all layers; every pair projects its own keys and values."""
    for layer in cast(list[CrossLayer], list(encoder.layer)):
        states_NTW = layer.attend_self(states_NTW, mask_NT)
        keys, values = layer.crossattention.keys_values(context_NSV)
        states_NTW = layer.attend_other(states_NTW, keys, values, mask_NS)
    return states_NTW
