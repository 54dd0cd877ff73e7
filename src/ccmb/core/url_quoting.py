"""Which bytes of an address are quoted before it is asked for: those that it may not hold, and no other."""

from __future__ import annotations

import re

_ILLEGAL = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]")


def quoted(text: str) -> str:
    """An address, or a part of one, in ASCII.

    RFC 3986 has no place for blanks, controls, `"<>\\^`{|}`, a percent sign without two hexadecimal digits, and what is
    not ASCII: that is written in UTF-8, and surrogates as the bytes that they stand for. Brackets stay, as browsers and
    curl leave them.
    """
    data = text.encode("utf-8", "surrogateescape")
    return _ILLEGAL.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0]).encode(), data).decode("ascii")
