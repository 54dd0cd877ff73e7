"""The house: how large its folders, files and functions may grow, and how many arguments stand without their names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ccmb

SOURCE = Path(ccmb.__file__).parent
MAX_FILES, MAX_ROOT_FILES, MAX_LINES, MAX_FUNCTION_LINES, MAX_POSITIONAL = 18, 3, 400, 60, 5
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def trees(root: Path = SOURCE) -> dict[Path, ast.Module]:
    return {path.relative_to(root): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))}


def variadic(node: ast.ClassDef | FUNCTION) -> int | None:
    """Of a function, or of a class that has an `__init__` of its own: how many parameters stand before `*arguments`,
    or None where it takes none of these."""
    if isinstance(node, ast.ClassDef):
        own = [item for item in node.body if isinstance(item, FUNCTION) and item.name == "__init__"]
        return variadic(own[0]) if own else None
    arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return None if node.args.vararg is None else len(arguments) - (arguments[:1] in (["self"], ["cls"]))


def definitions(sources: dict[Path, ast.Module]) -> dict[str, list[int | None]]:
    """By the name of each function and class of ours, what `variadic` says of those who have it."""
    names = defaultdict[str, list[int | None]](list)
    for tree in sources.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | FUNCTION):
                names[node.name].append(variadic(node))
    return names


def name_called(call: ast.Call) -> str:
    """Of the function or class that a call names last, or nothing."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def crowded_calls(sources: dict[Path, ast.Module]) -> Iterator[str]:
    """Calls of ours with too many arguments without names; `*several` count as one, as what a callee takes as `*many`
    counts for nothing."""
    known = definitions(sources)
    for path, tree in sources.items():
        nearest = known | definitions({path: tree})  # a file means its own of that name
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or name_called(node) not in known:
                continue
            counted = [len(node.args) if before is None else before for before in nearest[name_called(node)]]
            if min(len(node.args), max(counted)) > MAX_POSITIONAL:
                yield f"{path}:{node.lineno}: {name_called(node)} with {len(node.args)} arguments without names"


def test_folders_hold_few_files() -> None:
    count = defaultdict[Path, int](int)
    for path in trees():
        count[path.parent] += 1
    assert count.pop(Path()) <= MAX_ROOT_FILES, "the root of the package holds what users import and run, and no more"
    assert {str(folder): files for folder, files in count.items() if files > MAX_FILES} == {}


def test_files_and_functions_are_short() -> None:
    long = []
    for path, tree in trees().items():
        lines = len((SOURCE / path).read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            long.append(f"{path}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, FUNCTION) and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES:
                long.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    assert long == []


def test_many_arguments_have_their_names() -> None:
    assert list(crowded_calls(trees())) == []


def test_the_count_of_arguments_knows_whose_they_are() -> None:
    source = """
class Box:
    def __init__(self, *sides): ...
    def fill(self, a, b, c, d, e, f): ...
def run(step, *values): ...
def mix(a, b, c, d, e, f): ...
Box(1, 2, 3, 4, 5, 6)
run(1, 2, 3, 4, 5, 6)
library(1, 2, 3, 4, 5, 6)
mix(*values)
mix(1, 2, 3, 4, 5, f=6)
mix(1, 2, 3, 4, 5, 6)
mix(1, 2, 3, 4, 5, *values)
Box().fill(1, 2, 3, 4, 5, 6)
"""
    crowded = list(crowded_calls({Path("some.py"): ast.parse(source)}))
    assert [line.split(":")[1] for line in crowded] == ["12", "13", "14"]
