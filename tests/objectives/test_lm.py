"""LM against plain loops: what is predicted, from which image, and what is shared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ccmb.core.errors import UsageError
from ccmb.objectives.batch import Batch
from ccmb.objectives.config import LanguageModeling, Objectives
from ccmb.objectives.flops import StepFlops
from ccmb.objectives.language_modeling import first_rows, lm_loss
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.modeling import R2D2Model
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import tiny_batch, tiny_decoder_model, tiny_model, tiny_processor

pytestmark = PROOFS

OFF: dict[str, Any] = dict.fromkeys(("gcpr", "fgr", "mlm", "tgd", "fgd"), False)
MASK_ID = tiny_processor().tokenizer.mask_token_id


def draws(seed: int, count: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def loss_of(
    model: R2D2Model, batch: Batch, share: float, *, image_tokens: float = 1.0, chunk: int | None = None
) -> torch.Tensor:
    assert model.likelihood is not None
    options = LanguageModeling(without_image=share, image_tokens=image_tokens)
    images, generator = model.encode_image(batch.pixel_values), torch.Generator().manual_seed(0)
    return lm_loss(model.likelihood, batch, images, options, generator=generator, chunk=chunk)


def repeated_batch() -> Batch:
    """Five texts of three images: rows of an image have equal pixels, but for the last, which is varied anew."""
    batch = tiny_batch(5, image_ids=[0, 1, 0, 2, 1])
    pixels = batch.pixel_values.clone()
    pixels[2] = pixels[0]
    return replace(batch, pixel_values=pixels)


def test_it_is_the_cross_entropy_of_each_token_given_those_before_it() -> None:
    model, batch = tiny_decoder_model(), repeated_batch()
    likelihood = model.likelihood
    assert likelihood is not None
    blind = draws(0, 5) < 0.6
    assert 0 < blind.sum() < 5
    images, losses = model.encode_image(batch.pixel_values), []
    for row in range(5):
        length = int(batch.attention_mask[row].sum())
        tokens = likelihood.row_of_token[batch.input_ids[row, :length]]
        seen = likelihood.decoder.see(likelihood.no_image if blind[row] else images.states[row, None])
        for at in range(1, length):
            states, _ = likelihood.decoder(tokens[None, :at], seen)
            losses.append(-likelihood.decoder.logits(states[0, -1]).log_softmax(0)[tokens[at]])
    assert_same(loss_of(model, batch, 0.6), torch.stack(losses).mean())


def test_of_each_image_a_share_of_the_tokens_is_seen() -> None:
    model, batch = tiny_decoder_model(), repeated_batch()
    likelihood = model.likelihood
    assert likelihood is not None
    draw = torch.Generator().manual_seed(0)
    assert not (torch.rand(5, generator=draw) < 1e-6).any()
    states, ids, mask = model.encode_image(batch.pixel_values).states, batch.input_ids, batch.attention_mask
    seen = torch.rand(5, 5, generator=draw).argsort(1, descending=True)[:, :2]  # 0.4 of five tokens
    assert seen.unique(dim=0).shape == (5, 2)
    rows = {0: 0, 1: 1, 2: 0, 3: 3, 4: 4}  # the first with the same image and states
    likelihoods = [
        likelihood(ids[row, None], mask[row, None], states[None, first, seen[first]], torch.tensor([0]))
        for row, first in rows.items()
    ]
    mean = torch.cat(likelihoods).sum() / (mask.sum() - 5)
    assert_same(loss_of(model, batch, 1e-6, image_tokens=0.4), -mean)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.99])
def test_chunks_change_nothing(share: float) -> None:
    def gradients(chunk: int | None) -> dict[str, Any]:
        model = tiny_decoder_model()
        loss = loss_of(model, repeated_batch(), share, image_tokens=0.4, chunk=chunk)
        loss.backward()
        return {"loss": loss} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    assert_same(gradients(2), gradients(None))


def test_rows_of_one_image_share_its_keys_unless_it_was_varied_anew() -> None:
    batch = repeated_batch()
    states = tiny_decoder_model().encode_image(batch.pixel_values).states
    assert first_rows(batch.image_ids, states).tolist() == [0, 1, 0, 3, 4]


def test_the_prior_learns_where_the_image_is_not_shown() -> None:
    model = tiny_decoder_model()
    loss_of(model, tiny_batch(4), 0.999).backward()
    assert model.likelihood is not None
    assert model.likelihood.no_image.grad is not None
    assert not model.image_tower.embeddings.class_embedding.grad.any()
    seeing = tiny_decoder_model()
    loss_of(seeing, tiny_batch(4), 1e-9).backward()
    assert seeing.likelihood is not None
    assert not seeing.likelihood.no_image.grad.any()
    assert seeing.image_tower.embeddings.class_embedding.grad.any()


def test_a_network_without_a_decoder_is_refused() -> None:
    objectives = Objectives.model_validate(OFF | {"lm": True})
    with pytest.raises(UsageError, match=r"no decoder; set objectives\.lm=off"):
        PreTraining(tiny_model(), objectives, MASK_ID)


def test_it_is_off_by_default_and_reads_images_alone() -> None:
    assert "lm" not in Objectives().on()
    assert "lm" not in Objectives().off()  # it is not the paper's
    alone = Objectives.model_validate(OFF | {"lm": True})
    assert alone.on() == ["lm"]
    assert alone.reads_tokens() == {"image"}
    assert Objectives.model_validate({"lm": True}).reads_tokens() == {"image", "text"}


def test_it_joins_the_sum_of_a_step() -> None:
    objectives = Objectives.model_validate(OFF | {"gcpr": True, "lm": {"weight": 0.5}})
    training = PreTraining(tiny_decoder_model(), objectives, MASK_ID).train()
    losses, _ = training.losses(tiny_batch(4), 0.0, torch.Generator().manual_seed(0))
    assert list(losses) == ["gcpr", "lm"]
    assert_same(training.total(losses), losses["gcpr"] + 0.5 * losses["lm"])


def test_its_operations_are_counted() -> None:
    model = tiny_decoder_model()
    both = [
        StepFlops(model.config, Objectives.model_validate(OFF | {"gcpr": True} | lm))([7, 10], 10, 0.0)
        for lm in ({}, {"lm": {"weight": 1.0, "image_tokens": 0.4}})
    ]
    width, ffn, keys, words = 32, 48, 2, model.config.decoder_vocab_size
    per_layer = [  # multiply-adds of a text of t tokens: both attentions, the feed-forward layer, the image's keys
        4 * width * width * t + 2 * width * t * t
        + 2 * width * width * t + 2 * width * t * keys + 2 * width * width * keys
        + 2 * width * ffn * t
        for t in (6, 9)
    ]  # fmt: skip
    heads = [(width * width + width * words) * t for t in (6, 9)]
    assert both[1] - both[0] == 3 * 2 * (2 * sum(per_layer) + sum(heads))
