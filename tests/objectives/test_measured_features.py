"""What projections and cross encoders standardise by is measured on the first batch, whole or in chunks, and stays."""

from __future__ import annotations

import pytest
import torch

from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.projection import HiddenProjection
from ccmb.r2d2.towers.two_towers import TowerOutput
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


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_states_of_the_first_batch_are_measured_over_their_real_tokens(chunk: int | None, pooling: str) -> None:
    plain = tiny_model(text_pooling=pooling)
    model = tiny_model(text_pooling=pooling, standardize_states=True)
    training = PreTraining(model, Objectives(), tiny_processor().tokenizer.mask_token_id, chunk).train()
    batch = tiny_batch(4)
    assert len(set(batch.attention_mask.sum(1).tolist())) > 1
    training.losses(batch, 0.0, torch.Generator().manual_seed(0))
    training.losses(tiny_batch(4, seed=1), 0.0, torch.Generator().manual_seed(0))
    model.eval()
    images, texts = plain.encode_image(batch.pixel_values), plain.encode_text(batch.input_ids, batch.attention_mask)
    own = model.encode_image(batch.pixel_values), model.encode_text(batch.input_ids, batch.attention_mask)
    for norm, output, standardized in zip(
        (model.image_standardize, model.text_standardize), (images, texts), own, strict=True
    ):
        assert norm is not None
        real = torch.cat([states[:length] for states, length in zip(output.states, _lengths(output), strict=True)])
        assert_same(norm.mean, real.mean(0))
        assert_same(norm.deviation, real.std(0, correction=0))
        assert_same(standardized.states, (output.states - norm.mean) / norm.deviation)
        assert_same(standardized.embed, output.embed)  # the first stage reads them as they are


def test_without_an_objective_that_reads_tokens_none_are_measured() -> None:
    model = tiny_model(standardize_states=True)
    objectives = Objectives.model_validate({"fgr": False, "mlm": False})
    PreTraining(model, objectives, tiny_processor().tokenizer.mask_token_id).losses(tiny_batch(4), 0.0)
    assert model.text_standardize is not None
    assert not model.text_standardize.measured


def _lengths(output: TowerOutput) -> list[int]:
    return [output.states.shape[1]] * len(output) if output.mask is None else output.mask.sum(1).tolist()
