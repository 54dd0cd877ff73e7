"""Equal texts of several images: right answers in evaluation, by our convention and by the official one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.leaderboard.html import render_leaderboard
from ccmb.benchmark.leaderboard.markdown import as_csv, markdown
from ccmb.benchmark.leaderboard.rows import leaderboard
from ccmb.benchmark.results.result import read_result
from ccmb.benchmark.runner import run_benchmark
from ccmb.core.choices import Convention
from ccmb.core.files import read_json
from ccmb.data.equal_texts import text_id, text_key
from ccmb.inference.answers import equal_texts, ranks_by_order
from ccmb.inference.gallery import Gallery
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.retrieval.metrics import retrieval_report
from tests.helpers.galleries import Scores
from tests.helpers.runs import command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.tuning import save_start

EMPTY = torch.empty(0, 0)


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def gallery_of(cosine_TG: Tensor, texts: list[str], image_of_text: Tensor, convention: Convention) -> Gallery:
    """A gallery with exactly the given cosines: images are one-hot."""
    count, images = cosine_TG.shape
    towers = (
        TowerOutput(torch.eye(images), EMPTY.expand(images, 0, 0)),
        TowerOutput(cosine_TG, EMPTY.expand(count, 0, 0)),
    )
    return Gallery(*towers, image_of_text).with_convention(texts, convention)


def perfect(shared: int, convention: Convention, images: int = 100) -> dict[str, float]:
    """R@1 each way of a model that knows every text, on images of one text each, of which so many share it with one."""
    texts = [f"第{index // 2 if index < shared else index}句" for index in range(images)]
    knows_TG = torch.tensor([[float(one == other) for other in texts] for one in texts])
    report = retrieval_report(Scores(knows_TG), gallery_of(knows_TG, texts, torch.arange(images), convention), 100)
    assert (report["convention"], report["equal_texts"]) == (convention, shared if convention == "equal_texts" else 0)
    assert report["image_to_text"]["pre_ranking"] == report["image_to_text"]["ranking"]
    return {way: report[way]["pre_ranking"]["R@1"] for way in ("image_to_text", "text_to_image")}


@pytest.mark.parametrize("shared", [0, 2, 10, 30])
def test_equal_texts_are_right_answers(shared: int) -> None:
    assert perfect(shared, "equal_texts") == {"image_to_text": 100.0, "text_to_image": 100.0}


@pytest.mark.parametrize(("shared", "recall"), [(0, 100.0), (2, 99.0), (10, 95.0), (30, 85.0)])
def test_the_official_convention_gives_the_official_metrics(shared: int, recall: float) -> None:
    """The official evaluation and CLIP_benchmark give the same: of two equal texts, one is right."""
    assert perfect(shared, "official") == {"image_to_text": recall, "text_to_image": recall}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [0, 3])
def test_ranks_are_those_of_a_plain_search_for_an_equal_text(seed: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image_of_text = torch.arange(12).repeat_interleave(torch.randint(1, 5, (12,), generator=generator))
    texts = [f"{int(number)}" for number in torch.randint(0, 20, (len(image_of_text),), generator=generator)]
    cosine_TG = torch.rand(len(texts), 12, generator=generator)
    cosine_TG = (cosine_TG * levels).floor() / levels if levels else cosine_TG
    owners = {text: {int(i) for t, i in zip(texts, image_of_text, strict=True) if t == text} for text in texts}
    report = retrieval_report(Scores(cosine_TG), gallery_of(cosine_TG, texts, image_of_text, "equal_texts"), 10**6)
    ways = {
        "text_to_image": [(cosine_TG[t], [i in owners[texts[t]] for i in range(12)]) for t in range(len(texts))],
        "image_to_text": [(cosine_TG[:, i], [i in owners[text] for text in texts]) for i in range(12)],
    }
    for way, queries in ways.items():
        for k in (1, 5, 10):
            hits = 0
            for scores, right in queries:
                order = sorted(range(len(right)), key=lambda item: (-float(scores[item]), right[item]))
                hits += any(right[item] for item in order[:k])
            assert report[way]["ranking"][f"R@{k}"] == round(100 * hits / len(queries), 2)


def test_official_ties_go_by_the_order_of_the_gallery() -> None:
    score = torch.tensor([[0.5, 0.9, 0.9, 0.1, 0.9]])
    for right, rank in ((0, 4), (1, 3), (2, 2), (3, 5), (4, 1)):
        assert ranks_by_order(score, torch.arange(5)[None] == right, torch.arange(5)[None]).tolist() == [rank]


def test_without_equal_texts_nothing_is_changed() -> None:
    assert equal_texts(["甲", "乙", "丙"], torch.tensor([0, 0, 1])) is None
    assert equal_texts(["甲", "甲", "丙"], torch.tensor([0, 0, 1])) is None  # of one image
    equal = equal_texts(["甲", "乙", "甲"], torch.tensor([0, 0, 1]))
    assert equal is not None
    assert equal.count == 2
    assert equal.texts_of(torch.tensor([0, 1])).tolist() == [[True, True, True], [True, False, True]]


def test_equal_queries_of_several_images_each_have_all_of_them_right() -> None:
    # Query 0 fits images 0 and 1, query 1 says the same and fits image 2, as in MUGE.
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3]])
    equal = equal_texts(["红裙", "红裙", "白裙"], torch.tensor([0, 2, 3]), pairs)
    assert equal is not None
    assert equal.count == 2
    assert equal.images_of(torch.tensor([0, 1, 2]), 4).long().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_what_no_tokenizer_tells_apart_is_an_equal_text() -> None:
    assert text_key(" Nike  红色\u3000跑鞋\n") == text_key("nike 红色 跑鞋")
    assert text_id("A 车") == text_id("a  车") != text_id("a 车。")
    assert text_key("红色跑鞋，") != text_key("红色跑鞋,")
    assert 0 <= text_id("甲") < 2**63


@pytest.fixture
def shared_pairs(tmp_path: Path) -> Path:
    """Six images in two lines each; the first three have a text in common."""
    (tmp_path / "images").mkdir()
    lines = []
    for index, image in enumerate(tiny_images(6)):
        image.save(tmp_path / "images" / f"{index}.png")
        for text in (TEXTS[index], TEXTS[7] if index < 3 else TEXTS[index][2:]):
            lines.append({"image": f"{index}.png", "texts": [text], "split": "test"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def test_every_report_names_its_convention(shared_pairs: Path, tmp_path: Path, command) -> None:
    start, report = save_start(tmp_path / "start"), tmp_path / "report.json"
    for given, convention, equal in (((), "equal_texts", 3), (("--convention", "official"), "official", 0)):
        done = command("evaluate", "--model", start, "--data", shared_pairs, *given, "--json", report)
        assert done.code == 0
        assert f"convention: {convention}" in done.out
        report_retrieval = read_json(report)["retrieval"]
        assert (report_retrieval["convention"], report_retrieval["equal_texts"], report_retrieval["texts"]) == (
            convention,
            equal,
            12,
        )
        out = tmp_path / convention
        settings = Settings(draws=50, convention=convention)  # type: ignore[arg-type]
        [path] = run_benchmark([str(start)], [open_measured_set(f"own={shared_pairs}")], out, settings).measured
        result = read_result(path)
        assert result.retrieval is not None
        assert (result.retrieval.convention, result.retrieval.equal_texts) == (convention, equal)
        for way in ("text_to_image", "image_to_text"):
            assert read_json(path)["retrieval"][way] == report_retrieval[way]
        rows = [row for row in leaderboard([result]) if row.origin == "ours"]
        for text in (markdown(rows), as_csv(rows), render_leaderboard(rows)):
            assert f"convention {convention}" in text.replace("\\_", "_")
    refused = command("evaluate", "--model", start, "--data", shared_pairs, "--captions", "--convention", "official")
    assert (refused.code, "--convention is of retrieval" in refused.err) == (2, True)


def test_an_image_of_an_equal_text_is_no_wrong_one_for_the_match_score(shared_pairs: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) | {"texts": ["都一样"]} for line in shared_pairs.read_text("utf-8").splitlines()]
    shared_pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    from ccmb.r2d2.loading import load_model
    from ccmb.tasks.retrieval.evaluate import evaluate, open_data

    model = load_model(save_start(tmp_path / "start"))
    report = evaluate(
        R2D2Stages(*model), open_data(shared_pairs, shared_pairs.parent / "images", "test", ["texts"])
    ).report
    assert report["matching"]["auc"] is None  # no image is wrong for any text
    assert report["retrieval"]["image_to_text"]["ranking"]["R@1"] == 100
