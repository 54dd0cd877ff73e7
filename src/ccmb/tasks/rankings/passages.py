"""Passages ranked for queries, texts on both sides, from files in T2Ranking's form (arXiv 2304.03679).

`collection.tsv` and `queries.*.tsv` have an id, a tab and a text in each line, with a line of column names or without,
and no quoting. The first stage is a dot product of embeddings, or a run that is given; a cross encoder may rank its
best.

Shapes: Q queries, P passages of a chunk, K kept, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.core.text.files import text_lines
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.rankings.files import HEADS, Run, write_run

BATCH = 64  # texts that are encoded together
CHUNK = 64 * BATCH  # passages whose embeddings are held at a time
PASSAGE_HEADS = (*HEADS, "pid", "docid", "id")


class TextEncoder(Protocol):
    """A model that embeds queries and passages."""

    name: str

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput: ...
    def encode_passages(self, texts: Sequence[str]) -> TowerOutput: ...


class TextRanker(Protocol):
    """A model that scores pairs of texts."""

    name: str

    @property
    def fingerprint(self) -> str: ...
    def score_texts(self, pairs: Sequence[tuple[str, str]]) -> Tensor: ...


def read_texts(path: Path) -> dict[str, str]:
    """Texts by id, in the file's order.

    Raises:
        CcmbError: a line has no tab or no text, or an id comes twice; the message names the line.
    """
    texts: dict[str, str] = {}
    for number, line in enumerate(text_lines(path), start=1):
        name, tab, text = line.partition("\t")
        if not line.strip() or (number == 1 and name.strip().lower() in PASSAGE_HEADS):
            continue
        if not tab or not name.strip() or not text.strip():
            raise CcmbError(f"{path}:{number}: an id, a tab and a text are needed")
        if name in texts:
            raise CcmbError(f"{path}:{number}: the id {name} came before")
        texts[name] = text.strip()
    if not texts:
        raise CcmbError(f"{path}: empty")
    return texts


def retrieve(model: TextEncoder, queries: Mapping[str, str], passages: Mapping[str, str], count: int) -> Run:
    """The best passages of each query by the dot product of embeddings, best first.

    Of equal scores the earlier passage is the better. Embeddings of a chunk of passages are held at a time.
    """
    query_QD = torch.cat([model.encode_texts(part).embed for part in _parts(queries.values(), BATCH)])
    score_QK, row_QK = torch.empty(len(query_QD), 0), torch.empty(len(query_QD), 0, dtype=torch.long)
    first = 0
    with progress("passages", len(passages), "texts") as advance:
        for chunk in _parts(passages.values(), CHUNK):
            parts = []
            for part in _parts(chunk, BATCH):
                parts.append(model.encode_passages(part).embed)
                advance(len(part))
            row_P = torch.arange(first, first + len(chunk))
            score_QK = torch.cat([score_QK, query_QD @ torch.cat(parts).T], 1)
            row_QK = torch.cat([row_QK, row_P.expand(len(query_QD), -1)], 1)
            order_QK = score_QK.sort(dim=1, descending=True, stable=True).indices[:, :count]
            score_QK, row_QK = score_QK.gather(1, order_QK), row_QK.gather(1, order_QK)
            first += len(chunk)
    names = list(passages)
    return {
        query: {names[row]: score for row, score in zip(rows, scores, strict=True)}
        for query, rows, scores in zip(queries, row_QK.tolist(), score_QK.tolist(), strict=True)
    }


def candidates_of(run: Run, queries: Mapping[str, str], passages: Mapping[str, str]) -> Run:
    """A given run's candidates of the queries, best first.

    Raises:
        CcmbError: a passage is not in the collection, or no query is in the run.
    """
    wanted = {query: run[query] for query in queries if query in run}
    if not wanted:
        raise CcmbError("the run has none of the queries; give the run and the queries of one split")
    for query, scores in wanted.items():
        if missing := [name for name in scores if name not in passages]:
            raise CcmbError(f"query {query}: passage {missing[0]} is not in the collection")
    return {query: _best_first(scores) for query, scores in wanted.items()}


def rerank(
    ranker: TextRanker, queries: Mapping[str, str], passages: Mapping[str, str], candidates: Run, depth: int, out: Path
) -> Run:
    """The best candidates of each query in the ranker's order; those below them keep theirs, below.

    What is done is kept beside `out`, by ranker and candidates, and is not computed again after a stop.
    """
    settings = [ranker.fingerprint, depth, candidates, {query: queries[query] for query in candidates}]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    kept = out / f"ranked.{digest}.partial"
    ranked = dict(_ranked_before(kept))
    out.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as file, progress("queries", len(candidates), done=len(ranked)) as advance:
        for query, scores in candidates.items():
            if query in ranked:
                continue
            top = list(scores)[:depth]
            values = ranker.score_texts([(queries[query], passages[name]) for name in top]).tolist()
            ranked[query] = _best_first(dict(zip(top, values, strict=True)))
            file.write(json.dumps([query, ranked[query]], ensure_ascii=False) + "\n")
            file.flush()
            advance()
    kept.unlink()
    return {query: ranked[query] | _below(ranked[query], scores, depth) for query, scores in candidates.items()}


def write_stage(out: Path, name: str, stage: str, run: Run, tag: str) -> Path:
    """Write one stage's run, NAME.STAGE.trec."""
    path = out / f"{name}.{stage}.trec"
    write_run(path, ((query, scores.items()) for query, scores in run.items()), tag.replace(" ", ""))
    return path


def _parts(texts: Iterable[str], count: int) -> Iterator[list[str]]:
    texts = iter(texts)
    while part := list(islice(texts, count)):
        yield part


def _ranked_before(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Whole lines alone: the last one may be cut off."""
    for line in path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []:
        if line.endswith("\n"):
            query, scores = json.loads(line)
            yield query, scores


def _best_first(scores: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _below(ranked: Mapping[str, float], scores: Mapping[str, float], depth: int) -> dict[str, float]:
    """Scores for candidates that were not ranked, all below those that were, in the order they had."""
    worst = min(ranked.values(), default=0.0)
    return {name: worst - rank for rank, name in enumerate(list(scores)[depth:], start=1)}
