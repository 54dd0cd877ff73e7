"""The command line as a user meets it: results, and one line that says what is wrong and how to fix it."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ccmb
from ccmb.core.files import read_json_lines
from tests.helpers.runs import TRAIN, Command, command_line, damage_images, starting_from, tiny_corpus, tiny_recipe

MODEL_FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
]


@pytest.fixture
def command(monkeypatch, capfd) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus) -> Path:
    """A finished run."""
    from ccmb.core.config.recipe_files import find_recipe, load_recipe
    from ccmb.tasks.pretraining.recipe import PretrainRecipe
    from ccmb.tasks.pretraining.run import pretrain

    name, *overrides = tiny_recipe(corpus)
    run = tmp_path_factory.mktemp("trained") / "run"
    pretrain(load_recipe(PretrainRecipe, find_recipe(name), overrides), run)
    return run


@pytest.fixture
def fails(command):
    """Calls `ccmb` and asserts that it fails with this code and one line on stderr, in which the words stand."""

    def fails(code: int, words: list[object], *arguments: object) -> None:
        outcome = command(*arguments)
        assert (outcome.code, outcome.out) == (code, ""), outcome.err
        assert outcome.err.startswith("ccmb: ")
        assert outcome.err.count("\n") == 1
        for word in words:
            assert str(word) in outcome.err

    return fails


@pytest.fixture
def pairs(tmp_path):
    """Writes a pairs file and returns its path."""

    def pairs(*lines: dict) -> Path:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        return path

    return pairs


def test_help_loads_no_heavy_library():
    script = """
        import sys
        from ccmb.cli.main import main
        sys.argv = ["ccmb", "--help"]
        try:
            main()
        except SystemExit as end:
            assert not end.code
        heavy = {"torch", "transformers", "numpy", "PIL", "pymilvus"} & sys.modules.keys()
        assert not heavy, heavy
    """
    environment = os.environ | {"PYTHONPATH": str(Path(ccmb.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    verbs = "quickstart pretrain evaluate calibrate match classify index search doctor runs benchmark leaderboard"
    for verb in verbs.split():
        assert verb in done.stdout


@pytest.mark.parametrize("objective", ["gcpr", "fgr", "mlm", "tgd", "fgd"])
def test_pretraining_runs_to_its_end_without_any_one_objective(command, corpus, tmp_path, objective):
    started = [f"objectives.{name}.start_at=0" for name in ("fgr", "mlm", "tgd", "fgd")]
    arguments = [*tiny_recipe(corpus), *started, f"objectives.{objective}=off", "--out", tmp_path / "run", "--json"]
    code, out, err = command("pretrain", *arguments)
    assert (code, err) == (0, "")
    result = json.loads(out)
    on = [name for name in ("gcpr", "fgr", "mlm", "tgd", "fgd") if name != objective]
    assert result["objectives"] == {"on": on, "off": [objective]}
    steps = [line for _, line in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(set(on) == set(line) & {"gcpr", "fgr", "mlm", "tgd", "fgd"} for line in steps)
    assert (Path(result["model"]) / "model.safetensors").is_file()


def test_without_gcpr_another_objective_must_be_on_from_the_start(fails, corpus, tmp_path):
    # In the quickstart's recipe all others join later.
    arguments = [*tiny_recipe(corpus), "objectives.gcpr=off", "--out", tmp_path / "run"]
    fails(2, ["no objective is on from the start", "start_at: 0"], "pretrain", *arguments)
    assert not (tmp_path / "run").exists()


def test_the_same_command_again_changes_nothing_and_another_recipe_is_refused(command, fails, trained, corpus):
    before = (trained / "model" / "model.safetensors").read_bytes()
    code, out, err = command("pretrain", *tiny_recipe(corpus), "--out", trained)
    assert (code, out, err) == (0, f"model: {trained / 'model'}\n", "")
    assert (trained / "model" / "model.safetensors").read_bytes() == before
    fails(1, [trained, "another recipe", "--out"], "pretrain", *tiny_recipe(corpus, steps=4), "--out", trained)


def test_a_wrong_recipe_is_bad_usage(fails, corpus, tmp_path):
    run = ["--out", tmp_path / "run"]
    fails(2, ["quikstart: no such recipe", "did you mean 'quickstart'?"], "pretrain", "quikstart", *run)
    wrong_key = tmp_path / "mine.yaml"
    wrong_key.write_text("data: {folder: x}\ntraining: {steps: 1, bacth: 2}")
    fails(2, [wrong_key, "'training.bacth'", "did you mean 'batch_size'?"], "pretrain", wrong_key, *run)
    tiny = tiny_recipe(corpus)
    fails(2, ["'objectives.frg=off'", "did you mean 'fgr'?"], "pretrain", *tiny, "objectives.frg=off", *run)
    fails(2, ["'training.steps' = 'many'", "integer"], "pretrain", *tiny, "training.steps=many", *run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "override",
    [
        "model.vision.num_attention_heads=5",
        "model.vision.num_attention_heads=0",
        "model.vision.hidden_size=wide",
        "model.vision.patch_size=-1",
        "model.vision.hidden_act=none",
        "model.vision.model_type=eye",
        "model.text.num_attention_heads=5",
        "model.text.model_type=clip_vision_model",
    ],
)
def test_a_network_that_cannot_be_is_bad_usage(fails, corpus, tmp_path, override):
    recipe = tiny_recipe(corpus)
    fails(2, ["model: not the shape of a network ("], "pretrain", *recipe, override, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_data_and_a_run_folder_that_cannot_be_made_are_named(
    fails, corpus, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CCMB_DATA", str(tmp_path / "data"))
    run = ["--out", tmp_path / "run"]
    fails(1, [tmp_path / "data" / "flickr8k-cn", "data.folder=", "CCMB_DATA"], "pretrain", "flickr8k-cn", *run)
    tiny = tiny_recipe(corpus)
    fails(1, [corpus / "none.jsonl", "no such file"], "pretrain", *tiny, "data.pairs=none.jsonl", *run)
    fails(1, [corpus / "none.tar", "no such folder or tar"], "pretrain", *tiny, "data.images=none.tar", *run)
    fails(1, [corpus / "pairs.jsonl", "training.batch_size=99"], "pretrain", *tiny, "training.batch_size=99", *run)
    fails(1, ["none: no such model folder"], "pretrain", *starting_from(tiny, tmp_path / "none"), *run)
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    fails(1, [tmp_path / "file"], "pretrain", *tiny, "--out", tmp_path / "file")
    fails(1, [tmp_path / "file"], "pretrain", *tiny, "--out", tmp_path / "file" / "run")


@pytest.mark.parametrize("missing", MODEL_FILES)
def test_a_model_folder_without_one_of_its_files_names_it(fails, trained, corpus, tmp_path, missing):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    (folder / missing).unlink()
    fails(1, [folder / missing, "missing"], "evaluate", "--model", folder, "--data", corpus / "pairs.jsonl")


def test_a_model_that_is_not_there_or_not_finished_is_named(fails, trained, corpus, tmp_path):
    data = ["--data", corpus / "pairs.jsonl"]
    fails(1, [f"{tmp_path / 'none'}: no such model folder"], "evaluate", "--model", tmp_path / "none", *data)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained / "recipe.yaml", run)  # killed before its first checkpoint
    fails(1, [f"{run}: this run has not finished", "run its command again"], "index", run, "--model", run)
    shutil.copytree(trained / "checkpoints", run / "checkpoints")
    fails(1, [f"{run}: this run has not finished", "run its command again"], "index", run, "--model", run)
    (run / "model").mkdir()
    fails(1, [run / "model" / "config.json", "missing"], "index", run, "--model", run)


def test_wrong_data_to_evaluate_on_is_named_with_its_line(fails, trained, corpus, tmp_path, pairs):
    good = {"image": "test-000000.jpg", "texts": ["红色的船"]}
    evaluate = ["evaluate", "--model", trained, "--images", corpus / "images.tar", "--data"]
    fails(1, [f"{tmp_path / 'none'}: no such file"], *evaluate, tmp_path / "none")
    fails(1, [f"{pairs(good)}: no images in split 'test'", "it has: train"], *evaluate, pairs(good))
    fails(1, ["no text field 'texts'", "captions"], *evaluate, corpus / "pairs.jsonl")
    empty = pairs(good, {"image": "test-000001.jpg", "texts": ["蓝色的船", " \u3000"]})
    fails(1, [f'{empty}:2: "texts"[1]', "empty"], *evaluate, empty, "--split", "train")
    nameless = pairs(good, {"texts": ["船"]})
    fails(1, [f'{nameless}:2: no "image"'], *evaluate, nameless, "--split", "train")
    for wrong in ({"text": "船", "false_text": "车"}, {"text": "船", "false_text": 5, "swap": "kind"}, "船"):
        lame = pairs(good | {"minimal_pairs": [wrong]})
        fails(1, [f'{lame}: "minimal_pairs" of test-000000.jpg', '"swap"'], *evaluate, lame, "--split", "train")
    gone = pairs({"image": "gone.jpg", "texts": ["船"]})
    fails(1, [corpus / "images.tar", "gone.jpg: no such image"], *evaluate, gone, "--split", "train")


def test_missing_images_to_evaluate_on_are_named_and_how_to_say_where_they_are(fails, trained, tmp_path, pairs):
    evaluate = ["evaluate", "--model", trained, "--data", pairs({"image": "a.jpg", "texts": ["船"], "split": "test"})]
    fails(1, [f"{tmp_path / 'images.tar'}: no such tar", "--images"], *evaluate)
    fails(1, [f"{tmp_path / 'none'}: no such folder or tar"], *evaluate, "--images", tmp_path / "none")
    (tmp_path / "images.tar").write_bytes(b"not a tar" * 100)
    fails(1, [f"{tmp_path / 'images.tar'}: not a readable tar"], *evaluate)


def test_a_search_that_cannot_be_done_says_why(fails, tmp_path):
    fails(2, ["the text to search for is empty"], "search", "\u3000", "--index", tmp_path)
    fails(2, ["give a text, an image or both"], "search", "--index", tmp_path)
    fails(2, ["the text to search for is not UTF-8"], "search", "\udcba\udcec", "--index", tmp_path)
    fails(2, ["a least probability needs the second stage"], "search", "船", "--no-rank", "--min-probability", 0.5)
    fails(1, [f"{tmp_path}: no index here", "ccmb index"], "search", "船", "--index", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sing"], "No such command 'sing'"),
        (["search", "船", "--colour"], "No such option: --colour"),
        (["evaluate", "--data", "pairs.jsonl"], "Missing option '--model'"),
        (["search", "船", "-k", "0"], "-k"),
        (["evaluate", "--model", "m", "--data", "d", "--depth", "deep"], "--depth"),
        (["search", "船", "--min-probability", "1.5"], "--min-probability"),
        (["match", "船", "a.jpg", "--model", "m", "--min-probability", "nan"], "--min-probability"),
        (["match", "船", "--model", "m"], "Missing argument"),
        (["calibrate", "--model", "m"], "Missing option '--data'"),
    ],
)
def test_an_unknown_verb_or_option_or_a_wrong_value_is_bad_usage(command, monkeypatch, arguments, word):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err
    assert word in err
    assert "Traceback" not in err


def test_the_other_verbs_follow_from_a_trained_run_and_their_json_parses(command, fails, trained, corpus, tmp_path):
    report_file, index = tmp_path / "report.json", tmp_path / "index"
    evaluate = ["evaluate", "--model", trained, "--data", corpus / "pairs.jsonl", "--text-field", "captions"]
    code, out, err = command(*evaluate, "--depth", 4, "--limit-texts", 1, "--json", report_file)
    assert (code, err) == (0, "")
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert report["unreadable"] == []
    assert set(report) >= {"retrieval", "minimal_pairs", "matching", "seconds"}
    assert (report["retrieval"]["gallery"], report["retrieval"]["texts"]) == (6, 6)
    for direction in ("text_to_image", "image_to_text"):
        for stage, recalls in report["retrieval"][direction].items():
            [line] = [line for line in out.splitlines() if line.startswith(direction.replace("_", " ")) and
                      f" {stage.replace('_', '-')} " in line]  # fmt: skip
            assert [float(metric) for metric in line.split()[-3:]] == [round(value, 1) for value in recalls.values()]
    assert (report["retrieval"]["precision"], report["retrieval"]["cascade"]) == ("fp32", None)
    code, _, err = command(*evaluate, "--precision", "bf16", "--cascade", 2, "--json", report_file)
    cheap = json.loads(report_file.read_text(encoding="utf-8"))["retrieval"]
    assert (code, err, cheap["precision"], cheap["cascade"]) == (0, "", "bf16", 2)

    code, out, err = command("index", corpus / "images.tar", "--model", trained, "--out", index, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    counts = [report[name] for name in ("added", "updated", "skipped_known", "removed", "unreadable")]
    assert counts == [TRAIN + 8, 0, 0, 0, []]

    code, out, err = command("search", "一艘红色的帆船", "--index", index, "-k", 5, "--json")
    assert (code, err) == (0, "")
    hits = json.loads(out)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert len({hit["name"] for hit in hits}) == 5

    no_image = tmp_path / "note.txt"
    no_image.write_text("一艘帆船")
    fails(1, [no_image, "not an image"], "search", "--picture", no_image, "--index", index)
    fails(1, [tmp_path / "none.png"], "search", "--picture", tmp_path / "none.png", "--index", index)


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A model folder that a test may change."""
    return shutil.copytree(trained / "model", tmp_path / "model")


def test_calibrating_writes_one_key_of_the_configuration_and_what_is_indexed_stays_good(
    command, copied, corpus, tmp_path
):
    report_file, index = tmp_path / "report.json", tmp_path / "index"
    assert command("index", corpus / "images.tar", "--model", copied, "--out", index).code == 0
    files = {path.name: path.read_bytes() for path in copied.iterdir()}
    calibrate = ["calibrate", "--model", copied, "--data", corpus / "pairs.jsonl", "--text-field", "captions"]
    code, out, err = command(*calibrate, "--split", "train", "--depth", 4, "--json", report_file)
    assert (code, err) == (0, "")
    report = json.loads(report_file.read_text(encoding="utf-8"))
    before, after = json.loads(files["config.json"]), json.loads((copied / "config.json").read_bytes())
    assert before["match_temperature"] == 1.0
    assert after == before | {"match_temperature": report["match_temperature"]}
    assert report["match_temperature"] != 1.0
    assert {path.name for path in copied.iterdir() if files[path.name] != path.read_bytes()} == {"config.json"}
    held_out = report["held_out"]
    for name in ("calibration error", "nll", "auc"):
        [line] = [line for line in out.splitlines() if line.startswith(name)]
        key = name.replace(" ", "_")
        assert line.split()[-2:] == [f"{held_out[stage][key]:.4f}" for stage in ("before", "after")]

    once = (copied / "config.json").read_bytes()
    assert command(*calibrate, "--split", "train", "--depth", 4).out == out
    assert (copied / "config.json").read_bytes() == once
    assert command("search", "船", "--index", index, "--min-probability", 0).code == 0

    evaluate = ["evaluate", "--model", copied, "--data", corpus / "pairs.jsonl", "--text-field", "captions"]
    assert command(*evaluate, "--json", report_file).code == 0
    matching = json.loads(report_file.read_text(encoding="utf-8"))["matching"]
    assert set(matching) == {"auc", "calibration_error", "match_temperature"}
    assert matching["match_temperature"] == report["match_temperature"]


def test_what_cannot_be_calibrated_is_named_and_the_model_stays_as_it_is(fails, copied, corpus, tmp_path):
    from tests.helpers.tiny import tiny_model, tiny_processor

    before = (copied / "config.json").read_bytes()
    calibrate = ["calibrate", "--data", corpus / "pairs.jsonl", "--text-field", "captions", "--model"]
    fails(1, [f"{corpus / 'pairs.jsonl'}: split 'val' has", "calibration needs 20 or more"], *calibrate, copied)
    fails(1, ["no images in split 'vla'", "did you mean 'val'?"], *calibrate, copied, "--split", "vla")
    fails(1, [f"{tmp_path / 'none'}: no such model folder"], *calibrate, tmp_path / "none")
    assert (copied / "config.json").read_bytes() == before
    tiny_model(cross_layers=0).save_pretrained(tmp_path / "towers")
    tiny_processor().save_pretrained(tmp_path / "towers")
    fails(2, ["no second stage"], *calibrate, tmp_path / "towers", "--split", "train")


def test_a_finished_run_keeps_its_calibration_when_its_command_is_given_again(command, trained, corpus, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    calibrate = ["calibrate", "--model", run, "--data", corpus / "pairs.jsonl", "--text-field", "captions"]
    assert command(*calibrate, "--split", "train").code == 0
    config = json.loads((run / "model" / "config.json").read_bytes())
    assert config["match_temperature"] != 1.0
    assert command("pretrain", *tiny_recipe(corpus), "--out", run).code == 0
    assert json.loads((run / "model" / "config.json").read_bytes()) == config
    # One that trains on from there has other weights.
    assert command("pretrain", *starting_from(tiny_recipe(corpus), run), "--out", tmp_path / "further").code == 0
    assert json.loads((tmp_path / "further" / "model" / "config.json").read_bytes())["match_temperature"] == 1.0


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    from tests.helpers.tiny import tiny_images

    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, tiny_images(3), strict=True):
        image.save(path)
    return paths


def test_match_says_of_each_image_how_well_the_text_describes_it(command, copied, photos):
    from ccmb.r2d2.folders.match_temperature import store_match_temperature

    store_match_temperature(copied, 2.0)
    code, out, err = command("match", "一艘红色的帆船", *photos, "--model", copied, "--json")
    assert (code, err) == (0, "")
    results = json.loads(out)
    assert [result["picture"] for result in results] == [str(path) for path in photos]
    assert all(abs(result["probability"] - 0.5) <= abs(result["score"] - 0.5) for result in results)  # temperature > 1
    assert all((result["match"], result["error"]) == (None, None) for result in results)

    code, out, err = command("match", "一艘红色的帆船", *photos, "--model", copied)
    assert (code, err) == (0, "")
    for line, result in zip(out.splitlines(), results, strict=True):
        metrics = (
            f"cosine {result['cosine']:.3f}  match score {result['score']:.3f}  probability {result['probability']:.3f}"
        )
        assert line == f"{result['picture']}  {metrics}"

    for min_probability, word in ((0, "match"), (1, "no match")):
        arguments = ["match", "船", photos[0], "--model", copied, "--min-probability", min_probability]
        assert command(*arguments).out.rstrip("\n").split("  ")[-1] == word
        assert [result["match"] for result in json.loads(command(*arguments, "--json").out)] == [word == "match"]


def test_a_match_score_that_is_not_calibrated_is_called_no_probability(command, fails, trained, photos):
    match = ["match", "船", photos[0], "--model", trained]
    code, out, err = command(*match, "--json")
    assert (code, err) == (0, "")
    [result] = json.loads(out)
    assert (result["probability"], result["match"]) == (None, None)
    code, out, err = command(*match)
    assert (code, out) == (0, f"{photos[0]}  cosine {result['cosine']:.3f}  match score {result['score']:.3f}\n")
    assert err == f"{trained}: not calibrated, so the match score is no probability: run ccmb calibrate\n"
    fails(2, ["min_probability: a least probability needs a calibrated model: run ccmb calibrate"],
          *match, "--min-probability", 0.5)  # fmt: skip


def test_match_lists_images_that_it_cannot_read_and_goes_on(command, fails, trained, photos, tmp_path):
    gone, bad = tmp_path / "gone.jpg", tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    code, out, err = command("match", "船", gone, photos[0], bad, "--model", trained, "--json")
    assert code == 0
    assert err.splitlines()[:2] == ["2 images could not be read:", f"  {gone}: no such image"]
    assert [bool(result["error"]) for result in json.loads(out)] == [True, False, True]
    assert len(command("match", "船", gone, photos[0], "--model", trained).out.splitlines()) == 1
    fails(1, [f"ccmb: {gone}: no such image\n"], "match", "船", gone, "--model", trained)
    fails(1, [f"none of the images could be read ({gone}"], "match", "船", gone, bad, "--model", trained)


def test_match_without_a_text_a_model_or_cross_encoders(command, fails, photos, tmp_path):
    from tests.helpers.tiny import tiny_model, tiny_processor

    none = tmp_path / "none"
    fails(2, ["the text to match is empty"], "match", "\u3000", photos[0], "--model", none)
    fails(1, [f"{none}: no such model folder"], "match", "船", photos[0], "--model", none)
    towers = tmp_path / "towers"
    tiny_model(cross_layers=0).save_pretrained(towers)
    tiny_processor().save_pretrained(towers)
    code, out, err = command("match", "船", photos[0], "--model", towers)
    assert (code, err) == (0, f"{towers}: no second stage, so the cosine is all there is\n")
    assert len(out.removeprefix(f"{photos[0]}  cosine ").split()) == 1
    fails(2, ["needs a second stage"], "match", "船", photos[0], "--model", towers, "--min-probability", 0.5)


def test_unreadable_images_are_counted_and_listed_and_the_rest_goes_on(command, trained, tmp_path):
    corpus = tiny_corpus(tmp_path / "corpus")
    bad = ["train-000003.jpg", "train-000017.jpg", "test-000002.jpg"]
    damage_images(corpus, bad)
    tar, run, report_file = corpus / "images.tar", tmp_path / "run", tmp_path / "report.json"

    code, out, err = command("pretrain", *tiny_recipe(corpus, steps=4), "--out", run)
    assert (code, out) == (0, f"model: {run / 'model'}\n")
    assert err.splitlines()[0] == "2 images could not be read:"
    listed = (run / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(": ")[0] for line in listed] == [f"{tar}/{name}" for name in bad[:2]]
    assert [line.strip() for line in err.splitlines()[1:]] == listed

    evaluate = ["evaluate", "--model", run, "--data", corpus / "pairs.jsonl", "--text-field", "captions"]
    code, out, err = command(*evaluate, "--json", report_file)
    assert code == 0
    assert err.splitlines()[0] == "1 images could not be read:"
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert [line.split(": ")[0] for line in report["unreadable"]] == [f"{tar}/{bad[2]}"]
    assert report["retrieval"]["gallery"] == 5

    code, out, err = command("index", tar, "--model", run, "--out", tmp_path / "index", "--json")
    assert code == 0
    assert err.splitlines()[0] == "3 images could not be read:"
    result = json.loads(out)
    assert (result["added"], len(result["unreadable"])) == (TRAIN + 8 - 3, 3)


def test_a_batch_of_which_no_or_one_image_can_be_read(command, fails, tmp_path):
    corpus = tiny_corpus(tmp_path / "corpus")
    damage_images(corpus, [f"train-{index:06d}.jpg" for index in range(1, TRAIN)])
    pretrain = ["pretrain", *tiny_recipe(corpus), "training.batch_size=24", "--out", tmp_path / "run"]
    code, _, err = command(*pretrain)
    assert code == 0
    assert err.splitlines()[0] == f"{TRAIN - 1} images could not be read:"
    assert err.splitlines()[-1] == f"  ... and {TRAIN - 1 - 5} more"
    damage_images(corpus, ["train-000000.jpg"])
    fails(1, ["no image of a whole batch", tmp_path / "none" / "unreadable.txt"], *pretrain[:-1], tmp_path / "none")
