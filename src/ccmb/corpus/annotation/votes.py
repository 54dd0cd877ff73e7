"""From many answers to one: gold questions judge annotators, those who are trusted vote, the rest is asked again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ccmb.corpus.annotation.agreement import fleiss_kappa, krippendorff_alpha
from ccmb.corpus.annotation.label_studio import Answer
from ccmb.corpus.annotation.tasks import Task


@dataclass(frozen=True, slots=True)
class Trust:
    """When an annotator and a vote count. Our choices.

    Attributes:
        gold_share: of gold questions that an annotator has right at least.
        gold_answers: fewer answered gold questions do not judge anybody.
        votes: answers that a task needs.
        majority: least share of the votes for the winner, which needs more than half in any case.
    """

    gold_share: float = 0.7
    gold_answers: int = 5
    votes: int = 3
    majority: float = 0.66


@dataclass(frozen=True, slots=True)
class Annotator:
    """What is known of an annotator: answers, gold questions answered and right, agreement with the majority, and
    whether the answers count."""

    name: str
    answers: int
    gold_answers: int
    gold_right: int
    with_majority: float
    trusted: bool


@dataclass(slots=True)
class Votes:
    """All that came of the answers.

    Attributes:
        labels: by task, where the trusted agree.
        undecided: tasks that need another round: too few votes, or no majority.
        captions: by task, the trusted annotators' texts.
        kappa: Fleiss' of the matching tasks that all trusted annotators answered; NaN where there is none.
        alpha: Krippendorff's of all trusted answers to matching tasks.
    """

    labels: dict[str, int] = field(default_factory=dict)
    undecided: list[Task] = field(default_factory=list)
    captions: dict[str, list[str]] = field(default_factory=dict)
    annotators: list[Annotator] = field(default_factory=list)
    kappa: float = float("nan")
    alpha: float = float("nan")


def count_votes(tasks: Sequence[Task], answers: Sequence[Answer], trust: Trust | None = None) -> Votes:
    """Judge annotators by the gold questions, then let those who are trusted vote on all others."""
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
    given: dict[str, dict[str, int]] = defaultdict(dict)
    found = Votes()
    for answer in answers:
        if answer.annotator in trusted and answer.label is not None and answer.task not in gold:
            given[answer.task][answer.annotator] = answer.label
        if answer.annotator in trusted and answer.caption:
            found.captions.setdefault(answer.task, []).append(answer.caption)
    for task in tasks:
        if task.question == "matching" and not task.gold:
            label = winner(list(given[task.id].values()), trust)
            if label is None:
                found.undecided.append(task)
            else:
                found.labels[task.id] = label
        elif task.question == "caption" and task.id not in found.captions:
            found.undecided.append(task)
    found.annotators = [
        _annotator(name, answers, right=right[name], given=given, labels=found.labels, trusted=name in trusted)
        for name in names
    ]
    found.alpha = krippendorff_alpha([list(of.values()) for of in given.values()])
    found.kappa = _kappa(given)
    return found


def winner(labels: Sequence[int], trust: Trust) -> int | None:
    """The label of a clear majority of enough votes, or None."""
    if len(labels) < trust.votes:
        return None
    [(label, count)] = Counter(labels).most_common(1)
    return label if count > len(labels) / 2 and count >= trust.majority * len(labels) else None


def _annotator(
    name: str, answers: Sequence[Answer], right: Sequence[bool], given: dict[str, dict[str, int]],
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


def _kappa(given: dict[str, dict[str, int]]) -> float:
    most = max((len(of) for of in given.values()), default=0)
    rows = [[list(of.values()).count(label) for label in (0, 1)] for of in given.values() if len(of) == most]
    return fleiss_kappa(np.array(rows)) if most > 1 else float("nan")
