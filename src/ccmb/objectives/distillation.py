"""Two-way distillation: an EMA teacher of both towers, a weighted queue of its features, TgD and FgD.

The paper's public traces do not settle alpha, the queue's size, the EMA rate, where the queue's weights enter, or FgD's
distance. Our choices: alpha 0.4, the weights multiply the teacher's exponentials, FgD pulls by cosine.

Shapes: B pairs in the batch, D embedding width, Q features in the queue.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ccmb.objectives.pre_ranking import soft_cross_entropy


class EmaTeacher(nn.Module):
    """Exponential moving averages of some modules of the student, in evaluation mode and without gradients."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, copy.deepcopy(module).requires_grad_(False).eval())

    def train(self, mode: bool = True) -> EmaTeacher:
        return super().train(False)

    @torch.no_grad()
    def update(self, rate: float, **modules: nn.Module) -> None:
        """teacher = rate * teacher + (1 - rate) * student, in one call over all parameters."""
        mine, theirs = [], []
        for name, module in modules.items():
            mine += list(self.get_submodule(name).parameters())
            theirs += list(module.parameters())
        torch._foreach_lerp_(mine, [parameter.detach() for parameter in theirs], 1.0 - rate)


class FeatureQueue(nn.Module):
    """The teacher's latest image and text features; each carries a weight that decays by `decay` per step.

    The buffers are filled from the start; entries not yet written have weight 0 and count for nothing.
    """

    image: Tensor
    text: Tensor
    weight: Tensor
    cursor: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("image", torch.zeros(size, dim))
        self.register_buffer("text", torch.zeros(size, dim))
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, image_BD: Tensor, text_BD: Tensor) -> None:
        """Age all entries by one step, then overwrite the oldest with a batch of weight 1."""
        size = self.weight.shape[0]
        image_BD, text_BD = image_BD[-size:], text_BD[-size:]
        slots = (self.cursor + torch.arange(len(image_BD), device=self.weight.device)) % size
        self.weight.mul_(self.decay)
        self.image[slots] = image_BD.to(self.image.dtype)
        self.text[slots] = text_BD.to(self.text.dtype)
        self.weight[slots] = 1.0
        self.cursor.copy_((self.cursor + len(image_BD)) % size)


def weighted_softmax(logits_BC: Tensor, weights_C: Tensor) -> Tensor:
    """softmax over columns whose exponentials are multiplied by `weights_C` >= 0; equal weights give a plain softmax."""
    return (logits_BC.float() + weights_C.clamp_min(1e-30).log()).softmax(1)


def tgd_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    queue: FeatureQueue,
    temperature: Tensor,
    targets_BB: Tensor,
    alpha: float = 0.4,
) -> Tensor:
    """TgD, target-guided distillation (scalar).

    The student's features are compared with the teacher's of the batch and of the queue. Targets are
    alpha * (the teacher's own weighted softmax) + (1 - alpha) * labels; queue columns are labelled 0.

    Args:
        targets_BB: labels of the batch, rows summing to 1.
        alpha: trust in the teacher, in [0, 1].
    """
    batch = len(image_BD)
    weights_C = torch.cat([torch.ones(batch, device=queue.weight.device), queue.weight])
    labels_BC = torch.cat([targets_BB, targets_BB.new_zeros(batch, len(queue.weight))], dim=1)

    def direction(student: Tensor, teacher: Tensor, others: Tensor, queued: Tensor) -> Tensor:
        columns_CD = torch.cat([others.float(), queued.float()])
        with torch.no_grad():
            guess = weighted_softmax(teacher.float() @ columns_CD.T / temperature, weights_C)
            soft_BC = alpha * guess + (1.0 - alpha) * labels_BC
        logits_BC = student.float() @ columns_CD.T / temperature + weights_C.clamp_min(1e-30).log()
        return soft_cross_entropy(logits_BC, soft_BC)

    return (
        direction(image_BD, teacher_image_BD, teacher_text_BD, queue.text)
        + direction(text_BD, teacher_text_BD, teacher_image_BD, queue.image)
    ) / 2


def fgd_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """FgD, feature-guided distillation (scalar): 1 - cosine between the student's features of the masked text and the
    teacher's of the clean text (both L2-normalised)."""
    return (1.0 - (student_BD.float() * teacher_BD.detach().float()).sum(1)).mean()
