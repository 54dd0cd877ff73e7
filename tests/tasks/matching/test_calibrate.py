"""Calibration: the error against plain loops, planted temperatures found again, and a fit that changes nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.cli.common.tables import calibration_table
from ccmb.core.errors import CcmbError
from ccmb.data.sample import Sample
from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.scoring import match_probability
from ccmb.inference.stages import R2D2Encoder
from ccmb.r2d2.folders.match_temperature import store_match_temperature, stored_match_temperature
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.tasks.matching import calibrate as calibration_module
from ccmb.tasks.matching.calibrate import calibrate, calibration_report
from ccmb.tasks.matching.calibration_error import calibration_error, estimate_calibration_error
from ccmb.tasks.matching.metrics import auc
from ccmb.tasks.matching.negatives import DrawnPairs, score_pairs
from ccmb.tasks.matching.temperature import fit_match_temperature, match_nll
from ccmb.tasks.retrieval.evaluate import evaluate, open_data
from tests.helpers.exact import PROOFS, same
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

chances = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def plain_error(pairs: list[tuple[float, bool]], bins: int) -> float:
    total = 0.0
    for index in range(bins):
        inside = [(p, y) for p, y in pairs if min(int(p * bins), bins - 1) == index]
        if inside:
            mean, share = sum(p for p, _ in inside) / len(inside), sum(y for _, y in inside) / len(inside)
            total += len(inside) / len(pairs) * abs(mean - share)
    return total


@given(chances, st.integers(1, 20))
def test_calibration_error_equals_a_plain_loop_over_bins(pairs: list[tuple[float, bool]], bins: int) -> None:
    probability = torch.tensor([p for p, _ in pairs], dtype=torch.double)
    label = torch.tensor([y for _, y in pairs])
    assert calibration_error(probability, label, bins) == same(plain_error(pairs, bins))


def test_calibration_error_of_a_case_computed_by_hand() -> None:
    # Two bins: |0.3 - 1/2| of two pairs below a half, |0.9 - 1/3| of three above.
    probability, label = torch.tensor([0.2, 0.4, 0.8, 0.9, 1.0]), torch.tensor([0, 1, 1, 0, 0])
    assert calibration_error(probability, label, bins=2) == same((2 * 0.2 + 3 * (0.9 - 1 / 3)) / 5)
    assert calibration_error(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 1, 1])) == 0
    assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([1, 0])) == 1


# --- the fit


def simulated_heads(count: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads whose probability is calibrated at the temperature, and labels drawn by it."""
    generator = torch.Generator().manual_seed(seed)
    heads = temperature * 2 * torch.randn(count, 2, generator=generator, dtype=torch.double)
    label = torch.rand(count, generator=generator) < match_probability(heads, temperature)
    return heads, label.long()


@settings(max_examples=12)
@given(st.floats(math.log(0.1), math.log(10)), st.integers(0, 99))
def test_a_planted_temperature_is_found_again(log_temperature: float, seed: int) -> None:
    heads, label = simulated_heads(8000, math.exp(log_temperature), seed)
    assert math.log(fit_match_temperature(heads, label)) == pytest.approx(log_temperature, abs=0.15)


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.booleans()), min_size=1, max_size=20))
def test_a_fit_is_within_its_bounds_and_as_likely_as_the_best_of_a_fine_grid(
    pairs: list[tuple[float, float, bool]],
) -> None:
    heads, label = torch.tensor([pair[:2] for pair in pairs]), torch.tensor([int(pair[2]) for pair in pairs])
    fitted = fit_match_temperature(heads, label)
    assert 0.05 - 1e-9 <= fitted <= 20 + 1e-9
    assert match_nll(heads, label, fitted) <= match_nll(heads, label, 1.0)
    grid = torch.linspace(math.log(0.05), math.log(20), 200).exp().tolist()
    best = min(match_nll(heads, label, temperature) for temperature in grid)
    assert match_nll(heads, label, fitted) <= best + 1e-3


def test_the_likelihood_is_that_of_the_probability_and_finite_where_that_rounds_to_nothing() -> None:
    heads, label = simulated_heads(50, 1.5)
    probability = match_probability(heads, 1.5)
    expected = -torch.where(label == 1, probability, 1 - probability).log().mean()
    assert match_nll(heads, label, 1.5) == same(float(expected))
    assert match_nll(torch.tensor([[-2000.0, -2000.0]]), torch.tensor([1]), 1.0) == same(2000)


# --- calibrating a model

IMAGES = 12


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pairs of PICTURES images with two texts each, beside their folder."""
    lines = []
    (tmp_path / "images").mkdir()
    for number, image in enumerate(tiny_images(IMAGES)):
        image.save(tmp_path / "images" / f"{number}.png")
        texts = [TEXTS[number % 8] + str(number), TEXTS[(number + 3) % 8] + str(number)]
        lines.append(json.dumps({"image": f"{number}.png", "texts": texts, "split": "val"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "pairs.jsonl"


def calibrated(model: R2D2Model, data: Path, **changes: Any) -> dict[str, Any]:
    return calibrate(R2D2Stages(model, tiny_processor()), data, data.parent / "images", "val", ["texts"], **changes)


def test_calibrating_fits_on_all_and_reports_on_the_half_of_the_images_that_the_fit_had_not_seen(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = 5 * torch.randn(IMAGES * 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float).double()
    label = (torch.arange(IMAGES * 4) < IMAGES * 2).long()
    heads += 6 * label[:, None] - 3
    image = torch.arange(IMAGES).repeat_interleave(2).repeat(2)  # of each pair's text
    fitted: list[list[int]] = []

    def fit(of_heads: torch.Tensor, of_label: torch.Tensor) -> float:
        places = [heads.tolist().index(row) for row in of_heads.tolist()]
        assert torch.equal(label[places], of_label)
        fitted.append(places)
        return fit_match_temperature(of_heads, of_label)

    monkeypatch.setattr(calibration_module, "score_pairs", lambda *_: heads)
    monkeypatch.setattr(calibration_module, "fit_match_temperature", fit)
    model = tiny_model(match_temperature=3.0)
    report = calibrated(model, data)
    half, everything = fitted
    other = [index for index in everything if index not in half]
    assert everything == list(range(IMAGES * 4))
    assert (report["pairs"], report["held_out"]["pairs"]) == (IMAGES * 4, IMAGES * 2)
    assert len(half) == IMAGES * 2
    assert not set(image[half].tolist()) & set(image[other].tolist())
    assert report["match_temperature"] == model.config.match_temperature == fit_match_temperature(heads, label)
    assert report["held_out"]["match_temperature"] == fit_match_temperature(heads[half], label[half])
    assert (report["unreadable"], report["at_bound"]) == ([], False)
    for stage, temperature in (("before", 1.0), ("after", report["held_out"]["match_temperature"])):
        metrics, probability = report["held_out"][stage], match_probability(heads[other].double(), temperature)
        expected = estimate_calibration_error(probability, label[other], image[other]).value
        assert metrics["calibration_error"] == pytest.approx(expected, abs=1e-4)  # of four places
        assert metrics["nll"] == pytest.approx(match_nll(heads[other], label[other], temperature), abs=1e-4)
        assert metrics["auc"] == pytest.approx(auc(probability, label[other]), abs=1e-4)
    assert report["held_out"]["after"]["nll"] < report["held_out"]["before"]["nll"]


def test_one_temperature_is_fitted_to_all_languages_and_each_says_what_its_own_would_change(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["zh"], line["en"] = [line["texts"][0]], [line.pop("texts")[1]]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(IMAGES * 4) < IMAGES * 2).long()
    heads = torch.randn(IMAGES * 4, 2, generator=generator).double() + 0.6 * (2 * label[:, None] - 1)
    heads[1::2] *= 8  # scores of English texts, every other one, are far too sure
    monkeypatch.setattr(calibration_module, "score_pairs", lambda *_: heads)
    report = calibrated(tiny_model(), data, languages={"zh": ("zh",), "en": ("en",)})
    assert report["match_temperature"] == fit_match_temperature(heads, label)
    of_zh, of_en = report["languages"]["zh"], report["languages"]["en"]
    assert (of_zh["pairs"], of_en["pairs"]) == (IMAGES * 2, IMAGES * 2)
    first = calibration_module._first_half([f"{row // 2}.png" for row in range(IMAGES * 2)], 0).repeat(2)
    is_en = (torch.arange(IMAGES * 4) % 2) == 1
    for one, chosen in ((of_zh, first & ~is_en), (of_en, first & is_en)):
        assert one["match_temperature"] == fit_match_temperature(heads[chosen], label[chosen])
    assert of_zh["match_temperature"] < of_en["match_temperature"]
    assert set(of_en["own"]) == set(of_en["common"]) == {"calibration_error", "nll", "auc"}
    assert "temperature" in calibration_table(report)


def test_calibrating_again_gives_the_same_and_changes_no_weight(data: Path) -> None:
    model = tiny_model()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    reports = [calibrated(model, data), calibrated(model, data)]  # the second time from a calibrated model
    assert reports[0] == reports[1]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_model_that_is_sure_of_every_pair_is_made_to_doubt(data: Path) -> None:
    model = tiny_model()
    for head in (model.text_image_match, model.image_text_match):
        torch.nn.init.normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(0))
        head.bias.data = torch.tensor([0.0, 6.0])
    errors = []
    for _ in range(2):
        evaluation = evaluate(
            R2D2Stages(model, tiny_processor()), open_data(data, data.parent / "images", "val", ["texts"])
        )
        errors.append(evaluation.report["matching"]["calibration_error"])
        calibrated(model, data)
    assert model.config.match_temperature == same(20)
    assert "at its bound" in calibration_table(calibrated(model, data))
    assert errors == [pytest.approx(0.5, abs=0.01), pytest.approx(0.57 - 0.5, abs=0.02)]


def test_evaluation_reports_error_and_temperature_of_the_model_as_it_is(data: Path) -> None:
    model = tiny_model(match_temperature=2.0)
    report = evaluate(
        R2D2Stages(model, tiny_processor()), open_data(data, data.parent / "images", "val", ["texts"])
    ).report
    assert set(report["matching"]) == {"auc", "calibration_error", "match_temperature"}
    assert report["matching"]["match_temperature"] == 2.0
    colder = tiny_model()
    plain = evaluate(
        R2D2Stages(colder, tiny_processor()), open_data(data, data.parent / "images", "val", ["texts"])
    ).report
    assert plain["matching"]["auc"] == report["matching"]["auc"]  # of the match score, as ever
    assert plain["retrieval"] == report["retrieval"]
    towers = tiny_model(cross_layers=0)
    report = evaluate(
        R2D2Stages(towers, tiny_processor()), open_data(data, data.parent / "images", "val", ["texts"])
    ).report
    assert "matching" not in report


def gallery_of(model: R2D2Model, samples: list[Sample]) -> tuple[Gallery, list[str]]:
    images, texts = tiny_images(len(samples)), [sample.texts for sample in samples]
    gallery = encode_gallery(R2D2Encoder(model, tiny_processor()), range(len(samples)), texts, images.__getitem__)
    return gallery, [text for of_image in texts for text in of_image]


def test_where_every_text_is_shared_there_is_no_calibration_error() -> None:
    samples = [Sample("a", (TEXTS[0],)), Sample("b", (TEXTS[0],))]
    model = tiny_model()
    gallery, texts = gallery_of(model, samples)
    assert calibration_report(R2D2Stages(model, tiny_processor()), gallery, samples, texts) == {
        "calibration_error": None,
        "match_temperature": 1.0,
    }


def test_an_evaluation_scores_a_bounded_number_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []

    def score(model: R2D2Model, gallery: Gallery, pairs: DrawnPairs) -> torch.Tensor:
        scored.append(len(pairs))
        return score_pairs(model, gallery, pairs)

    monkeypatch.setattr(calibration_module, "MAX_TEXTS", 3)
    monkeypatch.setattr(calibration_module, "score_pairs", score)
    model = tiny_model()
    samples = [Sample(str(number), (text,)) for number, text in enumerate(TEXTS)]
    gallery, texts = gallery_of(model, samples)
    calibration_report(R2D2Stages(model, tiny_processor()), gallery, samples, texts)
    assert scored == [3]


def rewrite(data: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Path:
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    data.write_text("\n".join(json.dumps(line) for line in change(lines)), encoding="utf-8")
    return data


def test_what_cannot_be_calibrated_is_one_clear_error(data: Path) -> None:
    for changes in ({"cross_layers": 0}, {"match_heads": False}):
        with pytest.raises(CcmbError, match="no second stage"):
            calibrated(tiny_model(**changes), data)
    model = tiny_model()
    torch.nn.init.constant_(model.text_image_match.weight, math.nan)
    with pytest.raises(CcmbError, match="not finite numbers"):
        calibrated(model, data)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda lines: lines[:9], 18),
        (lambda lines: [line | {"texts": ["一样"] * 2} for line in lines], 0),  # every image has every text
        (lambda lines: [lines[0] | {"texts": [f"文{n}" for n in range(30)]}], 0),  # one image alone
        (lambda lines: [line | {"image": "0.png"} for line in lines], 0),  # or the same one each time
    ],
)
def test_too_few_pairs_are_refused_with_their_number(data: Path, change: Any, count: int) -> None:
    model = tiny_model()
    with pytest.raises(CcmbError, match=f"{data}: split 'val' has {count} texts .*calibration needs 20") as raised:
        calibrated(model, rewrite(data, change))
    assert "\n" not in str(raised.value)
    assert model.config.match_temperature == 1.0


def test_a_fit_of_1_is_told_from_no_calibration(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "fit_match_temperature", lambda *_: 1.0)
    model = tiny_model()
    assert not model.config.is_calibrated
    report = calibrated(model, data)
    assert model.config.is_calibrated
    assert report["match_temperature"] == model.config.match_temperature == pytest.approx(1.0, abs=1e-15)


def test_images_that_cannot_be_read_are_listed_and_left_out(data: Path) -> None:
    (data.parent / "images" / "3.png").write_bytes(b"damaged")
    report = calibrated(tiny_model(), data)
    assert report["pairs"] == (IMAGES - 1) * 4
    assert [line.split(":")[0] for line in report["unreadable"]] == [str(data.parent / "images" / "3.png")]


# --- stored with the model


def test_storing_changes_one_key_of_the_configuration_and_nothing_else(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    store_match_temperature(tmp_path, 1.75)
    assert {path.name for path in tmp_path.iterdir()} == set(files)
    changed = {name for name, data in files.items() if (tmp_path / name).read_bytes() != data}
    assert changed == {"config.json"}
    before, after = json.loads(files["config.json"]), json.loads((tmp_path / "config.json").read_text())
    assert list(after.items()) == [*(before | {"match_temperature": 1.75}).items()]
    model, _ = load_model(tmp_path)
    assert (model.config.match_temperature, stored_match_temperature(tmp_path)) == (1.75, 1.75)
    model.save_pretrained(tmp_path / "again")
    assert stored_match_temperature(tmp_path / "again") == 1.75


def test_models_from_before_calibration_have_the_temperature_one(tmp_path: Path) -> None:
    assert stored_match_temperature(tmp_path) == 1.0
    (tmp_path / "config.json").write_text("{}")
    assert stored_match_temperature(tmp_path) == 1.0


def test_a_damaged_temperature_is_named_with_the_folder(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    store_match_temperature(tmp_path, -2.0)
    with pytest.raises(CcmbError, match=r"match_temperature is -2\.0; give a number above 0"):
        load_model(tmp_path)
