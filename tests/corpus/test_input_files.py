"""Files of logs and the like are counted once, and hidden files, a system's own and excluded ones not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ccmb.core.errors import CcmbError
from ccmb.corpus.base.recipe import CorpusRecipe
from ccmb.corpus.inputs.records import IMPRESSIONS
from ccmb.corpus.inputs.tables import Inputs, InputTable, find_files, read_test_texts
from ccmb.corpus.pairs.build import Build
from ccmb.data.shards.locate import find_shards
from ccmb.datasets.locate import find_all

pytestmark = pytest.mark.usefixtures("lines")

ROW = {"query": "红船", "image_url": "http://a/1.jpg", "position": 1, "clicked": 1}


def write(folder: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({**ROW, "visitor": "v" * (index + 1)}, ensure_ascii=False) + "\n")
    return folder


def names_of(table: InputTable, folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) for path in table.files]


def test_hidden_and_system_files_among_logs_are_passed_over_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs = write(
        tmp_path / "logs", "a.jsonl", "2024/b.jsonl", "._a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl",
        "2024/.b.jsonl.swp.jsonl", "__MACOSX/._b.jsonl", "@eaDir/a.jsonl", "_temporary/0/part-0.jsonl",
        "_delta_log/00000.json",
    )  # fmt: skip
    for source in (logs, f"{logs}/**/*.jsonl"):
        table = InputTable(IMPRESSIONS, [str(source)])
        assert names_of(table, logs) == ["2024/b.jsonl", "a.jsonl"]
    assert InputTable(IMPRESSIONS, [str(logs)]).passed_over.counts == {"hidden": 3, "of the system": 4}
    message = capfd.readouterr().err
    assert "impressions: passed over: 3 hidden" in message
    assert "__MACOSX" in message
    # What is named itself is meant.
    assert find_files(str(logs / "._a.jsonl")) == [str(logs / "._a.jsonl")]
    with pytest.raises(CcmbError, match=r"no such file.*passed over: 1 hidden"):
        find_files(str(write(tmp_path / "hidden", "._a.jsonl")))


def test_a_log_that_is_reached_by_several_paths_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = write(tmp_path / "logs", "a.jsonl", "2024/b.jsonl")
    (logs / "latest.jsonl").symlink_to(logs / "2024/b.jsonl")
    (logs / "this year").symlink_to(logs / "2024")
    (tmp_path / "link").symlink_to(logs)
    os.link(logs / "a.jsonl", tmp_path / "hard.jsonl")
    monkeypatch.chdir(tmp_path)
    sources = ["logs", str(logs), "logs/2024", "link", "logs/../logs/*.jsonl", "hard.jsonl"]
    table = InputTable(IMPRESSIONS, sources)
    assert sorted({os.path.realpath(path) for path in table.files}) == sorted(map(os.path.realpath, table.files))
    assert len(table.files) == 2
    assert set(table.passed_over.counts) == {"counted once already"}


def test_copies_of_a_log_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs = write(tmp_path / "logs", "a.jsonl", "b.jsonl")
    (logs / "a (1).jsonl").write_bytes((logs / "a.jsonl").read_bytes())
    assert len(InputTable(IMPRESSIONS, [str(logs)]).files) == 3
    message = capfd.readouterr().err
    assert message.count("look like duplicates") == 1
    assert "a (1).jsonl" in message


def test_a_corpus_within_its_own_inputs_is_passed_over(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", "a.jsonl", "corpus/work/pairs/x.jsonl", "corpus/shards/shards.jsonl")
    (logs / "corpus/work/corpus.json").write_text("{}")
    table = InputTable(IMPRESSIONS, [str(logs)])
    assert names_of(table, logs) == ["a.jsonl"]
    assert table.passed_over.counts == {"of a corpus": 1}


def test_patterns_exclude_inputs_of_every_kind_and_the_funnel_counts_them(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", "a.jsonl", "b.bak.jsonl", "tmp/c.jsonl", "2019/raw/d.jsonl")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("红船\n")
    (tmp_path / "texts/b.bak.txt").write_text("蓝船\n")
    patterns = ["*.bak.*", "tmp", "2019/raw"]
    inputs = Inputs(impressions=[str(logs)], test_texts=[str(tmp_path / "texts")], exclude=patterns)
    built = Build(inputs, CorpusRecipe(), tmp_path / "out", 1000)
    assert built.log is not None
    assert names_of(built.log, logs) == ["a.jsonl"]
    assert built.test_texts == read_test_texts([str(tmp_path / "texts")], patterns) == ["红船"]
    step = built.funnel["files of impressions"]
    assert (step.rows, step.kept, step.dropped) == (4, 1, {"excluded": 3})
    with pytest.raises(CcmbError, match="no file is left; passed over: 4 excluded"):
        InputTable(IMPRESSIONS, [str(logs)], ["*.jsonl"])


def test_shards_and_files_of_sets_are_found_once_and_not_among_a_systems_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path, "s/0.tar", "s/1.tar", "s/._0.tar", "s/__MACOSX/._1.tar", "s/@eaDir/0.tar"))
    (tmp_path / "s/link.tar").symlink_to("0.tar")
    shards = find_shards(["s", "./s/1.tar", str(tmp_path / "s"), "s/**/*.tar"])
    assert [os.path.basename(shard.url) for shard in shards] == ["0.tar", "1.tar"]
    assert [shard.url for shard in find_shards(["s/._0.tar"])] == ["s/._0.tar"]
    own = ("__MACOSX/a/captions.txt", "a/._captions.txt", ".ipynb_checkpoints/captions.txt")
    write(tmp_path / "set", "a/captions.txt", *own)
    assert find_all(tmp_path / "set", ["*captions.txt"]) == [tmp_path / "set/a/captions.txt"]
