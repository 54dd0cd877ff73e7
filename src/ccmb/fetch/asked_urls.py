"""An address of a link list or a redirect as it is asked for: byte for byte, but for what HTTP does not allow.

Signatures of storage services are over the very bytes, and servers tell `%2C` from `,`. So nothing is decoded, put in
order or encoded anew, and what is quoted says `ccmb.core.url_quoting`. A fragment is no part of a request. Host names
in other scripts become IDNA.

What was copied out of HTML is undone where it is evident: every ampersand begins an entity (`?w=1&amp;h=2`). An address
without a scheme (`//host/path`) is asked for by HTTP, whose servers redirect to HTTPS where they have it.
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
    """Not a URL that a picture may be behind."""


def check_url(text: str) -> URL:
    """The URL of a picture, as it is asked for.

    Raises:
        BadUrl: another scheme than http and https, a user name or password in it, no host, or no URL at all.
    """
    text = _without_html(re.sub("[\t\r\n]", "", text.strip()))
    return _checked(f"http:{text}" if text.startswith("//") else text)


def redirected_url(url: URL, location: str) -> URL:
    """Where a redirect leads, of which bytes that are not UTF-8 are surrogates, as aiohttp gives headers.

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
        # As a path with its query, so that a question mark before nothing stays too.
        return known.with_path(path if path.startswith("/") else f"/{path}", encoded=True)
    except (ValueError, UnicodeError) as error:
        raise error if isinstance(error, BadUrl) else BadUrl("not a URL") from None


def _without_html(text: str) -> str:
    for _ in range(2):  # some lists were escaped twice
        if "&" not in text or _ENTITY.search(text):
            break
        text = html.unescape(text)
    return text
