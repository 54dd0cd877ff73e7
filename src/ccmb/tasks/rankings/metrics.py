"""Metrics of ranked lists against graded truth, as trec_eval computes them; of each query, so that they can be paired.

A list is ordered by falling score, and equal scores by falling name of the document, as trec_eval orders them. Scores
count as float32, as there. What the truth does not grade has grade 0.

Shapes: Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ccmb.tasks.rankings.files import Qrels, Run

NDCG_CUTS, RECALL_CUTS, MRR_CUT = (5, 10, 20, 100), (1, 50, 1000), 10


@dataclass(frozen=True, slots=True)
class QueryMetrics:
    """Metrics of each query of the truth that has a relevant document.

    Attributes:
        queries: their names.
        values: (Q,) by metric. A query that the run lacks has 0.
        relevant, retrieved: (Q,) how many documents are relevant, and how many of them are among the first k, by k.
        missing: how many queries the run lacks.
    """

    queries: list[str]
    values: dict[str, np.ndarray]
    relevant: np.ndarray
    retrieved: dict[int, np.ndarray]
    missing: int

    def means(self, unit_weights_Q: np.ndarray | None = None) -> dict[str, float]:
        """The mean of each metric over queries, and micro recall, over all relevant documents together.

        Args:
            unit_weights_Q: how often each query counts, as of a bootstrap; by default once.
        """
        weights_Q = np.ones(len(self.queries)) if unit_weights_Q is None else unit_weights_Q
        means = {name: float(weights_Q @ values / weights_Q.sum()) for name, values in self.values.items()}
        total = float(weights_Q @ self.relevant)
        return means | {f"micro_recall@{k}": float(weights_Q @ count) / total for k, count in self.retrieved.items()}


def measure_run(run: Run, qrels: Qrels, relevant_from: int = 1) -> QueryMetrics:
    """Metrics of a run: `MRR@10`, `nDCG@k` of grades, `MAP`, `macro_recall@k`; micro recall: `means`.

    Args:
        relevant_from: the least grade that counts as relevant where grades do not count by themselves; T2Ranking's
            retrieval takes 2.
    """
    graded = {query: grades for query, grades in qrels.items() if any(map(relevant_from.__le__, grades.values()))}
    queries, columns, retrieved = list(graded), dict[str, list[float]](), {k: list[int]() for k in RECALL_CUTS}
    for query in queries:
        grades, ranked = graded[query], ranked_documents(run.get(query, {}))
        hits = [grades.get(document, 0) >= relevant_from for document in ranked]
        total = sum(grade >= relevant_from for grade in grades.values())
        for k in RECALL_CUTS:
            retrieved[k].append(sum(hits[:k]))
        first = next((rank for rank, hit in enumerate(hits[:MRR_CUT], start=1) if hit), None)
        values = {f"MRR@{MRR_CUT}": 0.0 if first is None else 1 / first, "MAP": _average_precision(hits, total)}
        gains = [grades.get(document, 0) for document in ranked]
        values |= {f"nDCG@{k}": ndcg(gains, grades.values(), k) for k in NDCG_CUTS}
        values |= {f"macro_recall@{k}": sum(hits[:k]) / total for k in RECALL_CUTS}
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return QueryMetrics(
        queries,
        {name: np.array(values) for name, values in columns.items()},
        np.array([sum(grade >= relevant_from for grade in graded[query].values()) for query in queries]),
        {k: np.array(counts) for k, counts in retrieved.items()},
        missing=sum(query not in run for query in queries),
    )


def ranked_documents(scores: Mapping[str, float]) -> list[str]:
    """Documents in trec_eval's order."""
    by_name = sorted(scores, reverse=True)
    return sorted(by_name, key=lambda document: -np.float32(scores[document]))


def ndcg(gains: Sequence[float], grades: Iterable[float], k: int) -> float:
    """Normalised discounted cumulative gain of the first k, with grades as gains (Jarvelin and Kekalainen 2002)."""
    ideal = sorted((grade for grade in grades if grade > 0), reverse=True)
    best = _discounted(ideal[:k])
    return _discounted(gains[:k]) / best if best else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return sum(max(0, gain) / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _average_precision(hits: Sequence[bool], total: int) -> float:
    right, summed = 0, 0.0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            right += 1
            summed += right / rank
    return summed / total
