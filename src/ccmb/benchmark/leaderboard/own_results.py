"""Of our results: the figures that a leaderboard shows of a stage, in percent, and how the main one varies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ccmb.benchmark.leaderboard.columns import VIEWS
from ccmb.benchmark.results.result import DIRECTIONS, Accuracy, Classification, MatchingFigures, Result, Stage
from ccmb.inference.two_stage import Direction
from ccmb.tasks.common.resampling import Figure, draw_figures, on_all
from ccmb.tasks.matching.metrics import weighted_auc, weighted_mean
from ccmb.tasks.retrieval.metrics import bootstrap_recalls, hits_by_image, mean_recall


def own_figures(result: Result, stage: Stage) -> tuple[dict[str, float], tuple[float, float] | None]:
    """The figures by the keys of the family's view, and the interval of the main one."""
    view = VIEWS[result.family]
    if result.retrieval is not None:
        section = result.retrieval
        recalls = {way: section.recalls(way, stage) or {} for way in DIRECTIONS}
        figures = {f"{way}_{key}": value for way, of in recalls.items() for key, value in of.items()}
        mean = section.mean_recall.get(stage)
        return figures | ({} if mean is None else {view.main: mean}), section.mean_recall_interval.get(stage)
    if result.captioning is not None:
        captions = result.captioning.figures[stage]
        known = {key: getattr(captions, key) for key in (*view.columns, view.main)}
        return {key: value for key, value in known.items() if value is not None}, captions.interval
    if result.generation is not None:
        painted = result.generation.figures[stage]
        figures = {"match_score": painted.match_score, "FID": painted.fid, "KID": painted.kid, **(painted.things or {})}
        return {key: figures[key] for key in (*view.columns, view.main) if key in figures}, painted.interval
    of: MatchingFigures | Accuracy = (result.matching or _classification(result)).of(stage)
    factor = 100 if result.matching else 1  # which is kept in [0, 1]
    known = {key: getattr(of, key) for key in (*view.columns, view.main)}
    low, high = of.interval[view.main]
    bounds = round(factor * low, 2), round(factor * high, 2)
    return {key: round(factor * value, 2) for key, value in known.items() if value is not None}, bounds


def drawn_main(result: Result, stage: Stage) -> np.ndarray:
    """The main figure of each draw, in percent; all results of one size draw the same pictures."""
    drawn_with = np.array(result.drawn_with)
    if result.retrieval is not None:
        return bootstrap_recalls(*hits_by_image(_ranks(result, stage), torch.from_numpy(drawn_with))).mean((1, 2))
    figure, factor = _main(result, stage)
    return factor * draw_figures([figure], drawn_with)[:, 0]


def raw_main(result: Result, stage: Stage) -> float:
    """The main figure in percent, not rounded."""
    if result.retrieval is not None:
        return mean_recall(_ranks(result, stage).values()) or 0.0
    figure, factor = _main(result, stage)
    return factor * on_all(figure, len(result.drawn_with))


def _ranks(result: Result, stage: Stage) -> dict[Direction, Tensor]:
    assert result.retrieval is not None, "of retrieval alone"
    return {direction: torch.tensor(of[stage]) for direction, of in result.retrieval.ranks.items()}


def _main(result: Result, stage: Stage) -> tuple[Figure, float]:
    """The main figure of other families, and what makes it percent."""
    if result.matching is not None:
        scores, labels = torch.tensor(result.matching.scores[stage]), torch.tensor(result.matching.labels)
        return weighted_auc(scores, labels), 100
    if result.captioning is not None:
        return weighted_mean(torch.tensor(result.captioning.cider[stage], dtype=torch.double)), 100
    if result.generation is not None:
        return weighted_mean(torch.tensor(result.generation.scores[stage], dtype=torch.double)), 1
    return weighted_mean(torch.tensor(_classification(result).ranks[stage]) == 1), 100


def variant(result: Result) -> str:
    """Which part of the set it is, and how much there is of it."""
    data = result.data
    if result.matching is not None:
        return f"{data.split}, {result.matching.pairs} pairs of {data.images} images"
    if result.classification is not None:
        section = result.classification
        return (
            f"{data.split}, {data.images} images, {section.classes} classes ({section.class_list}), "
            f"prompts: {result.prompt_set}"
        )
    if result.captioning is not None:
        return f"{data.split}, {data.images} images, {data.texts} references"
    if result.generation is not None:
        painted = result.generation
        return f"{data.split}, {data.texts} texts; judge: {painted.judge}; features: {painted.features}"
    return f"{data.split}, {data.images} images, {data.texts} texts{_convention_words(result)}"


def _convention_words(result: Result) -> str:
    """What is to be said of the answers where it matters: of equal texts, or of ties that count as elsewhere."""
    section = result.retrieval
    if section is not None and section.convention == "official":
        return ", official convention"
    return f", {section.equal_texts} equal ones right" if section is not None and section.equal_texts else ""


def stage_words(result: Result, stage: Stage) -> str:
    """By what the model orders or judges; see `Row`."""
    if result.captioning is not None:
        return f"beam {result.captioning.decoding['beams']}" + (", re-ranked" if stage == "ranking" else "")
    if result.generation is not None:
        return "one picture" if stage == "pre_ranking" else f"best of {result.generation.painting['best_of']}"
    if result.model.stages == 1 or (result.matching is not None and stage == "pre_ranking"):
        return "cosine"
    if result.matching is not None:
        return "match score"
    return "pre-ranking" if stage == "pre_ranking" else _ranking_words(result)


def _ranking_words(result: Result) -> str:
    """The second stage, and in what it is less than exact."""
    precision = f", {result.precision}" if result.precision not in (None, "fp32") else ""
    cascade = f", cascade {result.cascade}" if result.cascade is not None else ""
    return f"ranking, top {result.depth}{precision}{cascade}"


def _classification(result: Result) -> Classification:
    assert result.classification is not None, "a result has one family"
    return result.classification
