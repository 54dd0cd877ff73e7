"""Text files of users are read in one way, whatever their encoding, packing and line ends; or one line says why not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, read_json_lines
from ccmb.core.text.files import decode_text, split_lines, text_lines
from ccmb.core.text.tables import split_tabs
from ccmb.corpus.inputs.delimited import csv_records, csv_values
from ccmb.corpus.inputs.line_source import LineFile, tables
from ccmb.corpus.inputs.records import IMPRESSIONS, LINKS, TableKind
from ccmb.corpus.inputs.tables import InputTable, read_test_texts
from ccmb.corpus.texts.filters import read_words
from ccmb.data.class_names import read_classes
from ccmb.data.labelled_pairs import read_labelled_pairs
from ccmb.data.pairs import read_pairs
from ccmb.datasets.formats.lenient_lines import read_lines
from ccmb.datasets.problems import Problems
from ccmb.r2d2.tokenizer import load_tokenizer
from ccmb.search.indexing.image_sources import read_urls
from ccmb.serving.http.auth import Keys
from ccmb.tasks.classification.prompts import read_templates

pytestmark = pytest.mark.usefixtures("lines")

LINES = ["一只猫在沙发上", "two\u2028one\x85text\x0bof\x0cone line", "", "两只狗"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "gb18030"]


def encoded(text: str, encoding: str) -> bytes:
    return (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_line_end_and_packing_gives_the_same_lines(tmp_path: Path, encoding, end, pack) -> None:
    path = tmp_path / "a.txt"  # the name never says that it is packed
    path.write_bytes(pack(encoded(end.join(LINES), encoding)))
    assert list(text_lines(path)) == LINES


def test_gbk_text_that_is_utf8_by_chance_in_its_first_line_is_read_whole(tmp_path: Path) -> None:
    """The two bytes of 一 in GBK are a Cyrillic letter in UTF-8."""
    assert "一".encode("gbk").decode() == "һ"
    assert decode_text("一\n丁\n".encode("gbk"), "a") == "一\n丁"
    assert decode_text("一只猫".encode("gbk"), "b") == "一只猫"  # һֻè: of three scripts


@pytest.mark.parametrize("text", ["Crème brûlée, «naïve»", "Привет, мир", "Ελληνικά", "שלום", "مرحبا"])
def test_letters_of_two_bytes_stay_utf8(text: str) -> None:
    assert decode_text(text.encode(), "a") == text


def test_what_turns_out_to_be_gbk_only_late_is_read_and_said(tmp_path: Path, capfd) -> None:
    path = tmp_path / "late.txt"
    path.write_bytes(b"ascii\n" * 300_000 + "红船".encode("gbk"))
    lines = list(text_lines(path))
    assert (len(lines), lines[-1]) == (300_001, "红船")
    assert capfd.readouterr().err == f"{path}: read as GB18030 (GBK), not as UTF-8\n"


def test_traditional_characters_in_gbk_are_read(tmp_path: Path) -> None:
    assert decode_text("國家圖書館在這裡，我們去看書".encode("gbk"), "a") == "國家圖書館在這裡，我們去看書"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "猫\n".encode() + "狗\n".encode("gbk"),
            ":2: not UTF-8 text, though line 1 is: two encodings in one file",
        ),
        ("狗\n".encode("gbk") + "猫\n".encode(), ":1: not UTF-8 text, though line 2 is"),
        ("一隻貓坐在沙發上，窗外下著雨".encode("big5"), ":1: not UTF-8 text, and as GB18030 .* Big5"),
        ("猫がソファーに座っている".encode("shift-jis"), ":1: not UTF-8 text"),
        ("ok\ncafé au lait".encode("latin-1"), ":2: not UTF-8 text, and the file is not GB18030"),
        (
            "猫".encode("utf-16-le") + b"a\0",
            ":1: not UTF-8 text: zero bytes, as of a binary file or UTF-16",
        ),
        ("ab\n猫".encode("utf-16")[:-1], ":2: UTF-16-LE that is cut short or damaged"),
        (gzip.compress(os.urandom(999))[:500], "the gzip file is cut short or damaged"),
        (gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "packed with gzip twice"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "is packed with zstd; unpack it first"),
        (lzma.compress(b"a"), "is packed with xz"),
        (__import__("bz2").compress(b"a"), "is packed with bzip2"),
        (b"PK\x03\x04\x14", "is a zip archive or an Excel file; unpack it, or save the sheet as CSV"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_name_line_and_fix(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(CcmbError, match=message) as raised:
        list(text_lines(path))
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_line_of_another_encoding_far_behind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("猫\n".encode() * 300_000 + "狗\n".encode("gbk"))
    with pytest.raises(CcmbError, match=r"a\.txt:300001: not UTF-8 text, though the lines before it are"):
        list(text_lines(path))


@given(st.text("a猫\r\n\u2028\x85\x0b", max_size=9))
def test_lines_end_with_cr_lf_or_crlf_alone(text: str) -> None:
    assert split_lines(text) == [line.rstrip("\r\n") for line in io.StringIO(text, newline=None)]


def test_a_file_that_cannot_be_sought_is_read(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, "红船\n".encode("gbk"))
    os.close(write)
    assert list(text_lines(f"/dev/fd/{read}")) == ["红船"]
    os.close(read)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_reader_of_users_files_takes_every_encoding(tmp_path: Path, encoding, pack) -> None:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(pack(encoded(text, encoding)))
        return path

    pair = '{"image": "猫.jpg", "texts": ["一只\u2028猫"]}'
    assert read_pairs(put("p.jsonl", f"{pair}\r\n{pair}"))[0].texts == ("一只\u2028猫",)
    labelled = read_labelled_pairs(put("l.jsonl", '{"image": "a.jpg", "text": "一只猫", "label": 1}'))
    assert labelled[0].texts == ("一只猫",)
    assert read_json(put("a.json", '{"名": "红船"}')) == {"名": "红船"}
    assert [one.name for one in read_classes(put("c.txt", "猫\r\n狗的\u2028家"))] == ["猫", "狗的\u2028家"]
    assert read_templates(str(put("t.txt", "一张{}的照片\u2028。\n"))) == ("一张{}的照片\u2028。",)
    assert read_words(str(put("w.txt", "坏词\r\n脏\x85话"))) == ["坏词", "脏\x85话"]
    assert read_urls(put("u.txt", "# 图片\nhttp://例子.cn/图.jpg\n")) == ["http://例子.cn/图.jpg"]
    keys = Keys.read(put("k.txt", "# 钥匙\n小红 admin 0123456789abcdef0123456789abcdef\n"))
    assert keys.find("0123456789abcdef0123456789abcdef").name == "小红"
    assert [text for _, text in read_lines(put("d.txt", "猫\u2028\r狗"), Problems())] == ["猫\u2028", "狗"]
    vocabulary = load_tokenizer(put("v.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n猫\n狗"))
    assert vocabulary.convert_tokens_to_ids(["[PAD]", "[CLS]", "猫"]) == [0, 2, 5]


def test_json_arrays_are_read_as_json_lines_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n[\n {"a": "],"},\n\n {"a": 2,\n "b": [1]}, {}\n]\n', encoding="utf-8")
    assert list(read_json_lines(path)) == [(3, {"a": "],"}), (5, {"a": 2, "b": [1]}), (6, {})]
    path.write_text('[{"a": 1},\n 7]', encoding="utf-8")
    with pytest.raises(CcmbError, match=r"a\.jsonl:2: expected a JSON object, found int"):
        list(read_json_lines(path))


WANTED = ["红色的船", "蓝,船\n在海上", '他说"好"', "黄船", "白船"]


def put_test_texts(folder: Path) -> dict[str, Path]:
    """The five texts in all forms that hold them."""
    rows = [{"id": n, "text": text} for n, text in enumerate(WANTED)]
    sheet = io.StringIO(newline="")
    csv.writer(sheet).writerows([[" ID", "\ufeff Text "], *([row["id"], row["text"]] for row in rows)])
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    as_tsv = "id\tCaption\n" + "\n".join(f"{n}\t{text}" for n, text in enumerate(WANTED) if "\n" not in text)
    files = {
        "a.csv": sheet.getvalue().encode("gb18030"), "utf8.csv": sheet.getvalue().encode("utf-8-sig"),
        "sheet.txt": sheet.getvalue().encode("utf-16"), "a.jsonl": lines.encode("utf-8-sig"),
        "gbk.jsonl": lines.encode("gbk"), "a.jsonl.gz": gzip.compress(lines.encode()), "plain.gz": lines.encode(),
        "a.json": json.dumps(rows, indent=1).encode(), "one.json": json.dumps(rows).encode("utf-16"),
        "texts.json": json.dumps(WANTED).encode(), "captions.json": json.dumps([{"captions": WANTED}]).encode(),
        "a.tsv": as_tsv.encode("gbk"), "tabs.txt": as_tsv.encode(), "a.data": lines.encode(),
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    parquet.write_table(pa.table({"n": list(range(5)), "TEXT": WANTED}), folder / "a.parquet")
    parquet.write_table(pa.table({"texts": [WANTED[:2], [], WANTED[2:]]}), folder / "lists.pq")
    (folder / "parquet.jsonl").write_bytes((folder / "a.parquet").read_bytes())
    return {path.name: path for path in folder.iterdir()}


def test_test_texts_of_every_form_are_all_read(tmp_path: Path) -> None:
    for name, path in put_test_texts(tmp_path).items():
        wanted = WANTED if "tsv" not in name and "tabs" not in name else [text for text in WANTED if "\n" not in text]
        assert read_test_texts([str(path)]) == wanted, name


def test_test_texts_a_line_keep_what_only_looks_like_a_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("红\u2028船\r\r\n蓝\x85船\n{绿}船, 图\n[笑]\n".encode("utf-8-sig"))
    assert read_test_texts([str(tmp_path)]) == ["红\u2028船", "蓝\x85船", "{绿}船, 图", "[笑]"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"label": 1}\n{"label": 2}', "no texts in 2 lines; give a text a line, or JSON, CSV or Parquet"),
        ("a.txt", b"", "no texts in 0 lines"),
        ("a.csv", b"id,label\n1,2\n", "no column of texts; call it text, caption or query .* it has: id, label"),
        ("a.txt", "1\t红船\n2\t蓝船\n".encode(), "no column of texts"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"', r"a\.jsonl:2: not valid JSON"),
        ("a.csv", b'text,id\n"a"b,1\n', r"a\.csv:2: not CSV"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "cut short or damaged"),
        ("a.parquet", b"PAR1 and no more", "not a readable Parquet file"),
    ],
)
def test_no_test_text_is_lost_without_a_word(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CcmbError, match=message):
        read_test_texts([str(tmp_path / name)])


def test_rows_without_a_test_text_are_counted(tmp_path: Path, capfd) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "红船"}\n{"id": 1}\n{"text": " "}\n', encoding="utf-8")
    assert read_test_texts([str(tmp_path)]) == ["红船"]
    assert capfd.readouterr().err == f"{tmp_path / 'a.jsonl'}: 2 of 3 rows hold no text\n"


def test_tabs_part_fields_and_quotes_are_quotes() -> None:
    assert split_tabs('"红"船\t"红船"\t"他说""好"""\t""') == ['"红"船', '"红船"', '他说"好"', '""']


def rows(path: Path, kind: TableKind = LINKS) -> list[tuple[str, str]]:
    """What a list is read as; a damaged row as Nones."""
    [file] = InputTable(kind, [str(path)]).lines.values()
    first, second = (column.name for column in kind.columns[:2])
    return [(row[first], row[second]) for table in tables(file, kind) for row in table.to_pylist()]


CAPTIONS = [("http://a/1.jpg", '红,船\n上"人"'), ("http://a/2.jpg", "蓝\u2028船"), ("http://a/3.jpg", "绿船")]


def sheet_of(pairs: list[tuple[str, str]], header: list[str] | None) -> str:
    sheet = io.StringIO(newline="")
    csv.writer(sheet).writerows([*([header] if header else []), *pairs])
    return sheet.getvalue()


@pytest.mark.parametrize("header", [["url", "caption"], [" URL ", "\ufeffCaption"], ["Url", "TEXT"], None])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_csv_of_links_by_rfc_4180_with_any_header_and_encoding(tmp_path: Path, encoding, header) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(encoded(sheet_of(CAPTIONS, header), encoding))
    assert rows(path) == CAPTIONS


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", ["lines", "array", "indented", "cr"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_links_in_json_of_any_encoding_and_form(tmp_path: Path, encoding, form, pack) -> None:
    objects = [{"url": url, "caption": text} for url, text in CAPTIONS]
    lines = [json.dumps(one, ensure_ascii=False) for one in objects]
    text = {"lines": "\r\n".join(lines), "cr": "\r".join(lines), "array": json.dumps(objects, ensure_ascii=False),
            "indented": json.dumps(objects, ensure_ascii=False, indent=2)}[form]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_bytes(pack(encoded(text, encoding)))
    assert rows(path) == CAPTIONS


def test_damaged_lines_of_a_log_cost_themselves_alone_but_a_log_of_two_encodings_is_refused(tmp_path: Path) -> None:
    line = json.dumps({"query": "红船", "image_url": "u", "position": 1, "clicked": 0}, ensure_ascii=False)
    path = tmp_path / "a.jsonl"
    path.write_bytes((line + "\n").encode() * 3 + b'{"query": "\xff"}\n')
    assert [query for query, _ in rows(path, IMPRESSIONS)] == ["红船"] * 3 + [None]
    path.write_bytes((line + "\n").encode() + (line + "\n").encode("gbk") * 3)
    with pytest.raises(CcmbError, match=r"a\.jsonl:2: not UTF-8 text, though line 1 is"):
        InputTable(IMPRESSIONS, [str(path)])


def test_a_log_that_turns_to_gbk_far_behind_its_beginning_is_read_as_gbk(tmp_path: Path) -> None:
    line = '{"query": "%s", "image_url": "u", "position": 1, "clicked": 0}\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes((line % "ascii").encode() * 40_000 + (line % "红船").encode("gbk") * 60_000)
    read = [query for query, _ in rows(path, IMPRESSIONS)]
    assert read == ["ascii"] * 40_000 + ["红船"] * 60_000


def test_a_quote_that_does_not_close_costs_its_line_alone() -> None:
    lines = ['"open,1\n', "b,2\n", 'c,"3\n', '4"\n', '"x"y,5\n', "d\n", "e,6\n"]
    read = list(csv_records(iter(line.encode() for line in lines), 2))
    assert read == [None, ["b", "2"], ["c", "3\n4"], None, None, ["e", "6"]]


@given(
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.text('猫",\n', max_size=6)), min_size=1, max_size=30),
    st.integers(20, 60),
)
def test_ranges_of_csv_hold_each_record_once_whatever_is_quoted(pairs: list[tuple[str, str]], width: int) -> None:
    """Where ranges begin is guessed; a guess may damage records, but loses and repeats none that stands apart."""
    data = sheet_of(pairs, None).encode()
    whole = list(csv_values(io.BytesIO(data), ("url", "caption"), 0, None))
    assert [(row["url"], row["caption"]) for row in whole] == pairs
    plain = [("u", text.replace('"', "").replace("\n", "")) for _, text in pairs]
    data = sheet_of(plain, None).encode()
    cut = [row for at in range(0, len(data), width) for row in csv_values(io.BytesIO(data), ("url", "caption"), at, at + width)]  # fmt: skip  # noqa: E501
    assert [(row["url"], row["caption"]) for row in cut] == plain


def test_ranges_of_csv_begin_after_line_breaks_in_quotes(tmp_path: Path) -> None:
    pairs = [(f"http://a/{n}.jpg", f'第{n}行\n再,一行\n第"三"行') for n in range(200)]
    path = tmp_path / "a.csv"
    path.write_bytes(sheet_of(pairs, ["url", "caption"]).encode())
    file = LineFile(str(path), ",", ("url", "caption"), True, path.stat().st_size)
    for width in (97, 501, 1009):
        read = [row for at in range(0, file.bytes or 0, width) for table in tables(file, LINKS, at, at + width) for row in table.to_pylist()]  # fmt: skip  # noqa: E501
        assert [(row["image_url"], row["caption"]) for row in read] == pairs
