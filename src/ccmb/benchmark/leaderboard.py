"""`ccmb leaderboard`: our results and the published rows as rows of one table, with marks where a difference counts.

Ours are compared with each other on the very same pictures, by a paired bootstrap over these. Of published ones only
the figures are known: all that can be said is whether they lie outside the interval of ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from ccmb.benchmark.published import PublishedRow, published
from ccmb.benchmark.result import Result, Stage, read_result
from ccmb.choices import Setting
from ccmb.errors import CcmbError
from ccmb.tasks.retrieval import bootstrap_recalls, hits_by_image, interval

SETS = {
    "flickr30k-cn": "Flickr30k-CN",
    "coco-cn": "COCO-CN",
    "muge": "MUGE",
    "flickr30k-cna": "Flickr30k-CNA",
    "lit-cn": "LIT-CN",
    "dci-cn": "DCI-CN",
    "docci-cn": "DOCCI-CN",
}
SETTINGS: tuple[Setting, ...] = get_args(Setting)
# Of a mean recall against the best of ours: the best itself, worse, better, not to be told apart.
Mark = Literal["", "best", "worse", "better", "even"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Points of mean recall less than (or, positive, more than) the best of ours, and the middle 95 % of them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        origin: "ours" was measured by this package; "published" was read.
        kind: what the model is, of ours.
        stage: "cosine" of a model that cannot rank, "pre-ranking" or "ranking" of one that can, "re-ranked" of a
            published one; empty where nobody says.
        image_to_text, text_to_image: recalls in percent, R@1 first.
        interval: the middle 95 % of the mean recall over pictures, of ours.
        mark, difference: see `Mark`; the difference is known of ours.
        sources: what figures were read from, or how they were measured.
        notes: keys of the published notes.
    """

    origin: Literal["ours", "published"]
    model: str
    set: str
    variant: str
    setting: Setting
    kind: str
    stage: str
    image_to_text: Mapping[str, float]
    text_to_image: Mapping[str, float]
    mean_recall: float | None
    interval: tuple[float, float] | None
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    mark: Mark = ""
    difference: Difference | None = None

    @property
    def set_title(self) -> str:
        return SETS.get(self.set, self.set)


def read_results(folders: Sequence[Path]) -> list[Result]:
    """All results of some folders that `ccmb benchmark` wrote.

    Raises:
        CcmbError: a folder is missing or holds no result, or a file is not one; the message names it.
    """
    found = []
    for folder in folders:
        paths = sorted(folder.glob("*/*.json"))
        if not paths:
            raise CcmbError(f"{folder}: no results here; make some with `ccmb benchmark --out {folder}`")
        found += [read_result(path) for path in paths]
    return found


def leaderboard(results: Sequence[Result]) -> list[Row]:
    """All rows, by set and setting, within these by falling mean recall; those without one come last.

    Known sets come in the order of SETS, those of the user's own before them.
    """
    groups: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        # Only these are compared with each other: the same pictures and texts, and models in the same setting.
        groups[result.data.name, result.data.revision, tuple(result.drawn_with), result.setting].append(result)
    ours = [row for group in groups.values() for row in _marked(group)]
    theirs = [_published_row(row, results, ours) for row in published().rows]
    order = list(SETS)
    return sorted(
        [*ours, *theirs],
        key=lambda row: (
            order.index(row.set) if row.set in order else -1,
            row.set,
            SETTINGS.index(row.setting),
            row.mean_recall is None,
            -(row.mean_recall or 0.0),
            -row.text_to_image.get("R@1", 0.0),
        ),
    )


def _marked(group: Sequence[Result]) -> list[Row]:
    """The rows of results on the very same data, each set against the best of them."""
    rows, drawn = [], []
    for result in group:
        for stage in result.stages:
            rows.append(_own_row(result, stage))
            drawn.append(_drawn_means(result, stage))
    best = max(range(len(rows)), key=lambda place: rows[place].mean_recall or 0.0)
    marked = []
    for place, row in enumerate(rows):
        if place == best:
            marked.append(replace(row, mark="best") if len(rows) > 1 else row)
            continue
        low, high = interval(drawn[place] - drawn[best])
        mean = round((row.mean_recall or 0.0) - (rows[best].mean_recall or 0.0), 2)
        mark: Mark = "worse" if high < 0 else "better" if low > 0 else "even"
        marked.append(replace(row, mark=mark, difference=Difference(mean, low, high)))
    return marked


def _own_row(result: Result, stage: Stage) -> Row:
    if result.model.stages == 1:
        label = "cosine"
    else:
        label = "pre-ranking" if stage == "pre_ranking" else ranking_label(result)
    context = "" if result.model.context_length is None else f", context {result.model.context_length}"
    source = f"measured here, commit {result.commit}, {result.finished[:10]}{context}, data {result.data.revision[:8]}"
    return Row(
        origin="ours",
        model=result.model.name,
        set=result.data.name,
        variant=f"{result.data.split}, {result.data.images} images, {result.data.texts} texts",
        setting=result.setting,
        kind=result.model.kind,
        stage=label,
        image_to_text=result.retrieval.image_to_text.get(stage) or {},
        text_to_image=result.retrieval.text_to_image.get(stage) or {},
        mean_recall=result.retrieval.mean_recall.get(stage),
        interval=result.retrieval.mean_recall_interval.get(stage),
        sources=(source,),
    )


def ranking_label(result: Result) -> str:
    """The second stage, and in what it is less than exact."""
    precision = f", {result.precision}" if result.precision not in (None, "fp32") else ""
    cascade = f", cascade {result.cascade}" if result.cascade is not None else ""
    return f"ranking, top {result.depth}{precision}{cascade}"


def _drawn_means(result: Result, stage: Stage) -> np.ndarray:
    """Mean recall of each bootstrap draw; all results of one size draw the same pictures."""
    ranks = {direction: torch.tensor(of[stage]) for direction, of in result.retrieval.ranks.items()}
    return bootstrap_recalls(*hits_by_image(ranks, torch.tensor(result.drawn_with))).mean((1, 2))


def _published_row(row: PublishedRow, results: Sequence[Result], ours: Sequence[Row]) -> Row:
    stage = {None: "", 1: "cosine", 2: "re-ranked"}[row.stages]
    titles = tuple(published().sources[source] for source in row.sources)
    return Row(
        origin="published",
        model=row.model,
        set=row.set,
        variant=row.variant,
        setting=row.setting,
        kind="",
        stage=stage,
        image_to_text=row.image_to_text or {},
        text_to_image=row.text_to_image or {},
        mean_recall=row.mean_recall,
        interval=None,
        sources=titles,
        notes=tuple(row.notes),
        mark=_against_ours(row, results, ours),
    )


def _against_ours(row: PublishedRow, results: Sequence[Result], ours: Sequence[Row]) -> Mark:
    """Where a published mean recall lies to the interval of the best of ours on what seems to be the same data."""
    if row.mean_recall is None or row.recomputed is None or row.images is None:
        return ""
    variants = {_own_row(result, "pre_ranking").variant for result in results if _comparable(row, result)}
    rivals = [
        of for of in ours if (of.set, of.setting) == (row.set, row.setting) and of.variant in variants and of.interval
    ]
    if not rivals:
        return ""
    low, high = max(rivals, key=lambda of: of.mean_recall or 0.0).interval or (0.0, 0.0)
    return "better" if row.mean_recall > high else "worse" if row.mean_recall < low else "even"


def _comparable(row: PublishedRow, result: Result) -> bool:
    data = result.data
    alike = row.texts is None or abs(data.texts - row.texts) <= 0.1 * row.texts
    return data.name == row.set and data.images == row.images and alike
