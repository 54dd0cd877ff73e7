"""The settings that all measurements of one call share."""

from __future__ import annotations

from dataclasses import dataclass

from ccmb.core.choices import Convention, Setting
from ccmb.inference.stages import EXACT_OPTIONS, RankOptions
from ccmb.tasks.generation.predict import DEFAULT_SAMPLING, SamplingOptions


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of models and metrics.

    Attributes:
        depth: candidates of the first stage that the second one ranks.
        class_depth: classes that the second stage ranks; None leaves it out of classification.
        context_length: longest text in tokens; None is the default of each model.
        setting: whether the models were fine-tuned for the sets.
        seed, draws: of the resampling for the intervals.
        ranking: how the second stage of retrieval is computed; other families compute it exactly.
        painting: how images are generated.
        judge, features: models for match scores and features of generated images; None is the model under test.
        convention: which answers of retrieval are right and how ties count, see `ccmb.inference.answers`.
        images: how many images give their texts for generation; None is all.
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
