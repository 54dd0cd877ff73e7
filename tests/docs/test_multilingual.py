"""The page on languages: its commands run one after the other, and its lines of data are read."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ccmb.data.languages import all_fields, by_language, parse_languages
from ccmb.data.pairs import read_pairs
from tests.helpers.pages import blocks, parse, read
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2, save_two_towers

PAGES = ("docs/multilingual.md", "docs/multilingual.zh.md")
COUNT = 8


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in (Path("images"), Path("judgements/images")):
        folder.mkdir(parents=True)
        for row, image in enumerate(tiny_images(COUNT)):
            image.save(folder / f"{row}.png")
    lines = [
        {"image": f"{row}.png", "zh": [f"{TEXTS[row]}{mark}" for mark in "一二三"],
         "en": [f"{TEXTS[row]}{mark}" for mark in "红船海"], "mt": [TEXTS[row]], "split": "val"}
        for row in range(COUNT)
    ]  # fmt: skip
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    Path("pairs.jsonl").write_text(text, "utf-8")
    Path("judgements/captions.jsonl").write_text(text, "utf-8")
    grades = [f"{image}.png\t{caption}.png#0\t{1 + image % 3}\t{1 + caption % 4}\t2" for image in range(4)
              for caption in range(4)]  # fmt: skip
    Path("judgements/ExpertAnnotations.txt").write_text("\n".join(grades), "utf-8")
    save_r2d2(Path("RUN"))
    save_two_towers(Path("MODEL"), "clip")
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def test_the_commands_run(workplace: Path, command: Command) -> None:
    for line in blocks(PAGES[0], "bash")[0].splitlines():
        done = command(*shlex.split(line)[1:])
        assert done.code == 0, (line, done.err)
    assert Path("transfer/transfer.html").is_file()
    assert {path.name for path in Path("results").glob("mine*")} == {"mine.zh.val", "mine.en.val"}


def test_both_pages_have_the_same_commands_and_lines_and_those_of_training_are_ours() -> None:
    for kind in ("bash", "json"):
        assert blocks(PAGES[0], kind) == blocks(PAGES[1], kind)
    for line in blocks(PAGES[0], "bash")[1].splitlines():
        assert parse(line.removeprefix("CCMB_DATA=~/data "))[0] in ("pretrain", "transfer")


def test_the_lines_of_data_are_read(tmp_path: Path) -> None:
    languages = parse_languages("zh,en")
    read_texts = []
    for line in blocks(PAGES[0], "json")[0].splitlines():
        (tmp_path / "pairs.jsonl").write_text(line, "utf-8")
        (sample,) = by_language(
            read_pairs(tmp_path / "pairs.jsonl", None, all_fields(languages), lenient=True), languages
        )
        read_texts.append(sample.fields)
    assert read_texts == [(("一只猫",), ("a cat",)), (("一只猫",), ()), (("一只猫",), ("a cat",))]


@pytest.mark.parametrize("page", PAGES)
def test_figures_stand_on_the_page(page: str) -> None:
    assert "FIGURES" not in read(page)
    assert "| `flickr8k-multilingual`" in read(page)
