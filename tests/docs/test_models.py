"""The page on models: its commands run one after the other, with small models under the page's names."""

from __future__ import annotations

import json
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from ccmb.inference.models.known import KNOWN
from tests.helpers.pages import blocks, read
from tests.helpers.runs import Command, command_line
from tests.helpers.text_models import save_text_encoder, save_text_reranker
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2, save_two_towers

PAGES = ("docs/models.md", "docs/models.zh.md")
FILES = 8


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    lines = []
    for row, image in enumerate(tiny_images(FILES)):
        image.save(f"images/{row}.png")
        for split in ("val", "test"):
            texts = [f"{TEXTS[row]}{mark}" for mark in "一二三四五"]
            lines.append({"image": f"{row}.png", "texts": texts, "split": split})
    Path("pairs.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    save_two_towers(Path("MODEL"), "chinese_clip")
    save_r2d2(Path("RUN"))
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def run_block(command: Command, number: int, **names: str) -> None:
    for line in blocks(PAGES[0], "bash")[number].splitlines():
        for name, value in names.items():
            line = line.replace(name, value)
        done = command(*shlex.split(line)[1:])
        assert done.code == 0, (line, done.err)


def test_two_models_search_with_a_probability(workplace: Path, command: Command) -> None:
    pytest.importorskip("sentence_transformers")
    from tests.helpers.pair_module import save_ranker

    save_ranker(Path("ranker"))
    assert command("index", "images", "--model", "MODEL", "--out", "index").code == 0
    run_block(command, 1, RERANKER="cross_encoder:ranker?trust_remote_code=yes")
    assert {path.suffix for path in Path("results").rglob("NAME.test/*")} == {".json"}


def test_ranked_lists_are_written_and_measured(workplace: Path, command: Command) -> None:
    pytest.importorskip("mteb")
    run_block(command, 2)
    assert [path.name for path in Path("results/mteb").rglob("*T2I*")] == ["NAMET2IRetrieval.json"]


def test_texts_are_searched_by_texts(workplace: Path, command: Command) -> None:
    pytest.importorskip("sentence_transformers")
    save_text_encoder(Path("ENCODER"))
    save_text_reranker(Path("TEXT_RERANKER"))
    Path("collection.tsv").write_text("".join(f"{row}\t{text}\n" for row, text in enumerate(TEXTS)), "utf-8")
    Path("queries.dev.tsv").write_text("q\t红色的船\n", "utf-8")
    Path("qrels.dev.tsv").write_text("q 0 1 3\nq 0 2 1\n", "utf-8")
    run_block(command, 3)
    for stage in ("pre_ranking", "ranking"):
        run = Path(f"rankings/queries.dev.{stage}.trec").read_text("utf-8").splitlines()
        assert {line.split()[2] for line in run} == {str(row) for row in range(len(TEXTS))}


def test_the_example_prints_our_recall(workplace: Path, command: Command) -> None:
    pytest.importorskip("mteb")
    with redirect_stdout(StringIO()) as printed:
        exec(blocks(PAGES[0], "python")[0], {})
    evaluate = ("evaluate", "--model", "RUN", "--data", "pairs.jsonl", "--split", "test", "--rerank-k", 64)
    assert command(*evaluate, "--json", "report.json").code == 0
    retrieval = json.loads(Path("report.json").read_text("utf-8"))["retrieval"]
    recall = retrieval["text_to_image"]["ranking"]["R@1"]
    assert 100 * float(printed.getvalue().split()[-1]) == pytest.approx(recall, abs=0.01)


@pytest.mark.parametrize("page", PAGES)
def test_models_of_the_page_are_those_of_the_command(page: str) -> None:
    names = {known.name for known in KNOWN}
    for name in (
        "OFA-Sys/chinese-clip-vit-base-patch16",
        "qihoo360/fg-clip2-base",
        "sentence_transformers:google/embeddinggemma-2",
    ):
        assert name in names
    listed = [line.split("|")[2].strip().strip("`") for line in read(page).splitlines() if line.count("|") == 5]
    ids = [name for name in listed if "/" in name and " " not in name]
    assert len(ids) >= 5
    assert set(ids) <= names
