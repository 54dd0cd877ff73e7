"""The sets that models are measured on, and the result of a measurement, for all families of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from ccmb.benchmark.results.result import Cost, Section
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import readable_samples
from ccmb.data.sample import Sample
from ccmb.inference.stages import RankOptions

SectionT = TypeVar("SectionT", bound=Section)


class MeasuredSet(Protocol):
    """One split of a set.

    Attributes:
        name, split: how results are filed.
        family: of tasks, by its name.
        samples: images with their texts, or with the names of their classes.
        revision: hexadecimal SHA-256 of all that is measured on.
    """

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def samples(self) -> list[Sample]: ...

    @property
    def images(self) -> ImageSource: ...

    @property
    def revision(self) -> str: ...


class Readable:
    """The samples of a set whose images can be read. Images are tried once, when a measurement first needs them."""

    def __init__(self, opened: MeasuredSet) -> None:
        self._opened = opened

    @cached_property
    def samples(self) -> tuple[list[Sample], list[str]]:
        """The samples, and a line for each image that cannot be read."""
        return readable_samples(self._opened.samples, self._opened.images)


@dataclass(frozen=True, slots=True)
class Measurement(Generic[SectionT]):
    """A result without model, set and settings; `section` is the family's part of the result file."""

    section: SectionT
    resampling_unit: list[int]
    images: int
    texts: int
    unreadable: list[str]
    seconds: dict[str, float]
    depth: int | None = None
    ranking: RankOptions | None = None
    prompt_set: str | None = None
    features_kept: bool = False
    cost: Cost | None = None
