"""Captions of images: candidates, re-ranking by the match score, unreadable images, the report, the verbs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ccmb.cli.main import app
from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.tasks.captioning import predict as captioning
from ccmb.tasks.captioning.evaluate import captioning_report, evaluate_captions
from ccmb.tasks.captioning.predict import SPACE, Candidate, caption_images, decoding_for, rank_candidates
from ccmb.tasks.common.datasets import open_set
from ccmb.tasks.matching.predict import match_images
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.exact import PROOFS, same
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor
from tests.helpers.tuning import save_pairs

pytestmark = PROOFS


@pytest.fixture(scope="module")
def model() -> R2D2Captioner:
    return R2D2Captioner.from_r2d2(tiny_model(), tiny_processor())


@pytest.fixture(scope="module")
def folder(model: R2D2Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner") / "model"
    save_model(folder, model, tiny_processor())
    return folder


def test_candidates_come_in_the_order_of_the_ranking(model: R2D2Captioner) -> None:
    images, options = tiny_images(3), decoding_for(model, decode="sample", candidates=6)
    plain = caption_images(model, tiny_processor(), images, options, rerank=False)
    ranked = caption_images(model, tiny_processor(), images, options, rerank=True)
    for before, after, image in zip(plain, ranked, images, strict=True):
        logs = [candidate.log_probability for candidate in before.candidates]
        assert logs == sorted(logs, reverse=True)
        assert before.candidates[0].match_score is None
        assert {candidate.text for candidate in before.candidates} == {candidate.text for candidate in after.candidates}
        assert after.decoded is not None
        assert after.decoded.text == before.text
        totals = [one.log_probability + 5 * (one.cosine + one.match_score) for one in after.candidates]  # type: ignore[operator]
        assert totals == sorted(totals, reverse=True)
        assert [candidate.score for candidate in after.candidates] == same(totals)
        assert after.text == after.candidates[0].text
        [match] = match_images(R2D2Stages(model, tiny_processor()), after.candidates[0].text, [image])
        assert after.candidates[0].match_score == same(match.score)


def test_without_match_heads_the_cosine_orders() -> None:
    model = R2D2Captioner.from_r2d2(tiny_model(match_heads=False), tiny_processor())
    options = decoding_for(model, decode="sample", candidates=5)
    for caption in caption_images(model, tiny_processor(), tiny_images(2), options, match_weight=1e6):
        cosines = [candidate.cosine for candidate in caption.candidates]
        assert cosines == sorted(cosines, key=lambda cosine: -(cosine or 0))
        assert caption.candidates[0].match_score is None


def test_unreadable_images_are_marked_and_the_others_captioned_as_ever(model: R2D2Captioner, tmp_path: Path) -> None:
    good = []
    for index, image in enumerate(tiny_images(2)):
        good.append(tmp_path / f"{index}.png")
        image.save(good[-1])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    alone = caption_images(model, tiny_processor(), good)
    mixed = caption_images(model, tiny_processor(), [good[0], bad, good[1]])
    assert [caption.text for caption in mixed] == [alone[0].text, None, alone[1].text]
    assert "bad.png" in str(mixed[1].error)
    with pytest.raises(CcmbError, match=r"bad\.png"):
        caption_images(model, tiny_processor(), [bad])


def test_captions_beyond_the_context_are_refused(model: R2D2Captioner) -> None:
    with pytest.raises(UsageError, match="max_length is 23; this model writes captions of up to 22 tokens"):
        decoding_for(model, 23)
    assert decoding_for(model).max_length == 22


@pytest.mark.parametrize(
    ("decoded", "text"), [("一 只 猫", "一只猫"), ("a red cat 在 t 恤 上", "a red cat在t恤上"), ("红色 的", "红色的")]
)
def test_chinese_loses_its_spaces_and_english_keeps_them(decoded: str, text: str) -> None:
    assert SPACE.sub("", decoded) == text


def test_the_report_tells_what_re_ranking_changed(
    model: R2D2Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that writes the right text second, and a second stage that knows it."""
    data = save_pairs(tmp_path / "mine")
    dataset = open_set(str(data / "pairs.jsonl"), "val", ["texts"], data / "images")
    seen: list[str] = []

    def write(*_: Any, **__: Any) -> list[list[Candidate]]:
        seen.append(TEXTS[len(seen)])
        return [[Candidate("一只猫", -1.0), Candidate(seen[-1], -2.0)]]

    def rank(_: Any, __: Any, ___: Any, written: Sequence[Sequence[Candidate]], **____: Any) -> list[list[Candidate]]:
        ranked = [replace(one, match_score=0.5 + index / 2, cosine=0.0) for index, one in enumerate(written[0])]
        return [ranked[::-1]]

    monkeypatch.setattr(captioning, "write_captions", write)
    monkeypatch.setattr(captioning, "rank_candidates", rank)
    monkeypatch.setattr("ccmb.tasks.captioning.evaluate.BATCH", 1)
    report = evaluate_captions(model, tiny_processor(), dataset, decoding_for(model, candidates=2))["captioning"]
    assert (report["pictures"], report["references"]) == (8, 16)
    assert report["BLEU-4"] == same(100)
    assert report["match_score"] == 1
    assert report["before_reranking"]["match_score"] == 0.5
    assert report["before_reranking"]["CIDEr-D"] < report["CIDEr-D"]
    low, high = report["interval"]["CIDEr-D"]
    assert low <= report["CIDEr-D"] <= high
    assert "things" not in report


def test_nothing_to_measure_is_an_error() -> None:
    from ccmb.tasks.captioning.decoding import Decoding
    from ccmb.tasks.captioning.evaluate import CaptionResults

    with pytest.raises(CcmbError, match="no captions"):
        captioning_report(CaptionResults([], []), Decoding(), False)


def test_ranking_matches_each_candidate_with_its_own_image(model: R2D2Captioner) -> None:
    processor, images = tiny_processor(), tiny_images(3)
    with torch.inference_mode():
        encoded = model.encode_image(processor.images(images))
        written = [[Candidate(text, 0.0) for text in TEXTS[: count + 1]] for count in range(3)]
        ranked = rank_candidates(model, processor, encoded, written)
    for image, candidates in zip(images, ranked, strict=True):
        for candidate in candidates:
            [match] = match_images(R2D2Stages(model, processor), candidate.text, [image])
            assert (candidate.cosine, candidate.match_score) == same((match.cosine, match.score))


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_ccmb_caption(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    result = run("caption", tmp_path / "red.png", tmp_path / "bad.png", "--model", folder, "--beams", 3, "--json")
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)
    assert first["text"] == first["candidates"][0]["text"]
    assert {"text", "log_probability", "cosine", "match_score", "score"} == first["candidates"][0].keys()
    assert second["text"] is None
    assert "bad.png" in second["error"]
    line = run("caption", tmp_path / "red.png", "--model", folder, "--decode", "greedy", "--no-rerank").stdout.strip()
    assert line.startswith(str(tmp_path / "red.png"))
    assert "match score" not in line


def test_ccmb_evaluate_captions(folder: Path, tmp_path: Path) -> None:
    data, file = save_pairs(tmp_path / "mine"), tmp_path / "report.json"
    arguments = ("evaluate", "--model", folder, "--data", data / "pairs.jsonl", "--split", "val", "--captions")
    result = run(*arguments, "--json", file)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text(encoding="utf-8"))["captioning"]
    assert {"CIDEr-D", "BLEU-4", "ROUGE-L", "distinct-2", "match_score", "words", "interval"} < report.keys()
    assert "CIDEr-D" in result.stdout
    assert isinstance(run(*arguments, "--depth", 3).exception, UsageError)
    for option in (("--beams", 3), ("--no-rerank",), ("--max-length", 4)):
        refused = run(*arguments[:-1], *option).exception
        assert isinstance(refused, UsageError)
        assert "add --captions" in str(refused)
    assert run(*arguments, "--limit", 2, "--json", file).exit_code == 0
    assert json.loads(file.read_text(encoding="utf-8"))["captioning"]["pictures"] == 2
    for options, message in ((("--limit", 2), "add --captions or --generate"), (("--best-of", 2), "add --generate")):
        refused = run(*arguments[:-1], *options).exception
        assert isinstance(refused, UsageError)
        assert message in str(refused)
