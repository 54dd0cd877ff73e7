"""The result file of one model on one split of one set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ccmb.core.choices import Convention, Setting
from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json
from ccmb.core.hashing import sha256_of_json
from ccmb.inference.two_stage import Direction

Stage = Literal["pre_ranking", "ranking"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
STAGES: tuple[Stage, ...] = get_args(Stage)
Interval = tuple[float, float]
# Metrics by stage; None of a stage that the model does not have.
Recalls = dict[Stage, dict[str, float] | None]


class _Part(BaseModel):
    # Where a key differs from its field, the files keep the key.
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Measured(_Part):
    """The model that was measured."""

    name: str
    kind: str = Field(description="R2D2, PRD2, the model_type of transformers, a library, features, or two models")
    fingerprint: str = Field(description="SHA-256 of weights and settings")
    context_length: int | None = Field(description="longest text in tokens; null where nobody knows")
    stages: Literal[1, 2] = Field(description="1: ordered by cosine alone, for the model cannot rank")


class Data(_Part):
    """The split that was measured on."""

    name: str
    split: str
    language: str | None = Field(None, description="tag of the texts, where it was asked for")
    revision: str = Field(description="SHA-256 of names, texts and images")
    images: int
    texts: int
    unreadable: list[str] = Field(description="a line for each image that was left out")


class Seen(_Part):
    """The images of the split that the model was trained on, known by the numbers of photographs in file names."""

    images: int
    mark: str = Field(description="saw N test images; empty of none")
    read: list[str] = Field(description="data sets and splits that the model was trained on")


class Section(_Part):
    """The part of a result that depends on the family of tasks."""

    def stages_of(self, model: Measured) -> tuple[Stage, ...]:
        """The stages that have metrics."""
        return STAGES[: model.stages]


class AtDepth(_Part):
    """What the second stage gives when it ranks so many candidates, in percent."""

    depth: int
    ceiling: float = Field(description="the first stage's recall at this depth: no second stage can have a higher R@1")
    recalls: dict[str, float]


class Cost(_Part):
    """What a model costs beside its quality, as measured on the machine that `hardware` names."""

    parameters: int | None = Field(None, description="of both stages; null where nobody knows")
    bytes_per_image: int = Field(description="of an embedding in float32, as an index keeps it")
    images_per_second: float | None = Field(None, description="encoded; null where the features were kept")
    texts_per_second: float | None = Field(None, description="likewise")
    pairs_per_second: float | None = Field(None, description="of the second stage; null without one")


class Retrieval(Section):
    """Recalls in percent by direction and stage, and 95 % intervals over images."""

    text_to_image: Recalls
    image_to_text: Recalls = Field(description="empty where images are not searched from, as of MUGE")
    mean_recall: dict[Stage, float | None]
    intervals: dict[str, dict[Stage, dict[str, Interval]]]
    mean_recall_interval: dict[Stage, Interval]
    gain: dict[str, float] | None = Field(description="of ranking in R@1 of text to image, in points")
    ranks: dict[Direction, dict[Stage, list[int]]] = Field(description="of each query, from 1; for paired tests")
    convention: Convention | None = Field(
        None, description="which answers are right and how ties count; null: a text's own image alone, ties against it"
    )
    equal_texts: int = Field(0, description="texts that are equal to one of another image")
    by_depth: dict[Direction, list[AtDepth]] = Field(
        default_factory=dict, description="empty without a second stage, and where a cascade chose"
    )

    def recalls(self, direction: Direction, stage: Stage) -> dict[str, float] | None:
        return (self.text_to_image if direction == "text_to_image" else self.image_to_text).get(stage)


class Fitted(_Part):
    """Values that were fitted for each part of the pairs, on the pairs of the other parts."""

    on: str
    threshold: list[float]
    temperature: list[float] | None = Field(description="null without cross encoders")


class MatchingMetrics(_Part):
    """The metrics of one stage, in [0, 1]; None if undefined. See `ccmb.tasks.matching.metrics`."""

    auc: float
    accuracy: float | None = Field(None, description="at probability 0.5")
    accuracy_fitted: float | None = Field(description="at a threshold fitted on other images")
    calibration_error: float | None = Field(None, description="corrected for bias")
    calibration_error_plain: float | None = Field(None, description="without the correction, as most papers report it")
    calibration_error_fitted: float | None = Field(None, description="at a temperature fitted on other images")
    interval: dict[str, Interval] = Field(description="95 %, over images")
    fitted: Fitted | None


class Matching(MatchingMetrics, Section):
    """The metrics of the match score; without a match score, those of the cosine."""

    pairs: int
    images: int = Field(alias="pictures")
    matches: int
    stage: Stage
    match_temperature: float | None
    pre_ranking: MatchingMetrics | None = Field(None, description="of the cosine, where `stage` is ranking")
    labels: list[int]
    scores: dict[Stage, list[float]] = Field(description="of each pair; for paired tests")

    def stages_of(self, model: Measured) -> tuple[Stage, ...]:
        return STAGES if self.stage == "ranking" else STAGES[:1]

    def at_stage(self, stage: Stage) -> MatchingMetrics:
        return self if stage == self.stage or self.pre_ranking is None else self.pre_ranking


class Accuracy(_Part):
    """The accuracies of one stage, in percent, with 95 % intervals over images."""

    top1: float
    top5: float
    mean_per_class: float
    interval: dict[str, Interval]


class RankedAccuracy(Accuracy):
    depth: int = Field(description="classes that the second stage ranks")


class Classification(Accuracy, Section):
    """The accuracies of the first stage, and of the second one if it was used."""

    images: int = Field(alias="pictures")
    classes: int
    classes_with_images: int = Field(alias="classes_with_pictures")
    class_list: str
    ranking: RankedAccuracy | None = None
    ranks: dict[Stage, list[int]] = Field(description="of each image's class, from 1; for paired tests")

    def stages_of(self, model: Measured) -> tuple[Stage, ...]:
        return STAGES[: 1 if self.ranking is None else 2]

    def at_stage(self, stage: Stage) -> Accuracy:
        return self.ranking if stage == "ranking" and self.ranking is not None else self


class CaptionMetrics(_Part):
    """The metrics of the captions that one stage ranks first, on characters, in percent."""

    cider_d: float
    bleu_1: float
    bleu_4: float
    rouge_l: float
    match_score: float | None
    interval: Interval = Field(description="of CIDEr-D: 95 %, over images")


class Captioning(Section):
    """The captions of both stages: the decoder's first candidate, and the candidate that is re-ranked first."""

    images: int = Field(alias="pictures")
    references: int
    decoding: dict[str, Any]
    metrics: dict[Stage, CaptionMetrics] = Field(alias="figures")
    cider: dict[Stage, list[float]] = Field(description="CIDEr-D of each image, in [0, 10]; for paired tests")
    captions: dict[Stage, list[str]]

    def stages_of(self, model: Measured) -> tuple[Stage, ...]:
        return STAGES


class GenerationMetrics(_Part):
    """The metrics of one image for each text."""

    match_score: float = Field(description="mean, in percent; the cosine's where the judge has no match heads")
    fid: float
    kid: float
    things: dict[str, float] | None = Field(description="on synthetic scenes: what is right, in percent")
    interval: Interval = Field(description="of the match score: 95 %, over texts")


class Generation(Section):
    """The images of both stages: the first image of each text, and the image that the judge ranks first."""

    images: int = Field(alias="pictures")
    painting: dict[str, Any]
    judge: str
    judge_fingerprint: str = Field(description="SHA-256 of its weights")
    features: str = Field(description="whose, for FID and KID")
    metrics: dict[Stage, GenerationMetrics] = Field(alias="figures")
    scores: dict[Stage, list[float]] = Field(description="match score of each image, in percent; for paired tests")

    def stages_of(self, model: Measured) -> tuple[Stage, ...]:
        return tuple(stage for stage in STAGES if stage in self.metrics)


# The families that results are kept of.
SECTIONS = ("retrieval", "matching", "classification", "captioning", "generation")


class Result(_Part):
    """The whole file; it has the section of exactly one family."""

    key: str = Field(description="SHA-256 of all that the metrics depend on; an equal one is not measured again")
    model: Measured
    data: Data
    seen: Seen | None = Field(None, description="null where nothing says what the model was trained on")
    setting: Setting
    prompt_set: str | None = Field(description="of classification; others put no prompt around a text")
    depth: int | None = Field(description="candidates that the second stage ranks; null without one")
    precision: str | None = Field(None, description="in which the best are chosen; null: fp32, or none")
    cascade: int | None = Field(None, description="how many candidates one cross encoder chooses; null: both see all")
    seed: int
    draws: int = Field(description="of the units that the intervals are drawn from")
    retrieval: Retrieval | None = None
    matching: Matching | None = None
    classification: Classification | None = None
    captioning: Captioning | None = None
    generation: Generation | None = None
    resampling_unit: list[int] = Field(
        alias="drawn_with", description="with what resampling draws each text, pair or image: the index of its image"
    )
    commit: str
    hardware: dict[str, Any]
    seconds: dict[str, float] = Field(description="encoding counts for nothing where features_kept")
    cost: Cost | None = Field(None, description="of retrieval")
    features_kept: bool = Field(description="whether the features had been encoded by an earlier measurement")
    finished: str = Field(description="time in UTC, ISO 8601")

    @model_validator(mode="after")
    def _one_family(self) -> Result:
        if sum(getattr(self, family) is not None for family in SECTIONS) != 1:
            raise ValueError(f"needs one of {', '.join(SECTIONS)}")
        return self

    @property
    def family(self) -> str:
        return next(family for family in SECTIONS if getattr(self, family) is not None)

    @property
    def stages(self) -> tuple[Stage, ...]:
        section: Section = getattr(self, self.family)
        return section.stages_of(self.model)


def read_result(path: Path) -> Result:
    """Read a result file.

    Raises:
        CcmbError: it is no result, or one of another version; the message names file and key.
    """
    try:
        return Result.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise CcmbError(f"{path}: {key}: {first['msg']}; measure anew with `ccmb benchmark`") from None


def result_key(**values: Any) -> str:
    """SHA-256 of everything that a result depends on."""
    return sha256_of_json(values)


def slug(name: str) -> str:
    """A name with only the characters that a file name may have; it may become empty."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")
