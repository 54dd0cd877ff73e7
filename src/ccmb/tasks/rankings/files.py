"""Runs and qrels: TREC's `query Q0 document rank score tag` and `query 0 document grade`, and T2Ranking's forms.

T2Ranking (Xie et al. 2023, arXiv 2304.03679) has runs of `query document rank [score]` and relevant pairs of
`query document`, both with a header or without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.core.text.files import text_lines

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]
TAG = "ccmb"
HEADS = ("qid", "query_id", "query-id")  # first columns of lines that name columns


def read_run(path: Path) -> Run:
    """Scores of documents by query; a document without a score has one that falls with its rank.

    Raises:
        CcmbError: a line has another form, a number is none, or a query names a document twice; the message names the
            line.
    """
    run: Run = {}
    for where, words in _lines(path, (3, 4, 6)):
        query, document = (words[0], words[2]) if len(words) == 6 else (words[0], words[1])
        rank, score = (words[3], words[4]) if len(words) == 6 else (words[2], words[3] if len(words) == 4 else None)
        value = _number(where, "rank", rank) * -1 if score is None else _number(where, "score", score)
        of_query = run.setdefault(query, {})
        if document in of_query:
            raise CcmbError(f"{where}: query {query} names document {document} twice")
        of_query[document] = value
    return _some(path, run)


def read_qrels(path: Path) -> Qrels:
    """Grades of documents by query; where none is given, a named document has grade 1.

    Raises:
        CcmbError: see `read_run`.
    """
    qrels: Qrels = {}
    for where, words in _lines(path, (2, 3, 4)):
        query, document = (words[0], words[2]) if len(words) == 4 else (words[0], words[1])
        grade = 1 if len(words) == 2 else int(_number(where, "grade", words[-1]))
        of_query = qrels.setdefault(query, {})
        if document in of_query:
            raise CcmbError(f"{where}: query {query} grades document {document} twice")
        of_query[document] = grade
    return _some(path, qrels)


def write_run(path: Path, run: Iterable[tuple[str, Iterable[tuple[str, float]]]], tag: str = TAG) -> None:
    """Write ranked lists: queries with their documents and scores, best first."""
    with atomic_write(path) as file:
        for query, ranked in run:
            for rank, (document, score) in enumerate(ranked, start=1):
                # Nine digits tell float32 scores apart.
                file.write(f"{trec_id(query)} Q0 {trec_id(document)} {rank} {score:.9g} {tag}\n")


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    with atomic_write(path) as file:
        for query, grades in qrels.items():
            for document, grade in grades.items():
                file.write(f"{trec_id(query)} 0 {trec_id(document)} {grade}\n")


def trec_id(name: str) -> str:
    """A name without white space, which parts the columns; as in URLs."""
    return quote(name, safe="/:@!$&'()*+,;=-._~#?[]") if any(map(str.isspace, name)) else name


def _lines(path: Path, counts: tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text_lines(path), start=1):
        words = line.split()
        if not words or (number == 1 and words[0].lower() in HEADS):
            continue
        if len(words) not in counts:
            forms = " or ".join(map(str, counts))
            raise CcmbError(f"{path}:{number}: has {len(words)} columns; {forms} are known")
        yield f"{path}:{number}", words


def _number(where: str, what: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise CcmbError(f"{where}: the {what} is {word!r}, no number")
    return value


def _some(path: Path, lines: dict[str, Any]) -> dict[str, Any]:
    if not lines:
        raise CcmbError(f"{path}: empty")
    return lines
