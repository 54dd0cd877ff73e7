"""The doctor: each planted fault is found with its metric and a fix, and sound data and recipes pass."""

import json
import math
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.data.images.source import ImageSource
from ccmb.tasks.doctor import data_checks as data
from ccmb.tasks.doctor import run
from ccmb.tasks.doctor import training_checks as training
from ccmb.tasks.doctor.data_checks import Line
from ccmb.tasks.doctor.findings import CheckResult, results_table
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.stage_recipe import in_stages
from ccmb.training.recipe import OptimizerRecipe
from tests.helpers.runs import TRAIN, command_line, damage_images, tiny_corpus, tiny_recipe


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def lines(*images_and_texts: tuple[str, list[str]], split: str = "train") -> list[Line]:
    return [Line(n, image, split, tuple(texts), 0) for n, (image, texts) in enumerate(images_and_texts, start=1)]


def good(finding: CheckResult) -> bool:
    assert bool(finding.fix) == (finding.level != "ok"), finding
    return finding.level == "ok"


SOUND = lines(*((f"{n}.jpg", [f"text {n}"]) for n in range(40)))


def test_lines_that_cannot_be_used_are_counted_and_the_first_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"image": "a.jpg", "texts": ["一", " ", ""]}\n{"texts": ["二"]}\n{"image": "b.jpg", "other": "三"}\n'
        '{"image": "c.jpg", "texts": []}\n{"image": "d.jpg", "texts": "四", "split": "val"}\n{"image": \n{}\n'
    )
    result, faults = data.read_lines(path, ["texts"])
    assert result == [
        Line(1, "a.jpg", "train", ("一",), 2), Line(4, "c.jpg", "train", (), 1), Line(5, "d.jpg", "val", ("四",), 0),
    ]  # fmt: skip
    assert [fault.split(": ", 1)[0] for fault in faults] == [f"{path}:{n}" for n in (2, 3, 6)]
    finding = data.check_faults(faults, 3)
    assert (finding.level, finding.message) == ("problem", f'3 lines cannot be used: {path}:2: no "image"')
    assert good(data.check_faults([], 3))
    empty = data.check_empty_texts(result)
    assert (empty.level, empty.message) == ("problem", "3, the first in line 1")
    assert good(data.check_empty_texts(SOUND))


def test_images_in_several_lines_are_counted_as_training_counts_them():
    assert data.check_repeated_names(SOUND).message == "40 images with 40 texts"
    repeated = SOUND + lines(*(("0.jpg", ["again"]) for _ in range(40)))
    finding = data.check_repeated_names(repeated)
    assert good(finding)  # they are trained on as one
    assert finding.message == (
        "40 images with 41 texts; 1 of them stand in several lines (80 in all), which are read as one"
    )
    assert [len(line.texts) for line in data.merged(repeated)] == [2, *[1] * 39]


def test_images_of_two_splits_are_a_leak():
    assert good(data.check_leaks(SOUND + lines(("v.jpg", ["x"]), split="val"), "train"))
    finding = data.check_leaks(SOUND + lines(("3.jpg", ["x"]), split="val"), "train")
    assert finding.level == "problem"
    assert "1 images of 'train' are in another split too, such as 3.jpg" in finding.message


def test_equal_files_and_unreadable_images(tmp_path):
    corpus = tiny_corpus(tmp_path / "corpus")
    names = [f"train-{n:06d}.jpg" for n in range(TRAIN)]
    damage_images(corpus, names[:3])
    images = ImageSource.open(corpus / "images.tar")
    unreadable = data.unreadable_of(images, [*names, "gone.jpg"])
    finding = data.check_unreadable(unreadable, TRAIN + 1, sampled=False)
    assert (finding.level, len(unreadable)) == ("warning", 4)
    assert "4 of 25 images: " in finding.message
    assert "train-000000.jpg: not an image" in finding.message
    assert data.check_unreadable(unreadable, 5, sampled=True).level == "problem"
    assert good(data.check_unreadable([], 5, sampled=True))
    # The damaged ones are equal to each other.
    copies = data.check_same_bytes(data.digests_of(images, [*names, "gone.jpg"]), sampled=False)
    assert copies.level == "warning"
    assert "2 of 24 images are copies under another name, such as train-000000.jpg = train-000001.jpg" in copies.message
    assert good(data.check_same_bytes(data.digests_of(images, names[3:]), sampled=True))


def test_texts_of_several_images_are_counted_with_their_share_of_a_batch():
    assert good(data.check_shared_texts(SOUND, 8))
    twice = lines(*((f"{n}.jpg", [f"text {n}", f"other {n}"]) for n in range(40)), ("0.jpg", ["text 0"]))
    assert good(data.check_shared_texts(twice, 8))  # the same image's texts may be equal
    shared = lines(*((f"{n}.jpg", ["a dog"] if n < 20 else [f"text {n}", "a dog"]) for n in range(40)))
    finding = data.check_shared_texts(shared, 8)
    assert finding.level == "warning"
    assert "4.8 % of the texts belong to several images" in finding.message
    assert "most often: a dog (40)" in finding.message
    stated = float(finding.message.split("in a batch of 8 ")[1].split(" %")[0])
    rng, hits = Random(0), 0
    for _ in range(2000):
        texts = Counter(rng.choice(line.texts) for line in rng.sample(shared, 8))
        hits += texts["a dog"] if texts["a dog"] > 1 else 0
    assert stated == pytest.approx(100 * hits / 16000, abs=2)
    assert data.check_shared_texts(lines(*((f"{n}.jpg", ["same"]) for n in range(40))), 8).level == "problem"


def test_texts_longer_than_the_context():
    assert good(data.check_lengths([10] * 96 + [70] * 4, 64))
    finding = data.check_lengths([10] * 90 + [70] * 9 + [100], 64)
    assert finding.level == "warning"
    assert "10.0 % are longer than model.max_text_tokens=64" in finding.message
    assert "95 % have at most 70 tokens, the longest has 100" in finding.message
    assert "model.max_text_tokens=70" in finding.fix
    assert data.check_lengths([70] * 6 + [1] * 4, 64).level == "problem"
    assert data.check_lengths([], 64).level == "problem"


@pytest.mark.parametrize(
    ("count", "batch", "steps", "level", "words"),
    [
        (6000, 128, 900, "ok", "46 steps an epoch, 19.6 epochs"),
        (100, 128, 900, "problem", "do not fill training.batch_size=128"),
        (300, 128, 900, "warning", "2 steps an epoch"),
        (60000, 128, 100, "warning", "0.214 epochs"),
        (6000, 128, 90000, "warning", "1.96e+03 epochs"),
    ],
)
def test_the_batch_against_the_data(count, batch, steps, level, words):
    finding = data.check_batch(count, batch, steps)
    assert (good(finding), finding.level) == (level == "ok", level)
    assert words in finding.message


@pytest.mark.parametrize(
    ("options", "batch", "trained", "level"),
    [
        ({"lr": 2e-3, "muon_lr_scale": 2.5}, 64, False, "ok"),  # the quickstart's
        ({"lr": 5e-4}, 1024, False, "ok"),
        ({"lr": 8e-3}, 128, False, "warning"),
        ({"lr": 5e-4, "cross_lr": 5e-2}, 128, False, "problem"),
        ({"lr": 1e-6}, 128, False, "warning"),
        ({"lr": 2e-3, "muon_lr_scale": 20}, 64, False, "warning"),
        ({"lr": 2e-3, "muon_lr_scale": 100}, 64, False, "problem"),
        ({"lr": 2e-5}, 128, True, "ok"),
        ({"lr": 5e-4}, 128, True, "warning"),
        ({"lr": 2e-4}, 1024, True, "ok"),  # a larger batch bears more
        ({"lr": 5e-3}, 128, True, "problem"),
        ({"lr": 1e-3, "image_lr": 1e-2}, 128, False, "warning"),
        ({"lr": 1e-3, "image_lr": 2e-5, "text_lr": 5e-5}, 128, True, "ok"),  # lr is of the new projections
        ({"lr": 1e-3, "image_lr": 2e-5, "text_lr": 5e-4}, 128, True, "warning"),
    ],
)
def test_learning_rates(options, batch, trained, level):
    finding = training.check_lr(OptimizerRecipe(**options), batch, trained)
    assert (good(finding), finding.level) == (level == "ok", level)
    rates = [value for name, value in options.items() if name.endswith("lr")]
    rates = rates[1:] if trained and len(rates) == 3 else rates  # of towers with rates of their own
    assert f"lr {max(rates):g}" in finding.message


def test_beside_towers_that_stay_frozen_the_rates_are_those_of_new_weights():
    still, moving = in_stages(load_recipe(PretrainRecipe, find_recipe("hub-towers")))
    found = [next(run._check_training(stage, [], None)) for stage in (still, moving)]
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert [finding.message.split(" at ")[0] for finding in found] == [
        "lr 0.001 from nothing", "lr 2e-05 from trained weights",
    ]  # fmt: skip


def test_warmup_threads_shards_and_disk():
    for warmup, level in ((50, "ok"), (0, "warning"), (400, "warning"), (1000, "problem")):
        finding = training.check_warmup(warmup, 1000)
        assert (good(finding), finding.level) == (level == "ok", level)
    assert good(training.check_threads(None, 1, 2, gpu=False))
    assert training.check_threads(4, 1, 2, gpu=False).level == "warning"
    assert training.check_threads(None, 0, 8, gpu=True).level == "warning"
    assert training.check_threads(None, 16, 8, gpu=True).level == "warning"
    assert good(training.check_threads(None, 4, 8, gpu=True))
    assert good(training.check_shards(64, 4, 8))
    assert training.check_shards(10, None, 8).level == "warning"
    assert training.check_shards(4, 2, 8).level == "problem"
    assert training.check_shards(4, 8, 1).level == "problem"
    assert good(training.check_disk(2**30, 3, 100 * 2**30))
    assert training.check_disk(2**30, 3, 5 * 2**30).level == "warning"
    assert training.check_disk(2**30, 3, 2 * 2**30).level == "problem"


def log(value: float, step: int) -> list[dict[str, float]]:
    return [{"step": n, "gcpr": value, "data_wait": 0.3} for n in range(10, step + 1, 10)]


@pytest.mark.parametrize(
    ("value", "step", "level", "words"),
    [
        (2.0, 500, "ok", f"ln(64) = {math.log(64):.3f} is chance"),
        (math.log(64), 100, "ok", "too early to tell"),
        (math.log(64) - 0.01, 500, "problem", "flat at chance"),
        (9.0, 500, "problem", "worse than chance"),
        (float("nan"), 500, "problem", "nan"),
    ],
)
def test_a_loss_that_stays_at_chance(value, step, level, words):
    finding = training.check_gcpr(log(value, step), 64, warmup=50)
    assert (good(finding), finding.level) == (level == "ok", level)
    assert words in finding.message


def test_waiting_and_time():
    assert training.check_gcpr([{"step": 10, "mlm": 1.0}], 64, 0) is None
    assert training.check_waiting([], 1) is None
    finding = training.check_waiting(log(1.0, 50), 1)
    assert (finding.level, finding.fix) == ("warning", "set data.num_workers=3, or smaller images")
    result = training.check_time(1000, done=400, batch=60, rate=10.0, checkpoint_every=100, measured=True)
    assert good(result)
    assert result.message == "600 steps to go in 60.0 min at 10 samples/s; a checkpoint every 10.0 min"
    slow = training.check_time(1000, done=0, batch=60, rate=1.0, checkpoint_every=100, measured=False)
    assert (slow.level, slow.fix.split(":")[0]) == ("warning", "set training.checkpoint_every to 30")
    assert slow.message.startswith("very roughly, ")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


def levels(out: str) -> dict[str, str]:
    return {result["check"]: result["level"] for result in json.loads(out)}


def test_the_command_on_sound_data_and_on_a_flat_run(command, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # So small a corpus has shared details, and hardly four batches.
    arguments = ["doctor", *tiny_recipe(corpus), "training.batch_size=4", "optimizer.warmup_steps=0", "--json"]
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    result = levels(out)
    assert {name for name, level in result.items() if level == "ok"} >= {
        "lines", "empty texts", "image names", "splits", "unreadable", "equal files", "network", "disk",
        "text length", "learning rate", "processor", "time",
    }  # fmt: skip
    assert result["warm-up"] == "warning"
    assert not list(tmp_path.iterdir())
    run = tmp_path / "runs" / "quickstart"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(math.log(4), 500)))
    code, out, _ = command(*arguments)
    assert (code, levels(out)["loss"], levels(out)["data wait"]) == (1, "problem", "warning")
    code, out, _ = command(*arguments[:-1])
    assert code == 1
    assert "problem  loss" in out
    assert "-> try a tenth of optimizer.lr" in out
    assert out.splitlines()[-1].startswith("1 problem, ")


def test_the_command_on_missing_data_and_a_wrong_network(command, corpus, tmp_path):
    code, out, _ = command("doctor", *tiny_recipe(tmp_path / "gone"), "--json")
    assert (code, levels(out)["data"]) == (1, "problem")
    code, out, _ = command("doctor", *tiny_recipe(corpus), "data.split=trian", "--json")
    assert (code, levels(out)["data"]) == (1, "problem")
    assert "data.split is one of: test, train, val" in out
    code, out, _ = command("doctor", *tiny_recipe(corpus), "model.vision.num_attention_heads=5", "--json")
    assert (code, levels(out)["network"]) == (1, "problem")
    code, out, err = command("doctor", *tiny_recipe(corpus), "training.bacth=3")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_table():
    table = results_table([CheckResult("a", "ok", "fine"), CheckResult("long name", "warning", "3 of 4", "lower it")])
    assert table.splitlines() == [
        "ok       a          fine", "warning  long name  3 of 4", " " * 20 + "-> lower it", "0 problems, 1 warning",
    ]  # fmt: skip
