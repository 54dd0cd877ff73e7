"""Matches and likely non-matches: what is drawn, what never is, and how they are scored."""

from __future__ import annotations

import pytest
import torch

from ccmb.data.sample import Sample
from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.scoring import rank_pairs
from ccmb.inference.stages import R2D2Encoder, R2D2Ranker
from ccmb.r2d2.modeling import R2D2Model
from ccmb.tasks.matching.negatives import draw_pairs, score_pairs
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

# Two lines of one image, and a text that two images share.
SAMPLES = [
    Sample("a", (TEXTS[0], TEXTS[1])),
    Sample("b", (TEXTS[2], TEXTS[1])),
    Sample("a", (TEXTS[3],)),
    Sample("c", (TEXTS[4],)),
    Sample("d", (TEXTS[5], TEXTS[6])),
]


def gallery_of(model: R2D2Model, samples: list[Sample]) -> tuple[Gallery, list[str]]:
    images, texts = tiny_images(len(samples)), [sample.texts for sample in samples]
    gallery = encode_gallery(R2D2Encoder(model, tiny_processor()), range(len(samples)), texts, images.__getitem__)
    return gallery, [text for of_image in texts for text in of_image]


@pytest.mark.parametrize("depth", [1, 2, 16])
@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_image_is_likely_and_shares_neither_name_nor_text(depth: int, seed: int) -> None:
    gallery, texts = gallery_of(tiny_model(), SAMPLES)
    drawn = draw_pairs(gallery, SAMPLES, texts, depth, seed)
    assert drawn.text.tolist() == list(range(len(texts)))
    assert torch.equal(drawn.right, gallery.image_of_text)
    cosine = gallery.texts.embed @ gallery.images.embed.T
    for text, right, wrong in zip(drawn.text.tolist(), drawn.right.tolist(), drawn.wrong.tolist(), strict=True):
        wrong_ones = [
            index
            for index, sample in enumerate(SAMPLES)
            if sample.image != SAMPLES[right].image and texts[text] not in sample.texts
        ]
        assert wrong in sorted(wrong_ones, key=lambda index: -float(cosine[text, index]))[:depth]
    again = draw_pairs(gallery, SAMPLES, texts, depth, seed)
    assert torch.equal(again.wrong, drawn.wrong)


def test_every_candidate_within_the_depth_is_drawn_sometimes() -> None:
    gallery, texts = gallery_of(tiny_model(), SAMPLES)
    sampled = {int(draw_pairs(gallery, SAMPLES, texts, 2, seed).wrong[-1]) for seed in range(40)}
    assert len(sampled) == 2


def test_a_text_for_which_no_image_is_wrong_is_left_out() -> None:
    samples = [Sample("a", (TEXTS[0], TEXTS[1])), Sample("b", (TEXTS[0],))]
    gallery, texts = gallery_of(tiny_model(), samples)
    drawn = draw_pairs(gallery, samples, texts)
    assert (drawn.text.tolist(), drawn.right.tolist(), drawn.wrong.tolist()) == ([1], [0], [1])
    gallery, texts = gallery_of(tiny_model(), samples[:1])
    assert len(draw_pairs(gallery, samples[:1], texts)) == 0


@pytest.mark.parametrize("batch", [3, 2048])
def test_pairs_are_scored_matches_first(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccmb.tasks.matching.negatives.BATCH", batch)
    model = tiny_model()
    gallery, texts = gallery_of(model, SAMPLES)
    drawn = draw_pairs(gallery, SAMPLES, texts)
    scores = score_pairs(R2D2Ranker(model), gallery, drawn)
    expected = [
        rank_pairs(model, gallery.images, gallery.texts, images, drawn.text).head_log_odds
        for images in (drawn.right, drawn.wrong)
    ]
    assert_same(scores, torch.cat(expected))
    assert drawn.labels.tolist() == [1] * len(texts) + [0] * len(texts)
