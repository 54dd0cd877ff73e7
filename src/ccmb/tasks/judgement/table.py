"""Agreement with human grades as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned

NDCG_CUT = 10
NAMES = {"tau_b": "Kendall's tau-b", "tau_c": "Kendall's tau-c", "spearman": "Spearman"}


def judgement_table(report: dict[str, Any]) -> str:
    """Correlations, AUC by threshold and nDCG, by stage, with their intervals."""
    stages = {"ranking": report, "pre-ranking": report["pre_ranking"]} if "pre_ranking" in report else {}
    stages = stages or {"pre-ranking": report}
    rows = [["", *stages, "judges"]]
    ceiling = report["ceiling"] or {}
    for name, words in NAMES.items():
        known = f"{ceiling[name]:.3f}" if name in ceiling else "-"
        rows.append([words, *(_cell(of_stage[name]) for of_stage in stages.values()), known])
    for name, words in (("tau_b", "tau-b, each judgement"), ("tau_c", "tau-c, each judgement")):
        rows.append([words, *(_cell(of_stage["each_judgement"][name]) for of_stage in stages.values()), ""])
    for threshold in report["auc"]:
        rows.append([f"AUC, grade >= {threshold}", *(_cell(one["auc"][threshold]) for one in stages.values()), ""])
    for way in ("text_to_image", "image_to_text"):
        if (of_way := report[f"nDCG@{NDCG_CUT}"][way]) is not None:
            values = (f"{one[f'nDCG@{NDCG_CUT}'][way]['value']:.3f}" for one in stages.values())
            rows.append([f"nDCG@{NDCG_CUT}, {way.replace('_', ' ')} ({of_way['queries']})", *values, ""])
    for threshold, error in (report["calibration_error"] or {}).items():
        rows.append([f"calibration error, grade >= {threshold}", _cell(error), *[""] * (len(stages) - 1), ""])
    head = f"{report['pairs']} pairs of {report['pictures']} images, {report['judgements']} judgements"
    return "\n".join([head, *aligned(rows, (36, *[26] * len(stages), 8))])


def _cell(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
