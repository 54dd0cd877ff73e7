"""The metrics of retrieval in one language, with intervals, and a table of several languages.

Images are drawn with replacement, each with all its queries (`ccmb.tasks.common.resampling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ccmb.core.aligning import aligned
from ccmb.inference.two_stage import Direction, Ranks
from ccmb.tasks.common.resampling import DRAWS, bounded_interval
from ccmb.tasks.retrieval.languages import MeasuredLanguage
from ccmb.tasks.retrieval.metrics import RECALLS, bootstrap_gain, bootstrap_recalls, hits_by_image

Values = dict[str, Any]
STAGES = ("pre_ranking", "ranking")
METRIC = ("text_to_image", "R@10")  # which languages and models are compared by
WAYS = {"text_to_image": "text to image", "image_to_text": "image to text"}


def of_language(measured: MeasuredLanguage, draws: int = DRAWS) -> Values:
    """The metrics of one model in one language: by stage, each recall and the mean recall with 95 % intervals."""
    gallery, ranks = measured.gallery, measured.ranks
    values: Values = {"images": len(gallery.images), "texts": len(gallery.texts), "unknown_texts": measured.unknown}
    for stage in STAGES:
        ranks_of = {way: of_stage for way, one in ranks.items() if (of_stage := getattr(one, stage)) is not None}
        values[stage] = _recalls(ranks_of, gallery.image_of_text, draws) if ranks_of else None
    values["gain_R@1"] = _gain(ranks["text_to_image"], gallery.image_of_text, draws)
    return values


def _recalls(ranks_of: Mapping[Direction, Tensor], image_of_text: Tensor, draws: int) -> Values:
    hits_DG3, queries_DG = hits_by_image(ranks_of, image_of_text)
    drawn_ND3 = bootstrap_recalls(hits_DG3, queries_DG, draws)
    exact_D3 = 100 * hits_DG3.sum(1) / queries_DG.sum(1)[:, None]
    count = hits_DG3.shape[1]
    values: Values = {
        way: {
            f"R@{k}": _value(exact_D3[row, column], drawn_ND3[:, row, column], count)
            for column, k in enumerate(RECALLS)
        }
        for row, way in enumerate(ranks_of)
    }
    return values | {"mean_recall": _value(exact_D3.mean(), drawn_ND3.mean((1, 2)), count)}


def _value(exact: Any, drawn_N: Any, units: int) -> dict[str, float]:
    low, high = bounded_interval(float(exact), drawn_N, units, counted=True)
    return {"value": round(float(exact), 2), "low": low, "high": high}


def _gain(ranks: Ranks, image_of_text: Tensor, draws: int) -> dict[str, float] | None:
    """What ranking gains in R@1 from text to image, in points, paired by image."""
    if ranks.ranking is None:
        return None
    return bootstrap_gain(ranks.pre_ranking, torch.as_tensor(ranks.ranking), image_of_text, draws)


def main_metric(values: Mapping[str, Any] | None) -> float | None:
    """The metric of the last stage that a model has, by which languages are compared; None if it is unknown."""
    if values is None:
        return None
    stage = values["ranking"] or values["pre_ranking"]
    way, recall = METRIC
    return float(stage[way][recall]["value"])


def languages_table(languages: Mapping[str, Mapping[str, Any]]) -> str:
    """One model: a line for each language and stage, and the means over languages."""
    rows = [["", "", "t2i R@1", "R@5", "R@10", "i2t R@1", "R@5", "R@10", "mean", "images"]]
    for name, values in languages.items():
        for stage in STAGES:
            if (of_stage := values[stage]) is None:
                continue
            cells = [f"{metric['value']:.1f}" for way in WAYS for metric in of_stage[way].values()]
            mean = f"{of_stage['mean_recall']['value']:.1f}"
            rows.append([name, stage.replace("_", "-"), *cells, mean, str(values["images"])])
    widths = (7, 12, 8, 6, 6, 8, 6, 6, 6, 7)
    lines = aligned(rows, widths, left=2)
    unknown = [f"{name} {values['unknown_texts']}" for name, values in languages.items() if values["unknown_texts"]]
    lines.append(f"mean over languages of text to image R@10: {mean_over(languages):.1f}")
    return "\n".join(
        [*lines, *([f"texts of which the model knows few words or none: {', '.join(unknown)}"] if unknown else [])]
    )


def mean_over(languages: Mapping[str, Mapping[str, Any]]) -> float:
    """The mean over languages, machine translations left out, of the metric that languages are compared by."""
    known = [value for name, one in languages.items() if ">" not in name and (value := main_metric(one)) is not None]
    return sum(known) / len(known)
