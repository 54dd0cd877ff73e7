"""The READMEs' table is what the leaderboard says today, and tells what was published from what was measured here."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccmb.benchmark.leaderboard.readme_table import BEGIN, END, FILES, readme_table, with_table, written_anew
from ccmb.benchmark.leaderboard.rows import leaderboard
from ccmb.core.errors import CcmbError
from tests.helpers.results import matching, result

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", FILES)
def test_the_readmes_are_up_to_date(name: str) -> None:
    fresh = written_anew(ROOT)[ROOT / name]
    assert (ROOT / name).read_text(encoding="utf-8") == fresh, (
        "write it anew: python -m ccmb.benchmark.leaderboard.readme_table, in the repository's root"
    )


def cells(table: str, beginning: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith(f"| {beginning}")]


def test_published_rows_stand_with_their_metrics_and_without_a_column_of_nothing_measured() -> None:
    table = readme_table(leaderboard([]), "en")
    [line] = cells(table, "Flickr30k-CN, zero-shot")
    assert line == [
        "Flickr30k-CN, zero-shot", "MR", "94.9 M2-Encoder 10B", "85.6 R2D2 ViT-L/14, 250M", "89.3 CN-CLIP H/14",
    ]  # fmt: skip
    [line] = cells(table, "ImageNet, zero-shot")
    assert line[1:4] == ["top-1", "80.7 M2-Encoder 10B", "56.9† R2D2 ViT-L/14"]
    assert "**" not in table
    assert {text.count(" | ") for text in table.splitlines()} == {4}
    assert "measured" not in table
    assert "unstated" not in table


def test_what_was_measured_here_is_bold_with_its_interval_and_joins_only_like_rows() -> None:
    like = result("mine", 0.87, set_name="flickr30k-cn", images=1000)
    part = result("mine", 0.87, set_name="flickr30k-cn", images=200)
    [line] = cells(readme_table(leaderboard([like]), "en"), "Flickr30k-CN, zero-shot")
    assert line[5].startswith("**87.")
    others = cells(readme_table(leaderboard([like]), "en"), "MUGE")
    assert [line[5] for line in others] == ["none yet", "none yet"]
    assert line[5].endswith("] mine**, test, 1000 images, 5000 texts")
    published, own = cells(readme_table(leaderboard([part]), "zh"), "Flickr30k-CN，零样本")
    assert (published[5], own[2:5]) == ("尚无", ["–"] * 3)
    assert own[5].endswith("mine**, test, 200 images, 1000 texts")
    one = matching("m", 1.0)
    data = one.data.model_copy(update={"name": "icm"})
    [line] = cells(readme_table(leaderboard([one.model_copy(update={"data": data})]), "en"), "ICM, zero-shot")
    assert line[1] == "AUC"
    # What stands on own sets is nobody else's business.
    assert "mine" not in readme_table(leaderboard([matching("m", 1.0)]), "en")


def test_only_the_text_between_the_marks_is_written() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_table(text, "new", "x") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    for wrong in ("nothing", END + BEGIN, BEGIN):
        with pytest.raises(CcmbError, match=r"README\.md: needs the lines"):
            with_table(wrong, "new", "README.md")
