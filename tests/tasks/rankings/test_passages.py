"""Passages ranked for queries, in T2Ranking's files, by real classes of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.tasks.rankings.files import read_run
from ccmb.tasks.rankings.passages import read_texts, rerank, retrieve
from tests.helpers.exact import TINY_ERROR
from tests.helpers.runs import Command, command_line
from tests.helpers.text_models import save_text_encoder, save_text_reranker
from tests.helpers.tiny import TEXTS

library = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.numeric

QUERIES = {"7": "红色的船", "9": "一只猫"}
PASSAGES = {f"p{row}": text for row, text in enumerate(TEXTS)}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    lines = ["pid\tpassage", *(f"{name}\t{text}" for name, text in PASSAGES.items())]
    (tmp_path / "collection.tsv").write_text("\n".join(lines), "utf-8")
    (tmp_path / "queries.dev.tsv").write_text("\n".join(f"{name}\t{text}" for name, text in QUERIES.items()), "utf-8")
    return tmp_path


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return save_text_encoder(tmp_path / "encoder")


@pytest.fixture
def ranker(tmp_path: Path) -> Path:
    return save_text_reranker(tmp_path / "ranker")


def test_a_search_and_its_reranking_are_the_librarys(
    files: Path, encoder: Path, ranker: Path, command: Command
) -> None:
    base = ("rank-passages", "--passages", files / "collection.tsv", "--queries", files / "queries.dev.tsv")
    first = command(*base, "--model", f"sentence_transformers:{encoder}", "--out", files / "out", "--json")
    assert first.code == 0, first.err
    (path,) = map(Path, json.loads(first.out))
    run, model = read_run(path), library.SentenceTransformer(str(encoder), device="cpu")
    query = model.encode_query(list(QUERIES.values()), normalize_embeddings=True, convert_to_tensor=True)
    passage = model.encode_document(list(PASSAGES.values()), normalize_embeddings=True, convert_to_tensor=True)
    for scores, expected in zip(run.values(), query @ passage.T, strict=True):
        assert [scores[name] for name in PASSAGES] == pytest.approx(expected.tolist(), abs=TINY_ERROR)

    ranked = command(*base, "--candidates", path, "--ranker", f"cross_encoder:{ranker}", "--depth", "3", "--out",
                     files / "out", "--json")  # fmt: skip
    assert ranked.code == 0, ranked.err
    second = read_run(Path(json.loads(ranked.out)[0]))
    by_library = library.CrossEncoder(str(ranker), device="cpu")
    for name, scores in second.items():
        top, before = list(scores)[:3], list(run[name])
        assert set(top) == set(before[:3])
        assert list(scores)[3:] == before[3:]
        logits = by_library.predict(
            [(QUERIES[name], PASSAGES[passage]) for passage in top], activation_fn=torch.nn.Identity()
        )
        assert [scores[passage] for passage in top] == pytest.approx(sorted(logits, reverse=True), abs=TINY_ERROR)
    scored = command("score", files / "out" / "queries.dev.ranking.trec", "--qrels", _qrels(files), "--json")
    assert scored.code == 0, scored.err


def _qrels(folder: Path) -> Path:
    (folder / "qrels.retrieval.dev.tsv").write_text("qid\tpid\n7\tp1\n7\tp2\n9\tp0\n", "utf-8")
    return folder / "qrels.retrieval.dev.tsv"


class Lengths:
    """Scores pairs by the length of the passage; counts how often, and can be stopped."""

    name, fingerprint = "lengths", "0"

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.stop_after = stop_after

    def score_texts(self, pairs: list[tuple[str, str]]) -> Tensor:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(pairs[0][0])
        return torch.tensor([float(len(passage)) for _, passage in pairs])


def test_what_was_ranked_before_a_stop_is_not_ranked_again(tmp_path: Path) -> None:
    candidates = {query: {name: -float(row) for row, name in enumerate(PASSAGES)} for query in QUERIES}
    whole = rerank(Lengths(), QUERIES, PASSAGES, candidates, 4, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        rerank(Lengths(stop_after=1), QUERIES, PASSAGES, candidates, 4, tmp_path)
    (partial,) = tmp_path.glob("*.partial")
    partial.write_text(partial.read_text("utf-8") + '["9", {"p', "utf-8")  # cut off in the middle of a line
    after = Lengths()
    assert rerank(after, QUERIES, PASSAGES, candidates, 4, tmp_path) == whole
    assert after.asked == [QUERIES["9"]]
    assert not [*tmp_path.glob("*.partial")]


class Numbers:
    """Texts are numbers, and embeddings are (number, 1)."""

    name, fingerprint = "numbers", "0"

    def encode_texts(self, texts: tuple[str, ...]) -> object:
        from ccmb.inference.models.base import embedding

        output = embedding(torch.tensor([[float(text), 1.0] for text in texts]))
        return output

    encode_passages = encode_texts


def test_chunks_find_what_one_product_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccmb.tasks.rankings.passages.CHUNK", 3)
    monkeypatch.setattr("ccmb.tasks.rankings.passages.BATCH", 2)
    values = torch.randint(-5, 5, (20,), generator=torch.Generator().manual_seed(0)).tolist()
    passages = {f"p{row}": str(value) for row, value in enumerate(values)}
    queries = {"a": "1", "b": "-2"}
    run = retrieve(Numbers(), queries, passages, 6)  # type: ignore[arg-type]
    embed = Numbers().encode_texts(tuple(passages.values())).embed  # type: ignore[attr-defined]
    for query, text in queries.items():
        score = embed @ Numbers().encode_texts((text,)).embed[0]  # type: ignore[attr-defined]
        best = sorted(range(20), key=lambda row: (-round(float(score[row]), 6), row))[:6]
        assert list(run[query]) == [f"p{row}" for row in best]


def test_faults_are_named(files: Path, command: Command) -> None:
    for content, words in (("a b\n", "1: an id, a tab"), ("a\tb\na\tc\n", "2: the id a came before"), ("\n", "empty")):
        (files / "wrong.tsv").write_text(content, "utf-8")
        with pytest.raises(CcmbError, match=words):
            read_texts(files / "wrong.tsv")
    base = ("rank-passages", "--passages", files / "collection.tsv", "--queries", files / "queries.dev.tsv")
    (files / "run.tsv").write_text("7\tp99\t1\n", "utf-8")
    cases = {
        (): "nothing to search with",
        ("--candidates", files / "run.tsv"): "give --ranker alone",
        ("--model", "x", "--ranker", "y"): "texts are ranked by cross_encoder:NAME",
        ("--candidates", files / "run.tsv", "--ranker", "cross_encoder:x"): "passage p99 is not in the collection",
    }
    for options, words in cases.items():
        outcome = command(*base, *options)
        assert outcome.code in (1, 2)
        assert words in outcome.err
