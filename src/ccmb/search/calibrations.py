"""Where the temperature of a second stage is kept: in its own model folder, or beside the index of the first stage."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.errors import UsageError
from ccmb.inference.models.base import Model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.models.two_models import TwoModels
from ccmb.r2d2.folders.match_temperature import store_match_temperature
from ccmb.search.index_folder import IndexRecord, RankerCalibration
from ccmb.search.indexing.indexer import must_match


def place_of_calibration(model: Model, index: Path | None) -> Path:
    """The model folder of an R2D2 that ranks by itself or behind another model; else the index folder.

    Raises:
        UsageError: an index is needed and not given, or given and not needed; or there is no second stage.
        CcmbError: there is no index, or another model made it.
    """
    ranker = model.ranker
    if not model.can_rank:
        raise UsageError(f"{model.name}: has no second stage, so that there is no match score to calibrate")
    if isinstance(ranker, R2D2Stages):
        if index is not None:
            raise UsageError("--index is of a --ranker without a folder of its own; R2D2's is kept in its config.json")
        return Path(ranker.source.partition("?")[0])
    if index is None:
        raise UsageError(f"{ranker.name}: give --index, beside which its temperature is kept")
    must_match(IndexRecord.read(index), index, model)
    return index


def keep_calibration(model: Model, place: Path, temperature: float, offset: float) -> None:
    """Keep a temperature, and an offset, where `place_of_calibration` says."""
    if not isinstance(model, TwoModels) or isinstance(model.ranker, R2D2Stages):
        store_match_temperature(place, temperature)
        return
    record, ranker = IndexRecord.read(place), model.ranker
    kept = RankerCalibration(ranker=ranker.source, temperature=temperature, offset=offset)
    record.calibrations[ranker.fingerprint] = kept
    record.write(place)
