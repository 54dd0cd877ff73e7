"""`ccmb benchmark`: one result file for each model and set. Finished results are skipped, encoded galleries are kept.

results/SET.SPLIT/MODEL.json    the results
results/features/               encoded galleries; may be deleted at any time
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ccmb.benchmark.evaluation.measurement import MeasuredSet, Readable
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.registry import BENCHMARKS
from ccmb.benchmark.results.provenance import commit, hardware
from ccmb.benchmark.results.result import Data, Measured, Result, Seen, read_result, result_key, slug
from ccmb.benchmark.worker_processes import ProcessLost, share
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import write_json
from ccmb.core.logs import BARE
from ccmb.core.progress import progress
from ccmb.data.seen_images import seen_mark
from ccmb.inference.models.base import Model
from ccmb.inference.models.open_model import label_and_source, open_model
from ccmb.tasks.common.seen import seen_by

_LOG = logging.getLogger(__name__)

VERSION = 2  # of how results are made; a new one makes all of them anew


@dataclass(slots=True)
class Outcome:
    """The result files that were written, those that existed already, and a line for each failure."""

    measured: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Add the outcome of other measurements. Equal lines, as of a model that cannot be opened, are kept once."""
        self.measured += other.measured
        self.skipped += other.skipped
        self.failed += [line for line in other.failed if line not in self.failed]


class Job(NamedTuple):
    """One measurement: a model, and the index of a set."""

    model: str
    set_index: int


class Bench:
    """The sets and settings of one call; it holds one model open at a time."""

    def __init__(self, sets: Sequence[MeasuredSet], out: Path, settings: Settings) -> None:
        self.out, self.settings = out, settings
        self.sets = [(opened, Readable(opened)) for opened in sets]
        self._opened: tuple[str, Model | CcmbError] | None = None

    def name_of(self, job: Job) -> str:
        return f"{label_and_source(job.model)[0]} on {self.sets[job.set_index][0].name}"

    def measure(self, job: Job) -> Outcome:
        """Make one measurement, unless its result exists already."""
        model, (opened, readable) = self._open(job.model), self.sets[job.set_index]
        if isinstance(model, CcmbError):
            return Outcome(failed=[str(model)])
        try:
            seen = _seen(job.model, opened)
        except CcmbError as error:  # a damaged record
            return Outcome(failed=[f"{self.name_of(job)}: {error}"])
        path = self.out / slug(f"{opened.name}.{opened.split}") / f"{slug(model.name)}.json"
        key = _key(model, opened, self.settings, seen)
        if _is_done(path, key):
            return Outcome(skipped=[path])
        try:
            result = _result(
                model,
                opened,
                readable=readable,
                cache=self.out / "features",
                settings=self.settings,
                key=key,
                seen=seen,
            )
            write_json(path, result.model_dump(by_alias=True))
        except CcmbError as error:
            return Outcome(failed=[f"{self.name_of(job)}: {error}"])
        return Outcome(measured=[path])

    def _open(self, model: str) -> Model | CcmbError:
        if self._opened is None or self._opened[0] != model:
            self._opened = None  # the last one's memory is free before the next one is loaded
            try:
                self._opened = model, open_model(model, self.settings.context_length, self.settings.ranking)
            except CcmbError as error:
                self._opened = model, error
        return self._opened[1]


def run_benchmark(
    models: Sequence[str],
    sets: Sequence[MeasuredSet],
    out: Path,
    settings: Settings,
    devices: Sequence[str] = (),
) -> Outcome:
    """Measure all models on all sets. A failed measurement does not stop the others.

    Args:
        devices: "cuda:0", "cpu" and so on: a process of each shares the measurements. By default this process makes
            all of them, on the first GPU if there is one.

    Raises:
        UsageError: two models or two sets would share a file, or a name makes none.
        CcmbError: there is no such device.
    """
    _check_names([label_and_source(model)[0] for model in models], "--model", "LABEL=MODEL")
    _check_names([f"{opened.name}.{opened.split}" for opened in sets], "--data", "NAME=PAIRS")
    bench, outcome = Bench(sets, out, settings), Outcome()
    jobs = [Job(model, index) for model in models for index in range(len(sets))]
    if devices:
        if settings.ranking.precision == "int8":
            for model in models:  # makes the exports, which only one process at a time can
                with suppress(CcmbError):  # as the measurements will say
                    open_model(model, settings.context_length, settings.ranking)
        with progress("benchmark", len(jobs), "measurements") as advance:
            for job, done in share(bench.measure, jobs, devices):
                if isinstance(done, ProcessLost):
                    done = Outcome(failed=[f"{bench.name_of(job)}: {done}"])
                outcome.add(done)
                advance(1, bench.name_of(job))
        return outcome
    for position, job in enumerate(jobs, start=1):
        _LOG.info("[%d/%d] %s", position, len(jobs), bench.name_of(job), extra=BARE)
        outcome.add(bench.measure(job))
    return outcome


def _check_names(names: Sequence[str], option: str, form: str) -> None:
    files = [slug(name) for name in names]
    for name, file in zip(names, files, strict=True):
        if not file:
            raise UsageError(f"{option}: '{name}' makes no file name; give {form}")
        if files.count(file) > 1:
            raise UsageError(f"{option}: two are called '{name}'; give {form}")


def _seen(model: str, opened: MeasuredSet) -> Seen | None:
    """The images of a set that a model was trained on; None if nothing is known of its training data."""
    mark = seen_mark(seen_by(label_and_source(model)[1]), [sample.image for sample in opened.samples])
    return None if mark is None else Seen.model_validate(mark)


def _key(model: Model, opened: MeasuredSet, settings: Settings, seen: Seen | None) -> str:
    values: dict[str, Any] = {"seed": settings.seed, "draws": settings.draws, "setting": settings.setting}
    if seen is not None and seen.images:
        values["seen"] = seen.images
    values |= BENCHMARKS[opened.family].depends_on(model, opened, settings)
    return result_key(version=VERSION, model=model.fingerprint, data=opened.revision, **values)


def _is_done(path: Path, key: str) -> bool:
    try:
        return path.is_file() and read_result(path).key == key
    except CcmbError:  # damaged, or of another version
        return False


def _result(
    model: Model,
    opened: MeasuredSet,
    readable: Readable,
    cache: Path,
    settings: Settings,
    key: str,
    seen: Seen | None,
) -> Result:
    measured = BENCHMARKS[opened.family].measure(model, opened, readable, cache, settings)
    return Result(
        key=key,
        model=Measured(
            name=model.name, kind=model.kind, fingerprint=model.fingerprint,
            context_length=model.context_length, stages=2 if model.can_rank else 1,
        ),
        data=Data(
            name=opened.name, split=opened.split, revision=opened.revision, language=getattr(opened, "language", None),
            images=measured.images, texts=measured.texts, unreadable=measured.unreadable,
        ),
        seen=seen,
        setting=settings.setting,
        prompt_set=measured.prompt_set,
        depth=measured.depth,
        precision=None if measured.ranking is None else measured.ranking.precision,
        cascade=None if measured.ranking is None else measured.ranking.cascade,
        seed=settings.seed,
        draws=settings.draws,
        **{opened.family: measured.section},
        resampling_unit=measured.resampling_unit,
        commit=commit(),
        hardware=hardware(),
        seconds=measured.seconds,
        cost=measured.cost,
        features_kept=measured.features_kept,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
