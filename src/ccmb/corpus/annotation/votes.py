"""From many answers to one: gold questions check annotators, trusted ones vote, undecided tasks are asked again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ccmb.corpus.annotation.agreement import fleiss_kappa, krippendorff_alpha
from ccmb.corpus.annotation.label_studio import AnnotatorAnswer
from ccmb.corpus.annotation.tasks import AnnotationTask


@dataclass(frozen=True, slots=True)
class Trust:
    """When an annotator and a vote count. Our choices.

    Attributes:
        gold_share: minimum share of correct gold questions.
        gold_answers: annotators with fewer answered gold questions are trusted.
        votes: how many answers a task needs.
        majority: minimum share of the votes for the winner, which always needs more than half.
    """

    gold_share: float = 0.7
    gold_answers: int = 5
    votes: int = 3
    majority: float = 0.66


@dataclass(frozen=True, slots=True)
class Annotator:
    """The record of an annotator.

    Attributes:
        answers: how many answers were given.
        gold_answers: how many gold questions were answered.
        gold_right: how many of these answers were right.
        with_majority: share of the labels that agree with the majority; NaN if there are none.
        trusted: whether the answers count.
    """

    name: str
    answers: int
    gold_answers: int
    gold_right: int
    with_majority: float
    trusted: bool


@dataclass(slots=True)
class Votes:
    """The result of all answers.

    Attributes:
        labels: the label of each task on which trusted annotators agree.
        undecided: tasks that need another round: too few votes, or no majority.
        captions: the texts of trusted annotators, by task.
        kappa: Fleiss' kappa of the matching tasks that all trusted annotators answered; NaN if there is none.
        alpha: Krippendorff's alpha of all trusted answers to matching tasks.
    """

    labels: dict[str, int] = field(default_factory=dict)
    undecided: list[AnnotationTask] = field(default_factory=list)
    captions: dict[str, list[str]] = field(default_factory=dict)
    annotators: list[Annotator] = field(default_factory=list)
    kappa: float = float("nan")
    alpha: float = float("nan")


def count_votes(
    tasks: Sequence[AnnotationTask], answers: Sequence[AnnotatorAnswer], trust: Trust | None = None
) -> Votes:
    """Check annotators by the gold questions, then let the trusted ones vote on all other tasks."""
    trust = trust or Trust()
    gold = {task.id: task.drawn_as for task in tasks if task.gold}
    right: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        if answer.task in gold:
            right[answer.annotator].append(answer.label == gold[answer.task])
    names = sorted({answer.annotator for answer in answers})
    trusted = {
        name for name in names
        if len(right[name]) < trust.gold_answers or np.mean(right[name]) >= trust.gold_share
    }  # fmt: skip
    labels_by_task: dict[str, dict[str, int]] = defaultdict(dict)
    result = Votes()
    for answer in answers:
        if answer.annotator in trusted and answer.label is not None and answer.task not in gold:
            labels_by_task[answer.task][answer.annotator] = answer.label
        if answer.annotator in trusted and answer.caption:
            result.captions.setdefault(answer.task, []).append(answer.caption)
    for task in tasks:
        if task.question == "matching" and not task.gold:
            label = winner(list(labels_by_task[task.id].values()), trust)
            if label is None:
                result.undecided.append(task)
            else:
                result.labels[task.id] = label
        elif task.question == "caption" and task.id not in result.captions:
            result.undecided.append(task)
    result.annotators = [
        _annotator(
            name,
            answers,
            right=right[name],
            labels_by_task=labels_by_task,
            labels=result.labels,
            trusted=name in trusted,
        )
        for name in names
    ]
    result.alpha = krippendorff_alpha([list(labels.values()) for labels in labels_by_task.values()])
    result.kappa = _kappa(labels_by_task)
    return result


def winner(labels: Sequence[int], trust: Trust) -> int | None:
    """The label of a clear majority of enough votes, or None."""
    if len(labels) < trust.votes:
        return None
    [(label, count)] = Counter(labels).most_common(1)
    return label if count > len(labels) / 2 and count >= trust.majority * len(labels) else None


def _annotator(
    name: str, answers: Sequence[AnnotatorAnswer], right: Sequence[bool], labels_by_task: dict[str, dict[str, int]],
    labels: dict[str, int], trusted: bool,
) -> Annotator:  # fmt: skip
    own = [answer for answer in answers if answer.annotator == name]
    same = [answer.label == labels[answer.task] for answer in own if answer.task in labels and answer.label is not None]
    return Annotator(
        name=name,
        answers=len(own),
        gold_answers=len(right),
        gold_right=sum(right),
        with_majority=float(np.mean(same)) if same else float("nan"),
        trusted=trusted,
    )


def _kappa(labels_by_task: dict[str, dict[str, int]]) -> float:
    max_labels = max((len(labels) for labels in labels_by_task.values()), default=0)
    rows = [
        [list(labels.values()).count(label) for label in (0, 1)]
        for labels in labels_by_task.values()
        if len(labels) == max_labels
    ]
    return fleiss_kappa(np.array(rows)) if max_labels > 1 else float("nan")
