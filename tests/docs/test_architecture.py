"""The pages of the architecture: every file they name exists (their floors: tests/core/test_floors.py)."""

from __future__ import annotations

import ast
import re

import pytest

from tests.helpers.pages import ROOT, read

PAGES = ("ARCHITECTURE.md", "ARCHITECTURE.zh.md")
FILE = re.compile(r"`([\w./-]+\.(?:py|md|yaml))`")


def places(name: str) -> list[bool]:
    """Whether a file is there, from the repository's root or in the package."""
    return [(folder / name).is_file() for folder in (ROOT, ROOT / "src", ROOT / "src" / "ccmb")]


def walks(page: str) -> list[list[list[str]]]:
    """Of each walk its steps, of each step its files."""
    sections = re.findall(r"^### .*?(?=^##)", read(page) + "\n##", re.MULTILINE | re.DOTALL)
    return [[FILE.findall(step) for step in re.findall(r"^\d+\. (.*)$", part, re.MULTILINE)] for part in sections]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_page_exists(page: str) -> None:
    names = FILE.findall(read(page))
    assert len(names) > 130
    assert [name for name in names if "NAME" not in name and not any(places(name))] == []
    folders = re.findall(r"`((?:tests|recipes)(?:/\w+)*)`", read(page))
    assert all((ROOT / name).is_dir() or (ROOT / "src" / "ccmb" / name).is_dir() for name in folders)


def test_a_file_that_does_not_exist_would_be_noticed() -> None:
    assert FILE.findall("`objectives/gone.py`") == ["objectives/gone.py"]
    assert not any(places("objectives/gone.py"))


@pytest.mark.parametrize("page", PAGES)
def test_there_are_five_walks_and_seven_places_to_add_to(page: str) -> None:
    assert [len(steps) for steps in walks(page)] == [7, 6, 7, 4, 6]
    assert all(files for steps in walks(page) for files in steps)
    assert len(re.findall(r"^- \*\*", read(page), re.MULTILINE)) == 7


def test_both_languages_name_the_same_files_in_the_same_order() -> None:
    english, chinese = (FILE.findall(read(page)) for page in PAGES)
    assert [name for name in english if name != PAGES[1]] == [name for name in chinese if name != PAGES[0]]


def imported(name: str) -> set[str]:
    """Files of the package that one of them imports."""
    tree = ast.parse((ROOT / "src" / "ccmb" / name).read_text(encoding="utf-8"))
    files = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ccmb."):
            folder = str(node.module).removeprefix("ccmb.").replace(".", "/")
            files |= {f"{folder}.py", *(f"{folder}/{alias.name}.py" for alias in node.names)}
    return files


@pytest.mark.parametrize("number", range(5))
def test_each_file_of_a_walk_imports_another_or_is_imported(number: int) -> None:
    names = [name for step in walks(PAGES[0])[number] for name in step]
    arrows = {(name, target) for name in names for target in imported(name) if target in names and target != name}
    alone = [name for name in names if not any(name in arrow for arrow in arrows)]
    assert alone == []
