"""Results as a table for the terminal: both stages, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ccmb.benchmark.registry import BENCHMARKS
from ccmb.benchmark.results.result import Result
from ccmb.core.terminal import visible_line

COSTS = {
    "images_per_second": "img/s",
    "texts_per_second": "txt/s",
    "pairs_per_second": "pairs/s",
    "parameters": "parameters",
}
WIDE, ENOUGH = 140, 110  # columns of what is no terminal, and those that costs need


def print_results(results: Iterable[Result], width: int | None = None) -> None:
    """Print a table for each set: a row for each model and stage, the best main metric first."""
    console = Console(width=width, highlight=False)
    if width is None and not console.is_terminal:
        console = Console(width=WIDE, highlight=False)
    ordered = sorted(results, key=_set_of)
    for key, group in groupby(ordered, key=_set_of):
        console.print(_table(" ".join(key), list(group), costs=console.width >= ENOUGH))


def _set_of(result: Result) -> tuple[str, str, str]:
    return result.family, result.data.name, result.data.split


def _table(title: str, results: Sequence[Result], costs: bool) -> Table:
    family = BENCHMARKS[results[0].family]
    view = family.view
    table = Table(title=visible_line(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("stage")
    names = [*view.columns, view.main]
    for words in (*view.columns.values(), view.main_words):
        table.add_column(words.en, justify="right")
    table.add_column("95 %", justify="right")
    spent = [name for name in COSTS if costs and any(_cost(result, name) for result in results)]
    for name in spent:
        table.add_column(COSTS[name], justify="right")
    rows = [(family.metrics(result, stage), result, stage) for result in results for stage in result.stages]
    for (metrics, interval), result, stage in sorted(rows, key=lambda row: -row[0][0].get(view.main, 0.0)):
        bounds = "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
        values = [f"{metrics[name]:.1f}" if name in metrics else "-" for name in names]
        of_model = [_cost(result, name) for name in spent]
        table.add_row(visible_line(result.model.name), family.stage_words(result, stage), *values, bounds, *of_model)
    return table


def _cost(result: Result, name: str) -> str:
    value = None if result.cost is None else getattr(result.cost, name)
    if value is None:
        return ""
    if name == "parameters":
        return f"{value / 1e6:.1f} M"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
