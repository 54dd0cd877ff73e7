"""`ccmb benchmark`: models x sets, one result file each; what is done is skipped, what was encoded is kept.

results/SET.SPLIT/MODEL.json    the results
results/features/               encoded galleries; may be deleted at any time
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.benchmark.feature_cache import discard_if_large, open_gallery, store_gallery
from ccmb.benchmark.machine import commit, hardware
from ccmb.benchmark.peer import Peer
from ccmb.benchmark.peers import label_and_source, open_peer
from ccmb.benchmark.result import STAGES, Data, Measured, Result, Retrieval, read_result, result_key, slug
from ccmb.benchmark.sets import Queries, RetrievalSet
from ccmb.choices import Setting
from ccmb.data.pairs import readable_samples
from ccmb.errors import CcmbError, UsageError
from ccmb.files import write_json
from ccmb.samples import Sample
from ccmb.tasks.retrieval import (
    RECALLS,
    Direction,
    Gallery,
    Ranks,
    bootstrap_recalls,
    hits_by_image,
    interval,
    ranks_both_ways,
    report_of_ranks,
)
from ccmb.tasks.two_stage import EXACT, RankOptions

VERSION = 1  # of how results are made; a new one makes all of them anew


@dataclass(frozen=True, slots=True)
class Settings:
    """What all measurements of one call share.

    Attributes:
        depth: candidates of the first stage that the second one ranks.
        context_length: longest text in tokens; None is what each model was made for.
        setting: what the models are to the sets.
        seed, draws: of the bootstrap.
        ranking: how the second stage is computed.
    """

    depth: int = 128
    context_length: int | None = None
    setting: Setting = "unstated"
    seed: int = 0
    draws: int = 2000
    ranking: RankOptions = EXACT


@dataclass(slots=True)
class Outcome:
    """Result files that one call has written, those that were there already, and a line for each that failed."""

    measured: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run_benchmark(models: Sequence[str], sets: Sequence[RetrievalSet], out: Path, settings: Settings) -> Outcome:
    """Measure every model on every set; one that fails does not keep the others from being measured.

    Raises:
        UsageError: two models or two sets would share a file, or a name makes none.
    """
    _check_names([label_and_source(model)[0] for model in models], "--model", "LABEL=MODEL")
    _check_names([f"{of.name}.{of.split}" for of in sets], "--data", "NAME=PAIRS")
    opened, outcome, number = [_Opened(of) for of in sets], Outcome(), 0
    for model in models:
        try:
            peer = open_peer(model, settings.context_length, settings.ranking)
        except CcmbError as error:
            outcome.failed.append(str(error))
            continue
        for of in opened:
            number += 1
            where = f"{peer.name} on {of.set.name}"
            print(f"[{number}/{len(models) * len(sets)}] {where}", file=sys.stderr, flush=True)
            path = out / slug(f"{of.set.name}.{of.set.split}") / f"{slug(peer.name)}.json"
            key = _key(peer, of.set, settings)
            if _is_done(path, key):
                outcome.skipped.append(path)
                continue
            try:
                write_json(path, _measure(peer, of, out / "features", settings, key).model_dump())
                outcome.measured.append(path)
            except CcmbError as error:
                outcome.failed.append(f"{where}: {error}")
    return outcome


class _Opened:
    """A set whose pictures are tried only when a measurement needs them, and then once."""

    def __init__(self, of: RetrievalSet) -> None:
        self.set = of

    @cached_property
    def readable(self) -> tuple[list[Sample], list[str]]:
        return readable_samples(self.set.samples, self.set.pictures)


def _check_names(names: Sequence[str], option: str, form: str) -> None:
    files = [slug(name) for name in names]
    for name, file in zip(names, files, strict=True):
        if not file:
            raise UsageError(f"{option}: '{name}' makes no file name; give {form}")
        if files.count(file) > 1:
            raise UsageError(f"{option}: two are called '{name}'; give {form}")


def _key(peer: Peer, of: RetrievalSet, settings: Settings) -> str:
    depth = settings.depth if peer.can_rank else None
    rest: dict[str, Any] = {"seed": settings.seed, "draws": settings.draws, "setting": settings.setting}
    if peer.options is not None and peer.options != EXACT:
        rest["ranking"] = asdict(peer.options)
    return result_key(version=VERSION, model=peer.fingerprint, data=of.revision, depth=depth, **rest)


def _is_done(path: Path, key: str) -> bool:
    try:
        return path.is_file() and read_result(path).key == key
    except CcmbError:  # damaged, or of another version
        return False


def _measure(peer: Peer, of: _Opened, cache: Path, settings: Settings, key: str) -> Result:
    samples, unreadable = of.readable
    started = time.monotonic()
    path = cache / f"{peer.fingerprint[:20]}-{of.set.revision[:20]}.safetensors"
    gallery, kept = _gallery(peer, of.set, samples, path)
    encoded = time.monotonic()
    ranks = ranks_both_ways(peer, gallery, settings.depth)
    discard_if_large(path)
    retrieval = retrieval_of_ranks(ranks, gallery, settings)
    data = Data(
        name=of.set.name, split=of.set.split, revision=of.set.revision,
        images=len(gallery.images), texts=len(gallery.texts), unreadable=unreadable,
    )  # fmt: skip
    return Result(
        key=key,
        model=Measured(
            name=peer.name, kind=peer.kind, fingerprint=peer.fingerprint,
            context_length=peer.context_length, stages=2 if peer.can_rank else 1,
        ),
        data=data,
        setting=settings.setting,
        prompt_set=None,
        depth=settings.depth if peer.can_rank else None,
        precision=None if peer.options is None else peer.options.precision,
        cascade=None if peer.options is None else peer.options.cascade,
        seed=settings.seed,
        draws=settings.draws,
        retrieval=retrieval,
        drawn_with=_drawn_with(gallery).tolist(),
        commit=commit(),
        hardware=hardware(),
        seconds={
            "encode": round(encoded - started, 2),
            "rank": round(time.monotonic() - encoded, 2),
            "total": round(time.monotonic() - started, 2),
        },
        features_kept=kept,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _gallery(peer: Peer, of: RetrievalSet, samples: Sequence[Sample], path: Path) -> tuple[Gallery, bool]:
    """The encoded set in a file, and whether it was kept from before.

    Raises:
        CcmbError: the file cannot be written, or not be read again; the message names it.
    """
    texts, pairs = _texts_and_pairs(samples, of.queries)
    image_of_text = torch.tensor([place for place, of_image in enumerate(texts) for _ in of_image])
    if (found := open_gallery(path, len(samples), image_of_text, pairs)) is not None:
        return found, True
    flat = [text for of_image in texts for text in of_image]
    store_gallery(path, peer, [sample.image for sample in samples], flat, of.pictures.load)
    if (stored := open_gallery(path, len(samples), image_of_text, pairs)) is None:
        raise CcmbError(f"{path}: cannot be read again after it was written; is the disk in order?")
    return stored, False


def _texts_and_pairs(samples: Sequence[Sample], queries: Queries | None) -> tuple[list[Sequence[str]], Tensor | None]:
    """The texts of each picture, those of several at the first; and (P, 2) all that fit each other, see `Gallery`."""
    if queries is None:
        return [sample.texts for sample in samples], None
    place = {sample.image: number for number, sample in enumerate(samples)}
    of_image: list[list[tuple[str, list[int]]]] = [[] for _ in samples]
    for text, names in queries:
        if right := [place[name] for name in names if name in place]:
            of_image[right[0]].append((text, right))
    flat = [right for texts in of_image for _, right in texts]
    pairs = [(number, image) for number, right in enumerate(flat) for image in right]
    return [[text for text, _ in texts] for texts in of_image], torch.tensor(pairs)


def retrieval_of_ranks(ranks_of: dict[Direction, Ranks], gallery: Gallery, settings: Settings) -> Retrieval:
    """The figures of known ranks, with their intervals."""
    report = report_of_ranks(ranks_of, gallery, settings.depth)
    intervals: dict[str, Any] = {direction: {} for direction in ranks_of}
    of_means = {}
    for stage in STAGES:
        of_stage: dict[Direction, Tensor | None] = {name: getattr(ranks, stage) for name, ranks in ranks_of.items()}
        known = {name: ranks for name, ranks in of_stage.items() if ranks is not None}
        if not known:
            continue
        hits = hits_by_image(known, _drawn_with(gallery))
        drawn = bootstrap_recalls(*hits, settings.draws, settings.seed)
        of_means[stage] = interval(drawn.mean((1, 2)))
        for place, direction in enumerate(known):
            columns = np.moveaxis(drawn[:, place], 1, 0)
            names = [f"R@{k}" for k in RECALLS]
            intervals[direction][stage] = {name: interval(of) for name, of in zip(names, columns, strict=True)}
    ranks = {
        direction: {stage: getattr(of, stage).tolist() for stage in STAGES if getattr(of, stage) is not None}
        for direction, of in ranks_of.items()
    }
    return Retrieval(
        text_to_image=report["text_to_image"],
        image_to_text=report.get("image_to_text", {}),
        mean_recall=report["mean_recall"],
        intervals=intervals,
        mean_recall_interval=of_means,
        gain=report.get("gain_R@1"),
        ranks=ranks,
    )


def _drawn_with(gallery: Gallery) -> Tensor:
    """(texts,) with what each text is drawn by the bootstrap: its picture, or where it has several, itself."""
    return gallery.image_of_text if gallery.pairs is None else torch.arange(len(gallery.texts))
