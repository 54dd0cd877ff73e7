"""Three stages, `A + late:B?keep=K + C`, against the plain order of each: in a pipeline, a gallery and an index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.helpers.exact import TINY_ERROR
from tests.helpers.runs import command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2, save_two_towers

from ccmb.core.errors import UsageError
from ccmb.inference.gallery import encode_gallery
from ccmb.inference.models.open_model import open_model, with_ranker
from ccmb.inference.models.three_stages import ThreeStages
from ccmb.inference.pipeline import Pipeline
from ccmb.inference.stages import DEFAULT_KEEP
from ccmb.inference.two_stage import ordered_items
from ccmb.r2d2.modeling import R2D2Model
from ccmb.search.engine import open_engine
from ccmb.search.indexing.indexer import build_index
from ccmb.search.query import SearchQuery

pytestmark = pytest.mark.numeric

COUNT, DEPTH, KEEP = 12, 8, 3
IMAGES = tiny_images(COUNT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, a CLIP and two R2D2s."""
    for seed in (0, 1):
        save_r2d2(tmp_path / f"r2d2-{seed}", seed)
    save_two_towers(tmp_path / "clip", "clip")
    (tmp_path / "photos").mkdir()
    for row, image in enumerate(IMAGES):
        image.save(tmp_path / f"photos/{row}.png")
    return tmp_path


def stack(folder: Path, first: str, late: str, last: str) -> tuple[str, str]:
    """The name of a first stage, and of the two behind it."""
    return str(folder / first), f"late:{folder / late}?dim=6&keep={KEEP} + {folder / last}"


STACKS = {
    "one model": ("r2d2-0", "r2d2-0", "r2d2-0"),
    "three models": ("clip", "r2d2-0", "r2d2-1"),
    "found and ordered by one": ("r2d2-0", "r2d2-1", "r2d2-0"),
    "chosen and ordered by one": ("clip", "r2d2-1", "r2d2-1"),
}


def plainly(folder: Path, names: tuple[str, str, str], text: str) -> dict[int, float]:
    """The images that the last stage orders, and its scores, from models of one and of two stages."""
    first, late, last = (folder / name for name in names)
    alone = open_model(first)
    cosine_G = (alone.encode_texts([text]).embed @ alone.encode_images(range(COUNT), IMAGES.__getitem__).embed.T)[0]
    found = cosine_G.argsort(descending=True)[:DEPTH]
    chooser = open_model(f"{first} + late:{late}?dim=6")
    ranker = alone if first == last else open_model(f"{first} + {last}")
    zeros = torch.zeros_like(found)
    scores_K = chooser.score_pairs(
        chooser.encode_images(range(COUNT), IMAGES.__getitem__), chooser.encode_texts([text]), found, zeros
    ).ranking
    kept = found[scores_K.argsort(descending=True)[:KEEP]]
    images, texts = ranker.encode_images(range(COUNT), IMAGES.__getitem__), ranker.encode_texts([text])
    scores_F = ranker.score_pairs(images, texts, kept, zeros[:KEEP]).ranking
    return dict(zip(kept.tolist(), scores_F.tolist(), strict=True))


@pytest.mark.parametrize("names", STACKS.values(), ids=STACKS)
def test_each_stage_orders_what_the_one_before_it_left(names: tuple[str, str, str], folder: Path) -> None:
    first, ranker = stack(folder, *names)
    model = open_model(f"{first} + {ranker}")
    assert isinstance(model, ThreeStages)
    gallery = encode_gallery(model, range(COUNT), [[text] for text in TEXTS[:1] * COUNT], IMAGES.__getitem__)
    item_QK, score_QK = ordered_items(model, gallery, "text_to_image", DEPTH, COUNT)
    build_index([folder / "photos"], folder / "index", model)  # which keeps no states, for they would be rounded
    expected = plainly(folder, names, TEXTS[0])
    hits = Pipeline(model, model).search(TEXTS[0], IMAGES, rerank_k=DEPTH)
    with open_engine(folder / "index", first, ranker=ranker) as engine:
        answer = engine.search(SearchQuery(TEXTS[0], k=DEPTH, depth=DEPTH))
    assert (answer.ranked, answer.partial, len(answer.hits)) == (KEEP, False, DEPTH)
    assert [hit.match is None for hit in answer.hits] == [False] * KEEP + [True] * (DEPTH - KEEP)
    by_gallery = dict(zip(item_QK[0, :KEEP].tolist(), score_QK[0, :KEEP].tolist(), strict=True))
    assert by_gallery == pytest.approx(expected, abs=TINY_ERROR)
    assert {hit.index: hit.score for hit in hits[:KEEP]} == pytest.approx(expected, abs=TINY_ERROR)
    by_engine = {int(Path(hit.name).stem): hit.score for hit in answer.hits[:KEEP]}
    assert by_engine == pytest.approx(expected, abs=TINY_ERROR)
    for scores in (score_QK[0, :KEEP].tolist(), [hit.score for hit in answer.hits[:KEEP]]):
        assert scores == sorted(scores, reverse=True)


def test_of_one_model_each_image_is_read_once_and_its_kept_states_never_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, ranker = stack(folder, *STACKS["one model"])
    model = open_model(f"{first} + {ranker}")
    assert model.ranker is model.first is model.last
    reads, run = [], R2D2Model.run_image_tower
    monkeypatch.setattr(
        R2D2Model, "run_image_tower", lambda self, pixels: reads.append(len(pixels)) or run(self, pixels)
    )
    build_index([folder / "photos"], folder / "index", model, states_bytes=2**24)
    assert sum(reads) == COUNT
    with open_engine(folder / "index", first, ranker=ranker) as engine:
        engine.search(SearchQuery(TEXTS[0], depth=DEPTH))
        assert sum(reads) == COUNT
        for hit in engine.search(SearchQuery(TEXTS[0], depth=DEPTH)).hits[:1]:
            engine.delete([hit.key])
        assert len(list((folder / "index").glob("states*.db"))) == 2
        left = [engine.catalogue.states_for(stage.model).keys([hit.key]) for stage in engine.stages.in_order()]
        assert left == [set(), set()]


def test_what_is_kept_for_one_ranker_is_not_read_by_another(folder: Path) -> None:
    first, both = folder / "r2d2-0", f"{folder / 'r2d2-0'} + late:{folder / 'r2d2-0'}"
    build_index([folder / "photos"], folder / "index", open_model(both), states_bytes=2**24)
    with open_engine(folder / "index", first) as engine:
        hits = engine.search(SearchQuery(TEXTS[0], k=COUNT)).hits
    expected = {hit.index: hit.score for hit in Pipeline(open_model(first), open_model(first)).rerank(TEXTS[0], IMAGES)}
    assert {int(Path(hit.name).stem): hit.score for hit in hits} == pytest.approx(expected, abs=TINY_ERROR)


def test_a_budget_ends_the_choice_and_leaves_the_last_stage_its_share(folder: Path) -> None:
    first, ranker = stack(folder, *STACKS["one model"])
    build_index([folder / "photos"], folder / "index", open_model(f"{first} + {ranker}"), states_bytes=2**24)
    now = [0.0]
    with open_engine(folder / "index", first, ranker=ranker) as engine:
        chooser, last = engine.stages.in_order()
        for stage in (chooser, last):
            stage.clock, score = (lambda: now[0]), stage.model.score_pairs

            def slow(images, texts, image_N, text_N, cosine_N, score=score):
                now[0] += len(image_N)  # a second a pair
                return score(images, texts, image_N, text_N, cosine_N)

            stage.model.score_pairs = slow
            stage.costs.pair, stage.costs.image = 1.0, 0.0
        answer = engine.search(SearchQuery(TEXTS[0], k=DEPTH, depth=DEPTH, budget=7.0))
        assert now[0] <= 7.0
        assert (answer.partial, answer.ranked) == (True, KEEP)  # the choice saw three of eight in half of the time
        whole = engine.search(SearchQuery(TEXTS[0], k=DEPTH, depth=DEPTH, budget=1000.0))
        assert (whole.partial, whole.ranked) == (False, KEEP)


def test_the_commands_take_it(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    command = command_line(monkeypatch, capfd)
    lines = [{"image": f"{row}.png", "texts": [TEXTS[row % len(TEXTS)] + str(row)], "split": "val"} for row in range(4)]
    pairs, (first, ranker) = folder / "pairs.jsonl", stack(folder, *STACKS["one model"])
    pairs.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    images = "--images", folder / "photos", "--split", "val"
    of_lines = (
        ("evaluate", "--model", f"{first} + {ranker}", "--data", pairs, *images, "--rerank-k", 4),
        ("benchmark", "--model", f"three={first} + {ranker}", "--data", f"mine={pairs}", *images,
         "--rerank-k", 4, "--out", folder / "results"),
    )  # fmt: skip
    for line in of_lines:
        done = command(*line)
        assert done.code == 0, (line, done.err)
    result = json.loads((folder / "results/mine.val/three.json").read_text("utf-8"))
    assert result["cascade"] == KEEP
    done = command("index", folder / "photos", "--model", first, "--out", folder / "index")
    assert done.code == 0, done.err
    done = command("search", TEXTS[0], "--index", folder / "index", "--ranker", ranker, "-k", COUNT, "--json")
    assert done.code == 0, done.err
    assert sum(hit["match"] is not None for hit in json.loads(done.out)) == KEEP


def test_what_makes_no_three_stages_is_refused(folder: Path) -> None:
    first, late = str(folder / "r2d2-0"), f"late:{folder / 'r2d2-0'}"
    assert with_ranker(open_model(first), f"{late} + {first}").cascade.keep == DEFAULT_KEEP
    for ranker, message in (
        (f"{first} + {late}", "cannot stand between two stages; late interaction can"),
        (f"{late} + {late} + {first}", "4 stages; there are three at most"),
        (f"{late}?keep=3", "keep is of late interaction in front of another stage"),
        (f"{late}?keep=none + {first}", "keep=none is no number of 1 or more"),
        (f"{late}?dim=6&kept=3 + {first}", "unknown option 'kept'"),
        (f"{late} + {folder / 'clip'}", "has no second stage"),
    ):
        with pytest.raises(UsageError, match=message):
            open_model(f"{first} + {ranker}")
