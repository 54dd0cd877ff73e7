"""Bodies as clients send them: base64 of every form, file names of every form, texts in UTF-8 alone; ETags in lists."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote_from_bytes

import httpx
import pytest

from ccmb.serving.http.request_body import _from_base64
from tests.helpers.serving import FakeIndex, asked, error_of, png, tiny_app

DATA = bytes(range(256)) + b"\xff\xfe\xfb\xef"  # its base64 has + and /, and needs padding
PLAIN = base64.b64encode(DATA).decode()
SAFE = base64.urlsafe_b64encode(DATA).decode()
FORM = {"Content-Type": "multipart/form-data; boundary=B"}


@pytest.mark.parametrize(
    "text",
    [
        PLAIN, PLAIN.rstrip("="), SAFE, SAFE.rstrip("="), f"  {PLAIN}\n", base64.encodebytes(DATA).decode(),
        "\r\n".join(PLAIN[i : i + 64] for i in range(0, len(PLAIN), 64)), PLAIN.replace("+", "%2B").replace("/", "%2F"),
        f"data:image/png;base64,{PLAIN}", f"DATA:image/png;Base64,{SAFE}", f"data:;base64,{PLAIN}",
        f"data:image/png;name=a%20b.png;base64,{PLAIN}", f"data:image/png;base64,{quote_from_bytes(PLAIN.encode())}",
        f"data:image/png,{quote_from_bytes(DATA)}",
    ],
)  # fmt: skip
def test_base64_of_every_common_form(text: str) -> None:
    assert "+" in PLAIN
    assert "/" in PLAIN
    assert PLAIN.endswith("=")
    assert _from_base64(text) == DATA


@pytest.mark.parametrize("text", ["A", "AAAAA", "A=AA", "!!!!", "船", "data:image/png;base64", "AA\0A"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not base64|needs a comma"):
        _from_base64(text)


def post(content: bytes, headers: dict[str, str], path: str = "/match") -> httpx.Response:
    app = tiny_app(FakeIndex())
    return asked(app, lambda http: http.post(path, content=content, headers=headers))


def form(*parts: tuple[str, bytes]) -> bytes:
    """Parts by what follows `form-data; ` in their first header, as raw bytes."""
    lines = [f"--B\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts]
    return b"".join(lines) + b"--B--\r\n"


@pytest.mark.parametrize(
    "name",
    [
        'filename="boat.png"', "filename=boat.png", 'filename="船.png"', "filename*=UTF-8''%E8%88%B9.png",
        "filename*=utf-8''%E8%88%B9.png; filename=\"boat.png\"", "filename*0*=UTF-8''%E8; filename*1*=%88%B9.png",
        'filename="a;b\\"c.png"', 'Filename="boat.png"', 'filename=""',
    ],
)  # fmt: skip
def test_a_part_is_a_file_however_its_name_is_written(name: str) -> None:
    answer = post(form(('name="text"', "红色的船".encode()), (f'name="pictures"; {name}', png())), FORM)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"]) == 1


def test_texts_that_are_not_utf8_are_refused_and_never_guessed() -> None:
    gbk = "红色的船".encode("gbk")
    body = json.dumps({"texts": ["红色的船"]}, ensure_ascii=False)
    for encoding in ("gbk", "utf-16", "utf-16-le", "big5"):
        raw = body.replace("红色", "紅色").encode(encoding)
        status, code = error_of(post(raw, {"Content-Type": "application/json"}, "/embed"))
        assert (status, code) in ((400, "not_utf8"), (400, "invalid_json"))
    declared = {"Content-Type": "application/json; charset=GBK"}
    assert error_of(post(body.encode("gbk"), declared, "/embed")) == (400, "not_utf8")
    assert error_of(post(form(('name="texts"', gbk)), FORM, "/embed")) == (400, "not_utf8")
    declared = {"Content-Type": FORM["Content-Type"] + "; charset=gbk"}
    assert error_of(post(form(('name="texts"', b"boat")), declared, "/embed")) == (400, "not_utf8")
    part = b'--B\r\nContent-Disposition: form-data; name="texts"\r\nContent-Type: text/plain; charset=gb18030\r\n\r\n'
    assert error_of(post(part + gbk + b"\r\n--B--\r\n", FORM, "/embed")) == (400, "not_utf8")


def test_utf8_is_read_with_and_without_its_mark_and_said_or_not() -> None:
    body = json.dumps({"texts": ["红色的船"]}, ensure_ascii=False).encode()
    for content, media in (
        (body, "application/json"), (b"\xef\xbb\xbf" + body, "application/json"),
        (body, 'application/json; charset="UTF-8"'), (body, "application/json;charset=utf8"),
        (form(('name="texts"', "红色的船".encode())), FORM["Content-Type"]),
        (form(('name="texts"', "café".encode())), FORM["Content-Type"]),
    ):  # fmt: skip
        assert post(content, {"Content-Type": media}, "/embed").status_code == 200, content


def test_a_form_that_was_cut_is_refused() -> None:
    whole = form(('name="text"', "船".encode()), ('name="pictures"; filename="a.png"', png()))
    assert post(whole, FORM).status_code == 200
    for cut in (whole[:-10], whole[: len(whole) // 2], b"--B", b""):
        assert error_of(post(cut, FORM)) == (400, "invalid_form")
    assert error_of(post(whole, {"Content-Type": "multipart/form-data"})) == (400, "invalid_form")


def test_if_none_match_takes_lists_weak_tags_and_a_star() -> None:
    index = FakeIndex()
    key = next(iter(index.images))

    async def work(http: httpx.AsyncClient) -> None:
        for path in (f"/thumbnails/{key}", f"/pictures/{key}", "/page.js"):
            whole = await http.get(path)
            tag = whole.headers["etag"]
            for value in (tag, f"W/{tag}", f'"other", {tag}', f'"a,b" , W/{tag},"c"', "*"):
                known = await http.get(path, headers={"If-None-Match": value})
                assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag), value
            for value in ('"other"', tag.strip('"'), 'W/"other", "third"', ""):
                assert (await http.get(path, headers={"If-None-Match": value})).content == whole.content

    asked(tiny_app(index), work)
