"""States by key on disk: whole or not there, whoever writes them, and within their bound."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from ccmb.core.errors import CcmbError
from ccmb.data.states import cache_folder
from ccmb.data.states.cache_folder import IN_USE, CacheFolder, user_cache
from ccmb.data.states.images import StoredImages
from ccmb.data.states.store import StateStore, key_of

KEYS = [key_of(str(number)) for number in range(6)]
ITEMS = [(key, torch.full((rows, 3), float(rows), dtype=torch.float16)) for rows, key in enumerate(KEYS, start=1)]


def test_items_are_read_in_any_order_and_padded(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.write(ITEMS[:4])
    store.write(ITEMS[4:])
    for opened in (store, StateStore(tmp_path)):
        assert len(opened) == 6
        batch = opened.read([KEYS[4], KEYS[0], KEYS[4]])
        assert batch.shape == (3, 5, 3)
        assert batch.dtype == torch.float16
        assert batch[:, :, 0].tolist() == [[5.0] * 5, [1.0, 0.0, 0.0, 0.0, 0.0], [5.0] * 5]
    assert store.missing([key_of("new"), KEYS[0], key_of("new")]) == [key_of("new")]
    with pytest.raises(CcmbError, match="are missing; begin again"):
        store.read([key_of("new")])


def test_what_another_process_writes_is_seen_after_a_refresh(tmp_path: Path) -> None:
    one, other = StateStore(tmp_path), StateStore(tmp_path)
    one.write(ITEMS[:3])
    other.write(ITEMS[2:])  # both have computed one item
    assert KEYS[0] not in other
    other.refresh()
    assert other.missing(KEYS) == []


@pytest.mark.parametrize("fault", ["bit", "cut", "empty", "text"])
def test_damaged_files_are_removed_and_their_items_missing(tmp_path: Path, fault: str) -> None:
    store = StateStore(tmp_path)
    store.write(ITEMS[:3])
    store.write(ITEMS[3:])
    damaged = max(tmp_path.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    data = damaged.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    damaged.write_bytes({"bit": flipped, "cut": data[:-5], "empty": b"", "text": b"states" * 20}[fault])
    again = StateStore(tmp_path)
    assert again.missing(KEYS) == KEYS[3:]
    assert not damaged.exists()
    again.write(ITEMS[3:])
    assert again.missing(KEYS) == []


def test_states_can_be_read_after_their_files_are_removed(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.write(ITEMS)
    for path in tmp_path.iterdir():
        path.unlink()
    assert store.read([KEYS[1]])[0, :, 0].tolist() == [2.0, 2.0]


def test_keys_are_of_all_parts() -> None:
    assert key_of("a", "b") == key_of(b"a", "b")
    assert len({key_of("a", "b"), key_of("ab"), key_of("a"), key_of("b", "a"), key_of("", "ab")}) == 5


def test_an_image_has_a_key_for_each_view_and_for_texts_that_forbid_mirroring_if_it_may_be_mirrored() -> None:
    digests = {"a.png": b"1" * 32, "copy of a.png": b"1" * 32, "b.png": b"2" * 32}
    for mirrors in (False, True):
        images = StoredImages(digests, {"c.png": "c.png: damaged"}, mirrors)
        keys = {images.key(name, view, mirror) for name in digests for view in (0, 1) for mirror in (False, True)}
        assert len(keys) == (8 if mirrors else 4)
        assert images.key("c.png", 0, True) == "c.png: damaged"


def fill(root: Path, key: str, size: int, age: float) -> Path:
    """A key's folder that was used some seconds ago."""
    CacheFolder(root, key).close()
    (root / key / "states").write_bytes(b"0" * size)
    os.utime(root / key / IN_USE, (time.time() - age,) * 2)
    return root / key


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    old, newer, newest = (fill(tmp_path, key, 100, age) for key, age in (("a", 50), ("b", 30), ("c", 10)))
    own = CacheFolder(tmp_path, "own")
    assert own.make_room(100, 400)
    assert all(folder.exists() for folder in (old, newer, newest))
    assert own.make_room(150, 400)
    assert not old.exists()
    assert newer.exists()
    CacheFolder(tmp_path, "b").close()  # used again
    assert own.make_room(250, 400)
    assert newer.exists()
    assert not newest.exists()


def test_nothing_is_removed_where_it_would_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = fill(tmp_path, "a", 100, 50)
    own = CacheFolder(tmp_path, "own")
    assert not own.make_room(500, 400)
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**30 + 50}))
    assert own.make_room(50, 10**6)
    assert not own.make_room(151, 10**6)
    assert other.exists()
    assert own.make_room(150, 10**6)
    assert not other.exists()


def test_a_folder_in_use_stays(tmp_path: Path) -> None:
    fill(tmp_path, "a", 100, 50)
    used = CacheFolder(tmp_path, "a")
    os.utime(tmp_path / "a" / IN_USE, (0, 0))
    own = CacheFolder(tmp_path, "own")
    assert not own.make_room(350, 400)
    assert (tmp_path / "a" / "states").exists()
    used.close()
    assert own.make_room(350, 400)
    assert not (tmp_path / "a").exists()


def test_a_folder_is_cleared_unless_another_process_uses_it(tmp_path: Path) -> None:
    own, other = CacheFolder(tmp_path, "a"), CacheFolder(tmp_path, "a")
    (tmp_path / "a" / "states").write_bytes(b"0")
    assert not own.clear()
    assert (tmp_path / "a" / "states").exists()
    other.close()
    assert own.clear()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [IN_USE]
    assert CacheFolder(tmp_path, "b").make_room(350, 400)
    assert (tmp_path / "a").exists()  # it is still in use


def test_unfinished_files_of_killed_processes_are_removed_but_not_those_being_written(tmp_path: Path) -> None:
    CacheFolder(tmp_path, "a").close()
    left, written = tmp_path / "a" / ".1.tmp", tmp_path / "a" / ".2.tmp"
    for path in (left, written):
        path.write_bytes(b"0")
    os.utime(left, (0, 0))
    CacheFolder(tmp_path, "a")
    assert not left.exists()
    assert written.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CcmbError, match=r"cache/a: could not be written"):
        CacheFolder(tmp_path / "cache", "a")


def test_the_place_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCMB_CACHE", "/own/place")
    assert user_cache() == Path("/own/place")
    monkeypatch.delenv("CCMB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert user_cache() == Path("/caches/ccmb")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert user_cache() == Path("/home/me/.cache/ccmb")
