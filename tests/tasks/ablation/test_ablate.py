"""`ccmb ablate`: what is trained, measured and written, what a second call does anew, and how it ends early."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError, Stopped
from ccmb.core.files import read_json, sole_use
from ccmb.tasks.ablation import evaluation, processes, run
from ccmb.tasks.ablation.evaluation import open_fields
from ccmb.tasks.ablation.ladder import default_ladder
from ccmb.tasks.ablation.plan import Run, plan_runs, write_base
from ccmb.tasks.ablation.processes import environments, train
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.ablation import Ended, InThisProcess
from tests.helpers.downstream_samples import write_flickr8k
from tests.helpers.runs import Command, command_line, tiny_corpus, tiny_recipe

LADDER = "easy: {objectives.fgr.hardness: 0.0}\nhard: {objectives.fgr.hardness: 1.0}\n"


def loaded(*overrides: str) -> PretrainRecipe:
    return load_recipe(PretrainRecipe, find_recipe("quickstart"), overrides)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LOOKS", 0.0)
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


def trained_here(monkeypatch: pytest.MonkeyPatch, *failing: str) -> InThisProcess:
    here = InThisProcess(failing)
    monkeypatch.setattr(run, "starter", lambda base, lock: here.start)
    return here


def words(corpus: Path, out: Path, *more: object) -> list[object]:
    ladder = out.with_suffix(".yaml")
    ladder.write_text(LADDER)
    options = ["--out", out, "--seeds", 2, "--ladder", ladder, "--split", "test", "--text-field", "captions"]
    return ["ablate", *tiny_recipe(corpus, steps=2), *options, *more]


def test_rungs_are_trained_measured_and_compared(
    command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, here = tmp_path / "out", trained_here(monkeypatch)
    result = command(*words(corpus, out))
    assert result.code == 0, result.err
    assert here.started == ["easy seed 0", "hard seed 0", "easy seed 1", "hard seed 1"]
    report = read_json(out / "ablation.json")
    assert [entry["name"] for entry in report["ladder"]] == ["easy", "hard"]
    assert report["ladder"][1]["runs"] == {"0": "runs/hard/seed-0", "1": "runs/hard/seed-1"}
    assert (report["seeds"], report["split"], report["recipe"]) == ([0, 1], "test", "quickstart")
    numbers = report["fields"]["captions"]["rungs"]["hard"]
    assert set(numbers) == {"pre_ranking", "ranking", "ranking_gain", "to_previous", "to_first"}
    assert set(numbers["ranking"]["text_to_image_R@1"]) == {"mean", "std", "low", "high", "seeds"}
    assert set(numbers["to_first"]["last_stage"]["mean_recall"]) == {
        "mean", "std", "low", "high", "excludes_zero", "same_sign", "seeds",
    }  # fmt: skip
    text, page = ((out / f"ablation.{form}").read_text(encoding="utf-8") for form in ("md", "html"))
    assert "| hard | easy |" in text
    assert "6 images" in result.out
    assert page.count('<svg class="chart dots"') == 2
    assert str(tmp_path) not in text

    # Again: nothing is trained, and only what is not kept is ranked.
    loaded_models, load_model = list[Path](), evaluation.load_model
    monkeypatch.setattr(evaluation, "load_model", lambda folder: (loaded_models.append(folder), load_model(folder))[1])
    again = command(*words(corpus, out, "--json"))
    assert again.code == 0, again.err
    assert (len(here.started), loaded_models) == (4, [])
    assert json.loads(again.out)["fields"] == report["fields"]
    command(*words(corpus, out, "--rerank-k", 2))
    assert len(loaded_models) == 4
    easy, hard = (out / "runs" / name / "seed-0" for name in ("easy", "hard"))
    shutil.copy(hard / "model" / "model.safetensors", easy / "model" / "model.safetensors")
    command(*words(corpus, out, "--rerank-k", 2))
    assert loaded_models[4:] == [easy]
    (easy / "evaluation.json").write_text("{")  # cut short: made anew
    assert command(*words(corpus, out)).code == 0
    assert loaded_models[5:] == [easy]


def test_a_stopped_ablation_goes_on_and_more_rungs_and_fields_are_added(
    command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, here = tmp_path / "out", trained_here(monkeypatch)
    start = here.start

    def stop_at_the_second(wanted: Run, environment: Mapping[str, str]) -> Ended:
        if len(here.started) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return start(wanted, environment)

    with monkeypatch.context() as patch:
        patch.setattr(run, "starter", lambda base, lock: stop_at_the_second)
        stopped = command(*words(corpus, out))
    assert stopped.code == 130
    assert stopped.err == "ccmb: stopped; 2 of 4 runs are finished; run the same command again to go on\n"
    assert not (out / "ablation.json").exists()
    assert here.started == ["easy seed 0", "hard seed 0"]
    result = command(*words(corpus, out, "--text-field", "title"))
    assert result.code == 0, result.err
    assert here.started[2:] == ["easy seed 1", "hard seed 1"]
    report = read_json(out / "ablation.json")
    assert list(report["fields"]) == ["captions", "title"]


def test_a_run_that_fails_is_named_and_the_others_go_on(
    command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    trained_here(monkeypatch, "hard seed 0", "hard seed 1")
    result = command(*words(corpus, out))
    assert result.code == 1
    assert "ccmb: hard seed 0 failed: exit code 1: a loss is not finite (all it said: " in result.err
    report = read_json(out / "ablation.json")
    assert list(report["ladder"][1]["failed"]) == ["0", "1"]
    assert list(report["fields"]["captions"]["rungs"]) == ["easy"]
    assert "| hard | failed |" in (out / "ablation.md").read_text(encoding="utf-8")
    assert "a loss is not finite" in (out / "ablation.html").read_text(encoding="utf-8")
    # Of all four none is left: there is nothing to write.
    trained_here(monkeypatch, "easy seed 0", "easy seed 1", "hard seed 0", "hard seed 1")
    result = command(*words(corpus, tmp_path / "other"))
    assert (result.code, result.out) == (1, "")
    assert result.err.count(" failed: ") == 4


def test_what_is_wrong_is_said_before_anything_is_trained(
    command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, here = tmp_path / "out", trained_here(monkeypatch)
    arguments = words(corpus, out)
    for more, message in [
        (["--rungs", "easy"], "at least two rungs"),
        (["--split", "valid"], "no images in split 'valid'"),
        (["--text-field", "words"], "no text field 'words'"),
        (["--data", f"corpus={corpus / 'gone.jsonl'}"], "gone.jsonl"),
    ]:
        result = command(*arguments, *more)
        assert result.code in (1, 2), more
        assert message in result.err
    assert not out.exists()
    out.with_suffix(".yaml").write_text("a:\nb: {objectives.fgr.hardnes: 1}\n")
    wrong = command(*arguments)
    assert wrong.code == 2
    assert "rung 'b': override 'objectives.fgr.hardnes=1': unknown key" in wrong.err
    assert here.started == []


def test_fields_are_of_own_pairs_and_shards_need_other_data(corpus: Path, tmp_path: Path) -> None:
    own = loaded(f"data.folder={corpus}").data
    assert [one.field for one in open_fields(own, "test", None)] == ["details", "captions"]
    pairs = f"other={corpus / 'pairs.jsonl'}"
    assert [len(one.data.samples) for one in open_fields(own, "val", ["title"], pairs)] == [2]
    of_shards = loaded("data.folder=", "data.shards=x").data
    with pytest.raises(CcmbError, match="shards have no splits; name other data to measure on with --data"):
        open_fields(of_shards, "val", None)
    assert len(open_fields(of_shards, "val", ["title"], pairs)) == 1
    flickr = write_flickr8k(tmp_path / "flickr8k-cn")
    assert [one.field for one in open_fields(own, "val", None, f"flickr8k-cn={flickr}")] == ["texts"]
    with pytest.raises(CcmbError, match="--text-field is of own pairs"):
        open_fields(own, "val", ["captions"], f"flickr8k-cn={flickr}")


def test_another_recipe_or_process_in_the_folder_is_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    overrides = tiny_recipe(corpus, steps=2)[1:]
    ladder = tmp_path / "ladder.yaml"
    ladder.write_text(LADDER)
    wanted = run.Ablation(recipe=find_recipe("quickstart"), out=out, overrides=overrides, ladder=ladder, split="test")
    lock = sole_use(out, "tests")
    with pytest.raises(CcmbError, match="another process runs an ablation in it"):
        run.ablate(wanted)
    lock.close()
    write_base(loaded(*overrides), overrides, out)
    other = run.Ablation(
        recipe=find_recipe("quickstart"),
        out=out,
        overrides=[*overrides, "training.steps=3"],
        ladder=ladder,
        split="test",
    )
    with pytest.raises(CcmbError, match="holds an ablation of another recipe"):
        run.ablate(other)


def test_what_the_user_gave_gives_way_to_a_rung_and_seeds_count_from_that_of_the_recipe(tmp_path: Path) -> None:
    overrides = ["optimizer.cross_lr=1e-3", "objectives.ema_decay=0.9", "training.seed=7", "objectives.mlm.weight=2"]
    recipe = loaded(*overrides)
    base = write_base(recipe, overrides, tmp_path)
    runs = plan_runs(base, default_ladder(recipe), 2, tmp_path)
    assert [run.seed for run in runs] == [7] * 6 + [8] * 6
    towers, *_, whole = runs[:6]
    assert towers.recipe.objectives.on() == ["gcpr"]
    assert (towers.recipe.model.cross_layers, towers.recipe.optimizer.cross_lr) == (0, None)
    assert whole.recipe == recipe


def test_devices_and_threads_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert environments("auto", None) == [{}]
    assert environments("auto", 3) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [one["CUDA_VISIBLE_DEVICES"] for one in environments("auto", 3)]
    assert (seen, len(environments("cuda", None))) == (["0", "1", "0"], 2)
    assert environments("cpu", None) == environments("cuda:1", None) == [{}]


class Working:
    """A process that works until it is told to stop."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number, self.log, self.code = number, log, None

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        assert self.code is not None
        return self.code

    def send_signal(self, sig: int) -> None:
        self.log.append(f"{self.number} gets {signal.Signals(sig).name}")
        self.code = 130

    def kill(self) -> None:
        raise AssertionError("it was told to stop, and did")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_to_each_process_once_and_no_other_starts(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LOOKS", 0.0)
    recipe = loaded()
    runs = plan_runs(write_base(recipe, [], tmp_path), default_ladder(recipe), 1, tmp_path)
    log = list[str]()

    def start(wanted: Run, environment: Mapping[str, str]) -> Working:
        log.append(wanted.name)
        if len(log) == 2:
            os.kill(os.getpid(), number)
        return Working(len(log), log)

    with pytest.raises(Stopped, match="0 of 6 runs are finished") as stopped:
        train(runs, [{}, {}], start)
    assert log == ["towers seed 0", "fgr seed 0", f"1 gets {number.name}", f"2 gets {number.name}"]
    assert stopped.value.exit_code == (130 if number == signal.SIGINT else 0)


@pytest.mark.slow  # a new interpreter imports for seconds
def test_processes_of_their_own(command: Command, corpus: Path, tmp_path: Path) -> None:
    result = command(*words(corpus, tmp_path / "out", "--jobs", 2))
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "runs" / "hard" / "seed-1.log").read_text().endswith("seed-1/model\n")
