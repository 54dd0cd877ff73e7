"""Logs, pages and lists as tables: the quick way of reading is the slow one, and damage costs its own line alone."""

from __future__ import annotations

import datetime
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.corpus.base.daft_engine import run_in_process, use_runner
from ccmb.corpus.inputs import line_source as line_files
from ccmb.corpus.inputs.line_source import LineFile, blocks, json_rows, rows_of, tables
from ccmb.corpus.inputs.records import IMPRESSIONS, LINKS, PAGES, TableKind, value_of
from ccmb.corpus.inputs.tables import InputTable, find_files, read_test_texts

pytestmark = pytest.mark.usefixtures("lines")

ROW = {"query": "红船", "image_url": "http://a/1.jpg", "position": 1, "clicked": 0, "visitor": "v", "time": 1700000000}
DAY = 1704164645  # 2024-01-02T03:04:05Z
KINDS = {kind.name: kind for kind in (IMPRESSIONS, PAGES, LINKS)}

plain = st.fixed_dictionaries(
    {"query": st.text("红船 a\"\\", max_size=4), "position": st.integers(-5, 2**40), "clicked": st.integers(0, 1)},
    optional={
        "visitor": st.one_of(st.none(), st.text("v1 ", max_size=3)), "time": st.integers(0, 2**33), "x": st.just([1]),
    },
)  # fmt: skip
values = st.one_of(st.booleans(), st.floats(), st.text())
odd: st.SearchStrategy[Any] = st.one_of(
    plain, st.dictionaries(st.sampled_from(["query", "position", "time"]), values),
    st.none(), st.integers(), st.lists(st.integers()),
)  # fmt: skip


@given(st.lists(st.one_of(plain, odd), max_size=8), st.booleans())
def test_arrow_reads_lines_as_the_slow_way_does(values: list[Any], end: bool) -> None:
    block = "\n".join(json.dumps(value, ensure_ascii=False) for value in values).encode("utf-8", "surrogatepass")
    block += b"\n" * end
    slow = rows_of(line_files._json_values(block), IMPRESSIONS)
    assert json_rows(block, IMPRESSIONS).equals(slow)
    assert slow.num_rows == len(values)


def test_plain_lines_are_read_by_arrow() -> None:
    block = "\n".join(json.dumps(ROW | {"page_url": None}, ensure_ascii=False) for _ in range(3)).encode()
    quick = line_files._by_arrow(block, IMPRESSIONS)
    assert quick is not None
    assert quick.num_rows == 3


@given(st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=30), st.integers(1, 40))
def test_each_line_lies_in_one_range(lines: list[bytes], width: int) -> None:
    data = b"\n".join(lines)
    ranges = [b"".join(blocks(io.BytesIO(data), at, at + width)) for at in range(0, max(1, len(data)), width)]
    assert b"".join(ranges) == data


def test_values_are_read_as_their_kind() -> None:
    assert value_of("text", " \t") is None
    assert value_of("text", 5) is None
    assert value_of("text", "\ud800") is None
    assert value_of("integer", "7") == value_of("integer", 7.0) == 7
    assert value_of("integer", True) == 1
    assert value_of("integer", 7.5) is value_of("integer", float("inf")) is value_of("integer", 2**63) is None
    assert value_of("time", "2024-01-02T03:04:05") == value_of("time", "2024-01-02T03:04:05Z") == DAY
    assert value_of("time", "2024-01-02T11:04:05+08:00") == value_of("time", DAY + 0.9) == DAY
    assert value_of("time", "yesterday") is None


def rows(kind: str, sources: list[str]) -> list[dict[str, Any]]:
    use_runner()
    table_rows: list[dict[str, Any]] = InputTable(KINDS[kind], sources).read().to_pylist()
    return table_rows


def read(kind: TableKind, *paths: Path) -> list[dict[str, Any]]:
    return run_in_process(rows, kind.name, [str(path) for path in paths])  # type: ignore[no-any-return]


def test_logs_of_all_forms_are_one_table(tmp_path: Path) -> None:
    line = json.dumps(ROW, ensure_ascii=False).encode()
    damaged = [b"{broken", b"[1]", b'\xff{"query":1}', json.dumps(ROW | {"position": 0}).encode(), b'{"query": "a"}']
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join([line, *damaged, line]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(line + b"\r\n\r\n"))
    columns = {name: [value] * 3 for name, value in ROW.items()}
    at = datetime.datetime.fromtimestamp(1700000000, datetime.UTC)
    types = {"position": pa.array([1, 1, None], pa.int16()), "clicked": [False, False, True], "time": [at] * 3}
    parquet.write_table(pa.table(columns | types), tmp_path / "c.parquet")
    texts = {"time": ["2023-11-14T22:13:20", "x", None], "position": [1.0, 1.5, 1.0]}
    parquet.write_table(pa.table(columns | texts), tmp_path / "d.parquet")
    table_rows = read(IMPRESSIONS, tmp_path)
    good = [row for row in table_rows if not row["damaged"]]
    assert len(table_rows) == 7 + 1 + 3 + 3
    assert sum(row["damaged"] for row in table_rows) == len(damaged) + 1 + 1
    expected = {**ROW, "page_url": None, "damaged": False}
    assert [row for row in good if row != expected] == [expected | {"time": None}]


def test_released_lists(tmp_path: Path) -> None:
    (tmp_path / "wukong.csv").write_text('dir,url,caption\nd,http://a/1.jpg,"红,船"\nd,http://x\n', encoding="utf-8")
    (tmp_path / "taisu.txt").write_text('http://a/2.jpg\t"红"船\nno tab\n', encoding="utf-8")
    (tmp_path / "laion.jsonl").write_text('{"URL": "http://a/3.jpg", "TEXT": "船"}\n', encoding="utf-8")
    table_rows = {row["image_url"]: row["caption"] for row in read(LINKS, tmp_path) if not row["damaged"]}
    assert table_rows == {"http://a/1.jpg": "红,船", "http://a/2.jpg": '"红"船', "http://a/3.jpg": "船"}
    zero = {
        "Url": "http://p",
        "Title": "题",
        "Content": "文",
        "Keywords": "词",
        "ImageKey": "k",
        "ImageUrl": "http://a/1.jpg",
    }
    (tmp_path / "zero.jsonl").write_text(json.dumps(zero | {"ImageQuery": "问"}), encoding="utf-8")
    [page] = read(PAGES, tmp_path / "zero.jsonl")
    assert (page["page_url"], page["title"], page["query"], page["image_key"]) == ("http://p", "题", "问", "k")


def test_ranges_of_a_file_have_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("\ufeffurl\tcaption\n" + "".join(f"http://a/{n}\t船{n}\n" for n in range(100)), encoding="utf-8")
    file = LineFile(str(path), "\t", ("url", "caption"), True, path.stat().st_size)
    table_rows = [row for at in range(0, file.bytes or 0, 50) for table in tables(file, LINKS, at, at + 50) for row in table.to_pylist()]  # fmt: skip  # noqa: E501
    assert [row["caption"] for row in table_rows] == [f"船{n}" for n in range(100)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"Query": "a", "image_url": "u"}', "no column 'query'.*did you mean 'Query'"),
        ("a.jsonl", b"\xff\n", "no column 'query'; it has: nothing; impressions need query, image_url"),
        ("a.parquet", b"nonsense", "not a Parquet file that can be read"),
        ("a.csv", b"query,image_url", "impressions are JSON lines or Parquet"),
        ("a.doc", b"", "not one of the kinds of files"),
    ],
)
def test_a_faulty_file_is_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CcmbError, match=message) as raised:
        InputTable(IMPRESSIONS, [str(tmp_path / name)])
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_faulty_column_is_one_line(tmp_path: Path) -> None:
    table = pa.table({name: [value] for name, value in ROW.items()} | {"position": ["first"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CcmbError, match=r"a\.parquet: column 'position' is string; impressions need integer"):
        InputTable(IMPRESSIONS, [str(tmp_path / "a.parquet")])
    with pytest.raises(CcmbError, match="no such file"):
        find_files(str(tmp_path / "none-*.jsonl"))
    (tmp_path / "list.tsv").write_text("one\ttwo\tthree\n", encoding="utf-8")
    with pytest.raises(CcmbError, match="its first line is neither a header nor a URL"):
        InputTable(LINKS, [str(tmp_path / "list.tsv")])


def test_test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("红船\n\n蓝船\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "绿船"}\n{"texts": ["黄船", "白船"]}\n', encoding="utf-8")
    assert read_test_texts([str(tmp_path)]) == ["红船", "蓝船", "绿船", "黄船", "白船"]
    (tmp_path / "c.jsonl").write_text('{"label": "x"}\n', encoding="utf-8")
    with pytest.raises(CcmbError, match=r"c\.jsonl: no texts"):
        read_test_texts([str(tmp_path / "c.jsonl")])


def test_files_of_a_folder_that_cannot_be_read_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jsonl", "b.jsonl.zst", "c.XLSX", "README.md"):
        (tmp_path / name).write_bytes(b"{}")
    assert find_files(str(tmp_path)) == [str(tmp_path / "a.jsonl")]
    assert capfd.readouterr().err == f"{tmp_path}: 2 files are of kinds that are not read: b.jsonl.zst, c.XLSX\n"


def test_a_log_whose_gzip_is_cut_short_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = "".join(json.dumps(ROW | {"visitor": str(n)}) + "\n" for n in range(20_000))
    path.write_bytes(gzip.compress(lines.encode())[:-2000])
    with pytest.raises(CcmbError, match=r"^[^\n]*a\.jsonl\.gz: the gzip file is cut short or damaged[^\n]*$"):
        read(IMPRESSIONS, path)
