"""Words that were given up do not come back as identifiers: the code speaks the language of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.pages import ROOT

# No identifier is one of these.
WORDS = """
Alone Answer beside bias_decay bias_lr Blobs blobs bodies Captured clicker crawler draw_rows draw_times drawn_with
even_targets evidence Fault fewest final_lr Finding found greatest here image_spared Items Judge judged keepers Kind
lanes leaders least Looks Matcher meet mine Mirror most Network Noise of of_pairs of_shard OfR2D2 OpenClipPeer ours
own_fields own_figures own_pairs OwnFields Painted Painter Painting parallelise Part Peer peer Picture Pictures
planted preview Query R2D2Peer Ranker reception rest Said said said_BCHW same_image says says_speed silent_B
spare_twins spared_RB spread_like stairs taught theirs there told UnreadablePicture UNSAID verdict verdicts Verified
views warmup_from Words write_about Written
"""
RETIRED = frozenset(WORDS.split())
# No identifier has one of these among its parts, such as `picture` in `picture_index` and `PictureIndex`.
PARTS = re.compile(r"pictures?|mend|mends|mended|figures?|twins?")
# The first part of no identifier is one of these: `min_` and `max_` stand there.
FIRST = frozenset({"least", "most", "greatest", "fewest"})
LIBRARIES = frozenset({"most_common"})


def parts_of(identifier: str) -> list[str]:
    """`HeldOutPictures` and `held_out_pictures` are held, out, pictures."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier)
    return [part.lower() for part in spaced.split("_") if part]


def identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Each identifier and its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.keyword(arg=str(name)) | ast.alias(asname=str(name)):
                yield name, node.lineno


def retired(name: str) -> bool:
    parts = parts_of(name)
    if name in LIBRARIES:
        return False
    return name in RETIRED or any(map(PARTS.fullmatch, parts)) or bool(parts and parts[0] in FIRST)


@pytest.mark.parametrize("folder", ["src", "benchmarks"])
def test_no_retired_word_is_an_identifier(folder: str) -> None:
    root = ROOT / folder
    lines = [
        f"{path.relative_to(root)}:{line}: {name}"
        for path in sorted(root.rglob("*.py"))
        for name, line in identifiers(ast.parse(path.read_text(encoding="utf-8")))
        if retired(name)
    ]
    assert lines == []


def test_what_is_retired() -> None:
    assert parts_of("HeldOutPictures") == parts_of("held_out_pictures") == ["held", "out", "pictures"]
    assert all(map(retired, ("of", "Pictures", "PICTURES", "picture_index", "least_score", "MOST_TEXTS")))
    assert not any(map(retired, ("offset", "image", "almost", "at_least_float32", "min_score", "label_of")))
    source = "def f(of): found = of.told(most_x=1)\nclass Picture: twin: int\nimport a as mend"
    names = [name for name, _ in identifiers(ast.parse(source)) if retired(name)]
    assert sorted(names) == ["Picture", "found", "mend", "most_x", "of", "of", "told", "twin"]
