"""Published metrics with their sources, and with notes on why they may not be comparable."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ccmb.benchmark.leaderboard.columns import VIEWS
from ccmb.core.choices import Setting
from ccmb.tasks.retrieval.metrics import RECALLS

# Metrics are rounded to one digit: the mean of six of them is within 0.05 of that of the exact ones, and so is the
# mean as given within 0.05 of the exact one.
LARGEST_DIFFERENCE = 0.15
DIFFERS = "mean-recall-differs"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Note(_Part):
    """A remark on rows, in both languages."""

    mark: Literal["trap", "unverified", "conflict", "setup"]
    zh: str
    en: str


class PublishedRow(_Part):
    """One model on one set, in percent, as its sources print it."""

    family: str = "retrieval"
    model: str
    set: str
    variant: str = Field(description="which split and which texts of the set")
    images: int | None = Field(default=None, description="images of the variant; null where no source says")
    texts: int | None = Field(default=None, description="about how many texts; null where no source says")
    setting: Setting
    stages: Literal[1, 2] | None = Field(default=None, description="2: re-ranked; null where no source says")
    image_to_text: dict[str, float] | None = Field(default=None, description="R@1, R@5, R@10, or R@1 alone")
    text_to_image: dict[str, float] | None = None
    mean_recall: float | None = Field(default=None, description="as given, not recomputed")
    metrics: dict[str, float] = Field(
        default={}, alias="figures", description="of other families than retrieval, by their view's keys"
    )
    sources: list[str]
    notes: list[str] = []

    @property
    def all_metrics(self) -> dict[str, float]:
        """All metrics by the keys of the family's view."""
        ways = {"image_to_text": self.image_to_text, "text_to_image": self.text_to_image}
        by_key = {f"{way}_{key}": value for way, recalls in ways.items() for key, value in (recalls or {}).items()}
        mean = {} if self.mean_recall is None else {"mean_recall": self.mean_recall}
        return by_key | mean | self.metrics

    @property
    def recomputed(self) -> float | None:
        """The mean of all recalls; None if one is unknown. MUGE has the direction text to image alone."""
        ways = [self.text_to_image] if self.set == "muge" else [self.image_to_text, self.text_to_image]
        values = [value for way in ways for value in (way or {}).values()]
        return sum(values) / len(values) if len(values) == len(ways) * len(RECALLS) else None

    @property
    def is_partial(self) -> bool:
        """Whether some of the recalls are unknown whose mean is the main metric."""
        return self.family == "retrieval" and self.recomputed is None

    @property
    def differs(self) -> bool:
        """Whether the published mean recall contradicts the published recalls."""
        if self.mean_recall is None or self.recomputed is None:
            return False
        return abs(self.recomputed - self.mean_recall) > LARGEST_DIFFERENCE


class Published(_Part):
    """The whole of `published.json`."""

    sources: dict[str, str]
    notes: dict[str, Note]
    rows: list[PublishedRow]

    @model_validator(mode="after")
    def _names_are_known(self) -> Published:
        for row in self.rows:
            if row.family not in VIEWS:
                raise ValueError(f"{row.model} on {row.set}: no such family: {row.family}")
            view = VIEWS[row.family]
            if not row.all_metrics or row.all_metrics.keys() - {*view.columns, view.main}:
                raise ValueError(f"{row.model} on {row.set}: no metrics, or others than of {row.family}")
            unknown = [*(set(row.sources) - self.sources.keys()), *(set(row.notes) - self.notes.keys())]
            if unknown or not row.sources:
                raise ValueError(f"{row.model} on {row.set}: no such source or note: {', '.join(unknown)}")
        return self


@cache
def published() -> Published:
    """The published rows of the package. A note marks mean recalls that contradict their recalls."""
    read = Published.model_validate_json(files("ccmb.benchmark.leaderboard").joinpath("published.json").read_bytes())
    rows = [
        row.model_copy(update={"notes": [*row.notes, DIFFERS]}) if row.differs and DIFFERS not in row.notes else row
        for row in read.rows
    ]
    return read.model_copy(update={"rows": rows})
