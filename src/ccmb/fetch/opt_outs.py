"""Servers that refuse the use of an image for models, by the headers of its answer.

X-Robots-Tag, as Google documents it: directives between commas, in one line or in several. `AGENT:` before a directive
addresses it and those after it in its line to that agent alone; directives with a value have a colon of their own, and
dates hold commas and colons. img2dataset refuses at noai, noimageai, noindex and noimageindex; so do we, and at noml
and none, which stands for noindex and nofollow. As there, what is addressed to others does not count; nor does "all"
take anything back. Only the answer that holds the image is asked, not a redirect to it.

TDM-Reservation, by the TDM Reservation Protocol of the W3C's community group: 1 reserves the rights of text and data
mining. A TDM-Policy says on what terms they may be had; nobody here reads it, so a reservation stands with or without.

Pages are not fetched by the package, so tags of HTML (`<meta name="robots">`) are not seen: whoever collects pages
reads them there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from multidict import CIMultiDictProxy

OPT_OUT = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex", "none"})
# Directives of the header that may be followed by a colon, so that none of them is taken for an agent.
_DIRECTIVES = OPT_OUT | {
    "all", "index", "follow", "nofollow", "noarchive", "nocache", "nosnippet", "notranslate", "indexifembedded",
    "unavailable_after", "max-snippet", "max-image-preview", "max-video-preview",
}  # fmt: skip
_AGENT = re.compile(r"[^\d\s:,;][^:,;]*")  # what begins with a digit is the rest of a date


def opted_out(headers: CIMultiDictProxy[str], robot: str) -> bool:
    """Whether the headers of an answer forbid our use.

    Args:
        robot: our name, of which case and a version ("ccmb/1.0") do not count.
    """
    tags = headers.getall("X-Robots-Tag", [])
    return robots_refuse(tags, robot) or tdm_reserved(headers.getall("TDM-Reservation", []))


def robots_refuse(lines: Sequence[str], robot: str) -> bool:
    """Whether lines of X-Robots-Tag hold a directive that forbids our use, to all agents or to us."""
    ours = robot.casefold()
    return any(_refuses(line, ours) for line in lines)


def tdm_reserved(lines: Sequence[str]) -> bool:
    """Whether one of the values of TDM-Reservation is 1."""
    return any(value.strip() == "1" for line in lines for value in line.split(","))


def _refuses(line: str, ours: str) -> bool:
    addressed = True
    for part in re.split("[,;]", line.casefold()):
        words = part
        while (colon := words.find(":")) >= 0:
            name, words = words[:colon].strip(), words[colon + 1 :]
            if name in _DIRECTIVES:
                words = name  # and what follows is its value
            elif _AGENT.fullmatch(name):
                addressed = name == "*" or name.split("/")[0].strip() == ours
            elif name:
                words = ""
        if addressed and OPT_OUT & set(words.split()):
            return True
    return False
