"""What a run ranks on held-out data: the rank of the right answer of every query, kept beside the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from ccmb.core.device import choose_device
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json, write_json
from ccmb.core.hashing import sha256_of_file, sha256_of_json
from ccmb.data.pairs import readable_samples
from ccmb.data.shards.shard_set import is_shards
from ccmb.inference.two_stage import Direction
from ccmb.r2d2.loading import load_model, weights_fingerprint
from ccmb.tasks.ablation.plan import Run
from ccmb.tasks.common.datasets import RetrievalSet, open_held_out, open_set
from ccmb.tasks.retrieval.held_out import rank_held_out
from ccmb.tasks.retrieval.metrics import resampling_unit
from ccmb.training.recipe import DataRecipe

FILE = "evaluation.json"
PROTOCOL = 1  # raised when equal settings no longer give equal ranks
STAGES = ("pre_ranking", "ranking")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The texts of one field with their images.

    Attributes:
        unreadable: a line for each image that was left out.
    """

    field: str
    data: RetrievalSet
    unreadable: list[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """The ranks of a run on one field.

    Attributes:
        images, texts: how many.
        equal_texts: how many texts are equal to one of another image.
        unit_N: (texts,) the unit that each text is resampled with, see `resampling_unit`.
        ranks: by stage and direction the rank, from 1, of every query's right answer; a stage that the rung does not
            train is missing.
    """

    images: int
    texts: int
    equal_texts: int
    unit_N: torch.Tensor
    ranks: dict[str, dict[Direction, torch.Tensor]]


def open_fields(recipe: DataRecipe, split: str, fields: Sequence[str] | None, data: str | None = None) -> list[HeldOut]:
    """The held-out split of the recipe's data, or other data, once for each text field.

    Args:
        fields: by default those that are trained on, or their languages; published sets have texts of their own.
        data: `NAME=pairs.jsonl` or `NAME=FOLDER` instead of the recipe's data.

    Raises:
        UsageError: fields of a published set were given.
        CcmbError: the data or the split is missing, or no image can be read.
    """
    if data is None and recipe.shards:
        raise CcmbError("data.shards: shards have no splits; name other data to measure on with --data")
    path = None if data is None else Path(data.rpartition("=")[2])
    published = recipe.dataset is not None if path is None else path.is_dir() and not is_shards(path)
    if published and fields:
        raise UsageError("--text-field is of own pairs, and does nothing with published sets; leave it out")
    languages = {} if data or fields or published else recipe.languages or {}
    wanted = ["texts"] if published else list(dict.fromkeys(fields or languages or recipe.fields))
    opened = []
    for name in wanted:
        named = languages.get(name, [name])
        one = open_set(data, split, named) if data else open_held_out(recipe, split, named)
        samples, unreadable = readable_samples(one.samples, one.images)
        opened.append(HeldOut(name, replace(one, samples=samples), unreadable))
    return opened


def measure(run: Run, held_out: Sequence[HeldOut], depth: int) -> dict[str, Measured]:
    """The ranks of a finished run by field; those that were kept are not computed again.

    Raises:
        CcmbError: the model cannot be loaded.
    """
    path = run.folder / FILE
    known = _read(path)
    keys = {one.field: _key(run, one, depth) for one in held_out}
    missing = [one for one in held_out if keys[one.field] not in known]
    if missing:
        model, processor = load_model(run.folder)
        torch.nn.Module.to(model, choose_device(run.recipe.training.device))
        for one in missing:
            gallery, ranked = rank_held_out(model, processor, one.data, depth, _trains_ranking(run))
            by_stage = {stage: {way: getattr(of_way, stage) for way, of_way in ranked.items()} for stage in STAGES}
            known[keys[one.field]] = {
                "field": one.field,
                "split": one.data.split,
                "rerank_k": depth,
                "images": len(gallery.images),
                "texts": len(gallery.texts),
                "equal_texts": 0 if gallery.equal is None else gallery.equal.count,
                "unit_of_text": resampling_unit(gallery).tolist(),
                "ranks": {
                    stage: {way: ranks_Q.tolist() for way, ranks_Q in of_stage.items()}
                    for stage, of_stage in by_stage.items()
                    if None not in of_stage.values()
                },
            }
            write_json(path, {"evaluations": known})
    return {one.field: _measured(known[keys[one.field]]) for one in held_out}


def _trains_ranking(run: Run) -> bool:
    """Whether the match heads were trained; others rank by chance, or by what a model to start from knew."""
    return "fgr" in run.objectives


def is_measured(run: Run, held_out: Sequence[HeldOut], depth: int) -> bool:
    """Whether all ranks of a finished run are kept."""
    known = _read(run.folder / FILE)
    return all(_key(run, one, depth) in known for one in held_out)


def _read(path: Path) -> dict[str, Any]:
    """What was kept; nothing where the file is none of ours."""
    try:
        values = read_json(path) if path.exists() else {}
        known = values["evaluations"] if values else {}
        return known if isinstance(known, dict) else {}
    except (CcmbError, KeyError, TypeError):
        return {}


def _key(run: Run, held_out: HeldOut, depth: int) -> str:
    """A hash of all that the ranks depend on."""
    model = run.folder / "model"
    return sha256_of_json(
        {
            "protocol": PROTOCOL,
            "weights": weights_fingerprint(model),
            "config": sha256_of_file(model / "config.json"),
            "second_stage": _trains_ranking(run),
            "data": held_out.data.revision,
            "rerank_k": depth,
        }
    )


def _measured(values: dict[str, Any]) -> Measured:
    ways: tuple[Direction, ...] = get_args(Direction)
    ranks = {
        stage: {way: torch.tensor(of_stage[way]) for way in ways if way in of_stage}
        for stage, of_stage in values["ranks"].items()
    }
    unit_N = torch.tensor(values["unit_of_text"])
    return Measured(values["images"], values["texts"], values["equal_texts"], unit_N, ranks)
