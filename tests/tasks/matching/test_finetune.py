"""`ccmb finetune` on labelled pairs: what it gains on held-out images, and the recipes of ICM and IQM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from ccmb.tasks.finetuning.run import finetune
from tests.helpers.downstream_samples import write_matching
from tests.helpers.tiny import TEXTS
from tests.helpers.tuning import recipe_of, save_labelled, save_start


def recipe(tmp_path: Path, **changes: Any) -> FinetuneRecipe:
    start, data = save_start(tmp_path / "start"), save_labelled(tmp_path / "mine")
    values = {"optimizer.muon_lr_scale": 2.5, "training.steps": 60, "validation.every": 20} | changes
    return recipe_of(start, data, task="matching", **values)


def test_the_recipe_for_own_pairs_reads_labelled_jsonl(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_labelled(tmp_path / "mine")
    (data / "pairs.jsonl").rename(data / "labelled.jsonl")
    own = {"training.steps": 2, "validation.every": 0}
    report = finetune(recipe_of(start, data, "matching", **own), tmp_path / "run")
    assert report is not None
    assert report["sets"][0]["details"]["after"]["pairs"] == 2 * len(TEXTS)


@pytest.mark.numeric
def test_a_model_learns_the_labels_and_the_best_by_validation_is_kept(tmp_path: Path) -> None:
    report = finetune(recipe(tmp_path), tmp_path / "run", test=True)
    assert report is not None
    for entry in report["sets"]:
        metric = entry["figures"]["auc"]
        # Of 20 seeds all end at 100, and the worst gain is 10.9.
        assert metric["after"]["value"] > max(80, metric["before"]["value"])
        assert metric["gain"]["low"] > 0
        assert set(entry["figures"]) == {"auc", "auc_cosine"}
        assert entry["details"]["after"]["pairs"] == 2 * len(TEXTS)
    assert report["chosen"]["figure"] == "val_auc"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"matching", "match_accuracy"} < lines[0].keys()
    assert {"val_auc", "val_accuracy", "val_auc_cosine"} < lines[-1].keys()
    assert "AUC" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "stem"), [("icm", "long_itm"), ("iqm", "short_itm")])
def test_the_official_recipe_reads_the_published_set(name: str, stem: str, tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), write_matching(tmp_path / "zero", stem, name.upper())
    shipped = load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), ["data.folder=x"])
    assert (shipped.task, shipped.data.dataset, shipped.training.batch_size, shipped.training.epochs) == (
        "matching",
        name,
        512,
        20,
    )
    few = {"data.images": None, "training.steps": 2, "training.batch_size": 2, "validation.every": 1}
    report = finetune(recipe_of(start, data, name, **few), tmp_path / "run")
    assert report is not None
    [entry] = report["sets"]
    assert (entry["name"], entry["split"], entry["details"]["after"]["pairs"]) == (name, "val", 2)
