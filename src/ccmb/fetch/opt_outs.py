"""Servers that refuse the use of an image for models, by the headers of its answer.

X-Robots-Tag, as Google documents it, has directives between commas, in one line or in several. `AGENT:` before a
directive addresses it, and those after it in the line, to that agent alone. Directives with a value have a colon too,
and dates hold commas and colons. img2dataset refuses noai, noimageai, noindex and noimageindex. We refuse these too,
and noml and none; none stands for noindex and nofollow. As in img2dataset, directives for other agents do not count,
and "all" does not undo a directive. Only the answer that holds the image is checked, not a redirect to it.

TDM-Reservation, by the TDM Reservation Protocol of the W3C's community group: 1 reserves the rights of text and data
mining. A TDM-Policy names the terms of use. It is not read here, so a reservation counts with or without a policy.

The package fetches no pages, so it does not see HTML tags (`<meta name="robots">`). Whoever collects the pages must
check them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from multidict import CIMultiDictProxy

OPT_OUT = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex", "none"})
# Directives of the header, which a colon may follow: they are not agents.
_DIRECTIVES = OPT_OUT | {
    "all", "index", "follow", "nofollow", "noarchive", "nocache", "nosnippet", "notranslate", "indexifembedded",
    "unavailable_after", "max-snippet", "max-image-preview", "max-video-preview",
}  # fmt: skip
_AGENT = re.compile(r"[^\d\s:,;][^:,;]*")  # a part that begins with a digit belongs to a date


def opted_out(headers: CIMultiDictProxy[str], robot: str) -> bool:
    """Whether the headers of an answer forbid our use.

    Args:
        robot: our name; its case and a version ("ccmb/1.0") do not count.
    """
    tags = headers.getall("X-Robots-Tag", [])
    return robots_refuse(tags, robot) or tdm_reserved(headers.getall("TDM-Reservation", []))


def robots_refuse(lines: Sequence[str], robot: str) -> bool:
    """Whether lines of X-Robots-Tag forbid our use, by a directive for all agents or for us."""
    own_name = robot.casefold()
    return any(_refuses(line, own_name) for line in lines)


def tdm_reserved(lines: Sequence[str]) -> bool:
    """Whether one of the values of TDM-Reservation is 1."""
    return any(value.strip() == "1" for line in lines for value in line.split(","))


def _refuses(line: str, own_name: str) -> bool:
    addressed = True
    for part in re.split("[,;]", line.casefold()):
        words = part
        while (colon := words.find(":")) >= 0:
            name, words = words[:colon].strip(), words[colon + 1 :]
            if name in _DIRECTIVES:
                words = name  # its value follows the colon
            elif _AGENT.fullmatch(name):
                addressed = name == "*" or name.split("/")[0].strip() == own_name
            elif name:
                words = ""
        if addressed and OPT_OUT & set(words.split()):
            return True
    return False
