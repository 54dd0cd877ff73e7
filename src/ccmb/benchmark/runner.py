"""`ccmb benchmark`: models x sets, one result file each; what is done is skipped, what was encoded is kept.

results/SET.SPLIT/MODEL.json    the results
results/features/               encoded galleries; may be deleted at any time
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ccmb.benchmark.caption_measuring import BEAMS, CaptionSet
from ccmb.benchmark.class_sets import ClassSet
from ccmb.benchmark.generation_measuring import GenerationSet
from ccmb.benchmark.machine import commit, hardware
from ccmb.benchmark.measuring import Readable, measure
from ccmb.benchmark.peer import Peer
from ccmb.benchmark.peers import label_and_source, open_peer
from ccmb.benchmark.result import Data, Measured, Result, read_result, result_key, slug
from ccmb.benchmark.sets import MatchingSet, MeasuredSet
from ccmb.benchmark.settings import Settings
from ccmb.errors import CcmbError, UsageError
from ccmb.files import write_json
from ccmb.tasks.two_stage import EXACT

VERSION = 1  # of how results are made; a new one makes all of them anew


@dataclass(slots=True)
class Outcome:
    """Result files that one call has written, those that were there already, and a line for each that failed."""

    measured: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run_benchmark(models: Sequence[str], sets: Sequence[MeasuredSet], out: Path, settings: Settings) -> Outcome:
    """Measure every model on every set; one that fails does not keep the others from being measured.

    Raises:
        UsageError: two models or two sets would share a file, or a name makes none.
    """
    _check_names([label_and_source(model)[0] for model in models], "--model", "LABEL=MODEL")
    _check_names([f"{of.name}.{of.split}" for of in sets], "--data", "NAME=PAIRS")
    opened, outcome, number = [(of, Readable(of)) for of in sets], Outcome(), 0
    for model in models:
        try:
            peer = open_peer(model, settings.context_length, settings.ranking)
        except CcmbError as error:
            outcome.failed.append(str(error))
            continue
        for of, readable in opened:
            number += 1
            where = f"{peer.name} on {of.name}"
            print(f"[{number}/{len(models) * len(sets)}] {where}", file=sys.stderr, flush=True)
            path = out / slug(f"{of.name}.{of.split}") / f"{slug(peer.name)}.json"
            key = _key(peer, of, settings)
            if _is_done(path, key):
                outcome.skipped.append(path)
                continue
            try:
                write_json(path, _result(peer, of, readable, out / "features", settings, key).model_dump())
                outcome.measured.append(path)
            except CcmbError as error:
                outcome.failed.append(f"{where}: {error}")
    return outcome


def _check_names(names: Sequence[str], option: str, form: str) -> None:
    files = [slug(name) for name in names]
    for name, file in zip(names, files, strict=True):
        if not file:
            raise UsageError(f"{option}: '{name}' makes no file name; give {form}")
        if files.count(file) > 1:
            raise UsageError(f"{option}: two are called '{name}'; give {form}")


def _key(peer: Peer, of: MeasuredSet, settings: Settings) -> str:
    rest: dict[str, Any] = {"seed": settings.seed, "draws": settings.draws, "setting": settings.setting}
    if isinstance(of, MatchingSet):
        rest |= {"family": "matching", "match_temperature": peer.match_temperature}
    elif isinstance(of, ClassSet):
        depth = settings.class_depth if peer.can_rank else None
        rest |= {"family": "classification", "prompts": of.prompt_set, "depth": depth}
    elif isinstance(of, CaptionSet):
        rest |= {"family": "captioning", "beams": BEAMS}
    elif isinstance(of, GenerationSet):
        rest |= {"family": "generation", "painting": asdict(settings.painting), "pictures": settings.pictures}
        rest |= {"judge": settings.judge, "features": settings.features}
    else:
        rest["depth"] = settings.depth if peer.can_rank else None
        if peer.options is not None and peer.options != EXACT:
            rest["ranking"] = asdict(peer.options)
    return result_key(version=VERSION, model=peer.fingerprint, data=of.revision, **rest)


def _is_done(path: Path, key: str) -> bool:
    try:
        return path.is_file() and read_result(path).key == key
    except CcmbError:  # damaged, or of another version
        return False


def _result(peer: Peer, of: MeasuredSet, readable: Readable, cache: Path, settings: Settings, key: str) -> Result:
    measured = measure(peer, of, readable, cache, settings)
    return Result(
        key=key,
        model=Measured(
            name=peer.name, kind=peer.kind, fingerprint=peer.fingerprint,
            context_length=peer.context_length, stages=2 if peer.can_rank else 1,
        ),
        data=Data(
            name=of.name, split=of.split, revision=of.revision,
            images=measured.images, texts=measured.texts, unreadable=measured.unreadable,
        ),
        setting=settings.setting,
        prompt_set=measured.prompt_set,
        depth=measured.depth,
        precision=None if measured.ranking is None else measured.ranking.precision,
        cascade=None if measured.ranking is None else measured.ranking.cascade,
        seed=settings.seed,
        draws=settings.draws,
        **measured.sections,
        drawn_with=measured.drawn_with,
        commit=commit(),
        hardware=hardware(),
        seconds=measured.seconds,
        features_kept=measured.features_kept,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
