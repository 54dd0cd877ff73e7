"""How URLs of link lists and redirects are requested: byte for byte, except for bytes that HTTP does not allow.

Storage services sign the exact bytes, and servers distinguish `%2C` from `,`. So nothing is decoded, reordered or
encoded again; `ccmb.core.url_quoting` lists the few bytes that are quoted. A fragment is not sent. Host names in other
scripts become IDNA.

HTML entities are undone if the URL was clearly copied out of HTML: if every ampersand begins an entity
(`?w=1&amp;h=2`). A URL without a scheme (`//host/path`) is requested by HTTP; its server redirects to HTTPS if it has
it.
"""

from __future__ import annotations

import html
import re
from urllib.parse import unquote, urljoin

from yarl import URL

from ccmb.core.url_quoting import quoted

_ENTITY = re.compile(r"&(?!(?:amp|quot|apos|lt|gt|#0*3[489]|#0*6[02]|#x0*2[267]|#x0*3[ce]);)", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(?://([^/?#]*)([^#]*))?")


class BadUrl(ValueError):
    """A text that is not a URL of HTTP(S) without credentials."""


def check_url(text: str) -> URL:
    """The URL of an image as it is requested.

    Raises:
        BadUrl: the text is no URL, has another scheme than http or https, a user name, a password, or no host.
    """
    text = _without_html(re.sub("[\t\r\n]", "", text.strip()))
    return _checked(f"http:{text}" if text.startswith("//") else text)


def redirected_url(url: URL, location: str) -> URL:
    """The target of a redirect. Bytes of `location` that are not UTF-8 are surrogates, as in the headers of aiohttp.

    Raises:
        BadUrl: see `check_url`.
    """
    location = location.strip()
    if location.startswith("//"):
        return _checked(f"{url.scheme}:{location}")
    if location.startswith("/"):
        return _checked(f"{url.scheme}://{url.authority}{location}")
    if _ABSOLUTE.match(location):
        return _checked(location)
    try:
        return _checked(urljoin(str(url), quoted(location)))
    except ValueError:
        raise BadUrl("not a URL") from None


def _checked(text: str) -> URL:
    parts = _PARTS.match(text)
    scheme = parts[1].lower() if parts else ""
    if parts is None or scheme not in ("http", "https"):
        raise BadUrl(f"{scheme or 'no scheme'} instead of http or https")
    host, path = parts[2] or "", quoted(parts[3] or "")
    if "@" in host:
        raise BadUrl("a user name or password in the URL")
    try:
        plain = unquote(host, errors="strict")
        if re.search(r"[\s\x00-\x20/?#@%\\]", plain):
            raise BadUrl("not a host")
        known = URL(f"{scheme}://{plain}/")
        _ = known.port
        if not known.raw_host:
            raise BadUrl("no host")
        # The path includes the query, so that a question mark with nothing after it stays too.
        return known.with_path(path if path.startswith("/") else f"/{path}", encoded=True)
    except (ValueError, UnicodeError) as error:
        raise error if isinstance(error, BadUrl) else BadUrl("not a URL") from None


def _without_html(text: str) -> str:
    for _ in range(2):  # some lists were escaped twice
        if "&" not in text or _ENTITY.search(text):
            break
        text = html.unescape(text)
    return text
