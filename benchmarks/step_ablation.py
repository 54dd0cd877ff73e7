"""The plain step with what makes ours fast switched on item by item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from albef_step import AlbefStep, Match
from ccmb.objectives.batch import Batch
from ccmb.objectives.language_modeling import MaskedText, mlm_loss
from ccmb.objectives.pretraining import PreTraining
from ccmb.objectives.ranking import hard_negative_weights
from ccmb.r2d2.towers.two_towers import TowerOutput

# In the order in which they are switched on; each line of the table has all before it too.
ITEMS = {
    "trim": "texts padded to the batch's longest, not to the network's greatest length",
    "draw": "hard negatives of all rows in one draw",
    "one call": "one pass of each cross encoder for all 3B pairs",
    "index": "keys, values and first self-attention once per image and text; last layer for the first token alone",
    "enhanced": "FGR's pass of the masked texts serves MLM too",
    "masked only": "MLM logits at masked positions alone",
    "attention": "fused attention",
    "optimiser": "fused AdamW, average of the teacher in one call",
    "packed": "our step: texts packed, no token of padding computed",
    "bf16": "bf16 autocast, losses in fp32",
    "compile": "layers compiled one by one",
}


class SwitchedStep(AlbefStep):
    """The plain step with some of ITEMS."""

    def __init__(self, training: PreTraining, items: frozenset[str]) -> None:
        super().__init__(training)
        self.items = items

    def draw(self, similarity_BB: Tensor, positives_BB: Tensor) -> tuple[Tensor, Tensor]:
        if "draw" not in self.items:
            return super().draw(similarity_BB, positives_BB)
        weights = (
            hard_negative_weights(similarity_BB.T, positives_BB),
            hard_negative_weights(similarity_BB, positives_BB),
        )
        wrong_image, wrong_text = (torch.multinomial(row_weights, 1).squeeze(1) for row_weights in weights)
        return wrong_image, wrong_text

    def match(self, images: TowerOutput, texts: TowerOutput, wrong_image_B: Tensor, wrong_text_B: Tensor) -> Match:
        if "one call" not in self.items:
            return super().match(images, texts, wrong_image_B, wrong_text_B)
        rows = torch.arange(len(images), device=wrong_image_B.device)
        image_index, text_index = torch.cat([rows, wrong_image_B, rows]), torch.cat([rows, rows, wrong_text_B])
        if "index" not in self.items:
            assert texts.mask is not None
            return self.rank(images.states[image_index], texts.states[text_index], texts.mask[text_index])
        shared = "enhanced" in self.items and self.objectives.fgr.enhanced_training
        ranked = self.model.rank(images, texts, image_index, text_index, read=len(rows) if shared else 0)
        return Match(ranked.logits_text_image, ranked.logits_image_text, ranked.states if shared else None)

    def mlm_loss(
        self, images: TowerOutput, texts: TowerOutput, masked: MaskedText, batch: Batch, states: Tensor | None
    ) -> Tensor:
        if "masked only" not in self.items:
            return super().mlm_loss(images, texts, masked, batch, states)
        if states is None:
            rows = torch.arange(len(images), device=masked.labels.device)
            states = self.model.read_texts(images, texts, rows, rows)
        return mlm_loss(self.model.mlm_logits(masked.pick(states)), masked.labels)

    def after_step(self) -> None:
        if "optimiser" in self.items:
            self.training.after_step()
        else:
            super().after_step()


@contextmanager
def plain_attention(switched_off: bool) -> Iterator[None]:
    """Where fused attention is switched off, two matrix products and a softmax."""
    if not switched_off:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
