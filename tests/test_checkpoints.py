"""Checkpoints: exact, and whole or absent whatever moment the process dies."""

import io
import os
import shutil
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.errors import CcmbError
from ccmb.training.checkpoints import FILE_NAME, list_checkpoints, load_latest, save_checkpoint
from disk import full_disk

STATE = {"weights": torch.arange(1000.0), "optimizer": {"step": 3, "betas": [0.9, 0.98], 0: torch.ones(2)}}


def with_step(step: int) -> dict:
    return {"step": step, "weights": torch.full((1000,), float(step))}


def in_a_process_that_dies(action) -> None:
    """Run `action` in a forked copy of this process and see it end by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_state_is_loaded_as_it_was_saved(tmp_path):
    save_checkpoint(tmp_path, 7, STATE)
    step, state = load_latest(tmp_path)
    assert step == 7
    assert torch.equal(state["weights"], STATE["weights"])
    assert torch.equal(state["optimizer"].pop(0), torch.ones(2))
    assert state["optimizer"] == {"step": 3, "betas": [0.9, 0.98]}


def test_the_newest_by_number_is_loaded_and_older_ones_go(tmp_path):
    for step in (8, 9, 10, 100):
        save_checkpoint(tmp_path, step, with_step(step), keep=2)
    assert list_checkpoints(tmp_path) == [10, 100]
    assert sorted(os.listdir(tmp_path)) == ["step-10", "step-100"]
    assert load_latest(tmp_path)[1]["step"] == 100


def test_without_checkpoints_there_is_nothing_to_load(tmp_path):
    assert load_latest(tmp_path / "checkpoints") is None
    (tmp_path / "step-5").mkdir()
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-x" / FILE_NAME).touch()
    assert load_latest(tmp_path) is None


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1))
def test_death_at_any_byte_leaves_the_previous_checkpoint(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(folder, 1, with_step(1))

    def save_a_share(state, file):
        data = io.BytesIO()
        save(state, data)
        file.write(data.getvalue()[: int(share * len(data.getvalue()))])
        file.flush()
        die()

    save = torch.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save_a_share)
        in_a_process_that_dies(lambda: save_checkpoint(folder, 2, with_step(2)))
    assert load_latest(folder)[1]["step"] == 1


@pytest.mark.parametrize(
    ("call", "expected"),
    [("fsync", 1), ("replace", 1), ("open", 2)],
    ids=["before fsync", "before rename", "after rename"],
)
def test_death_around_the_rename_leaves_a_whole_checkpoint(tmp_path, monkeypatch, call, expected):
    save_checkpoint(tmp_path, 1, with_step(1))

    def save() -> None:
        # `os.open` is first called to sync the folder, after the rename.
        monkeypatch.setattr(os, call, die)
        save_checkpoint(tmp_path, 2, with_step(2))

    in_a_process_that_dies(save)
    assert load_latest(tmp_path)[1]["step"] == expected


def test_death_while_old_checkpoints_are_removed_leaves_the_new_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, with_step(1))
    monkeypatch.setattr(shutil, "rmtree", die)
    in_a_process_that_dies(lambda: save_checkpoint(tmp_path, 2, with_step(2), keep=1))
    assert load_latest(tmp_path)[1]["step"] == 2


def test_what_the_dead_left_is_swept_by_the_next_save(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, with_step(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        for step in (2, 3):
            in_a_process_that_dies(lambda step=step: save_checkpoint(tmp_path, step, with_step(step)))
    save_checkpoint(tmp_path, 3, with_step(3))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "step-1", f"step-1/{FILE_NAME}", "step-3", f"step-3/{FILE_NAME}",
    ]  # fmt: skip


def test_a_full_disk_is_one_line_and_leaves_the_previous_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, with_step(1))
    with full_disk(1000), pytest.raises(CcmbError, match=r"step-2.*could not be written.*intact") as caught:
        save_checkpoint(tmp_path, 2, with_step(2))
    assert "\n" not in str(caught.value)
    assert load_latest(tmp_path)[1]["step"] == 1


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("content", ["cut", "text", "code"])
def test_an_unreadable_checkpoint_is_named_with_the_mend(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = save_checkpoint(tmp_path, 5, STATE) / FILE_NAME
    if content == "code":
        torch.save({"a": Malicious()}, path)
    else:
        path.write_bytes(path.read_bytes()[:700] if content == "cut" else b"hello")
    with pytest.raises(CcmbError, match=r"step-5/state\.pt: not a readable checkpoint .*remove .*step-5") as caught:
        load_latest(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()
