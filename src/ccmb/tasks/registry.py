"""The registry of task families, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ccmb.core.errors import UsageError
from ccmb.tasks.captioning.family import CaptioningFamily
from ccmb.tasks.classification.family import ClassificationFamily
from ccmb.tasks.family import TaskFamily
from ccmb.tasks.generation.family import GenerationFamily
from ccmb.tasks.judgement.family import JudgementFamily
from ccmb.tasks.matching.family import MatchingFamily
from ccmb.tasks.retrieval.family import RetrievalFamily

if TYPE_CHECKING:
    from ccmb.tasks.finetuning.finetuner import Finetuner

AnyFamily = TaskFamily[Any, Any, Any, Any]
FAMILIES: dict[str, AnyFamily] = {
    family.name: family
    for family in (
        RetrievalFamily(),
        MatchingFamily(),
        JudgementFamily(),
        ClassificationFamily(),
        CaptioningFamily(),
        GenerationFamily(),
    )
}


def family_of(given: Mapping[str, Any], spec: str) -> AnyFamily:
    """The family that options ask for, or else the one that the data belongs to.

    Args:
        given: options by name.
        spec: `PATH` or `NAME=PATH` of data.

    Raises:
        UsageError: two are asked for.
    """
    asked = [family for family in FAMILIES.values() if family.asked_by and given.get(family.asked_by)]
    if len(asked) > 1:
        flags = " and ".join(family.mode for family in reversed(asked))
        raise UsageError(f"{flags} are {'two' if len(asked) == 2 else len(asked)} tasks; give one of them")
    # The first of the table is the most general, and is asked last.
    return asked[0] if asked else next(family for family in reversed(FAMILIES.values()) if family.is_of(spec))


def finetuner_of(task: str) -> Finetuner[Any, Any]:
    """The finetuner of a family.

    Raises:
        UsageError: they are not.
    """
    finetuner = FAMILIES[task].finetuner() if task in FAMILIES else None
    if finetuner is None:
        known = ", ".join(name for name, family in FAMILIES.items() if family.finetuner())
        raise UsageError(f"task={task}: cannot be fine-tuned; there is: {known}")
    return finetuner
