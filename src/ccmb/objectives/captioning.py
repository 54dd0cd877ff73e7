"""Captioning: predict each token of a text from the tokens before it and from the image.

Shapes: B pairs of this process, T text tokens, M target tokens, V size of the vocabulary.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.core.floats import at_least_float32
from ccmb.objectives.batch import Batch
from ccmb.objectives.distillation import EmaTeacher
from ccmb.objectives.forward import images_of, measure_features
from ccmb.objectives.pretraining import PreTraining
from ccmb.objectives.step import PretrainAux
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.r2d2.towers.two_towers import TowerOutput, l2_normalize
from ccmb.training.distributed import global_mean
from ccmb.training.gradient_cache import in_chunks


class CaptioningOptions(BaseModel):
    """Settings of the captioning loss, and of decoding in validation."""

    model_config = ConfigDict(extra="forbid")
    weight: float = Field(1.0, gt=0, description="factor in the sum with the objectives that are on")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of the target spread over all words")
    text_layers: int | None = Field(
        None, ge=0, description="layers of the text tower that the decoder begins with, made causal; by default all"
    )
    cross_layers: int | None = Field(
        None,
        gt=0,
        description="layers of the decoder that read the image, of which the first begin as the text-image cross "
        "encoder's; by default as many as that has",
    )
    standardize_states: bool = Field(
        False,
        description="the decoder reads the image's states with mean 0 and deviation 1 in each feature, as the first "
        "batch has them; for pre-trained towers whose features differ by orders of magnitude",
    )
    owns_image_tower: bool = Field(
        False, description="captioning alone trains the image tower; the other objectives read it as it is"
    )
    max_length: int = Field(40, gt=0, description="longest caption in tokens when the model is measured")


def captioning_loss(logits_MV: Tensor, tokens_M: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy (scalar) over the target tokens of the global batch.

    Args:
        smoothing: share of the target that is spread evenly over the vocabulary.
    """
    summed = F.cross_entropy(at_least_float32(logits_MV), tokens_M, reduction="sum", label_smoothing=smoothing)
    return global_mean(summed, torch.tensor(float(len(tokens_M)), device=logits_MV.device))


class Captioning(nn.Module):
    """The captioner and the losses of a batch: captioning, and R2D2's own objectives if any is on.

    GCPR and FGR keep the match score in step with an image tower that captioning changes. But their gradients may
    dominate that tower: what tells the images of a batch apart need not be what a caption describes. For this case
    `owns_image_tower` leaves the tower to captioning alone.

    Args:
        pretraining: R2D2's objectives over the same captioner, or None.
        chunk: pairs that are computed at a time, see `in_chunks`; by default all.
    """

    def __init__(
        self,
        captioner: R2D2Captioner,
        options: CaptioningOptions,
        pretraining: PreTraining | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.options, self.pretraining, self.chunk = captioner, options, pretraining, chunk
        self._is_measured = False

    @property
    def teacher(self) -> EmaTeacher | None:
        """The teacher of R2D2's own objectives."""
        return None if self.pretraining is None else self.pretraining.teacher

    def losses(
        self, batch: Batch, progress: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], PretrainAux]:
        """Unweighted losses (scalars) by name, and what R2D2's own objectives compute besides."""
        images = images_of(self.model, batch, self.model.config.image_size, self.chunk)
        self._measure_states(images)
        losses = {"captioning": self._captioning(images, batch)}
        if self.pretraining is None:
            return losses, PretrainAux()
        seen = self._without_tower_gradient(images) if self.options.owns_image_tower else images
        others, aux = self.pretraining.losses(batch, progress, generator, seen)
        return losses | others, aux

    forward = losses  # what DDP and FSDP wrap

    def _measure_states(self, images: TowerOutput) -> None:
        """Before the first step: measure what the decoder standardises by."""
        norm = self.model.decoder.standardize
        if not self._is_measured and norm is not None and not norm.measured:
            measure_features(norm, images.real_states.detach())
        self._is_measured = True  # known here, since a GPU would have to be waited for

    def _without_tower_gradient(self, images: TowerOutput) -> TowerOutput:
        """The same images, detached from the image tower; the projection is still trained."""
        assert images.pooled is not None, "images come fresh from the tower"
        pooled = images.pooled.detach()
        return TowerOutput(l2_normalize(self.model.image_projection(pooled)), images.states.detach(), pooled=pooled)

    def _captioning(self, images: TowerOutput, batch: Batch) -> Tensor:
        decoder = self.model.decoder
        is_target_BT = batch.attention_mask[:, 1:].bool()

        def logits(rows: slice) -> Tensor:
            states, _ = decoder(batch.input_ids[rows, :-1], decoder.see(images.states[rows]))
            return decoder.logits(states[is_target_BT[rows]])

        logits_MV = torch.cat(in_chunks(logits, len(is_target_BT), self.chunk))
        return captioning_loss(logits_MV, batch.input_ids[:, 1:][is_target_BT], self.options.label_smoothing)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the losses (scalar)."""
        others = {name: loss for name, loss in losses.items() if name != "captioning"}
        summed = self.options.weight * losses["captioning"]
        return summed + self.pretraining.total(others) if self.pretraining is not None and others else summed
