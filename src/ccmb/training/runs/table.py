"""Runs side by side: their metrics, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ccmb.core.aligning import aligned
from ccmb.core.choices import OBJECTIVE_NAMES
from ccmb.training.runs.run_folder import Run

# In the order in which they are drawn; metrics that are not named here follow.
LABELS: dict[str, tuple[str, str]] = {
    "loss": ("总损失", "weighted sum"),
    **{name: (written, written) for name, written in OBJECTIVE_NAMES.items()},
    "val_mean_recall": ("验证集平均召回", "mean recall of validation"),
    "val_mean_recall_pre_ranking": ("验证集平均召回（粗排）", "mean recall of validation, pre-ranking"),
    "val_text_to_image_R@1": ("验证集文搜图 R@1", "R@1 of validation, text to image"),
    "temperature": ("温度 τ", "temperature τ"),
    "teacher_agreement": ("教师一致率", "teacher agreement"),
    "lr": ("学习率", "learning rate"),
    "gradient_norm": ("梯度范数", "gradient norm"),
    "samples_per_second": ("每秒样本数", "samples per second"),
    "data_wait": ("等待数据的时间占比", "share of time waiting for data"),
    "padding": ("文本填充占比", "share of padding in texts"),
    "memory_gb": ("内存峰值（GiB）", "peak memory (GiB)"),
    "mfu": ("MFU", "MFU"),
}


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Names of all metrics in the logs, those of LABELS first and in its order."""
    lines = (line for run in runs for line in run.lines)
    names = list(dict.fromkeys(name for line in lines for name in line if name not in ("step", "stage")))
    return [name for name in LABELS if name in names] + [name for name in names if name not in LABELS]


def summary(run: Run) -> dict[str, Any]:
    """Metrics of a run: the losses that were logged last, the median of the logged rates."""
    last = run.lines[-1] if run.lines else {}
    rates = sorted(line["samples_per_second"] for line in run.lines if "samples_per_second" in line)
    return {
        "run": run.name,
        "step": run.step,
        "steps": run.steps,
        "losses": {name: last[name] for name in ("loss", *OBJECTIVE_NAMES) if name in last},
        "samples_per_second": rates[len(rates) // 2] if rates else None,
        "hours": None if run.hours is None else round(run.hours, 3),
    }


def runs_table(runs: Sequence[Run]) -> str:
    """The runs as lines of text."""
    summaries = [summary(run) for run in runs]
    losses = [name for name in ("loss", *OBJECTIVE_NAMES) if any(name in run["losses"] for run in summaries)]
    head = ["run", "step", *losses, "samples/s", "hours"]
    rows = []
    for run in summaries:
        step = f"{run['step']}/{run['steps']}" if run["steps"] else str(run["step"])
        values = [_metric(run["losses"].get(name), ".3f") for name in losses]
        rows.append(
            [run["run"], step, *values, _metric(run["samples_per_second"], ".1f"), _metric(run["hours"], ".2f")]
        )
    return "\n".join(aligned([head, *rows], [0] * len(head)))


def _metric(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
