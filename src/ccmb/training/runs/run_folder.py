"""Reading a run folder: its log and its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ccmb.core.config.retired_keys import renamed_values
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.text.files import split_lines
from ccmb.report.charts import Point
from ccmb.training.recipe import TrainingRecipe


@dataclass(frozen=True, slots=True)
class Run:
    """The contents of a run folder.

    Attributes:
        name: as the user gave it.
        lines: of its log.
        steps, batch: of its recipe; None where it has none.
        batches: of a run in stages, the batch size of each by its name, which stands in its lines as `stage`.
    """

    name: str
    lines: list[dict[str, float]]
    steps: int | None
    batch: int | None
    batches: Mapping[str, int] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The last step in the log, or 0."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    @property
    def hours(self) -> float | None:
        """Hours of training, by the steps in the log; steps that a crash undid are not in it."""
        if self.batch is None:
            return None
        seconds, before = 0.0, 0.0
        for line in self.lines:
            rate = line.get("samples_per_second", 0.0)
            batch = self.batches.get(str(line.get("stage")), self.batch)
            seconds += (line["step"] - before) * batch / rate if rate else 0.0
            before = line["step"]
        return seconds / 3600

    def points(self, metric: str) -> list[Point]:
        """The values of a metric by step."""
        return [(line["step"], line[metric]) for line in self.lines if isinstance(line.get(metric), int | float)]


def read_run(path: Path) -> Run:
    """Read a run folder, or the folder of a quickstart, which holds one.

    Raises:
        CcmbError: it is neither; the message names the runs that lie in it.
    """
    folder = path / "run" if not (path / "metrics.jsonl").exists() and (path / "run").is_dir() else path
    log = folder / "metrics.jsonl"
    if not log.is_file():
        inside = sorted(str(log_path.parent) for log_path in path.glob("*/metrics.jsonl"))
        hint = f"; it holds: {', '.join(inside)}" if inside else "; a run has one once its first steps are logged"
        raise CcmbError(f"{path}: no run folder (no metrics.jsonl in it){hint}")
    training: dict[str, Any] = {}
    steps, batches = None, dict[str, int]()
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError, UsageError):
        saved = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        training, _ = renamed_values(TrainingRecipe, saved["training"])
        of_stages = {stage["name"]: training | stage["training"] for stage in saved.get("stages", ())}
        batches = {name: stage["batch_size"] for name, stage in of_stages.items()}
        steps = sum(stage["steps"] for stage in of_stages.values()) or training.get("steps")
    lines = []
    for text in split_lines(log.read_text(encoding="utf-8", errors="replace")):
        with suppress(ValueError):  # the last line of a run that is writing just now may be cut short
            line = json.loads(text)
            if isinstance(line, dict) and "step" in line:
                lines.append(line)
    return Run(str(path), lines, steps, training.get("batch_size"), batches)
