"""The page on index and search: its commands and its example run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ccmb.search.filters import BUILT_IN, compile_conditions, parse_condition
from tests.helpers.pages import SEARCH_PAGES, blocks, read
from tests.helpers.runs import command_line
from tests.helpers.tiny import tiny_images
from tests.helpers.tuning import save_start


def test_the_commands_and_the_example_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_start(Path("RUN"))
    for number, image in enumerate(tiny_images(12)):
        path = Path("photos/夏天" if number % 2 else "photos") / f"{'abcdefghijkl'[number]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    image.save("query.jpg")
    names = ["夏天/b.jpg", "夏天/d.jpg", *"acegik", "夏天/f.jpg"]
    lines = [f'{{"name": "{name if "." in name else name + ".jpg"}", "author": "王"}}' for name in names]
    Path("fields.jsonl").write_text("\n".join([*lines, *blocks(SEARCH_PAGES[0], "json")[0].splitlines()]))
    command = command_line(monkeypatch, capfd)
    for line in blocks(SEARCH_PAGES[0], "bash")[0].splitlines():
        done = command(*shlex.split(line, comments=True)[1:])
        assert done.code == 0, done.err
        if " search " in line:
            assert len(done.out.splitlines()) == (9 if "author" in line else 6 if "under" in line else 5)
    assert Path("hits.png").is_file()
    values: dict[str, Any] = {}
    exec(blocks(SEARCH_PAGES[0], "python")[0], values)
    assert len(values["answer"].hits) == 5
    assert list(Path("index/uploads").iterdir()) == []


@pytest.mark.parametrize("page", SEARCH_PAGES)
def test_every_condition_of_the_pages_is_one(page: str) -> None:
    conditions = re.findall(r"`((?:width|price|sold|author|title|date|folder)[^`\n]*[=<>i ][^`\n]*)`", read(page))
    assert len(conditions) >= 10
    known = {**BUILT_IN, "price": float, "sold": bool, "author": str, "title": str}
    compile_conditions([parse_condition(text) for text in conditions], known, ())


def test_both_pages_have_the_same_commands_and_example() -> None:
    for language in ("bash", "python", "json"):
        english, chinese = ([re.sub(r" *#.*", "", block) for block in blocks(page, language)] for page in SEARCH_PAGES)
        assert english == chinese
    rows = [re.findall(r"^\| [\d,]+ .*", read(page), re.MULTILINE) for page in SEARCH_PAGES]
    assert rows[0] == rows[1] != []
