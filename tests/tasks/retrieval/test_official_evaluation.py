"""Our two stages against the official evaluation, written line by line from what is known of its code.

A matrix of scores is filled with -100; each query's best k by cosine get cosine + match probability; each row is
sorted; an image's rank is the best of its several texts. Among equal scores the official code's order is anybody's;
ours counts against the model, and so does the reference where there are ties.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.stages import EXACT_OPTIONS, R2D2Encoder, R2D2Ranker, RankOptions
from ccmb.objectives.batch import Batch
from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.retrieval.metrics import retrieval_report
from tests.helpers.exact import PROOFS
from tests.helpers.galleries import Scores
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

Probability = Callable[[Tensor, Tensor], Tensor]  # of pairs (image, text)


def official_matrix(
    sims_QG: Tensor, probability: Callable[[int, Tensor], Tensor], k: int, right_QG: Tensor, against: bool
) -> Tensor:
    """(Q, G) scores, filled with -100 where no candidate is."""
    score_QG = torch.full_like(sims_QG, -100.0)
    for query, sims_G in enumerate(sims_QG):
        top_sim, top_index = sims_G.topk(k=min(k, len(sims_G)), dim=0)
        score_QG[query, top_index] = top_sim + probability(query, top_index)
        right_G = right_QG[query]
        if against and int((sims_G[~right_G] >= sims_G[right_G].max()).sum()) >= k:
            score_QG[query, right_G] = -100.0  # only a tie at place k let it in
    return score_QG


def official_recalls(score_QG: Tensor, right_QG: Tensor, against: bool) -> dict[str, float]:
    """Share of queries, in percent, whose best right answer is among the first 1, 5 and 10."""
    ranks = np.zeros(len(score_QG))
    for index, (score, right) in enumerate(zip(score_QG.numpy(), right_QG.numpy(), strict=True)):
        order = np.lexsort((right, -score)) if against else np.argsort(score)[::-1]
        rank = 1e20
        for answer in np.flatnonzero(right):
            position = np.where(order == answer)[0][0]
            rank = min(rank, position)
        ranks[index] = rank
    return {f"R@{k}": round(100.0 * len(np.where(ranks < k)[0]) / len(ranks), 2) for k in (1, 5, 10)}


def official_report(
    cosine_TG: Tensor, probability: Probability, image_of_text: Tensor, k: int, against: bool
) -> dict[str, dict[str, float]]:
    right_TG = image_of_text[:, None] == torch.arange(cosine_TG.shape[1])
    ways = {
        "text_to_image": (cosine_TG, right_TG, lambda text, images: probability(images, torch.full_like(images, text))),
        "image_to_text": (cosine_TG.T, right_TG.T, lambda image, text: probability(torch.full_like(text, image), text)),
    }
    return {
        way: official_recalls(official_matrix(sims, of_query, k, right, against), right, against)
        for way, (sims, right, of_query) in ways.items()
    }


@pytest.mark.parametrize("levels", [0, 3, 6])  # different scores; 0 leaves them as they are drawn
@pytest.mark.parametrize("k", [10, 12, 64])
@pytest.mark.parametrize("seed", range(3))
def test_recalls_of_random_scores_are_the_official_ones(levels: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image_of_text = torch.arange(40).repeat_interleave(torch.randint(1, 6, (40,), generator=generator))
    count = len(image_of_text)
    cosine_TG, probability_TG = torch.rand(2, count, 40, generator=generator)
    cosine_TG += 0.3 * (image_of_text[:, None] == torch.arange(40))  # right answers are likely, not certain
    if levels:
        cosine_TG, probability_TG = ((score_TG * levels).floor() / levels for score_TG in (cosine_TG, probability_TG))
    empty = torch.empty(0, 0)
    # Cosines of one-hot images are the texts' own numbers, exactly.
    gallery = Gallery(
        TowerOutput(torch.eye(40), empty.expand(40, 0, 0)),
        TowerOutput(cosine_TG, empty.expand(count, 0, 0)),
        image_of_text,
    )
    report = retrieval_report(Scores(cosine_TG + probability_TG), gallery, k)
    metrics = {way: report[way]["ranking"] for way in ("text_to_image", "image_to_text")}
    assert metrics == official_report(
        cosine_TG, lambda image, text: probability_TG[text, image], image_of_text, k, against=levels > 0
    )
    assert 0 < metrics["text_to_image"]["R@1"] < metrics["text_to_image"]["R@10"] <= 100


@pytest.fixture(scope="module")
def trained() -> tuple[R2D2Model, Gallery]:
    """A model that has been trained for a second on images with two texts each, and these."""
    model, processor = tiny_model(), tiny_processor()
    images = tiny_images(48)
    texts = [(one[:6] + other[:5], other[-5:] + one[-6:]) for one in TEXTS for other in TEXTS][:48]
    encoded = [processor.texts([pair[which] for pair in texts]) for which in range(2)]
    objectives = Objectives.model_validate({name: {"weight": 0} for name in ("mlm", "tgd", "fgd")})
    training = PreTraining(model, objectives, processor.tokenizer.mask_token_id).train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(60):
            ids, mask = (encoded[step % 2][name] for name in ("input_ids", "attention_mask"))
            batch = Batch(
                pixel_values=processor.images(images),
                input_ids=ids,
                attention_mask=mask,
                maskable=processor.maskable(ids),
                image_ids=torch.arange(48),
            )
            optimizer.zero_grad()
            training.total(training.losses(batch, 1.0)[0]).backward()
            optimizer.step()
    model.eval()
    return model, encode_gallery(R2D2Encoder(model, processor), range(48), texts, images.__getitem__)


def plain_probability(model: R2D2Model, gallery: Gallery) -> Probability:
    """(N,) match probabilities of pairs one by one, as they are, with texts padded to 64 tokens."""

    def probability(image_N: Tensor, text_N: Tensor) -> Tensor:
        images, texts = gallery.images[image_N], gallery.texts[text_N]
        assert texts.mask is not None
        missing = 64 - texts.states.shape[1]
        texts = TowerOutput(texts.embed, F.pad(texts.states, (0, 0, 0, missing)), F.pad(texts.mask, (0, missing)))
        same = torch.arange(len(image_N))
        with torch.inference_mode():
            output = model.rank(images, texts, same, same, read=len(same))
        heads = output.logits_text_image, output.logits_image_text
        return sum((logits.softmax(1)[:, 1] for logits in heads), torch.zeros(len(same))) / 2

    return probability


@pytest.mark.parametrize("k", [10, 32, 1000])
def test_recalls_of_a_trained_model_are_the_official_ones(trained: tuple[R2D2Model, Gallery], k: int) -> None:
    model, gallery = trained
    report = retrieval_report(model, gallery, k)
    cosine_TG = gallery.texts.embed @ gallery.images.embed.T
    wanted = official_report(cosine_TG, plain_probability(model, gallery), gallery.image_of_text, k, against=False)
    assert {way: report[way]["ranking"] for way in wanted} == wanted
    assert wanted["text_to_image"]["R@10"] > 2 * 100 * 10 / 48  # it has learned something


def test_candidates_chosen_in_bf16_keep_the_recalls_of_a_trained_model(trained: tuple[R2D2Model, Gallery]) -> None:
    model, gallery = trained
    exact, cheap = (
        retrieval_report(R2D2Ranker(model, options), gallery, 48) for options in (EXACT_OPTIONS, RankOptions("bf16"))
    )
    for way, queries in (("text_to_image", 96), ("image_to_text", 48)):
        for at, recall in exact[way]["ranking"].items():
            assert cheap[way]["ranking"][at] == pytest.approx(recall, abs=1.01 * 100 / queries)
