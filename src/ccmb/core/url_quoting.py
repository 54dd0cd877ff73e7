"""Quoting of URLs before a request: only the bytes that a URL may not hold are quoted."""

from __future__ import annotations

import re

_ILLEGAL = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]")


def quoted(text: str) -> str:
    """A URL, or a part of one, in ASCII.

    RFC 3986 does not allow blanks, control characters, `"<>\\^`{|}`, a percent sign without two hexadecimal digits, and
    characters outside ASCII. These are quoted as UTF-8, and surrogates as the bytes that they stand for. Brackets stay,
    as browsers and curl leave them.
    """
    data = text.encode("utf-8", "surrogateescape")
    return _ILLEGAL.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0]).encode(), data).decode("ascii")
