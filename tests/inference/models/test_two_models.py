"""Two models as two stages: the first one's candidates in the order of the other's scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers.exact import TINY_ERROR
from tests.helpers.tiny import TEXTS, tiny_decoder_model, tiny_images, tiny_processor
from tests.helpers.two_towers import save_r2d2, save_two_towers

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.seen_images import seen_in
from ccmb.inference.gallery import encode_gallery
from ccmb.inference.models.open_model import label_and_source, open_model
from ccmb.inference.models.two_models import TwoModels
from ccmb.inference.pipeline import Pipeline
from ccmb.inference.two_stage import two_stage_ranks
from ccmb.r2d2.decoders.likelihood import UNKNOWN
from ccmb.search.indexing.indexer import build_index
from ccmb.tasks.common.seen import seen_by

pytest.importorskip("sentence_transformers")
from tests.helpers.pair_module import save_ranker

pytestmark = pytest.mark.numeric
IMAGES = tiny_images(5)


@pytest.fixture
def both(tmp_path: Path) -> TwoModels:
    first, ranker = save_two_towers(tmp_path / "clip", "chinese_clip"), save_ranker(tmp_path / "ranker")
    model = open_model(f"{first} + cross_encoder:{ranker}?trust_remote_code=yes")
    assert isinstance(model, TwoModels)
    return model


def test_the_ranker_alone_orders_and_its_scores_are_the_librarys(both: TwoModels, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    hits = Pipeline(both, both).search(TEXTS[0], IMAGES, rerank_k=3)
    alone = Pipeline(both.first, both.first).search(TEXTS[0], IMAGES)
    assert {hit.index for hit in hits[:3]} == {hit.index for hit in alone[:3]}
    assert [hit.index for hit in hits[3:]] == [hit.index for hit in alone[3:]]
    logits = CrossEncoder(str(tmp_path / "ranker"), trust_remote_code=True).predict(
        [(TEXTS[0], IMAGES[hit.index]) for hit in hits[:3]], activation_fn=torch.nn.Identity()
    )
    assert [hit.score for hit in hits[:3]] == pytest.approx(sorted(logits.tolist(), reverse=True), abs=1e-5)
    assert [hit.match_score for hit in hits[:3]] == pytest.approx(torch.tensor(logits).sigmoid().tolist(), abs=1e-5)
    assert {hit.probability for hit in hits} == {None}  # not calibrated


def test_a_calibration_gives_probabilities_and_changes_no_order(both: TwoModels) -> None:
    before = Pipeline(both, both).rerank(TEXTS[1], IMAGES)
    assert (both.is_calibrated, both.has_offset) == (False, True)
    both.calibrate(temperature=2.0, offset=0.5)
    assert (both.is_calibrated, both.match_temperature) == (True, 2.0)
    after = Pipeline(both, both).rerank(TEXTS[1], IMAGES)
    assert [hit.index for hit in after] == [hit.index for hit in before]
    expected = [float(torch.tensor((hit.score - 0.5) / 2).sigmoid()) for hit in before]
    assert [hit.probability for hit in after] == pytest.approx(expected, abs=1e-6)


def test_an_r2d2_ranks_for_another_model_by_its_match_score(tmp_path: Path) -> None:
    first, ranker = save_two_towers(tmp_path / "clip", "clip"), save_r2d2(tmp_path / "r2d2")
    both, alone = open_model(f"{first} + {ranker}"), open_model(ranker)
    scores = {
        model.name: {hit.index: hit.match_score for hit in Pipeline(model, model).rerank(TEXTS[0], IMAGES)}
        for model in (both, alone)
    }
    assert scores[both.name] == pytest.approx(scores[alone.name], abs=TINY_ERROR)
    hits = Pipeline(both, both).rerank(TEXTS[0], IMAGES)
    assert [hit.match_score for hit in hits] == sorted((hit.match_score or 0 for hit in hits), reverse=True)
    assert hits[0].cosine != pytest.approx(
        {hit.index: hit.cosine for hit in Pipeline(alone, alone).rerank(TEXTS[0], IMAGES)}[hits[0].index]
    )  # it is the first model's


def test_names_and_identities(both: TwoModels, tmp_path: Path) -> None:
    assert both.name == "clip + cross_encoder:ranker"
    assert label_and_source(f"mine={tmp_path / 'clip'} + cross_encoder:x") == (
        "mine",
        f"{tmp_path / 'clip'} + cross_encoder:x",
    )
    assert (both.source, both.weights_id) == (str(tmp_path / "clip"), both.first.weights_id)
    other = open_model(
        f"{tmp_path / 'clip'} + cross_encoder:{save_ranker(tmp_path / 'other', seed=1)}?trust_remote_code=yes"
    )
    assert len({both.fingerprint, other.fingerprint, both.first.fingerprint}) == 3


def test_what_a_decoder_cannot_read_stays_in_the_order_of_the_first_stage(tmp_path: Path) -> None:
    clip, folder = save_two_towers(tmp_path / "clip", "chinese_clip"), tmp_path / "decoder"
    decoder = tiny_decoder_model(ranking_rule="log_odds")
    assert decoder.likelihood is not None
    decoder.likelihood.row_of_token[tiny_processor().texts(TEXTS[:1])["input_ids"][0, 1:-1]] = UNKNOWN
    decoder.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    model = open_model(f"{clip} + {folder}")
    alone = open_model(clip)
    expected = [hit.index for hit in Pipeline(alone, alone).search(TEXTS[0], IMAGES)]
    assert [hit.index for hit in Pipeline(model, model).search(TEXTS[0], IMAGES, rerank_k=len(IMAGES))] == expected
    texts = [[TEXTS[0]] if row == expected[1] else [] for row in range(len(IMAGES))]  # of the second by cosine
    gallery = encode_gallery(model, range(len(IMAGES)), texts, IMAGES.__getitem__)
    ranks = two_stage_ranks(model, gallery, "text_to_image", len(IMAGES))
    assert ranks.ranking is not None
    assert ranks.ranking.tolist() == ranks.pre_ranking.tolist() == [2]
    assert model.unknown([TEXTS[0]]) == [True]


def test_an_index_is_made_with_both_and_keeps_no_states_of_a_ranker_that_reads_none(
    both: TwoModels, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for row, image in enumerate(IMAGES):
        image.save(tmp_path / f"photos/{row}.png")
    report = build_index([tmp_path / "photos"], tmp_path / "index", both, states_bytes=2**24)
    assert report.added == len(IMAGES)
    assert not list((tmp_path / "index").glob("states*"))


def test_what_cannot_be_two_stages_is_refused(tmp_path: Path) -> None:
    clip, ranker = (
        str(save_two_towers(tmp_path / "clip", "clip")),
        f"cross_encoder:{save_ranker(tmp_path / 'ranker')}?trust_remote_code=yes",
    )
    for name, error, message in (
        (ranker, UsageError, "encodes nothing; give it as a second stage"),
        (f"{clip} + {clip}", UsageError, "has no second stage"),
        (f"{clip} + {ranker} + {ranker}", UsageError, "cannot stand between two stages"),
        (f"{clip} + cross_encoder:{tmp_path / 'none'}", CcmbError, "cannot open it"),
        (f"{clip} + {ranker}&depth=3", UsageError, "unknown option 'depth'"),
        (f"{clip} + cross_encoder:{tmp_path / 'ranker'}", CcmbError, "trust_remote_code"),
        (f"{clip} + cross_encoder:some/one?trust_remote_code=yes", UsageError, "at a revision alone"),
        (f"sentence_transformers:{clip}?dim=many", UsageError, "dim=many is no number"),
    ):
        with pytest.raises(error, match=message):
            open_model(name)


# --- models of sentence-transformers as a first stage


def test_a_model_of_sentence_transformers_encodes_as_the_library_does(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = save_two_towers(tmp_path / "clip", "clip")
    library = SentenceTransformer(str(folder), device="cpu")
    for options, dim in (("", None), ("?dim=5", 5)):
        opened = open_model(f"sentence_transformers:{folder}{options}")
        texts, images = opened.encode_texts(TEXTS[:3]).embed, opened.encode_images(range(5), IMAGES.__getitem__).embed
        for mine, inputs in ((texts, TEXTS[:3]), (images, IMAGES)):
            expected = library.encode(list(inputs), convert_to_tensor=True, normalize_embeddings=True, truncate_dim=dim)
            torch.testing.assert_close(mine, expected.to(mine), rtol=0, atol=TINY_ERROR)
        assert opened.embed_dim == texts.shape[1] == (dim or 12)
        assert opened.source == f"sentence_transformers:{folder}{options}"


def test_an_r2d2_is_a_model_of_sentence_transformers_too(tmp_path: Path) -> None:
    folder = str(save_r2d2(tmp_path / "r2d2"))
    library, own = open_model(f"sentence_transformers:{folder}"), open_model(folder)
    torch.testing.assert_close(
        library.encode_texts(TEXTS[:3]).embed, own.encode_texts(TEXTS[:3]).embed, rtol=0, atol=TINY_ERROR
    )
    images = [model.encode_images(range(5), IMAGES.__getitem__).embed for model in (library, own)]
    torch.testing.assert_close(*images, rtol=0, atol=TINY_ERROR)


def test_what_either_of_two_models_was_trained_on_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, name in ((first, "one"), (second, "other")):
        folder.mkdir()
        seen_in(name, "train", [f"{len(name)}000092795_{len(name)}.jpg"]).write(folder)
    both = seen_by(f"{first} + {second}")
    assert both is not None
    assert [read.name for read in both.read] == ["one train", "other train"]
    assert seen_by(f"{first} + cross_encoder:nowhere") == seen_by(first)
    assert seen_by(f"{tmp_path / 'none'} + cross_encoder:nowhere") is None
