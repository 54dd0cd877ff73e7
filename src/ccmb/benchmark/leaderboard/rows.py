"""`ccmb leaderboard`: results and published rows as rows of one table, with marks for significant differences.

Ours are compared with each other on the very same images, by a paired bootstrap over these. Of published ones only
the metrics are known: all that can be said is whether they lie outside the interval of ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from ccmb.benchmark.leaderboard.columns import VIEWS
from ccmb.benchmark.leaderboard.published import PublishedRow, published
from ccmb.benchmark.registry import BENCHMARKS
from ccmb.benchmark.results.result import AtDepth, Result, Stage, read_result
from ccmb.core.choices import Setting
from ccmb.core.errors import CcmbError
from ccmb.core.passed_over import why_passed_over
from ccmb.inference.two_stage import Direction
from ccmb.tasks.common.resampling import interval

SETS = {
    "flickr30k-cn": "Flickr30k-CN",
    "coco-cn": "COCO-CN",
    "muge": "MUGE",
    "flickr30k-cna": "Flickr30k-CNA",
    "lit-cn": "LIT-CN",
    "dci-cn": "DCI-CN",
    "docci-cn": "DOCCI-CN",
    "aic-icc": "AIC-ICC",
    "icr": "ICR",
    "iqr": "IQR",
    "icm": "ICM",
    "iqm": "IQM",
    "imagenet": "ImageNet",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "ecommerce-t2i": "ECommerce-T2I",
}
SETTINGS: tuple[Setting, ...] = get_args(Setting)
# Of a main metric against the best of ours: the best itself, worse, better, not to be told apart.
Mark = Literal["", "best", "worse", "better", "even"]


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a main metric to the best result, in points, and its 95 % interval; negative is worse."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        origin: "ours" was measured by this package; "published" was read.
        kind: what the model is, of ours.
        stage: "cosine" of a model that cannot rank, "pre-ranking" or "ranking" of one that can, "match score" of one
            that matches by it, "re-ranked" of a published one; empty where nobody says.
        metrics: in percent, by the keys of the family's view.
        interval: 95 %, of the main metric over images, of ours.
        mark, difference: see `Mark`; the difference is known of ours.
        sources: what metrics were read from, or how they were measured.
        notes: keys of the published notes.
        seen: "saw N test images" of a model that was trained on so many of the images it is measured on; else empty.
        by_depth: by direction, what each number of ranked candidates gives, of our rankings.
    """

    origin: Literal["ours", "published"]
    family: str
    model: str
    set: str
    variant: str
    setting: Setting
    kind: str
    stage: str
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    mark: Mark = ""
    difference: Difference | None = None
    seen: str = ""
    by_depth: Mapping[Direction, Sequence[AtDepth]] = field(default_factory=dict)

    @property
    def set_title(self) -> str:
        return SETS.get(self.set, self.set)

    @property
    def main(self) -> float | None:
        """The main metric, which orders the rows; None if it is unknown."""
        return self.metrics.get(VIEWS[self.family].main)


def read_results(folders: Sequence[Path]) -> list[Result]:
    """The results in folders that `ccmb benchmark` wrote.

    Raises:
        CcmbError: a folder is missing or holds no result, or a file is not one; the message names it.
    """
    results = []
    for folder in folders:
        json_files = sorted(folder.glob("*/*.json"))
        paths = [path for path in json_files if not why_passed_over(path.relative_to(folder).as_posix())]
        if not paths:
            raise CcmbError(f"{folder}: no results here; make some with `ccmb benchmark --out {folder}`")
        results += [read_result(path) for path in paths]
    return results


def leaderboard(results: Sequence[Result]) -> list[Row]:
    """All rows by family, set and setting, and then by falling main metric; rows without a main metric come last.

    Known sets come in the order of SETS, after the sets of the user.
    """
    groups: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        # Only these are compared with each other: the same images and texts, and models in the same setting.
        comparable_by = BENCHMARKS[result.family].comparable_by(result)
        conditions = result.family, result.prompt_set, result.setting, comparable_by
        groups[result.data.name, result.data.revision, tuple(result.resampling_unit), conditions].append(result)
    own_rows = [row for group in groups.values() for row in _marked(group)]
    published_rows = [_published_row(row, results, own_rows) for row in published().rows]
    order, families = list(SETS), list(BENCHMARKS)
    return sorted(
        [*own_rows, *published_rows],
        key=lambda row: (
            families.index(row.family),
            order.index(row.set) if row.set in order else -1,
            row.set,
            SETTINGS.index(row.setting),
            row.main is None,
            -(row.main or 0.0),
            -row.metrics.get("text_to_image_R@1", 0.0),
        ),
    )


def _marked(group: Sequence[Result]) -> list[Row]:
    """The rows of results on the same data, each compared with the best of them."""
    rows, drawn, raw = [], [], []
    for result in group:
        for stage in result.stages:
            rows.append(_own_row(result, stage))
            family = BENCHMARKS[result.family]
            drawn.append(family.drawn_main(result, stage))
            raw.append(family.raw_main(result, stage))
    best = max(range(len(rows)), key=lambda index: rows[index].main or 0.0)
    marked = []
    for index, row in enumerate(rows):
        if index == best:
            marked.append(replace(row, mark="best") if len(rows) > 1 else row)
            continue
        low, high = interval(drawn[index] - drawn[best], len(set(group[0].resampling_unit)))
        mean = round(raw[index] - raw[best], 2)
        mark: Mark = "worse" if high < 0 else "better" if low > 0 else "even"
        marked.append(replace(row, mark=mark, difference=Difference(mean, low, high)))
    return marked


def _own_row(result: Result, stage: Stage) -> Row:
    context = "" if result.model.context_length is None else f", context {result.model.context_length}"
    source = f"measured here, commit {result.commit}, {result.finished[:10]}{context}, data {result.data.revision[:8]}"
    family = BENCHMARKS[result.family]
    metrics, bounds = family.metrics(result, stage)
    return Row(
        origin="ours",
        family=result.family,
        model=result.model.name,
        set=result.data.name,
        variant=family.variant(result),
        setting=result.setting,
        kind=result.model.kind,
        stage=family.stage_words(result, stage),
        metrics=metrics,
        interval=bounds,
        sources=(source + family.measured_how(result),),
        seen="" if result.seen is None else result.seen.mark,
        by_depth=result.retrieval.by_depth if result.retrieval is not None and stage == "ranking" else {},
    )


def _published_row(row: PublishedRow, results: Sequence[Result], own_rows: Sequence[Row]) -> Row:
    stage = {None: "", 1: "cosine", 2: "re-ranked"}[row.stages]
    titles = tuple(published().sources[source] for source in row.sources)
    return Row(
        origin="published",
        family=row.family,
        model=row.model,
        set=row.set,
        variant=row.variant,
        setting=row.setting,
        kind="",
        stage=stage,
        metrics=row.all_metrics,
        interval=None,
        sources=titles,
        notes=tuple(row.notes),
        mark=_against_ours(row, results, own_rows),
    )


def _against_ours(row: PublishedRow, results: Sequence[Result], own_rows: Sequence[Row]) -> Mark:
    """How a published main metric compares with the interval of the best result on what seems to be the same data."""
    main = row.all_metrics.get(VIEWS[row.family].main)
    if main is None or row.is_partial or row.images is None:
        return ""
    variants = {BENCHMARKS[result.family].variant(result) for result in results if _comparable(row, result)}
    rivals = [
        own
        for own in own_rows
        if (own.set, own.setting) == (row.set, row.setting) and own.variant in variants and own.interval
    ]
    if not rivals:
        return ""
    low, high = max(rivals, key=lambda own: own.main or 0.0).interval or (0.0, 0.0)
    return "better" if main > high else "worse" if main < low else "even"


def _comparable(row: PublishedRow, result: Result) -> bool:
    data = result.data
    alike = row.texts is None or abs(data.texts - row.texts) <= 0.1 * row.texts
    return (data.name, result.family) == (row.set, row.family) and data.images == row.images and alike
