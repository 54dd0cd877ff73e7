"""What projections standardise by is measured on the first batch, whole or in chunks, and then stays."""

from __future__ import annotations

import pytest
import torch

from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.projection import HiddenProjection
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import tiny_batch, tiny_model, tiny_processor

pytestmark = PROOFS


@pytest.mark.parametrize("chunk", [None, 2])
def test_features_of_the_first_batch_are_measured_once(chunk: int | None) -> None:
    objectives = Objectives.model_validate({"tgd": {"queue_size": 6}})
    model = tiny_model(projection_hidden=8)
    training = PreTraining(model, objectives, tiny_processor().tokenizer.mask_token_id, chunk).train()
    batch = tiny_batch(4)
    model.eval()
    images, texts = model.encode_image(batch.pixel_values), model.encode_text(batch.input_ids, batch.attention_mask)
    model.train()
    training.losses(batch, 0.0, torch.Generator().manual_seed(0))
    training.losses(tiny_batch(4, seed=1), 0.0, torch.Generator().manual_seed(0))
    teacher = training.teacher
    assert teacher is not None
    for network in (model, teacher):
        for projection, output in ((network.image_projection, images), (network.text_projection, texts)):
            assert isinstance(projection, HiddenProjection)
            assert output.pooled is not None
            assert_same(projection.norm.mean, output.pooled.mean(0))
            assert_same(projection.norm.deviation, output.pooled.std(0, correction=0))
    assert model.training
