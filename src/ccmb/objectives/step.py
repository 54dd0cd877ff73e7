"""The intermediate results of one step of pre-training that objectives share.

Shapes: B pairs in the global batch, R rows of this process, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.objectives.batch import Batch
from ccmb.objectives.distillation import TeacherFeatures
from ccmb.objectives.language_modeling import MaskedText
from ccmb.objectives.positives import Identities
from ccmb.r2d2.packing import Packing
from ccmb.r2d2.towers.two_towers import TowerOutput


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs that all objectives of one step share.

    Attributes:
        batch: this process's R pairs.
        progress: share of the training that is done, in [0, 1).
        generator: source of the masks and hard negatives.
        rows: the slice of the global batch that this process holds.
        known: which images and texts are the same.
        positives_RB, image_positives_RB: True where the text of a column fits the image of a row, and where the image
            of a column fits the text of a row.
        ignore_mask_RB, image_ignore_mask_RB: likewise, where a row ignores a column; None: no column is ignored.
        packing: how the batch's texts are packed, or None.
        images, texts: the outputs of the student's towers for this process's pairs.
        all_image_BD, all_text_BD: embeddings of the global batch, gathered with gradient.
    """

    batch: Batch
    progress: float
    generator: torch.Generator | None
    rows: slice
    known: Identities
    positives_RB: Tensor
    image_positives_RB: Tensor
    ignore_mask_RB: Tensor | None
    image_ignore_mask_RB: Tensor | None
    packing: Packing | None
    images: TowerOutput
    texts: TowerOutput
    all_image_BD: Tensor
    all_text_BD: Tensor


@dataclass(frozen=True, slots=True)
class Masked:
    """The step's texts with some words masked, and the output of the student's text tower for them."""

    words: MaskedText
    texts: TowerOutput


@dataclass(frozen=True, slots=True)
class PretrainAux:
    """Outputs of a step besides its losses, for the log.

    Attributes:
        teacher: the teacher's features of this process's pairs; None while neither TgD nor FgD is active.
        known: which images and texts these pairs are, likewise.
    """

    teacher: TeacherFeatures | None = None
    known: Identities | None = None
