"""Forms (multipart/form-data) in memory: files are bytes, and texts that are not UTF-8 are refused.

Starlette's parser takes a part that names its file only by `filename*` for a text. It also reads texts that are not
UTF-8 as Latin-1, so GBK would arrive as other words without an error.
"""

from __future__ import annotations

import codecs
from collections import defaultdict
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ccmb.serving.http.errors import ApiError

_ENCODINGS = ("utf-8", "ascii")


@dataclass(slots=True)
class _FormPart:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


def read_form(content_type: str, body: bytes, max_parts: int) -> dict[str, list[str | bytes]]:
    """The values of each field, in order; a file is given as its bytes, whatever its name.

    Raises:
        ApiError: the form cannot be read, ends too early, has too many parts, or a text is not UTF-8.
    """
    _, options = parse_options_header(content_type)
    check_charset(options.get(b"charset", b"utf-8").decode("latin-1"))
    values: dict[str, list[str | bytes]] = defaultdict(list)
    for part in _parts(options.get(b"boundary", b""), body, max_parts):
        disposition = part.headers.get(b"content-disposition", b"").decode("latin-1")
        _, names = parse_options_header(disposition)
        if b"name" not in names:
            raise _unreadable("a part has no name")
        name = _decoded(names[b"name"], "a name")
        is_file = any(piece.strip().lower().startswith("filename") for piece in disposition.split(";")[1:])
        values[name].append(bytes(part.data) if is_file else _text(part, name))
    return dict(values)


def check_charset(name: str) -> None:
    """Refuse a charset other than UTF-8.

    Raises:
        ApiError: texts are declared to be in another encoding.
    """
    try:
        known = codecs.lookup(name.strip("'\" ")).name
    except LookupError:
        known = ""
    if known not in _ENCODINGS:
        raise ApiError(400, "not_utf8", f"texts must be UTF-8, not {name[:40]}")


def _text(part: _FormPart, name: str) -> str:
    _, options = parse_options_header(part.headers.get(b"content-type", b""))
    check_charset(options.get(b"charset", b"utf-8").decode("latin-1"))
    return _decoded(bytes(part.data), name)


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ApiError(400, "not_utf8", f"{what[:80]}: the text is not UTF-8; send it as UTF-8") from None


def _parts(boundary: bytes, body: bytes, max_parts: int) -> list[_FormPart]:
    parts, name, value = list[_FormPart](), bytearray(), bytearray()
    is_whole = False

    def begin() -> None:
        if len(parts) == max_parts:
            raise _unreadable(f"it has more than {max_parts} parts")
        parts.append(_FormPart())

    def header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal is_whole
        is_whole = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header_end,
            "on_part_data": lambda data, start, stop: parts[-1].data.extend(data[start:stop]),
            "on_end": end,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise _unreadable("it is no multipart/form-data") from None
    if not is_whole:
        raise _unreadable("it ends before its last boundary")
    return parts


def _unreadable(reason: str) -> ApiError:
    return ApiError(400, "invalid_form", f"the form cannot be read: {reason}")
