"""What all measurements of one call share."""

from __future__ import annotations

from dataclasses import dataclass

from ccmb.core.choices import Convention, Setting
from ccmb.inference.stages import EXACT_OPTIONS, RankOptions
from ccmb.tasks.generation.predict import DEFAULT_SAMPLING, SamplingOptions


@dataclass(frozen=True, slots=True)
class Settings:
    """Of models and metrics.

    Attributes:
        depth: candidates of the first stage that the second one ranks.
        class_depth: of the same, classes; None leaves the second stage out of classification.
        context_length: longest text in tokens; None is what each model was made for.
        setting: what the models are to the sets.
        seed, draws: of what the intervals are drawn by.
        ranking: how the second stage of retrieval is computed; the others' is always exact.
        painting: how images of generation are painted.
        judge, features: models that give match scores and features of painted images; None is the model measured.
        convention: which answers of retrieval are right and how ties count, see `ccmb.inference.answers`.
        images: texts of how many images are painted; None is all.
    """

    depth: int = 128
    context_length: int | None = None
    setting: Setting = "unstated"
    seed: int = 0
    draws: int = 2000
    class_depth: int | None = None
    ranking: RankOptions = EXACT_OPTIONS
    painting: SamplingOptions = DEFAULT_SAMPLING
    judge: str | None = None
    features: str | None = None
    images: int | None = None
    convention: Convention = "equal_texts"
