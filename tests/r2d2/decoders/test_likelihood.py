"""A decoder ranks by log p(text | image) - log p(text): against plain loops, in any order, saved and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.pipeline import Pipeline
from ccmb.inference.scoring import rank_pairs, ranking_scores
from ccmb.inference.stages import R2D2Ranker, RankOptions
from ccmb.r2d2.decoders import likelihood as likelihood_module
from ccmb.r2d2.decoders.likelihood import KNOWN, UNKNOWN, TextLikelihood
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.official import to_official
from ccmb.r2d2.onnx.export import export_model
from ccmb.r2d2.onnx.runtime import load_exported
from ccmb.r2d2.pretrained.second_stage import add_decoder, with_cross_encoders
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput
from tests.helpers.exact import PROOFS, TINY_ERROR, assert_same
from tests.helpers.runs import command_line, tiny_corpus
from tests.helpers.tiny import TEXTS, tiny_decoder_model, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS


def encoded(model: R2D2Model, texts: int = 5, images: int = 3) -> tuple[TowerOutput, TowerOutput]:
    processor = tiny_processor()
    with torch.no_grad():
        shown = model.encode_image(processor.images(tiny_images(images)).to(model.temperature.dtype))
        return shown, model.encode_text(**processor.texts(TEXTS[:texts]))


def decoder_of(model: R2D2Model) -> TextLikelihood:
    assert model.likelihood is not None
    return model.likelihood


def plain_log_likelihood(likelihood: TextLikelihood, ids: list[int], states_SC: Tensor) -> Tensor:
    """One token after the other, each from all before it."""
    rows, total = [int(likelihood.row_of_token[token]) for token in ids], torch.tensor(0.0)
    seen = likelihood.decoder.see(states_SC[None])
    for at in range(1, len(rows)):
        states, _ = likelihood.decoder(torch.tensor([rows[:at]]), seen)
        total = total + likelihood.decoder.logits(states[0, -1]).log_softmax(0)[rows[at]]
    return total


@torch.no_grad()
@pytest.mark.parametrize("shared", [1, 1000])
def test_the_log_odds_of_a_pair_are_its_likelihood_over_the_prior(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood_module, "SHARED", shared)
    monkeypatch.setattr(likelihood_module, "CHUNK", 2)
    model = tiny_decoder_model()
    images, texts = encoded(model)
    image_index, text_index = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 3, 1, 4, 0, 2])
    logits = model.match_text_image(images, texts, image_index, text_index)
    assert_same(model.match_image_text(images, texts, image_index, text_index), logits)
    assert_same(model.rank(images, texts, image_index, text_index).logits_image_text, logits)
    assert texts.mask is not None
    for (_, log_odds), image, text in zip(logits, image_index.tolist(), text_index.tolist(), strict=True):
        ids = texts.states[text, : int(texts.mask[text].sum()), 0].long().tolist()
        given = plain_log_likelihood(decoder_of(model), ids, images.states[image])
        prior = plain_log_likelihood(decoder_of(model), ids, decoder_of(model).no_image[0])
        assert_same(log_odds, given - prior)


def test_scores_do_not_depend_on_what_else_is_ranked() -> None:
    model = tiny_decoder_model()
    images, texts = encoded(model)
    image_index, text_index = (part.flatten() for part in torch.meshgrid(torch.arange(3), torch.arange(5)))
    together = rank_pairs(model, images, texts, image_index, text_index)
    for pair, (image, text) in enumerate(zip(image_index, text_index, strict=True)):
        alone = rank_pairs(model, images, texts, image[None], text[None])
        assert_same(alone.log_odds, together.log_odds[pair, None])


def test_the_rule_weighs_the_log_odds() -> None:
    model = tiny_decoder_model()
    model.config.ranking_rule, model.config.match_weight = "log_odds", 0.25
    images, texts = encoded(model)
    match = rank_pairs(model, images, texts, torch.tensor([0, 1]), torch.tensor([2, 2]))
    cosine = torch.tensor([0.3, 0.1])
    assert_same(ranking_scores(model, cosine, match), (cosine / model.temperature + 0.25 * match.log_odds).detach())
    assert_same(match.log_odds, 2 * match.head_log_odds[:, 0])  # the decoder stands for both heads


def test_the_prefix_that_all_texts_have_counts_for_nothing() -> None:
    processor = R2D2Processor(tiny_processor().tokenizer, 32, max_text_tokens=24, text_prefix="一只")
    model = tiny_model(cross_layers=0, text_prefix="一只")
    add_decoder(model, processor, 2, False, TEXTS)
    plain = len(tiny_processor().texts([TEXTS[0]])["input_ids"][0])
    skipped = model.config.decoder_skipped_tokens
    assert 0 < skipped <= len(processor.texts([TEXTS[0]])["input_ids"][0]) - plain + 1
    one, other = (processor.texts([TEXTS[0]])["input_ids"] for _ in range(2))
    other[:, 1 : 1 + skipped] = 7
    mask, decoder = torch.ones_like(one), decoder_of(model)
    assert_same(decoder(one, mask, None), decoder(other, mask, None))


def test_a_new_decoder_knows_the_tokens_of_its_texts_and_no_others() -> None:
    model = tiny_model(cross_layers=0)
    add_decoder(model, tiny_processor(), 1, True, TEXTS[:2])
    ids = tiny_processor().texts(TEXTS[:2])
    known = set(ids["input_ids"][ids["attention_mask"].bool()].tolist())
    rows = decoder_of(model).row_of_token
    assert {token for token, row in enumerate(rows.tolist()) if row != UNKNOWN} == known
    assert sorted(rows[list(known)].tolist()) == list(range(1, len(known) + 1))
    assert model.config.decoder_vocab_size == len(known) + 1
    assert model.image_standardize is not None
    assert model.text_standardize is None
    assert model.can_rank


def mixed(share: float) -> tuple[R2D2Model, Tensor, Tensor]:
    """A decoder that knows so much of the second text and all of the first, and both texts."""
    model = tiny_decoder_model()
    inputs = tiny_processor().texts(TEXTS[:2])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    others = set(ids[0].tolist())
    words = [token for token in ids[1, mask[1].bool()].tolist()[1:-1] if token not in others]
    forgotten = words[: len(words) - round(share * len(words))]
    decoder_of(model).row_of_token[forgotten] = UNKNOWN
    return model, ids, mask


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_text_that_the_decoder_cannot_read_stays_in_the_order_of_the_towers(share: float) -> None:
    model, ids, mask = mixed(share)
    likelihood = decoder_of(model)
    tokens, real = likelihood.row_of_token[ids[1]], mask[1].bool()
    known = int((tokens[real][1:-1] != UNKNOWN).sum()) / (int(real.sum()) - 2)
    readable = known >= KNOWN
    assert readable == (share == 1.0)
    assert likelihood.knows(ids, mask).tolist() == [True, readable]
    images, texts = encoded(model, 2, 3)
    index = torch.arange(3).repeat(2), torch.tensor([0, 0, 0, 1, 1, 1])
    log_odds = rank_pairs(model, images, texts, *index).log_odds
    assert (log_odds[:3] != 0).all()
    assert (log_odds[3:] != 0).all() == readable
    cosine = (images.embed[index[0]] * texts.embed[index[1]]).sum(1)
    scores = ranking_scores(model, cosine, rank_pairs(model, images, texts, *index), "log_odds")
    towers = cosine / model.temperature.detach()
    assert torch.allclose(scores[3:], towers[3:], rtol=1e-12, atol=0) != readable
    stages = R2D2Stages(model, tiny_processor())
    assert stages.unknown(list(TEXTS[:2])) == [False, not readable]
    assert stages.unknown([]) == []


def test_a_network_has_cross_encoders_or_a_decoder() -> None:
    with pytest.raises(UsageError, match=r"has cross encoders \(model\.cross_layers is 2\)"):
        add_decoder(tiny_model(), tiny_processor(), 2, False, TEXTS)
    with pytest.raises(UsageError, match="only one of them can rank"):
        tiny_model(decoder_layers=1, decoder_vocab_size=5)


def test_cross_encoders_are_added_to_towers() -> None:
    towers = tiny_model(cross_layers=0)
    whole = with_cross_encoders(towers, cross_layers=1, match_heads=True, mlm_head=False, standardize_states=True)
    assert whole.can_rank
    assert not whole.config.mlm_head
    assert towers.config.cross_layers == 0
    for name, tensor in towers.state_dict().items():
        assert_same(whole.state_dict()[name], tensor)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = tiny_decoder_model(standardize_states=True)
    model.config.rerank_k = 3
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path)
    assert loaded.config.rerank_k == 3
    for name, tensor in model.state_dict().items():
        assert_same(loaded.state_dict()[name], tensor)
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"decoder_layers": 2', '"decoder_layers": 1')
    )
    with pytest.raises(CcmbError, match=r"likelihood\.decoder.*\(decoder_layers is 1\)"):
        load_model(tmp_path)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("standardize_states", [False, True])
def test_an_export_ranks_as_the_network_does(standardize_states: bool, tmp_path: Path) -> None:
    model = tiny_decoder_model(standardize_states=standardize_states)
    ids = tiny_processor().texts(TEXTS[1:2])["input_ids"][0]
    decoder_of(model).row_of_token[ids[2:-1]] = UNKNOWN  # a text that it cannot read
    model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "export", "fp32")
    exported, _ = load_exported(tmp_path / "export")
    assert exported.can_rank
    for texts, count in ((5, 3), (2, 1)):
        images, words = encoded(model, texts, count)
        image_index, text_index = torch.arange(count).repeat_interleave(2), torch.arange(2).repeat(count)
        own_texts = exported.encode_text(**tiny_processor().texts(TEXTS[:texts]))
        own_images = exported.encode_image(tiny_processor().images(tiny_images(count)))
        expected = rank_pairs(model, images, words, image_index, text_index).log_odds
        result = rank_pairs(exported, own_images, own_texts, image_index, text_index).log_odds
        torch.testing.assert_close(result, expected, atol=100 * TINY_ERROR, rtol=0)  # a sum of some forty logarithms


@pytest.mark.usefixtures("float32")
def test_a_pipeline_ranks_with_it(tmp_path: Path) -> None:
    model = tiny_decoder_model()
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    pipeline = Pipeline.from_pretrained(tmp_path)
    hits = pipeline.search(TEXTS[0], tiny_images(4), top_k=4, rerank_k=2)
    assert [hit.match_score is not None for hit in hits] == [True, True, False, False]
    assert all(hit.probability is None for hit in hits)  # it is not calibrated


def test_what_asks_for_cross_encoders_is_refused(tmp_path: Path) -> None:
    model = tiny_decoder_model()
    with pytest.raises(UsageError, match=r"--cascade is of cross encoders.*ranks by a decoder"):
        R2D2Ranker(model, RankOptions(cascade=16))
    with pytest.raises(CcmbError, match="ranks by cross encoders; this one by a decoder"):
        to_official(model)


@pytest.mark.usefixtures("float32")
def test_candidates_are_chosen_in_bf16_and_ordered_in_fp32() -> None:
    model = tiny_decoder_model()
    images, texts = encoded(model)
    ranker = R2D2Ranker(model, RankOptions(precision="bf16"))
    assert ranker.cascade is not None
    index = torch.arange(3)
    cheap = ranker.cascade.scores(images, texts, index, index, torch.zeros(3))
    exact = ranker.rank_scores(images, texts, index, index, torch.zeros(3))
    assert not torch.equal(cheap, exact)
    torch.testing.assert_close(cheap, exact, atol=0.5, rtol=0)  # match scores are in [0, 1]


@pytest.mark.usefixtures("float32")
def test_the_model_says_how_many_candidates_an_evaluation_ranks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    corpus, folder = tiny_corpus(tmp_path / "corpus"), tmp_path / "model"
    command, model = command_line(monkeypatch, capfd), tiny_decoder_model()
    model.config.rerank_k = 3
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    for given, depth in (([], 3), (["--rerank-k", "2"], 2)):
        report = tmp_path / f"{depth}.json"
        pairs = ("--data", corpus / "pairs.jsonl", "--split", "train", "--text-field", "captions")
        assert command("evaluate", "--model", folder, *pairs, "--json", report, *given).code == 0
        assert json.loads(report.read_text())["retrieval"]["depth"] == depth


def test_a_bounded_decoder_knows_the_most_frequent_tokens() -> None:
    processor, texts = tiny_processor(), [TEXTS[0]] * 1 + [f"{TEXTS[0]}{mark}" for mark in "一二三"] + [TEXTS[1]]
    encoded = processor.texts(list(dict.fromkeys(texts)))
    counts = torch.bincount(encoded["input_ids"][encoded["attention_mask"].bool()])
    model = tiny_model(cross_layers=0)
    add_decoder(model, processor, 1, False, texts, max_tokens=6)
    assert model.config.decoder_vocab_size == 7  # and one for all others
    decoder = decoder_of(model)
    known = (decoder.row_of_token != UNKNOWN).nonzero()[:, 0]
    assert len(known) == 6
    others = [int(token) for token in counts.nonzero()[:, 0] if token not in known]
    assert counts[known].min() >= counts[others].max()
