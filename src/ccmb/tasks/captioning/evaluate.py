"""Metrics of captions against the known captions of a split, as `ccmb evaluate` reports them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ccmb.core.choices import RankingRule
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.progress import progress
from ccmb.data.pairs import readable_samples
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.r2d2.processing import R2D2Processor
from ccmb.scenes.text_parser import things_right
from ccmb.tasks.captioning.decoding import Decoding
from ccmb.tasks.captioning.metrics import CaptionScores, Tokenizer, characters, distinct, score_captions, words
from ccmb.tasks.captioning.predict import Candidate, ImageCaption, caption_images
from ccmb.tasks.common.datasets import RetrievalSet
from ccmb.tasks.common.resampling import DRAWS, bounded_interval, bounds_of, drawn_weights

BATCH = 32


@dataclass(frozen=True, slots=True)
class CaptionResults:
    """Captions of images, and what people wrote about these.

    Attributes:
        captions: one for each image, with the candidates that it was chosen from.
        references: of each image.
    """

    captions: list[ImageCaption]
    references: list[tuple[str, ...]]

    @property
    def chosen(self) -> list[str]:
        return [str(caption.text) for caption in self.captions]

    @property
    def decoded(self) -> list[str]:
        """The captions that the decoding put first, before any re-ranking."""
        return [caption.decoded.text for caption in self.captions if caption.decoded is not None]

    def scores(self) -> CaptionScores:
        """Scores of the chosen captions, on characters."""
        return score_texts(self.chosen, self.references, characters)


def evaluate_captions(
    model: R2D2Captioner,
    processor: R2D2Processor,
    dataset: RetrievalSet,
    options: Decoding,
    rerank: bool = True,
    ranking_rule: RankingRule | None = None,
) -> dict[str, Any]:
    """The report of one split; images that cannot be read are listed in it.

    Args:
        ranking_rule: by which candidates are re-ranked; None is the model's own.

    Raises:
        UsageError: the set's texts do not belong to single images.
        CcmbError: no image can be read.
    """
    started = time.monotonic()
    samples, unreadable = readable_samples(dataset.samples, dataset.images)
    written = caption_dataset(
        model, processor, replace(dataset, samples=samples), options=options, rerank=rerank, ranking_rule=ranking_rule
    )
    report: dict[str, Any] = {"captioning": captioning_report(written, options, rerank)}
    if rerank and model.can_rank:
        report["ranking_rule"] = ranking_rule or model.config.ranking_rule
    return report | {"unreadable": unreadable, "seconds": {"evaluate": round(time.monotonic() - started, 1)}}


def caption_dataset(
    model: R2D2Captioner,
    processor: R2D2Processor,
    dataset: RetrievalSet,
    options: Decoding,
    rerank: bool = False,
    ranking_rule: RankingRule | None = None,
) -> CaptionResults:
    """Captions of all images of a set, whose texts are the references; all images must be readable.

    Raises:
        UsageError: the set's texts do not belong to single images.
    """
    if dataset.queries is not None:
        raise UsageError(
            f"{dataset.name}: captions are measured on images with texts of their own; here they share texts"
        )
    references: dict[str, list[str]] = {}
    for sample in dataset.samples:
        references.setdefault(sample.image, []).extend(sample.texts)
    names, captions = list(references), list[ImageCaption]()
    with progress("caption", len(names), "images") as advance:
        for start in range(0, len(names), BATCH):
            shown = [dataset.images.load(name) for name in names[start : start + BATCH]]
            captions += caption_images(
                model,
                processor,
                shown,
                options=options,
                rerank=rerank,
                batch=BATCH,
                first=start,
                ranking_rule=ranking_rule,
            )
            advance(len(shown), "")
    return CaptionResults(captions, [tuple(texts) for texts in references.values()])


def captioning_report(written: CaptionResults, options: Decoding, reranked: bool, draws: int = DRAWS) -> dict[str, Any]:
    """All metrics, in percent but for match score and length.

    Returns:
        Those on characters, with their 95 % intervals over images, CIDEr-D None of a single image, which has none;
        `words`, those on words, or None where no
        segmenter is installed; `distinct-1` and `distinct-2`; `match_score` and `cosine` where candidates were
        re-ranked, and then also `before_reranking`, the same metrics of the captions that the decoding put first; and
        `things`, on synthetic scenes alone, see `things_right`.
    """
    if not written.captions:
        raise CcmbError("no captions to measure")
    scores = written.scores()
    chosen = [caption.candidates[0] for caption in written.captions]
    report = {
        "pictures": len(written.captions),
        "references": sum(map(len, written.references)),
        "decoding": asdict(options),
        "reranked": reranked,
        **_metrics(chosen, written.references, scores),
        "interval": metric_intervals(scores, draws),
    }
    if reranked:
        decoded = [caption.decoded for caption in written.captions if caption.decoded is not None]
        report["before_reranking"] = _metrics(
            decoded, written.references, score_texts(written.decoded, written.references, characters)
        )
    return report


def _metrics(
    captions: Sequence[Candidate], references: Sequence[Sequence[str]], scores: CaptionScores
) -> dict[str, Any]:
    texts = [caption.text for caption in captions]
    tokens = list(map(characters, texts))
    report: dict[str, Any] = {
        **_rounded(scores.metrics()),
        "words": _on_words(texts, references),
        "distinct-1": round(distinct(tokens, 1), 2),
        "distinct-2": round(distinct(tokens, 2), 2),
        "length": round(float(scores.length.mean()), 2),
    }
    for name in ("match_score", "cosine"):
        known = [value for caption in captions if (value := getattr(caption, name)) is not None]
        report[name] = round(float(np.mean(known)), 4) if known else None
    if (things := things_right(texts, [reference[0] for reference in references])) is not None:
        report["things"] = things
    return report


def _on_words(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any] | None:
    try:
        segmenter, cut = words()
    except UsageError:
        return None
    return {"segmenter": segmenter, **_rounded(score_texts(texts, references, cut).metrics())}


def score_texts(texts: Sequence[str], references: Sequence[Sequence[str]], cut: Tokenizer) -> CaptionScores:
    """Scores of texts against their references, on the tokens that `cut` makes of them."""
    return score_captions(
        [cut(text) for text in texts], [[cut(text) for text in reference] for reference in references]
    )


def _rounded(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(value, 2) for name, value in metrics.items()}


def metric_intervals(scores: CaptionScores, draws: int = DRAWS, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % interval over images of each metric that there is."""
    values, count = scores.metrics(), len(scores.length)
    return {
        name: bounded_interval(values[name], drawn, count, bounds_of(name))
        for name, drawn in drawn_metrics(scores, draws, seed).items()
        if not np.isnan(values[name])
    }


def drawn_metrics(scores: CaptionScores, draws: int = DRAWS, seed: int = 0) -> dict[str, np.ndarray]:
    """(draws,) values of each metric, on images drawn with replacement."""
    results = [scores.metrics(weight_N) for weight_N in drawn_weights(len(scores.length), draws, seed)]
    return {name: np.array([result[name] for result in results]) for name in results[0]}
