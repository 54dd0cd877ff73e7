"""What a leaderboard shows of each family: its figures, in percent but for distances, and the one that orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ccmb.benchmark.results.result import DIRECTIONS, Family
from ccmb.tasks.retrieval.metrics import RECALLS


class Words(NamedTuple):
    """The same in both languages."""

    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class View:
    """How a family is shown.

    Attributes:
        title: of its part of the page.
        columns: headings of its figures by their key, without the main one.
        main: key of the figure that orders and is compared, and its heading.
    """

    title: Words
    columns: dict[str, Words]
    main: str
    main_words: Words


WAYS = {"image_to_text": Words("图搜文", "i→t"), "text_to_image": Words("文搜图", "t→i")}

VIEWS: dict[Family, View] = {
    "retrieval": View(
        Words("图文检索", "Image-text retrieval"),
        {
            f"{way}_R@{k}": Words(f"{WAYS[way].zh} R@{k}", f"{WAYS[way].en} R@{k}")
            for way in reversed(DIRECTIONS)
            for k in RECALLS
        },
        "mean_recall",
        Words("平均召回", "MR"),
    ),
    "matching": View(
        Words("图文匹配", "Image-text matching"),
        {
            "accuracy": Words("准确率", "accuracy"),
            "accuracy_fitted": Words("准确率（拟合阈值）", "accuracy, fitted"),
            "calibration_error": Words("校准误差", "ECE"),
            "calibration_error_fitted": Words("校准误差（拟合温度）", "ECE, fitted"),
        },
        "auc",
        Words("AUC", "AUC"),
    ),
    "classification": View(
        Words("零样本分类", "Zero-shot classification"),
        {"top5": Words("top-5", "top-5"), "mean_per_class": Words("各类平均", "mean per class")},
        "top1",
        Words("top-1", "top-1"),
    ),
    "captioning": View(
        Words("图像描述（按字）", "Captioning, on characters"),
        {
            "bleu_1": Words("BLEU-1", "BLEU-1"),
            "bleu_4": Words("BLEU-4", "BLEU-4"),
            "rouge_l": Words("ROUGE-L", "ROUGE-L"),
            "match_score": Words("匹配分", "match score"),
        },
        "cider_d",
        Words("CIDEr-D", "CIDEr-D"),
    ),
    "generation": View(
        Words("文生图", "Text-to-image"),
        {
            "FID": Words("FID", "FID"),
            "KID": Words("KID", "KID"),
            "kind_and_colour": Words("种类与颜色", "kind and colour"),
            "amount": Words("数量", "amount"),
            "place": Words("位置", "place"),
        },
        "match_score",
        Words("匹配分", "match score"),
    ),
}
NOTHING = Words(
    "还没有结果：未找到已发表的数字，这里也没有测过。",
    "No rows yet: no published figures are known, and none have been measured here.",
)
