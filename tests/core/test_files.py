"""Atomic writing and JSON: whole or absent, and errors that name file and line."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.core import files
from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_files, atomic_write, read_json, read_json_lines, walk_files, write_json
from tests.helpers.disk import full_disk

TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)


@settings(max_examples=25, deadline=None)
@given(value=JSON)
def test_written_json_reads_back_equal(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "deep" / "值.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_while_writing_leaves_the_old_file_alone(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with atomic_write(path) as file:
            file.write("half of the n")
            raise failure

    with pytest.raises(failure):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_file_takes_its_name_only_once_it_is_whole(tmp_path):
    with atomic_write(tmp_path / "a.bin", "wb") as file:
        file.write(b"1")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"1"


def test_written_files_have_the_permissions_of_ordinary_ones(tmp_path):
    (tmp_path / "ordinary").touch()
    write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")
    with full_disk(1000), pytest.raises(CcmbError, match=r"a\.json: could not be written .*too large"):
        write_json(path, "x" * 100_000)
    assert read_json(path) == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CcmbError, match="could not be written"):
        write_json(tmp_path / "file" / "a.json", 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1,\n"b"', "line 2 column 4"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "Exceeds the limit"),
    ],
    ids=["cut", "deep", "long number"],
)
def test_faulty_json_is_named(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CcmbError, match=rf"a\.json: not valid JSON \(.*{reason}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [read_json, lambda path: list(read_json_lines(path))])
def test_missing_files_and_folders_are_named(tmp_path, read):
    with pytest.raises(CcmbError, match=r"b\.json: no such file"):
        read(tmp_path / "b.json")
    with pytest.raises(CcmbError, match="Is a directory"):
        read(tmp_path)


def test_json_lines_pass_over_byte_order_mark_blank_lines_and_crlf(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"a": "左"}\r\n\r\n  \n{"a": "\u2028"}'.encode())
    assert list(read_json_lines(path)) == [(1, {"a": "左"}), (4, {"a": "\u2028"})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'a': 1}", r"not valid JSON \(.* at column 2\)"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_faulty_json_lines_name_file_and_line(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(CcmbError, match=rf"a\.jsonl:3: {reason}"):
        list(read_json_lines(path))


def test_a_temporary_file_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    calls = []
    replace = os.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: calls.append("sync"))
    monkeypatch.setattr(files.os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    write_json(tmp_path / "a.json", 1)
    assert calls == ["sync", "rename", "sync"]


def test_several_files_take_their_places_together_and_others_stay(tmp_path):
    folder = tmp_path / "model"
    with atomic_files(folder) as temporary:
        (temporary / "a").write_text("one")
        (temporary / "b").write_text("two")
    (folder / "card").write_text("mine")
    (tmp_path / ".model.dead.tmp").mkdir()  # of a killed process

    def interrupted() -> None:
        with atomic_files(folder) as temporary:
            (temporary / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (folder / "a").read_text() == "one"
    with atomic_files(folder) as temporary:
        (temporary / "a").write_text("three")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "three", "b": "two", "card": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_all_files_below_a_folder_are_walked_through_links_and_none_twice_in_a_round(tmp_path):
    elsewhere = tmp_path / "cache"
    (elsewhere / "more").mkdir(parents=True)
    (elsewhere / "more" / "b").touch()
    root = tmp_path / "root"
    (root / "own" / ".hidden").mkdir(parents=True)
    (root / "own" / ".hidden" / "c").touch()
    (root / "own" / "a").touch()
    (root / "linked").symlink_to(elsewhere)
    (root / "own" / "round").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(root / "linked")
    assert sorted(walk_files(root)) == ["linked/more/b", "own/a"]
    assert sorted(walk_files(f"{root}/")) == ["linked/more/b", "own/a"]
