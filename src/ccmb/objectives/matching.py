"""Matching: does a text fit an image? Both cross encoders score labelled pairs; no negatives are sampled.

Shapes: B labelled pairs of this process, N pairs of all processes, D embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.core.config.base import ConfigBase
from ccmb.core.errors import UsageError
from ccmb.core.floats import at_least_float32
from ccmb.objectives.batch import LabelledBatch
from ccmb.objectives.forward import encode_images, encode_texts
from ccmb.objectives.pre_ranking import multi_positive_targets, similarity
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.training.distributed import gather, global_mean
from ccmb.training.gradient_cache import in_chunks

MatchingLoss = Literal["likelihood", "official"]


class MatchingOptions(ConfigBase):
    """Settings of the loss of labelled pairs."""

    RETIRED: ClassVar = {"gcpr": "gcpr_weight"}
    loss: MatchingLoss = Field(
        "likelihood",
        description="likelihood is the cross-entropy of the match score (our choice); official applies a second "
        "softmax to it, as the released code does",
    )
    gcpr_weight: float = Field(
        0.0, ge=0, description="weight of GCPR over the batch's matches; 0, as in the released code, leaves it out"
    )


def match_log_probabilities(logits_text_image_B2: Tensor, logits_image_text_B2: Tensor) -> Tensor:
    """(B, 2) log of the mean of both heads' probabilities of no match and of match."""
    heads = (at_least_float32(logits).log_softmax(1) for logits in (logits_text_image_B2, logits_image_text_B2))
    return torch.logaddexp(*heads) - math.log(2)


def matching_loss(
    logits_text_image_B2: Tensor, logits_image_text_B2: Tensor, labels_B: Tensor, kind: MatchingLoss = "likelihood"
) -> Tensor:
    """Loss (scalar) of labelled pairs, a mean over the pairs of all processes.

    The official code hands the mean probability to a cross-entropy that takes it for logits: a second softmax. Its loss
    cannot fall below log(1 + 1/e) = 0.313, and a pair that is scored wholly wrong gets next to no gradient. The
    cross-entropy of the mean probability itself has neither fault.
    """
    log_probabilities_B2 = match_log_probabilities(logits_text_image_B2, logits_image_text_B2)
    if kind == "official":
        summed = F.cross_entropy(log_probabilities_B2.exp(), labels_B, reduction="sum")
    else:
        summed = F.nll_loss(log_probabilities_B2, labels_B, reduction="sum")
    return global_mean(summed, torch.ones_like(labels_B, dtype=torch.float).sum())


def labelled_gcpr_loss(
    image_BD: Tensor, text_BD: Tensor, temperature: Tensor, labels_B: Tensor, image_ids_B: Tensor, text_ids_B: Tensor
) -> Tensor:
    """GCPR (scalar) of the pairs that match, against the images and texts of all pairs of all processes.

    The texts of an image that are labelled as no match are its hardest negatives here. The target mass is shared evenly
    among all positives: the matches of the same image, and those of the same text.

    Args:
        image_BD, text_BD: L2-normalised embeddings of each pair's image and text.
    """
    all_image_ND, all_text_ND = gather(image_BD), gather(text_BD)
    labels_N, image_ids_N, text_ids_N = gather(labels_B), gather(image_ids_B), gather(text_ids_B)
    same_image_BN, same_text_BN = image_ids_B[:, None] == image_ids_N, text_ids_B[:, None] == text_ids_N
    match_B, match_N = labels_B == 1, labels_N == 1
    summed = torch.zeros((), device=image_BD.device)
    for rows, columns, positives_BN in (
        (image_BD, all_text_ND, same_text_BN | (same_image_BN & match_N)),
        (text_BD, all_image_ND, same_image_BN | (same_text_BN & match_N)),
    ):
        log_probabilities_BN = similarity(rows, columns, temperature).log_softmax(1)
        summed = summed - ((multi_positive_targets(positives_BN) * log_probabilities_BN).sum(1) * match_B).sum()
    return global_mean(summed / 2, match_B.float().sum())


@dataclass(frozen=True, slots=True)
class MatchingAux:
    """What a step computes besides its losses, for the log.

    Attributes:
        log_probabilities_B2: see `match_log_probabilities`, without gradient.
        labels_B: 1 where the text fits the image, 0 where it does not.
    """

    log_probabilities_B2: Tensor
    labels_B: Tensor


class Matching(nn.Module):
    """The network, and the losses of a batch of labelled pairs.

    Args:
        chunk: pairs that towers and cross encoders compute at a time, see `in_chunks`; by default all.

    Raises:
        UsageError: the network has no match heads.
    """

    def __init__(self, model: R2D2Model, options: MatchingOptions, chunk: int | None = None) -> None:
        super().__init__()
        if not model.can_rank:
            raise UsageError("the network has no match heads (PRD2), which is what matching trains; start from R2D2")
        self.model, self.options, self.chunk = model, options, chunk

    def losses(
        self, batch: LabelledBatch, progress: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], MatchingAux]:
        """Unweighted losses (scalars) by name, and the outputs for the log.

        `progress` and `generator` belong to the trainer's interface; matching uses neither.
        """
        images = encode_images(self.model, batch.pixel_values, self.chunk)
        texts = encode_texts(self.model, batch.input_ids, batch.attention_mask, self.chunk)
        logits = self._rank(images, texts, batch.image_index)
        losses = {"matching": matching_loss(*logits, batch.labels, self.options.loss)}
        if self.options.gcpr_weight:
            embed_BD = images.embed[batch.image_index]
            losses["gcpr"] = labelled_gcpr_loss(
                embed_BD,
                texts.embed,
                self.model.temperature,
                labels_B=batch.labels,
                image_ids_B=batch.image_ids,
                text_ids_B=batch.text_ids,
            )
        return losses, MatchingAux(match_log_probabilities(*logits).detach(), batch.labels)

    forward = losses  # what DDP and FSDP wrap

    def _rank(self, images: TowerOutput, texts: TowerOutput, image_index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 2) of both match heads; an image of several pairs is projected to keys and values once."""
        text_index_B = torch.arange(len(texts), device=image_index_B.device)

        def rank(rows: slice) -> tuple[Tensor, Tensor]:
            if self.chunk is None:
                ranked = self.model.rank(images, texts, image_index_B, text_index_B)
            else:  # only the images and texts of the chunk
                own = text_index_B[rows] - text_index_B[rows][0]
                ranked = self.model.rank(images[image_index_B[rows]], texts[rows], own, own)
            return ranked.logits_text_image, ranked.logits_image_text

        text_image, image_text = zip(*in_chunks(rank, len(texts), self.chunk), strict=True)
        return torch.cat(text_image), torch.cat(image_text)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the losses (scalar)."""
        return losses["matching"] + (self.options.gcpr_weight * losses["gcpr"] if "gcpr" in losses else 0.0)
