"""Pre-training from shards: killed and continued, with damage, with recipes and runs that do not fit."""

import signal
from dataclasses import replace
from functools import partial

import pytest

from ccmb.core.files import read_json
from ccmb.data.shards.locate import find_shards, read_manifest
from ccmb.data.shards.write import write_manifest
from tests.helpers.killing import die_after_logging, lines_of
from tests.helpers.processes import ccmb
from tests.helpers.runs import TRAIN, command_line, tiny_corpus, tiny_recipe
from tests.helpers.shard_folders import write_tar

PER_SHARD = 4


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


@pytest.fixture
def shards(tmp_path, command):
    """The drawn training images in shards of PER_SHARD, one sample of which is damaged."""
    corpus, out = tiny_corpus(tmp_path / "corpus"), tmp_path / "shards"
    fields = [word for name in ("captions", "query") for word in ("--field", name)]
    done = command("data", "convert", corpus / "pairs.jsonl", out, *fields, "--samples-per-shard", PER_SHARD)
    assert done.code == 0
    path = out / "shard-000002.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8\xff")] = 0
    path.write_bytes(data)
    return out


def recipe_of(shards, steps=3, *changes):
    arguments = [text for text in tiny_recipe(shards, steps) if not text.startswith("data.folder=")]
    fields = "data.fields=[captions, query]"
    return [
        *arguments,
        "data.folder=",
        f"data.shards={shards}",
        fields,
        "data.field_starts=",
        "data.streams=4",
        *changes,
    ]


def test_killed_in_mid_training_the_same_command_ends_in_the_same_weights_and_losses(tmp_path, shards, command):
    changes = [
        "data.augmentation.min_crop_scale=0.5",
        "data.shuffle_buffer=3",
        "data.field_weights=[2, 1]",
        "model.cross_dropout=0.1",
    ]
    pretrain = [
        "pretrain",
        *recipe_of(shards, 8, *changes, "training.checkpoint_every=3", "data.num_workers=2"),
        "--out",
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    assert ccmb(*pretrain, killed, prepare=partial(die_after_logging, 7)).code == -signal.SIGKILL
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["step-3", "step-6"]
    assert not (killed / "model").exists()

    assert ccmb(*pretrain, killed).code == 0
    assert command(*pretrain, whole).code == 0
    assert len(lines_of(whole)) == 8
    assert lines_of(killed) == lines_of(whole)
    for name in ("model/model.safetensors", "model/tokenizer.json", "recipe.yaml", "unreadable.txt", "shards.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    [line] = (whole / "unreadable.txt").read_text().splitlines()
    assert line.startswith(f"{shards}/shard-000002.tar/000000008.jpg: not an image, or damaged (known: JPEG, PNG")


def test_the_number_of_workers_changes_no_loss(tmp_path, shards, command):
    runs = [tmp_path / f"run-{workers}" for workers in range(3)]
    for workers, run in enumerate(runs):
        assert command("pretrain", *recipe_of(shards), f"data.num_workers={workers}", "--out", run).code == 0
    assert lines_of(runs[0]) == lines_of(runs[1]) == lines_of(runs[2])


def test_shards_without_a_manifest_are_counted_once_and_their_damage_is_listed(tmp_path, shards, command):
    path, run = shards / "shard-000001.tar", tmp_path / "run"
    path.write_bytes(path.read_bytes()[:-10240])
    (shards / "shards.jsonl").unlink()
    outcome = command("pretrain", *recipe_of(shards), "--out", run)
    assert outcome.code == 0
    assert "shard-000001.tar: damaged or cut short" in (run / "unreadable.txt").read_text()
    counts = [shard.samples for shard in read_manifest(str(run))]
    assert counts[0] == PER_SHARD
    assert counts[1] < PER_SHARD
    path.unlink()  # a shard that has gone since is another set of shards
    again = command("pretrain", *recipe_of(shards), "--out", run)
    assert again.code == 1
    assert "the run began with 6 shards and finds 5 now, and shard-000001.tar is not the same" in again.err


def test_a_run_goes_on_only_with_the_shards_it_began_with(tmp_path, shards, command):
    run = tmp_path / "run"
    assert command("pretrain", *recipe_of(shards), "--out", run).code == 0
    elsewhere = [replace(shard, samples=shard.samples - 1) for shard in find_shards([str(shards)])]
    write_manifest(shards / "shards.jsonl", elsewhere)
    again = command("pretrain", *recipe_of(shards), "--out", run)
    assert (again.code, again.err.count("\n")) == (1, 2)  # the first says that data.group_start is of folders
    assert "ccmb: quickstart.yaml: data.group_start gives way to data.shards=" in again.err
    assert "restore the shards, or choose another --out" in again.err
    write_manifest(shards / "shards.jsonl", find_shards([str(shards)])[:5])
    again = command("pretrain", *recipe_of(shards), "--out", run)
    assert "6 shards and finds 5 now" in again.err


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("data.num_workers=7", 2, "6 shards < 1 ranks x 7 workers = 7 processes that read"),
        ("data.num_workers=5", 2, "data.streams=4 < 1 ranks x 5 workers = 5 processes"),
        ("data.streams=8", 2, "6 shards < data.streams=8; set data.streams=4"),
        ("training.batch_size=6", 2, "training.batch_size=6 / data.streams=4 is not whole"),
        ("training.batch_size=32", 2, f"{TRAIN} samples an epoch do not fill training.batch_size=32"),
        ("data.folder=x", 2, "give either data.folder or data.shards"),
        ("data.shards=", 2, "'data.shards' = None"),
        ("data.shards=[]", 2, "give either data.folder or data.shards"),
        ("data.shards=none", 1, "none: no such shard"),
        ("data.field_weights=[1]", 2, "one weight for each of the 2 fields"),
        ("data.field_weights=[0, 0]", 2, "one weight for each of the 2 fields"),
        ("data.fields=[title]", 1, "shard-000000.tar/000000000: no text field 'title'; the line has: captions, query"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_run(tmp_path, shards, command, change, code, message):
    outcome = command("pretrain", *recipe_of(shards), change, "--out", tmp_path / "run")
    *notes, line = outcome.err.splitlines()
    assert (outcome.code, message in line) == (code, True), outcome.err
    # That data.group_start is of folders is said where a recipe comes to be whole.
    assert all("data.group_start gives way to data.shards=" in note for note in notes[:1])
    assert len(notes) <= 1
    assert not (tmp_path / "run").exists()


def test_shards_without_samples_are_named(tmp_path, command):
    path = write_tar(tmp_path / "a.tar", {"README": b"", ".hidden": b""})
    outcome = command("pretrain", *recipe_of(path), "data.streams=1", "--out", tmp_path / "run")
    line = f"ccmb: {path}: no samples in it, nor in the other shards"
    assert (outcome.code, outcome.err.splitlines()[-1]) == (1, line)


def test_a_continued_run_keeps_its_tokenizer_though_its_texts_cannot_be_read_now(tmp_path, shards, command):
    gone, whole = tmp_path / "gone", tmp_path / "whole"
    pretrain = ["pretrain", *recipe_of(shards, 8, "training.checkpoint_every=7"), "--out"]
    for run in (gone, whole):
        assert ccmb(*pretrain, run, prepare=partial(die_after_logging, 7)).code == -signal.SIGKILL
    texts = (shards / "shard-000000.tar").read_bytes()
    (shards / "shard-000000.tar").unlink()
    assert command(*pretrain, gone).code == 0
    (shards / "shard-000000.tar").write_bytes(texts)
    assert command(*pretrain, whole).code == 0
    assert (gone / "model/tokenizer.json").read_bytes() == (whole / "model/tokenizer.json").read_bytes()


def test_the_model_card_names_the_shards(tmp_path, shards, command):
    done = command("pretrain", *recipe_of(shards, 1), "--out", tmp_path / "run", "--json")
    assert done.code == 0
    assert "shards" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert read_json(tmp_path / "run" / "model" / "config.json")["model_type"] == "r2d2"
