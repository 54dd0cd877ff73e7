"""The house: which folder may import which. `pytest -s tests/core/test_floors.py` prints it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ccmb
from tests.helpers.pages import read

# Each floor imports from the floors before it, from none after it, and not from its neighbours.
FLOORS = (
    ("core", "report"),
    ("data", "fetch"),
    ("datasets", "r2d2", "scenes", "training"),
    ("corpus", "inference", "objectives"),
    ("search", "tasks"),
    ("benchmark", "demos", "serving"),
    ("integrations",),
    ("cli",),
)
SOURCE = Path(ccmb.__file__).parent
FACE = ("ccmb", "ccmb.__main__")  # what users import and run: it hands on what lies on any floor


def modules() -> dict[str, Path]:
    """The package's files by their dotted names."""
    names = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("ccmb", *path.relative_to(SOURCE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and name of each module of the package that a file imports, lazily or for types alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "ccmb")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module and node.module.split(".")[0] == "ccmb":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield node.lineno, whole if whole in known else node.module


def room(module: str) -> str:
    return module.split(".")[1] if module not in FACE else ""


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """The names along a circle of arrows, or nothing."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_down() -> None:
    known = modules()
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    assert {room(name) for name in known if name not in FACE} == set(floor_of), "a folder stands on no floor"
    upward, arrows = [], Counter[tuple[str, str]]()
    for name, path in known.items():
        if name in FACE:
            continue
        for line, target in imports(path, known):
            assert target in known, f"{path}:{line}: there is no {target}"
            if target in FACE or room(target) == room(name):
                continue
            arrows[room(name), room(target)] += 1
            if floor_of[room(target)] >= floor_of[room(name)]:
                upward.append(f"{path.relative_to(SOURCE)}:{line} imports {target}")
    for floor, names in reversed(list(enumerate(FLOORS))):
        below = sorted({to for (start, to) in arrows if start in names})
        print(f"{floor}  {', '.join(names):44} <- {', '.join(below)}")
    assert upward == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "ARCHITECTURE.zh.md"])
def test_the_page_has_the_same_floors(page: str) -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \| .*\|$", read(page), re.MULTILINE)
    assert [int(floor) for floor, _ in rows] == list(range(len(FLOORS)))
    assert tuple(tuple(re.findall(r"`(\w+)`", folders)) for _, folders in rows) == FLOORS


def test_no_files_and_no_folders_import_each_other_in_a_circle() -> None:
    known = modules()
    files = {
        name: {target for _, target in imports(path, known)} - {name, *FACE}
        for name, path in known.items()
        if name not in FACE
    }
    assert circle(files) == []
    folders: dict[str, set[str]] = {}
    for name, targets in files.items():
        own = name if known[name].name == "__init__.py" else name.rpartition(".")[0]
        for target in targets:
            its = target if known[target].name == "__init__.py" else target.rpartition(".")[0]
            # A folder and the folders inside it are one subject.
            if its != own and not its.startswith(f"{own}.") and not own.startswith(f"{its}."):
                folders.setdefault(own, set()).add(its)
    assert circle(folders) == []


def test_tests_import_no_tests() -> None:
    tests = Path(__file__).parents[1]
    wrong = [
        f"{path.relative_to(tests)}:{node.lineno}"
        for path in sorted(tests.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1].startswith("test_")
    ]
    assert wrong == []
