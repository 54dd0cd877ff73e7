"""The page on serving: its requests are answered, and its tables name all addresses, options and keys."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import Any

import httpx
import pytest

from tests.helpers.pages import ROOT, SERVING_PAGES, VERBS, blocks, read
from tests.helpers.serving import ADMIN, KEYS, FakeIndex, client, png, tiny_app


def as_request(line: str) -> dict[str, Any]:
    """What a line of curl sends."""
    words = shlex.split(line.replace("$KEY", ADMIN))
    request: dict[str, Any] = {"method": "POST", "url": "/" + words[1].partition("/")[2], "headers": {}, "files": []}
    for option, value in zip(words[2::2], words[3::2], strict=True):
        if option == "-H":
            name, _, text = value.partition(": ")
            request["headers"][name] = text
        elif option == "-d":
            request["content"] = value
        else:
            assert option == "-F"
            name, _, text = value.partition("=")
            request["files"].append((name, ("x.jpg", png()) if text.startswith("@") else (None, text)))
    return request


@pytest.mark.parametrize("page", SERVING_PAGES)
def test_the_requests_are_answered(page: str) -> None:
    lines = blocks(page, "sh")[0].splitlines()
    assert len(lines) >= 8

    async def work() -> list[httpx.Response]:
        async with client(tiny_app(FakeIndex(), KEYS), ADMIN) as http:
            return [await http.request(**as_request(line)) for line in lines]

    answers = asyncio.run(work())
    assert [answer.status_code for answer in answers] == [200] * (len(lines) - 1) + [201], answers
    assert blocks(page, "sh") == blocks(SERVING_PAGES[0], "sh")


@pytest.mark.parametrize("page", SERVING_PAGES)
def test_the_tables_name_every_address_and_existing_options(page: str) -> None:
    async def description() -> dict[str, Any]:
        async with client(tiny_app()) as http:
            return (await http.get("/openapi.json")).json()

    paths = asyncio.run(description())["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(re.findall(r"`((?:GET|POST|DELETE) /[^`]*)`", read(page))) == served
    known = {name for parameter in VERBS["serve"].params for name in parameter.opts}
    assert set(re.findall(r"`(--[\w-]+)", read(page))) <= known
    for name in re.findall(r"\((\S+\.webp)\)", read(page)) + re.findall(r'src="(\S+\.webp)"', read(page)):
        image = ROOT / "docs" / name
        assert image.stat().st_size < 150_000
