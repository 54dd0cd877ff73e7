"""The token-wise loss against plain loops, its gradient, and what it trains."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ccmb.core.errors import UsageError
from ccmb.inference.late_interaction import directed_scores
from ccmb.inference.models.open_model import open_ranker
from ccmb.objectives.config import Objectives, check_objectives
from ccmb.objectives.pre_ranking import multi_positive_targets
from ccmb.objectives.pretraining import PreTraining
from ccmb.objectives.token_wise import MAX_COSINES, Tokens, directed_matrix, token_wise_loss
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.towers.token_reduction import TokenReduction
from tests.helpers.exact import TINY_ERROR, assert_same
from tests.helpers.tiny import tiny_batch, tiny_images, tiny_model, tiny_processor
from tests.helpers.two_towers import save_r2d2

pytestmark = pytest.mark.numeric

OFF = {name: {"weight": 0.0} for name in ("gcpr", "fgr", "mlm", "tgd", "fgd")}
PADDINGS = ("exact", "official")


def drawn(items: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of images and texts, normalised, and the texts' mask; an image has negative cosines alone with a text."""
    generator = torch.Generator().manual_seed(3)
    image = normalize(torch.randn(items, 4, 6, generator=generator, dtype=torch.double), dim=-1)
    text = normalize(torch.randn(items, 7, 6, generator=generator, dtype=torch.double), dim=-1)
    mask = (torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:items, None]).long()
    image[1] = -text[1, :1]
    return image, text, mask


def plain_loss(image: Tensor, text: Tensor, mask: Tensor, temperature: float, official: bool) -> float:
    """FILIP's loss of pairs of which each fits itself alone."""
    count, total = len(image), 0.0
    real = [[word for word, known in zip(words, known_of, strict=True) if known]
            for words, known_of in zip(text, mask, strict=True)]  # fmt: skip
    for own in range(count):
        to_texts = []
        to_images = []
        for other in range(count):
            padded = [0.0] if official and len(real[other]) < mask.shape[1] else []
            best = [max([float(token @ word) for word in real[other]] + padded) for token in image[own]]
            to_texts.append(sum(best) / len(best) / temperature)
            best = [max(float(word @ token) for token in image[other]) for word in real[own]]
            to_images.append(sum(best) / len(best) / temperature)
        for scores in (to_texts, to_images):
            total += math.log(sum(map(math.exp, scores))) - scores[own]
    return total / (2 * count)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("max_cosines", [1, 150, MAX_COSINES])
def test_the_loss_is_the_plain_one_in_parts_of_any_size(padding: str, max_cosines: int) -> None:
    image, text, mask = drawn()
    targets, temperature = (
        multi_positive_targets(torch.eye(5, dtype=torch.bool)).double(),
        torch.tensor(0.2, dtype=torch.double),
    )
    images, texts = Tokens(image), Tokens(text, mask)
    loss = token_wise_loss(
        images, texts, images, texts, temperature,
        targets_RB=targets, image_targets_RB=targets, padding=padding, max_cosines=max_cosines,  # type: ignore[arg-type]
    )  # fmt: skip
    expected = plain_loss(image, text, mask, 0.2, padding == "official")
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.double), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_gradient_is_that_of_differences(padding: str) -> None:
    image, text, mask = drawn(3)
    image = normalize(image + 0.1 * torch.randn_like(image), dim=-1)  # no two tokens alike, of which either is best

    def scores(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        images, texts = Tokens(image), Tokens(text, mask)
        return (
            directed_matrix(images, texts, padding, max_cosines=90),  # type: ignore[arg-type]
            directed_matrix(texts, images, padding, max_cosines=90),  # type: ignore[arg-type]
        )

    assert torch.autograd.gradcheck(scores, (image.requires_grad_(), text.requires_grad_()), atol=1e-7)


@pytest.mark.parametrize("padding", PADDINGS)
def test_it_trains_the_scores_that_late_interaction_ranks_by(padding: str) -> None:
    image, text, mask = drawn()
    to_texts = directed_matrix(Tokens(image), Tokens(text, mask), padding)  # type: ignore[arg-type]
    to_images = directed_matrix(Tokens(text, mask), Tokens(image), padding)  # type: ignore[arg-type]
    pairs = directed_scores(image, text, mask, padding)  # type: ignore[arg-type]
    assert_same([to_texts.diagonal(), to_images.diagonal()], list(pairs))


def test_a_step_trains_projections_and_towers_by_tokens() -> None:
    model = tiny_model().double().train()
    objectives = Objectives.model_validate(OFF | {"tokenwise": {"weight": 1.0, "dim": 8}})
    assert objectives.on() == ["tokenwise"]
    assert objectives.reads_tokens() == {"image", "text"}
    training = PreTraining(model, objectives, int(tiny_processor().tokenizer.mask_token_id))
    batch = replace(tiny_batch(4), pixel_values=tiny_batch(4).pixel_values.double())
    losses, _ = training(batch, 0.0)
    losses["tokenwise"].backward()
    weight = model.image_projection.weight.grad
    assert weight is not None
    assert weight[:8].abs().sum() > 0
    layer = model.text_tower.encoder.layer[0].attention.self.query.weight.grad
    assert layer is not None
    assert layer.abs().sum() > 0


def test_reduced_tokens_begin_as_weighted_means_and_are_trained() -> None:
    model = tiny_model(reduced_tokens=3).double()
    tokens_BSD = normalize(torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    reduction = model.token_reduction
    assert isinstance(reduction, TokenReduction)
    maps_NW = reduction.attention_maps[1].weight[..., 0, 0]
    weights_BNS = (reduction.norm(tokens_BSD) @ maps_NW.T).softmax(1).transpose(1, 2)
    assert_same(reduction(tokens_BSD).detach(), (weights_BNS @ tokens_BSD).detach())
    assert (weights_BNS.std(1) > 0).all()  # the sums differ
    objectives = Objectives.model_validate({**OFF, "tokenwise": {"weight": 1.0, "dim": 8}})
    model.train()
    pretraining = PreTraining(model, objectives, tiny_processor().tokenizer.mask_token_id)
    batch = replace(tiny_batch(4), pixel_values=tiny_batch(4).pixel_values.double())
    losses, _ = pretraining(batch, 0.0)
    losses["tokenwise"].backward()
    assert all(weight.grad is not None for weight in reduction.parameters())
    assert float(reduction.attention_maps[1].weight.grad.abs().sum()) > 0
    assert float(reduction.feat_conv.weight.grad.abs().sum()) > 0
    images = model.eval().encode_image(batch.pixel_values)
    assert model.image_tokens(images.states, 8).shape == (4, 3, 8)


def test_reduced_tokens_are_saved_and_late_interaction_reads_them(tmp_path: Path) -> None:
    folder = save_r2d2(tmp_path / "r2d2", reduced_tokens=3)
    ranker = open_ranker(f"late:{folder}")
    images = ranker.encode_images(range(2), tiny_images(2).__getitem__)
    assert images.states.shape == (2, 3, 16)
    model, processor = load_model(folder)
    expected = model.eval().image_tokens(model.encode_image(processor.images(tiny_images(2))).states)
    torch.testing.assert_close(images.states, expected.detach(), rtol=0, atol=TINY_ERROR)
    with pytest.raises(UsageError, match="needs an embed_dim that 8 divides"):
        tiny_model(reduced_tokens=3, embed_dim=12)


def test_more_numbers_than_an_embedding_has_are_refused() -> None:
    objectives = Objectives.model_validate({"tokenwise": {"weight": 1.0, "dim": 17}})
    with pytest.raises(UsageError, match=r"objectives.tokenwise.dim=17: embeddings have model.embed_dim=16 numbers"):
        check_objectives(objectives, tiny_model().config)
