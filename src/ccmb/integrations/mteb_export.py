"""Our results as mteb's: a `TaskResult` file for each direction, in the folders that `mteb.load_results` reads."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccmb.benchmark.results.result import DIRECTIONS, Result, slug
from ccmb.core.errors import UsageError
from ccmb.core.files import write_json
from ccmb.integrations.mteb_names import MAIN_SCORE, task_name

CUTS = (1, 3, 5, 10, 20, 100, 1000)


def export_result(result: Result, out: Path) -> list[Path]:
    """Write a result of retrieval as OUT/ORGANISATION__MODEL/REVISION/TASK.json, by the model's last stage.

    Scores are those that the ranks of best right answers give: `hit_rate_at_k`, our R@k as a share, and `mrr_at_k`.

    Raises:
        UsageError: it is a result of another family.
    """
    if result.retrieval is None:
        raise UsageError(
            f"{result.model.name} on {result.data.name}: a result of {result.family}; mteb's are retrieval"
        )
    try:
        made_for = version("mteb")
    except PackageNotFoundError:
        raise UsageError("--export mteb needs mteb; install it with pip install 'ccmb[mteb]'") from None
    folder = out / f"ccmb__{slug(result.model.name)}" / result.model.fingerprint[:40]
    paths = []
    for direction in DIRECTIONS:
        ranks = result.retrieval.ranks.get(direction)
        if ranks is None:
            continue
        scores = _scores(torch.tensor(ranks[result.stages[-1]]))
        value: dict[str, Any] = {
            "dataset_revision": result.data.revision,
            "task_name": task_name(result.data.name, direction),
            "mteb_version": made_for,
            "scores": {result.data.split: [scores | {"hf_subset": "default", "languages": ["zho-Hans"]}]},
            "evaluation_time": result.seconds.get("total"),
            "kg_co2_emissions": None,
            "date": datetime.fromisoformat(result.finished).timestamp(),
        }
        paths.append(folder / f"{value['task_name']}.json")
        write_json(paths[-1], value)
    return paths


def _scores(rank_Q: Tensor) -> dict[str, float]:
    """Shares in [0, 1]."""
    hits = {f"hit_rate_at_{k}": float((rank_Q <= k).double().mean()) for k in CUTS}
    reciprocal = {f"mrr_at_{k}": float(((rank_Q <= k) / rank_Q).double().mean()) for k in CUTS}
    return hits | reciprocal | {"main_score": hits[MAIN_SCORE]}
