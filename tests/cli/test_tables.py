"""Tables for the terminal: columns never run together, whatever stands in them."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ccmb.cli.common.tables import comparison_table, export_table
from ccmb.core.aligning import aligned, columns_of
from ccmb.tasks.captioning.table import captioning_table
from ccmb.tasks.classification.table import classification_table
from ccmb.tasks.generation.table import generation_table
from ccmb.tasks.matching.table import matching_table
from ccmb.tasks.retrieval.table import retrieval_table

CELLS = st.text(st.sampled_from("ab1.-(图片"), min_size=1, max_size=30)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5), st.integers(1, 2))
def test_columns_never_run_together(rows: list[tuple[str, str, str]], left: int) -> None:
    lines = aligned(rows, (12, 7, 7), left)
    for row, line in zip(rows, lines, strict=True):
        assert re.split("  +", line.strip()) == list(row)
    # The last column ends in one place: Chinese characters are two columns wide.
    assert len({columns_of(line) for line in lines}) == 1


def cells(line: str) -> list[str]:
    return re.split("  +", line.strip())


LONG = "a-very-long-name-of-an-own-data-set"


def test_metrics_before_and_after_of_sets_with_long_names_stand_apart() -> None:
    metric = {"value": 1234.5, "low": 1100.1, "high": 1399.9}
    gain = {"value": -1034.5, "low": -1200.1, "high": -899.9}
    metrics = {
        "mean_recall_pre_ranking": {"before": metric, "after": metric, "gain": gain, "shares": {}},
        "CIDEr-D": {"before": None, "after": metric, "gain": None, "shares": {}},
    }
    report = {"sets": [{"name": name, "split": "validation", "figures": metrics} for name in (LONG, "电商图片检索")]}
    lines = comparison_table(report | {"chosen": None}).splitlines()
    shown = "1234.5 [1100.1, 1399.9]"
    assert cells(lines[1]) == [
        f"{LONG} validation mean-recall-pre-ranking", shown, shown, "-1034.5 [-1200.1, -899.9]",
    ]  # fmt: skip
    assert cells(lines[4]) == ["电商图片检索 validation CIDEr-D", "-", shown, "-"]
    assert len({columns_of(line) for line in lines}) == 1


def test_shares_between_stand_apart() -> None:
    share = {"value": 100.0, "low": 99.0, "high": 100.0}
    metric = {"before": share, "after": share, "gain": share, "shares": {"0": share, "0.123456789": share, "1": share}}
    report = {"sets": [{"name": "mine", "split": "val", "figures": {"ranking": metric}}], "chosen": None}
    lines = comparison_table(report).splitlines()
    assert cells(lines[-2]) == ["share of the weights after", "0", "0.123456789", "1"]
    assert cells(lines[-1]) == ["mine val ranking", "100.0", "100.0", "100.0"]


def test_intervals_of_three_digits_stand_apart() -> None:
    ends = (100.0, 100.0)
    names = ("top1", "top5", "mean_per_class")
    values = {**dict.fromkeys(names, 100.0), "interval": dict.fromkeys(names, ends)}
    report: dict[str, Any] = {"pictures": 1, "classes": 1, "classes_with_pictures": 1, **values, "ranking": values}
    for line in classification_table(report).splitlines()[2:]:
        assert cells(line)[1:] == ["100.0 (100.0 to 100.0)"] * 3
    matching = {"auc": 1.0, "accuracy": 1.0, "interval": {"auc": (1.0, 1.0), "accuracy": (1.0, 1.0)}}
    report = {"pairs": 2, "pictures": 2, "matches": 1, "stage": "ranking", "fitted": None, **matching}
    table = matching_table(report | {"pre_ranking": matching}).splitlines()
    assert cells(table[2]) == ["AUC", "100.0 (100.0 to 100.0)", "100.0 (100.0 to 100.0)"]


def test_metrics_of_captions_and_paintings_stand_apart() -> None:
    scores = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")
    metrics: dict[str, Any] = {**dict.fromkeys(scores, 1000000.0), "words": None, "distinct-1": 1.0, "distinct-2": 1.0}
    metrics |= {"length": 9.0, "match_score": None, "cosine": None}
    report = {
        "pictures": 2, "references": 2, "decoding": {"decode": "a long name of a decoding"}, **metrics,
        "before_reranking": metrics, "interval": dict.fromkeys(scores, (0.0, 1000000.0)),
    }  # fmt: skip
    lines = captioning_table(report).splitlines()
    assert cells(lines[1]) == ["a long name of a decoding", "re-ranked"]
    assert cells(lines[2]) == ["BLEU-1", "1000000.00", "1000000.00", "(0.0 to 1000000.0)"]
    generated = {"match_score": 50.0, "FID": 123456789.1234, "KID": 0.5}
    report = {
        "pictures": 1, "painting": {"steps": 1, "guidance": 1.0, "best_of": 1000}, "judge": "a", "features": "b",
        **generated, "first": generated, "interval": {"match_score": (0.0, 100.0)}, "gain": {"match_score": (0, -1, 1)},
    }  # fmt: skip
    lines = generation_table(report).splitlines()
    assert cells(lines[3]) == ["FID", "123456789.1234", "123456789.1234"]


def test_speeds_of_an_export_stand_apart() -> None:
    speed = {"a network with a long name": {"torch": 1.23e12, "export": 1.23e12, "times": 12345.67, "unit": "pairs/s"}}
    line = export_table({"speed": speed}).splitlines()[1]
    assert cells(line) == ["a network with a long name", "1.23e+12", "1.23e+12", "12345.67", "pairs/s"]


def test_where_images_are_not_searched_from_the_table_has_one_way() -> None:
    values = {"R@1": 100.0, "R@5": 100.0, "R@10": 100.0}
    report = {
        "gallery": 3, "texts": 4, "depth": 2, "text_to_image": {"pre_ranking": values, "ranking": None},
        "mean_recall": {"pre_ranking": 0.0, "ranking": None},
    }  # fmt: skip
    lines = retrieval_table(report).splitlines()
    assert cells(lines[2]) == ["text to image", "pre-ranking", "100.0", "100.0", "100.0"]
    assert cells(lines[3]) == ["text to image", "ranking", "-", "-", "-"]
    assert lines[-1] == "mean recall: pre-ranking 0.0"


def test_a_single_image_has_no_cider_and_the_table_says_so() -> None:
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L")
    report: dict[str, Any] = {**dict.fromkeys(names, 50.0), "CIDEr-D": None, "words": None}
    report |= {"distinct-1": 1.0, "distinct-2": 1.0, "length": 9.0, "match_score": None, "cosine": None}
    report |= {"pictures": 1, "references": 1, "decoding": {"decode": "beam"}}
    report["interval"] = dict.fromkeys(names, (1.0, 99.0))
    text = captioning_table(report)
    assert text.splitlines()[-1].startswith("CIDEr-D needs two images or more")
    assert sum(line.startswith("CIDEr-D") for line in text.splitlines()) == 1
