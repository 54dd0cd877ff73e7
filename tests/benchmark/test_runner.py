"""`ccmb benchmark`: one result a model and set, nothing done twice, nothing done wrong after a change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.benchmark.evaluation import retrieval as retrieval_measuring
from ccmb.benchmark.evaluation.feature_cache import open_gallery, store_gallery
from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.leaderboard.rows import leaderboard
from ccmb.benchmark.registry import BENCHMARKS
from ccmb.benchmark.results.result import read_result
from ccmb.benchmark.runner import Outcome, run_benchmark
from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.models.open_model import open_model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.stages import RankOptions
from ccmb.r2d2.loading import load_model
from ccmb.tasks.retrieval.evaluate import evaluate, open_data
from tests.helpers.benchmark_data import COUNT, save_set
from tests.helpers.downstream_samples import write_cna, write_flickr8k, write_muge
from tests.helpers.runs import Command, command_line
from tests.helpers.two_towers import save_r2d2, save_two_towers

FEW = Settings(depth=3, draws=50)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return save_set(tmp_path / "drawn")


@pytest.fixture
def r2d2(tmp_path: Path) -> str:
    return str(save_r2d2(tmp_path / "r2d2"))


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(save_two_towers(tmp_path / "clip", "chinese_clip"))


def run(models: list[str], pairs: Path, out: Path, settings: Settings = FEW) -> Outcome:
    return run_benchmark(models, [open_measured_set(f"drawn={pairs}")], out, settings)


def test_metrics_are_those_of_evaluate(pairs: Path, r2d2: str, tmp_path: Path) -> None:
    [path] = run([r2d2], pairs, tmp_path / "out").measured
    result = read_result(path)
    report = evaluate(
        R2D2Stages(*load_model(r2d2)), open_data(pairs, pairs.parent / "images", "test", ["texts"]), 3
    ).report["retrieval"]
    for direction in ("text_to_image", "image_to_text", "mean_recall"):
        assert getattr(result.retrieval, direction) == report[direction]
    assert result.retrieval.gain == report["gain_R@1"]
    for stage in result.stages:
        low, high = result.retrieval.mean_recall_interval[stage]
        assert low <= result.retrieval.mean_recall[stage] <= high
        for direction, ranks in result.retrieval.ranks.items():
            share = 100 * sum(rank <= 1 for rank in ranks[stage]) / len(ranks[stage])
            assert result.retrieval.recalls(direction, stage)["R@1"] == pytest.approx(share, abs=0.006)
            low, high = result.retrieval.intervals[direction][stage]["R@1"]
            assert low <= share <= high


def test_a_result_says_where_it_comes_from(pairs: Path, r2d2: str, clip: str, tmp_path: Path) -> None:
    settings = Settings(depth=3, draws=50, setting="zero-shot", seed=4)
    first, second = (
        read_result(path) for path in run([r2d2, f"peer={clip}"], pairs, tmp_path / "out", settings).measured
    )
    assert (first.model.name, first.model.kind, first.model.stages, first.depth) == ("r2d2", "R2D2", 2, 3)
    assert (second.model.name, second.model.kind, second.model.stages, second.depth) == (
        "peer",
        "chinese_clip",
        1,
        None,
    )
    assert (first.model.context_length, second.model.context_length) == (24, 52)
    assert second.retrieval.text_to_image["ranking"] is None
    assert list(second.retrieval.ranks["text_to_image"]) == ["pre_ranking"]
    for result in (first, second):
        assert (result.data.images, result.data.texts, result.data.split) == (COUNT, COUNT + COUNT // 2, "test")
        assert (result.setting, result.seed, result.draws, result.prompt_set) == ("zero-shot", 4, 50, None)
        assert result.hardware["torch"] == torch.__version__
        assert result.commit
        assert set(result.seconds) == {"encode", "rank", "total"}
    assert first.data.revision == second.data.revision
    assert first.model.fingerprint != second.model.fingerprint


def test_what_is_done_is_skipped_and_what_has_changed_is_not(
    pairs: Path, clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, r2d2 = tmp_path / "out", str(save_r2d2(tmp_path / "made"))
    before = run([r2d2, clip], pairs, out)
    assert (len(before.measured), before.skipped) == (2, [])
    encoded: list[str] = []
    monkeypatch.setattr(retrieval_measuring, "store_gallery", _counted(encoded, store_gallery))
    again = run([r2d2, clip], pairs, out)
    assert (again.measured, again.skipped) == ([], before.measured)
    # Another depth is another second stage, of the same features; a model without one has nothing new.
    deeper = run([r2d2, clip], pairs, out, Settings(depth=5, draws=50))
    assert (deeper.measured, deeper.skipped, encoded) == (before.measured[:1], before.measured[1:], [])
    save_r2d2(tmp_path / "made", seed=1)
    assert run([r2d2, clip], pairs, out, Settings(depth=5, draws=50)).measured == before.measured[:1]
    assert encoded == ["made"]
    save_set(pairs.parent, seed=1)
    assert len(run([r2d2, clip], pairs, out).measured) == 2
    # A result that is cut short, or of another version, is made anew.
    before.measured[0].write_text("{", encoding="utf-8")
    before.measured[1].write_text("{}", encoding="utf-8")
    assert len(run([r2d2, clip], pairs, out).measured) == 2
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CcmbError, match="Field required; measure anew"):
        read_result(tmp_path / "x.json")


def _counted(names: list[str], encode: Any) -> Any:
    def counted(path: Path, model: Any, *arguments: Any) -> Any:
        names.append(model.name)
        return encode(path, model, *arguments)

    return counted


def test_kept_features_are_those_that_were_encoded(pairs: Path, r2d2: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    [path] = run([r2d2], pairs, out).measured
    first = read_result(path).retrieval
    assert not read_result(path).features_kept
    [cache] = (out / "features").iterdir()
    path.unlink()
    assert read_result(run([r2d2], pairs, out).measured[0]).retrieval == first
    assert read_result(path).features_kept
    cache.write_bytes(cache.read_bytes()[:-9])  # damaged: encoded again
    path.unlink()
    assert read_result(run([r2d2], pairs, out).measured[0]).retrieval == first
    assert open_gallery(cache, COUNT, torch.tensor(read_result(path).resampling_unit)) is not None
    assert open_gallery(cache, COUNT, torch.tensor([0, 1, 2])) is None  # of another size


def test_results_say_how_the_second_stage_was_computed(pairs: Path, r2d2: str, clip: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exact = run([r2d2], pairs, out, Settings(depth=5, draws=50)).measured
    cheap = Settings(depth=5, draws=50, ranking=RankOptions("bf16", 3))
    again = run([r2d2, clip], pairs, out, cheap).measured
    assert again[:1] == exact  # another way, so measured anew, in the same place
    result = read_result(again[0])
    assert (result.precision, result.cascade, result.features_kept) == ("bf16", 3, True)
    assert BENCHMARKS["retrieval"].stage_words(result, "ranking") == "ranking, top 5, bf16, cascade 3"
    assert (read_result(again[1]).precision, read_result(again[1]).cascade) == (None, None)  # of one stage
    plain = read_result(run([r2d2], pairs, out, Settings(depth=5, draws=50)).measured[0])
    assert (plain.precision, plain.cascade) == ("fp32", None)
    assert BENCHMARKS["retrieval"].stage_words(plain, "ranking") == "ranking, top 5"


def test_very_large_galleries_are_not_kept(
    pairs: Path, r2d2: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccmb.benchmark.evaluation.feature_cache.MAX_BYTES", 100)
    run([r2d2], pairs, tmp_path / "out")
    assert list((tmp_path / "out" / "features").iterdir()) == []


def test_the_revision_is_of_names_texts_and_images(pairs: Path) -> None:
    first = open_measured_set(f"a={pairs}").revision
    assert open_measured_set(f"b={pairs}").revision == first
    lines = pairs.read_text(encoding="utf-8")
    for changed in (lines.replace("船", "舟"), lines.replace("0.png", "9.png"), "\n".join(lines.splitlines()[:-1])):
        pairs.write_text(changed, encoding="utf-8")
        assert open_measured_set(f"a={pairs}").revision != first
    pairs.write_text(lines.replace("0.png", "./0.png"), encoding="utf-8")  # the same image
    assert open_measured_set(f"a={pairs}").revision == first
    pairs.write_text(lines, encoding="utf-8")
    image = pairs.parent / "images" / "0.png"
    image.write_bytes(image.read_bytes() + b"\0")
    assert open_measured_set(f"a={pairs}").revision != first


def test_unreadable_images_are_left_out_and_listed(pairs: Path, clip: str, tmp_path: Path) -> None:
    (pairs.parent / "images" / "2.png").write_bytes(b"no picture")
    (pairs.parent / "images" / "3.png").unlink()
    data = read_result(run([clip], pairs, tmp_path / "out").measured[0]).data
    assert data.images == COUNT - 2
    assert [line.split(": ")[0].split("/")[-1] for line in data.unreadable] == ["2.png", "3.png"]


def test_one_model_that_fails_does_not_keep_the_others(pairs: Path, clip: str, r2d2: str, tmp_path: Path) -> None:
    outcome = run([str(tmp_path / "nowhere"), r2d2, clip], pairs, tmp_path / "out")
    assert len(outcome.measured) == 2
    [line] = outcome.failed
    assert "no such model folder" in line


@pytest.mark.parametrize(
    ("models", "sets", "words"),
    [
        (["a/x", "b=x", "b=y"], ["a"], "--model: two are called 'b'; give LABEL=MODEL"),
        (["..=x"], ["a"], "--model: '..' makes no file name"),
        (["x"], ["a", "a"], "--data: two are called 'a.test'; give NAME=PAIRS"),
    ],
)
def test_names_that_would_share_a_file_are_refused(
    models: list[str], sets: list[str], words: str, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        run_benchmark(models, [open_measured_set(f"{name}={pairs}") for name in sets], tmp_path / "out", FEW)


def test_sets_by_name_and_place(pairs: Path, tmp_path: Path) -> None:
    assert open_measured_set(str(pairs)).name == "drawn"
    assert open_measured_set(f"mine={pairs}", images=pairs.parent / "images").name == "mine"
    for wrong in (f"a/b={pairs}", f"={pairs}", "a="):
        with pytest.raises(UsageError, match=r"give NAME=PAIRS\.jsonl"):
            open_measured_set(wrong)
    with pytest.raises(CcmbError, match=r"pairs.jsonl: no such file|no such folder or tar"):
        open_measured_set(f"a={tmp_path / 'nowhere' / 'pairs.jsonl'}")
    (pairs.parent / "images").rename(pairs.parent / "pictures")
    with pytest.raises(CcmbError, match="say with --images where the images are"):
        open_measured_set(f"a={pairs}")


# --- published sets


def test_a_published_set_is_opened_by_name_and_folder(clip: str, tmp_path: Path) -> None:
    folder = write_cna(tmp_path / "cna")
    ranks = open_measured_set(f"flickr30k-cna={folder}")
    assert (ranks.name, ranks.split, ranks.queries, len(ranks.samples)) == ("flickr30k-cna", "test", None, 1)
    data = read_result(run_benchmark([clip], [ranks], tmp_path / "out", FEW).measured[0]).data
    assert (data.images, data.texts) == (1, 2)
    # Of Flickr8k-CN the captions that people wrote, without the translations.
    assert open_measured_set(f"flickr8k-cn={write_flickr8k(tmp_path / 'f8k')}", "val").samples[0].texts == ("海边的人",)
    with pytest.raises(
        UsageError, match=r"no file of pairs; call a folder by a published set's name .* or say with --classes"
    ):
        open_measured_set(f"mine={folder}")
    with pytest.raises(CcmbError, match="do not say which images are right"):
        open_measured_set(f"muge={write_muge(tmp_path / 'muge')}", "test")


@pytest.mark.parametrize("kind", ["r2d2", "clip"])
def test_texts_of_several_images_find_any_of_them_among_all(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(kind)
    opened = open_measured_set(f"muge={write_muge(tmp_path / 'muge')}", "val")
    assert opened.queries is not None
    assert len(opened.samples) == 3  # one of them fits no text
    for _ in range(2):  # encoded, then kept
        [path] = run_benchmark([model], [opened], tmp_path / "out", Settings(depth=2, draws=50)).measured
        result = read_result(path)
        path.unlink()
        assert (result.data.images, result.data.texts, result.retrieval.image_to_text) == (3, 2, {})
        encoder = open_model(model)
        names = [sample.image for sample in opened.samples]
        images = encoder.encode_images(names, opened.images.load)
        texts = encoder.encode_texts([text for text, _ in opened.queries])
        cosine = texts.embed @ images.embed.T
        ranks = result.retrieval.ranks["text_to_image"]["pre_ranking"]
        for row, rank, (_, right) in zip(cosine.tolist(), ranks, opened.queries, strict=True):
            fits = [name in right for name in names]
            best = max(score for score, fit in zip(row, fits, strict=True) if fit)
            assert rank == 1 + sum(score >= best for score, fit in zip(row, fits, strict=True) if not fit)
        means = result.retrieval.text_to_image["pre_ranking"]
        assert means is not None
        assert result.retrieval.mean_recall["pre_ranking"] == pytest.approx(sum(means.values()) / 3, abs=0.006)
    assert {
        row.model for row in leaderboard([result]) if row.origin == "ours" and "image_to_text_R@1" not in row.metrics
    } == {kind}


# --- the command line


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def test_the_verb_measures_then_skips(command: Command, pairs: Path, r2d2: str, clip: str, tmp_path: Path) -> None:
    other = save_set(tmp_path / "other", seed=3)
    arguments = ["--model", r2d2, "--model", f"peer={clip}", "--data", f"a={pairs}", "--data", f"b={other}"]
    output = command(
        "benchmark", *arguments, "--out", tmp_path / "out", "--depth", 2, "--setting", "zero-shot", "--json"
    )
    assert output.code == 0, output.err
    files = [f"{tmp_path}/out/{set_name}.test/{model}.json" for model in ("r2d2", "peer") for set_name in ("a", "b")]
    assert json.loads(output.out) == {"measured": files, "skipped": [], "failed": []}
    assert "[4/4] peer on b" in output.err
    again = command("benchmark", *arguments, "--out", tmp_path / "out", "--depth", 2, "--setting", "zero-shot")
    assert again.out.splitlines()[: len(files)] == [f"{file}: skipped" for file in files]
    assert "retrieval b test" in again.out


def test_the_verb_fails_with_a_line_for_each_failure(command: Command, pairs: Path, clip: str, tmp_path: Path) -> None:
    output = command("benchmark", "-m", tmp_path / "no", "-m", clip, "-d", f"a={pairs}", "-o", tmp_path / "out")
    assert output.code == 1
    assert output.out.startswith(f"{tmp_path}/out/a.test/clip.json: measured\n")
    assert f"ccmb: {tmp_path}/no: no such model folder" in output.err
    output = command("benchmark", "-m", clip, "-d", f"a={pairs}", "-o", tmp_path / "out", "--split", "tset")
    assert (output.code, output.err.count("\n")) == (1, 1)
    assert "no images in split 'tset' (did you mean 'test'?)" in output.err


def test_a_model_and_its_features_on_disk_score_alike(pairs: Path, clip: str, tmp_path: Path) -> None:
    from tests.helpers.model_features import save_features

    data, model = open_measured_set(f"drawn={pairs}"), open_model(clip)
    names, texts = (
        [sample.image for sample in data.samples],
        sorted({text for s in data.samples for text in s.texts}),
    )
    images = model.encode_images(names, data.images.load).embed
    folder = save_features(tmp_path / "features", images, model.encode_texts(texts).embed, names, texts)
    first, second = (read_result(path) for path in run([clip, str(folder)], pairs, tmp_path / "out").measured)
    assert first.retrieval == second.retrieval
    assert (second.model.kind, second.model.context_length) == ("features", None)
