"""Any model through every verb: index, search, serve, evaluate, benchmark, match and classify."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.inference.models.open_model import open_model
from ccmb.serving.app import make_app
from ccmb.serving.server import opened
from tests.helpers.exact import TINY_ERROR
from tests.helpers.runs import Command, command_line
from tests.helpers.serving import asked, post
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import BUILDS, save_r2d2, save_two_towers
from tests.helpers.wukong import save_wukong

pytestmark = pytest.mark.numeric

COUNT = 6


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(tiny_images(COUNT)):
        image.save(folder / f"{index}.png")
    lines = [{"image": f"{index}.png", "texts": [TEXTS[index]], "split": "test"} for index in range(COUNT)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    return folder


def model_of(kind: str, folder: Path) -> str:
    if kind == "wukong":
        return save_wukong(folder / kind, "token_wise")
    return str(save_r2d2(folder / kind) if kind == "r2d2" else save_two_towers(folder / kind, kind))


@pytest.mark.parametrize("kind", ["r2d2", "wukong", *BUILDS])
def test_every_verb_takes_it(kind: str, photos: Path, tmp_path: Path, command: Command) -> None:
    def run(*arguments: object) -> Any:
        outcome = command(*arguments)
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out) if arguments[-1] == "--json" else None

    name, index, pairs = model_of(kind, tmp_path), tmp_path / "index", tmp_path / "pairs.jsonl"
    ranks = kind in ("r2d2", "wukong")
    model = open_model(name)
    cosine_N = (
        model.encode_images(range(COUNT), tiny_images(COUNT).__getitem__).embed @ model.encode_texts(TEXTS[:1]).embed[0]
    )
    by_cosine = [f"{row}.png" for row in cosine_N.argsort(descending=True).tolist()]

    assert run("index", photos, "--model", name, "--out", index, "--json")["added"] == COUNT
    hits = run("search", TEXTS[0], "--index", index, "--no-rank", "-k", COUNT, "--json")
    assert [hit["name"] for hit in hits] == by_cosine
    torch.testing.assert_close(
        torch.tensor([hit["cosine"] for hit in hits]), cosine_N.sort(descending=True).values, rtol=0, atol=TINY_ERROR
    )
    assert all((hit["match"] is not None) == ranks for hit in run("search", TEXTS[0], "--index", index, "--json"))

    with opened(index, name) as (work, engine):
        app = make_app(work, engine)
        answer = post(app, "/search", {"text": TEXTS[0], "k": COUNT, "rank": False}).json()
        assert [hit["name"] for hit in answer["hits"]] == by_cosine
        body = {"text": TEXTS[0], "pictures": [base64.b64encode((photos / "0.png").read_bytes()).decode()]}
        (matched,) = post(app, "/match", body).json()["results"]
        assert matched["cosine"] == pytest.approx(float(cosine_N[0]), abs=TINY_ERROR)
        assert (matched["match"] is not None, matched["probability"]) == (ranks, None)

    (match,) = run("match", TEXTS[0], photos / "0.png", "--model", name, "--json")
    assert match["cosine"] == pytest.approx(float(cosine_N[0]), abs=TINY_ERROR)
    (classes,) = run("classify", photos / "0.png", "--model", name, "--classes", "猫,狗,船", "--json")
    assert {guess["name"] for guess in classes["classes"]} == {"猫", "狗", "船"}

    run(
        "evaluate",
        "--model",
        name,
        "--data",
        pairs,
        "--images",
        photos,
        "--split",
        "test",
        "--json",
        tmp_path / "report.json",
    )
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text("utf-8"))
    run("benchmark", "--model", name, "--data", f"own={pairs}", "--images", photos, "--out", tmp_path / "results")
    (result,) = (tmp_path / "results").glob("own.test/*.json")
    measured = json.loads(result.read_text("utf-8"))
    assert (
        report["retrieval"]["text_to_image"]["pre_ranking"]["R@1"]
        == measured["retrieval"]["text_to_image"]["pre_ranking"]["R@1"]
    )
    assert (report["retrieval"]["text_to_image"]["ranking"] is not None) == ranks


def test_a_chinese_clip_and_a_cross_encoder_search_over_http_with_no_match(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("sentence_transformers")
    from tests.helpers.pair_module import save_ranker

    name, index = model_of("chinese_clip", tmp_path), tmp_path / "index"
    ranker = f"cross_encoder:{save_ranker(tmp_path / 'ranker')}?trust_remote_code=yes"
    lines = [
        {"image": f"{row}.png", "texts": [f"{text}{mark}" for mark in "一二三四五"], "split": "val"}
        for row, text in enumerate(TEXTS[:COUNT])
    ]
    (tmp_path / "val.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    assert command("index", photos, "--model", name, "--out", index).code == 0

    search = "search", TEXTS[0], "--index", index, "--ranker", ranker
    refused = command(*search, "--min-probability", "0.5")
    assert (refused.code, "calibrated" in refused.err) == (2, True)
    calibrate = "calibrate", "--model", name, "--ranker", ranker, "--data", tmp_path / "val.jsonl", "--images", photos
    assert "give --index" in command(*calibrate).err
    fitted = command(*calibrate, "--index", index, "--json", tmp_path / "calibration.json")
    assert fitted.code == 0, fitted.err
    report = json.loads((tmp_path / "calibration.json").read_text("utf-8"))
    assert set(report) >= {"match_temperature", "offset", "held_out"}

    hits = json.loads(command(*search, "-k", COUNT, "--json").out)
    expected = [torch.tensor((hit["score"] - report["offset"]) / report["match_temperature"]).sigmoid() for hit in hits]
    assert [hit["probability"] for hit in hits] == pytest.approx([float(value) for value in expected], abs=1e-5)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    with opened(index, name, ranker=ranker) as (work, engine):
        app = make_app(work, engine)
        answer = post(app, "/search", {"text": TEXTS[0], "k": COUNT}).json()
        assert [hit["name"] for hit in answer["hits"]] == [hit["name"] for hit in hits]
        assert answer["ranked"] == COUNT
        assert asked(app, lambda http: http.get("/about")).json()["ranker"].startswith("cross_encoder:ranker")
        above = max(hit["probability"] for hit in hits) + 1e-3
        nothing = post(app, "/search", {"text": TEXTS[0], "min_probability": min(1.0, above)}).json()
        assert (nothing["hits"], nothing["no_match"]) == ([], True)
        some = post(
            app, "/search", {"text": TEXTS[0], "k": COUNT, "min_probability": hits[2]["probability"] - 1e-6}
        ).json()
        assert len(some["hits"]) == 3

    both = f"{name} + {ranker}"
    assert (
        command(
            "evaluate",
            "--model",
            both,
            "--data",
            tmp_path / "val.jsonl",
            "--split",
            "val",
            "--images",
            photos,
            "--json",
            tmp_path / "r.json",
        ).code
        == 0
    )
    assert (
        command(
            "benchmark",
            "--model",
            both,
            "--data",
            f"own={tmp_path / 'val.jsonl'}",
            "--images",
            photos,
            "--split",
            "val",
            "--out",
            tmp_path / "results",
        ).code
        == 0
    )
    (result,) = (tmp_path / "results").glob("own.val/*.json")
    evaluated, measured = (json.loads(path.read_text("utf-8"))["retrieval"] for path in (tmp_path / "r.json", result))
    for direction in ("text_to_image", "image_to_text"):
        assert evaluated[direction] == measured[direction]
        assert measured[direction]["ranking"] is not None
