"""Two-way distillation: an EMA teacher of both towers, a weighted queue of its features, TgD and FgD.

The paper's public traces do not settle alpha, the queue's size, the EMA rate, where the queue's weights enter, or FgD's
distance. Our choices: alpha 0.4, queue 36,864, EMA 0.995; the weights multiply the exponentials of both softmaxes, so
that a stale feature counts as a fraction of a fresh one; FgD pulls by cosine.

Shapes: B pairs in the global batch, R rows of this process, D embedding width, Q features in the queue, C = B + Q
columns.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ccmb.core.floats import at_least_float32
from ccmb.objectives.positives import Identities, among
from ccmb.objectives.pre_ranking import mask_ignored, similarity, soft_cross_entropy
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.stillness import is_frozen
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers, l2_normalize
from ccmb.training.averaging import move_average


class EmaTeacher(TwoTowers, nn.Module):
    """Exponential moving average of the student's towers, always in evaluation mode and without gradients.

    A tower that is frozen is not copied: teacher and student share its output (`shared_image_embed`,
    `shared_text_embed`).
    """

    PARTS = ("image_tower", "text_tower", "image_projection", "text_projection")

    def __init__(self, student: R2D2Model) -> None:
        super().__init__()
        self.image_pooling, self.image_class_token = student.image_pooling, student.image_class_token
        self.text_pooling, self.pack_texts = student.text_pooling, student.pack_texts
        self.image_standardize = self.text_standardize = None  # for cross encoders, which it has none of
        self.shares_image_tower = is_frozen(student.image_tower)
        self.shares_text_tower = is_frozen(student.text_tower)
        shares = {"image_tower": self.shares_image_tower, "text_tower": self.shares_text_tower}
        self.shared = [name for name, is_shared in shares.items() if is_shared]
        self.parts = [name for name in self.PARTS if name not in self.shared]
        for name in self.parts:
            self.add_module(name, copy.deepcopy(student.get_submodule(name)))
        self.requires_grad_(False).eval()
        for name in self.shared:  # no module of the teacher: it is saved and moved with the student
            object.__setattr__(self, name, student.get_submodule(name))

    def train(self, mode: bool = True) -> EmaTeacher:
        return super().train(False)

    def shared_image_embed(self, student: TowerOutput) -> Tensor:
        """The teacher's embeddings (B, D) of images, of the shared tower's output."""
        assert self.shares_image_tower
        assert student.pooled is not None
        return l2_normalize(self.image_projection(student.pooled))

    def shared_text_embed(self, student: TowerOutput) -> Tensor:
        """The teacher's embeddings (B, D) of texts, likewise."""
        assert self.shares_text_tower
        assert student.pooled is not None
        return l2_normalize(self.text_projection(student.pooled))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Checkpoints of an earlier format have a copy of a frozen text tower."""
        for name in self.shared:
            for key in [key for key in state_dict if key.startswith(f"{prefix}{name}.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def update(self, student: nn.Module, rate: float) -> None:
        """teacher = rate * teacher + (1 - rate) * student; buffers, such as running statistics, are copied."""
        averages, latest = [], []
        for name in self.parts:
            teacher_part, student_part = self.get_submodule(name), student.get_submodule(name)
            averages += list(teacher_part.parameters())
            latest += list(student_part.parameters())
            for buffer, source in zip(teacher_part.buffers(), student_part.buffers(), strict=True):
                buffer.copy_(source)
        move_average(averages, latest, rate)


class FeatureQueue(nn.Module):
    """Queue of the teacher's latest image and text features, each with a weight that decays by `decay` per step.

    Entries that are not yet written have weight 0.

    Attributes:
        image, text: (Q, D) features.
        image_ids: (Q,) the image of each entry.
        text_ids: (Q,) the text of each entry, -1 where it is unknown; equal texts have equal ids.
        weight: (Q,) decay ** age, with the age in steps at the next read. It is at least one step: only features of
            the batch itself weigh 1.
        cursor: () the oldest slot, which is written next.
    """

    image: Tensor
    text: Tensor
    image_ids: Tensor
    text_ids: Tensor
    weight: Tensor
    cursor: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("image", torch.zeros(size, dim))
        self.register_buffer("text", torch.zeros(size, dim))
        self.register_buffer("image_ids", torch.zeros(size, dtype=torch.long))
        self.register_buffer("text_ids", torch.full((size,), -1))
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Checkpoints of an earlier format have no `text_ids`: all texts are unknown then."""
        state_dict.setdefault(f"{prefix}text_ids", torch.full_like(self.text_ids, -1))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def push(self, image_BD: Tensor, text_BD: Tensor, image_ids_B: Tensor, text_ids_B: Tensor | None = None) -> None:
        """Overwrite the oldest entries with a batch, then age all entries by one step."""
        size = self.weight.shape[0]
        image_BD, text_BD, image_ids_B = image_BD[-size:], text_BD[-size:], image_ids_B[-size:]
        slots = (self.cursor + torch.arange(len(image_BD), device=self.weight.device)) % size
        self.image[slots] = image_BD.to(self.image.dtype)
        self.text[slots] = text_BD.to(self.text.dtype)
        self.image_ids[slots] = image_ids_B
        self.text_ids[slots] = -1 if text_ids_B is None else text_ids_B[-size:]
        self.weight[slots] = 1.0
        self.weight.mul_(self.decay)
        self.cursor.copy_((self.cursor + len(image_BD)) % size)


def weighted_targets(
    image_ids_R: Tensor,
    image_ids_B: Tensor,
    queue: FeatureQueue,
    positives_RB: Tensor | None = None,
    queued_RQ: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Labels (R, C) over batch and queue, rows summing to 1, and the columns' weights (C,).

    A row's positives are all features of its image, in the batch and in the queue, and all other features that are
    known to fit. They share the mass in proportion to their weights: then a network that is equally sure of all of them
    is at the optimum.

    Args:
        positives_RB, queued_RQ: True where a column of the batch, or of the queue, is a further positive.
    """
    weights_C = torch.cat([queue.weight.new_ones(len(image_ids_B)), queue.weight])
    positives_RC = image_ids_R[:, None] == torch.cat([image_ids_B, queue.image_ids])[None, :]
    if positives_RB is not None and queued_RQ is not None:
        positives_RC |= torch.cat([positives_RB, queued_RQ], dim=1)
    mass_RC = positives_RC * weights_C
    return mass_RC / mass_RC.sum(1, keepdim=True), weights_C


@dataclass(frozen=True, slots=True)
class TeacherFeatures:
    """The teacher's L2-normalised embeddings of R clean images and texts, without gradient."""

    image_RD: Tensor
    text_RD: Tensor


def tgd_loss(
    image_RD: Tensor,
    text_RD: Tensor,
    *,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    image_ids_B: Tensor,
    queue: FeatureQueue,
    temperature: Tensor,
    alpha: float = 0.4,
    rows: slice = slice(None),
    ignore_mask_RB: Tensor | None = None,
    known: Identities | None = None,
    image_ignore_mask_RB: Tensor | None = None,
) -> Tensor:
    """TgD, target-guided distillation (scalar).

    The student's features are compared with the teacher's of the batch and of the queue, in a softmax whose
    exponentials are multiplied by the columns' weights. Targets are
    alpha * (the same softmax of the teacher's features) + (1 - alpha) * labels.

    Args:
        image_RD, text_RD, teacher_image_BD, teacher_text_BD: L2-normalised features; the teacher's of all processes.
        image_ids_B: samples with equal ids show the same image.
        alpha: trust in the teacher, in [0, 1].
        rows: where this process's rows stand in the global batch.
        ignore_mask_RB: True where a row ignores a text of the batch; never at positives.
        known: which texts are equal; without it only samples of one image are positives of each other. Of a queued
            image only the text that it was paired with is known.
        image_ignore_mask_RB: True where a row ignores an image of the batch; by default, and without `known`,
            `ignore_mask_RB`.
    """
    texts_RC, images_RC, weights_C = _tgd_labels(image_ids_B[rows], image_ids_B, queue, known)
    if known is None:
        image_ignore_mask_RB = ignore_mask_RB
    log_weights_C = weights_C.log()

    def direction(
        student_RD: Tensor, teacher_RD: Tensor, columns_CD: Tensor, labels_RC: Tensor, ignore_mask_RB: Tensor | None
    ) -> Tensor:
        with torch.no_grad():
            guess_RC = similarity(teacher_RD, columns_CD, temperature) + log_weights_C
            targets_RC = alpha * mask_ignored(guess_RC, ignore_mask_RB).softmax(1) + (1.0 - alpha) * labels_RC
        logits_RC = similarity(student_RD, columns_CD, temperature) + log_weights_C
        return soft_cross_entropy(mask_ignored(logits_RC, ignore_mask_RB), targets_RC)

    all_text_CD = torch.cat([teacher_text_BD.detach(), queue.text])
    all_image_CD = torch.cat([teacher_image_BD.detach(), queue.image])
    from_images = direction(image_RD, teacher_image_BD[rows], all_text_CD, texts_RC, ignore_mask_RB)
    from_texts = direction(text_RD, teacher_text_BD[rows], all_image_CD, images_RC, image_ignore_mask_RB)
    return (from_images + from_texts) / 2


def _tgd_labels(
    image_ids_R: Tensor, image_ids_B: Tensor, queue: FeatureQueue, known: Identities | None
) -> tuple[Tensor, Tensor, Tensor]:
    """TgD's labels (R, C) of the rows' images over all texts, those of their texts over all images, and weights (C,).

    See `weighted_targets`.
    """
    if known is None:
        labels_RC, weights_C = weighted_targets(image_ids_R, image_ids_B, queue)
        return labels_RC, labels_RC, weights_C
    texts = known.texts_of_images(), among(known.text_ids_RW, queue.text_ids)
    images = known.images_of_texts(), among(known.text_ids_RW[:, :1], queue.text_ids)
    texts_RC, weights_C = weighted_targets(image_ids_R, image_ids_B, queue, *texts)
    return texts_RC, weighted_targets(image_ids_R, image_ids_B, queue, *images)[0], weights_C


def fgd_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """FgD, feature-guided distillation (scalar): 1 - cosine of the student's and the teacher's text features.

    The student sees the masked texts, the teacher the clean ones; both features are L2-normalised. Images are not
    masked, so FgD leaves them out (our choice).
    """
    return (1.0 - (at_least_float32(student_BD) * at_least_float32(teacher_BD.detach())).sum(1)).mean()


@torch.no_grad()
def teacher_agreement(
    image_BD: Tensor, text_BD: Tensor, image_ids_B: Tensor, text_ids_BW: Tensor | None = None
) -> Tensor:
    """Share (scalar) of the batch's images and texts whose nearest neighbour, by the teacher, is a positive.

    At 1 / B the teacher is at chance, and its soft targets are noise. At 1 it agrees with the labels.

    Args:
        image_BD, text_BD: the teacher's L2-normalised features of a batch.
        image_ids_B: samples with equal ids show the same image.
        text_ids_BW: see `Identities`; without them texts count as different.
    """
    cosine_BB = at_least_float32(image_BD) @ at_least_float32(text_BD).T
    if text_ids_BW is None:
        text_ids_BW = torch.arange(len(image_ids_B), device=image_ids_B.device)[:, None]
    known = Identities(image_ids_B, text_ids_BW, image_ids_B, text_ids_BW)
    best_text, best_image = cosine_BB.argmax(1, keepdim=True), cosine_BB.argmax(0)[:, None]
    hits = [known.texts_of_images().gather(1, best_text), known.images_of_texts().gather(1, best_image)]
    return torch.stack(hits).float().mean()
