"""Checkpoints: exact, and whole or absent whatever moment the process dies."""

import io
import os
import shutil
import signal
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.training.checkpoints import FILE_NAME, list_checkpoints, load_latest, save_checkpoint
from tests.helpers.disk import full_disk

pytestmark = pytest.mark.usefixtures("lines")

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
def test_an_unreadable_checkpoint_is_named_with_the_fix(tmp_path, monkeypatch, content):
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


def damage(path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":  # one bit of a weight: the file opens, torch reads it, and a number is another
        offset = data.find(torch.full((4,), 3.0).numpy().tobytes())
        data[offset + 2] ^= 1
    path.write_bytes({"cut": data[:700], "empty": b"", "text": b"hello", "flipped": data}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "text", "flipped"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, how):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, with_step(step), keep=3)
    damage(tmp_path / "step-3" / FILE_NAME, how)
    assert load_latest(tmp_path)[1]["step"] == 2
    warning = capsys.readouterr().err
    assert warning.startswith("ccmb: ")
    assert warning.count("\n") == 1
    assert "step-3/state.pt: not a readable checkpoint" in warning
    assert "going on from step 2" in warning
    # It no longer counts as the newest, and the file is kept for whoever can fix it.
    assert list_checkpoints(tmp_path) == [1, 2]
    assert (tmp_path / "damaged-step-3.pt").exists()
    save_checkpoint(tmp_path, 3, with_step(3), keep=1)
    assert sorted(os.listdir(tmp_path)) == ["damaged-step-3.pt", "step-3"]
    assert load_latest(tmp_path)[1]["step"] == 3
    assert capsys.readouterr().err == ""


def test_two_damaged_ones_give_way_to_the_third_and_if_all_are_nothing_is_moved(tmp_path, capsys):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, with_step(step), keep=3)
    damage(tmp_path / "step-3" / FILE_NAME, "cut")
    damage(tmp_path / "step-1" / FILE_NAME, "cut")
    assert load_latest(tmp_path)[0] == 2
    damage(tmp_path / "step-2" / FILE_NAME, "cut")
    with pytest.raises(CcmbError, match=r"step-2/state\.pt.*no earlier one is whole; remove .*step-2"):
        load_latest(tmp_path)
    assert list_checkpoints(tmp_path) == [1, 2]


def test_a_checkpoint_that_cannot_be_read_just_now_is_no_damaged_one(tmp_path, monkeypatch):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, with_step(step))

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CcmbError, match=r"step-2/state\.pt: cannot be read just now .*try again"):
        load_latest(tmp_path)
    assert list_checkpoints(tmp_path) == [1, 2]


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1), whole=st.booleans())
def test_whatever_part_of_a_file_is_left_it_is_whole_or_gives_way(tmp_path_factory, share, whole):
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 2):
        save_checkpoint(folder, step, with_step(step))
    path = folder / "step-2" / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data if whole else data[: int(share * (len(data) - 1))])
    assert load_latest(folder)[0] == (2 if whole else 1)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full_is_one_line_with_the_fix_and_leaves_the_rest(small_disk):
    save_checkpoint(small_disk, 1, {"step": 1, "weights": torch.zeros(6000)})
    with pytest.raises(
        CcmbError, match=r"No space left.*free some space or set a lower training\.save_total_limit.*intact"
    ) as caught:
        save_checkpoint(small_disk, 2, {"step": 2, "weights": torch.zeros(12000)})
    assert "\n" not in str(caught.value)
    assert load_latest(small_disk)[0] == 1
    save_checkpoint(small_disk, 3, {"step": 3, "weights": torch.zeros(6000)})  # what did not fit takes no room
    assert load_latest(small_disk)[0] == 3
