"""Ranked lists: equal to pytrec-eval on graded truth, read and written in TREC's and T2Ranking's forms."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from ccmb.core.errors import CcmbError
from ccmb.inference.models.open_model import open_model
from ccmb.tasks.rankings.files import read_qrels, read_run, write_qrels, write_run
from ccmb.tasks.rankings.metrics import measure_run, ranked_documents
from ccmb.tasks.rankings.rank import open_asked, rank_set
from ccmb.tasks.rankings.report import score_run
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2


def drawn_case(seed: int) -> tuple[dict, dict]:
    """A run and graded truth; scores tie, documents are ungraded, and grades are 0 to 3."""
    rng = random.Random(seed)
    documents = [f"d{number}" for number in range(rng.randint(5, 150))]
    run, qrels = {}, {}
    for query in range(rng.randint(1, 6)):
        graded = rng.sample(documents, rng.randint(1, len(documents)))
        qrels[f"q{query}"] = {document: rng.choice([0, 0, 1, 2, 3]) for document in graded} | {graded[0]: 2}
        listed = rng.sample(documents, rng.randint(1, len(documents)))
        run[f"q{query}"] = {document: round(rng.uniform(0, 3), rng.choice([0, 1, 6])) for document in listed}
    return run, qrels


@pytest.mark.parametrize("relevant_from", [1, 2])
def test_metrics_are_pytrec_evals_on_two_hundred_graded_cases(relevant_from: int) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    names = {"ndcg_cut_5": "nDCG@5", "ndcg_cut_10": "nDCG@10", "ndcg_cut_20": "nDCG@20", "ndcg_cut_100": "nDCG@100",
             "map": "MAP", "recall_1": "macro_recall@1", "recall_50": "macro_recall@50"}  # fmt: skip
    asked = {"ndcg_cut.5,10,20,100", "map", "recall.1,50", "recip_rank"}
    for seed in range(200):
        run, qrels = drawn_case(seed)
        measured = measure_run(run, qrels, relevant_from)
        by_library = pytrec_eval.RelevanceEvaluator(qrels, asked, relevance_level=relevant_from).evaluate(run)
        for row, query in enumerate(measured.queries):
            for library_name, name in names.items():
                assert measured.values[name][row] == pytest.approx(by_library[query][library_name], abs=1e-9)
            first = by_library[query]["recip_rank"]
            assert measured.values["MRR@10"][row] == pytest.approx(first if first >= 0.1 else 0.0, abs=1e-9)


def test_micro_recall_counts_documents_and_macro_recall_queries() -> None:
    qrels = {"a": {"1": 1}, "b": {"1": 1, "2": 1, "3": 1}}
    run = {"a": {"1": 2.0}, "b": {"1": 2.0}}
    means = measure_run(run, qrels).means()
    assert means["macro_recall@50"] == pytest.approx((1 + 1 / 3) / 2)
    assert means["micro_recall@50"] == pytest.approx(2 / 4)


def test_equal_scores_are_ordered_as_trec_eval_orders_them() -> None:
    assert ranked_documents({"a": 1.0, "c": 1.0, "b": 1.0 + 1e-12, "d": 0.5}) == ["c", "b", "a", "d"]


def test_a_run_that_lacks_queries_has_nothing_for_them(tmp_path: Path) -> None:
    report = score_run({"a": {"1": 1.0}, "x": {"1": 1.0}}, {"a": {"1": 1}, "b": {"1": 1}})
    assert (report["queries"], report["missing_queries"], report["unjudged_queries"]) == (2, 1, 1)
    assert report["metrics"]["MRR@10"]["value"] == 0.5
    with pytest.raises(CcmbError, match="no document of the qrels has grade 2 or more"):
        score_run({"a": {"1": 1.0}}, {"a": {"1": 1}}, relevant_from=2)


def test_the_difference_of_two_runs_is_paired() -> None:
    rng = np.random.default_rng(0)
    qrels = {f"q{row}": {"d": 1} for row in range(200)}
    one = {query: {"d": 1.0, "x": float(rng.random() < 0.5) * 2} for query in qrels}
    report = score_run(one, qrels, against=one)
    assert report["difference"]["MRR@10"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    best = score_run({query: {"d": 1.0} for query in qrels}, qrels, against=one)
    gap = best["difference"]["MRR@10"]
    assert 0 < gap["low"] < gap["value"] < gap["high"]


def test_files_are_read_in_all_their_forms(tmp_path: Path) -> None:
    run = {"q 1": {"图 片.jpg": 2.5, "b": 0.1}}
    write_run(tmp_path / "run.trec", ((query, of.items()) for query, of in run.items()))
    write_qrels(tmp_path / "qrels", {"q 1": {"图 片.jpg": 3}})
    (query,) = read_run(tmp_path / "run.trec")
    assert read_qrels(tmp_path / "qrels")[query] == {next(iter(read_run(tmp_path / "run.trec")[query])): 3}
    (tmp_path / "t2.tsv").write_text("qid\tpid\trank\tscore\n1\t7\t1\t9.5\n1\t8\t2\t9.25\n")
    (tmp_path / "ranks.tsv").write_text("1\t7\t1\n1\t8\t2\n")
    assert read_run(tmp_path / "t2.tsv") == {"1": {"7": 9.5, "8": 9.25}}
    assert ranked_documents(read_run(tmp_path / "ranks.tsv")["1"]) == ["7", "8"]
    (tmp_path / "relevant.tsv").write_text("qid\tpid\n1\t7\n")
    assert read_qrels(tmp_path / "relevant.tsv") == {"1": {"7": 1}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2\n", ":1: has 2 columns"),
        ("1 Q0 2 1 high x\n", ":1: the score is 'high'"),
        ("1 2 1 3\n1 2 2 3\n", ":2: query 1 names document 2 twice"),
        ("\n", "empty"),
    ],
)
def test_faulty_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run").write_text(line)
    with pytest.raises(CcmbError, match=message):
        read_run(tmp_path / "run")


def test_a_model_ranks_a_set_and_a_test_split_of_muge_without_truth(tmp_path: Path) -> None:
    model = open_model(str(save_r2d2(tmp_path / "model")))
    (tmp_path / "images").mkdir()
    for row, image in enumerate(tiny_images(6)):
        image.save(tmp_path / "images" / f"{row}.png")
    lines = [{"image": f"{row}.png", "texts": [TEXTS[row]], "split": "test"} for row in range(6)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = open_asked(f"mine={tmp_path / 'pairs.jsonl'}", "test", ["texts"], None)
    written = rank_set(model, asked, tmp_path / "out", depth=3, count=6)
    ends = ("qrels", "pre_ranking.trec", "ranking.trec", "submission.jsonl")
    assert [path.name for path in written] == [f"mine.test.{end}" for end in ends]
    qrels = read_qrels(written[0])
    first, second = (measure_run(read_run(path), qrels) for path in written[1:3])
    embeds = model.encode_texts(TEXTS[:6]).embed @ model.encode_images(range(6), tiny_images(6).__getitem__).embed.T
    ranks = [int((row > row[number]).sum()) + 1 for number, row in enumerate(embeds)]
    np.testing.assert_allclose(first.values["MRR@10"], [1 / rank for rank in ranks], atol=1e-6)
    outside = np.array(ranks) > 3  # the second stage does not see them
    np.testing.assert_allclose(second.values["MRR@10"][outside], first.values["MRR@10"][outside], atol=1e-6)
    submitted = [json.loads(line) for line in written[3].read_text("utf-8").splitlines()]
    assert [set(line) for line in submitted] == [{"query_id", "query_text", "item_ids"}] * 6
    assert all(sorted(line["item_ids"]) == [*range(6)] for line in submitted)
