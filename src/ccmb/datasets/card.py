"""What a card says of a data set, and words that several cards share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Family = Literal["retrieval", "matching", "captioning", "generation", "classification"]
Making = Literal["written", "translated", "machine", "search queries", "several"]


class EnZh(NamedTuple):
    """The same text in English and in Chinese."""

    en: str
    zh: str


class CardSplit(NamedTuple):
    """A published split, with its counts if they are known."""

    name: str
    images: int | None = None
    texts: int | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """The known facts about a data set.

    Attributes:
        name: the name on the command line.
        families: task families, the main one first.
        total: size over all splits.
        made: how its texts were made.
        metric: the main metric.
        source: who publishes it.
        download: what to download by hand.
        files: alternatives of what is read, relative to the folder; {split} stands for the split.
        notes: further facts for users.
        unverified: which of these facts rest on memory, inference or our own choice.
    """

    name: str
    title: str
    families: tuple[Family, ...]
    splits: tuple[CardSplit, ...]
    metric: EnZh
    files: tuple[str, ...]
    download: EnZh
    total: EnZh | None = None
    made: Making | None = None
    licence: EnZh | None = None
    source: str | None = None
    notes: tuple[EnZh, ...] = ()
    unverified: tuple[EnZh, ...] = ()


RECALL = EnZh("mean of R@1, R@5, R@10 both ways", "双向 R@1、R@5、R@10 的均值")
SHARES_PHOTOS = EnZh(
    "Flickr30k contains Flickr8k, with other splits: 276 of the 1,000 test images of Flickr30k-CN are Flickr8k "
    "photographs, 214 of them in the train split of Flickr8k-CN. `ccmb data verify NAME FOLDER --against OTHER=FOLDER` "
    "counts them, and results of a model that was trained on them are marked",
    "Flickr30k 包含 Flickr8k，但划分不同：Flickr30k-CN 的 1,000 张测试图中有 276 张是 Flickr8k 的照片，其中 214 张在 "
    "Flickr8k-CN 的训练集里。`ccmb data verify NAME FOLDER --against OTHER=FOLDER` 会统计数量，"
    "用过这些照片训练的模型，其结果会加上标记",
)
