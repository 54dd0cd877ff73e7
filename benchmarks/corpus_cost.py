"""What a corpus of 5 billion candidate pairs costs, from metrics of one core: what docs/corpus-at-scale.md rests on.

    python benchmarks/corpus_cost.py machines=32 cores=32

Every input can be given anew as key=value. Measured ones come from this folder's benchmarks; assumed ones say so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

HOUR = 3600.0


class Input(NamedTuple):
    """A value, its unit, and where it comes from."""

    value: float
    unit: str
    source: str


INPUTS = {
    "pairs": Input(5e9, "candidate pairs", "the paper"),
    "pictures": Input(2.5e8, "images in the end", "the paper"),
    "texts": Input(7.5e8, "texts in the end", "the paper"),
    "impressions_of_a_pair": Input(20, "rows of the log", "assumed"),
    "texts_of_a_link": Input(6, "candidate texts", "assumed: three fields, and as many that are dropped"),
    "links_that_come": Input(0.6, "share", "DanQing: about 60 % of Zero's links still download"),
    "pictures_that_stay": Input(0.8, "share of those that come", "assumed: filters and copies take a fifth"),
    "row_bytes": Input(25, "bytes of a log row in Parquet", "assumed"),
    "picture_bytes": Input(150e3, "bytes of an image on the web", "assumed"),
    "stored_bytes": Input(40e3, "bytes of an image of 256 pixels", "assumed"),
    "log_rows": Input(122e3, "rows/s of a core", "measured: benchmarks/corpus.py, 243,900 on two busy cores"),
    "text_rows": Input(2.4e3, "texts/s of a core", "measured: benchmarks/corpus.py, 4,847 on two busy cores"),
    "downloads": Input(184, "images/s of a core", "measured: benchmarks/corpus_download.py, 480 to 1600 pixels"),
    "copies_linear": Input(5.0, "core seconds of 1M images", "measured: fit to 0.5 and 1 million, random looks"),
    "copies_square": Input(8.0, "core seconds of (1M images)²", "measured: the same fit"),
    "cores": Input(32, "cores of a machine", "assumed"),
    "machines": Input(16, "machines", "assumed"),
    "network": Input(10e9, "bit/s of a machine", "assumed"),
    "network_used": Input(0.5, "share", "assumed"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what it works on, and its core hours; how many cores can share it."""

    name: str
    work: str
    core_hours: float
    cores: float

    @property
    def hours(self) -> float:
        return self.core_hours / self.cores


def stages(inputs: dict[str, float]) -> list[Stage]:
    """The stages in order."""
    everything = inputs["cores"] * inputs["machines"]
    rows = inputs["pairs"] * inputs["impressions_of_a_pair"]
    links = inputs["pictures"] / inputs["links_that_come"] / inputs["pictures_that_stay"]
    come = links * inputs["links_that_come"] / 1e6
    traffic = links * inputs["links_that_come"] * inputs["picture_bytes"]
    texts = links * inputs["texts_of_a_link"]
    link_seconds = 8 * traffic / (inputs["network"] * inputs["network_used"])
    # One build downloads on one machine, and looks for copies on one core.
    download = Stage("download", f"{links / 1e6:,.0f}M links", links / inputs["downloads"] / HOUR, inputs["cores"])
    if link_seconds / HOUR > download.hours:  # the wires are slower than the cores
        download = replace(download, cores=download.core_hours * HOUR / link_seconds)
    copies = come * inputs["copies_linear"] + come**2 * inputs["copies_square"]
    return [
        Stage("clicks", f"{rows / 1e9:,.0f}G rows of the log", rows / inputs["log_rows"] / HOUR, everything),
        Stage("texts", f"{texts / 1e6:,.0f}M texts", texts / inputs["text_rows"] / HOUR, everything),
        download,
        Stage("copies", f"{come:,.0f}M images", copies / HOUR, 1),
    ]


def amounts(inputs: dict[str, float]) -> list[tuple[str, str]]:
    """Bytes that move and that stay."""
    links = inputs["pictures"] / inputs["links_that_come"] / inputs["pictures_that_stay"]
    come = links * inputs["links_that_come"]
    rows = inputs["pairs"] * inputs["impressions_of_a_pair"]
    return [
        ("log, read", bytes_of(rows * inputs["row_bytes"])),
        ("download, in", bytes_of(come * inputs["picture_bytes"])),
        ("kept between steps", bytes_of(come * inputs["stored_bytes"])),
        ("shards", bytes_of(inputs["pictures"] * inputs["stored_bytes"])),
        ("looks in memory, on one machine", bytes_of(come * 56)),
    ]


def tables(inputs: dict[str, float]) -> str:
    """Inputs, stages and amounts as Markdown."""
    lines = [*input_lines(inputs, INPUTS), "", "| stage | work | core hours | cores | hours |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    cost_stages = stages(inputs)
    for stage in cost_stages:
        cells = f"{stage.core_hours:,.0f} | {stage.cores:,.0f} | {stage.hours:,.1f}"
        lines.append(f"| {stage.name} | {stage.work} | {cells} |")
    core_hours, hours = sum(stage.core_hours for stage in cost_stages), sum(stage.hours for stage in cost_stages)
    lines.append(f"| all | | {core_hours:,.0f} | | {hours:,.1f} |")
    lines += ["", "| bytes | |", "| --- | ---: |"]
    lines += [f"| {name} | {amount} |" for name, amount in amounts(inputs)]
    return "\n".join(lines)


def input_lines(values: Mapping[str, float], inputs: Mapping[str, Input]) -> list[str]:
    """The inputs as a table in Markdown."""
    lines = ["| input | value | unit | source |", "| --- | ---: | --- | --- |"]
    return lines + [f"| {name} | {values[name]:,.9g} | {row.unit} | {row.source} |" for name, row in inputs.items()]


def read_inputs(inputs: Mapping[str, Input], words: list[str] | None = None) -> dict[str, float]:
    """Their values, with those given as key=value, by default on the command line."""
    values = {name: given.value for name, given in inputs.items()}
    for word in sys.argv[1:] if words is None else words:
        name, _, value = word.partition("=")
        if name not in inputs:
            raise SystemExit(f"{word}: no such input; there are {', '.join(inputs)}")
        values[name] = float(value)
    return values


def bytes_of(count: float) -> str:
    return f"{count / 1e12:,.1f} TB" if count >= 1e12 else f"{count / 1e9:,.1f} GB"


def main(words: list[str] | None = None) -> None:
    print(tables(read_inputs(INPUTS, words)))


if __name__ == "__main__":
    main()
