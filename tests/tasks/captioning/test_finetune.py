"""`ccmb finetune` of captions: what a tiny captioner learns, and that its folder stays a whole R2D2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccmb.core.errors import UsageError
from ccmb.datasets import open_dataset
from ccmb.r2d2.generative.captioner import load_captioner
from ccmb.r2d2.loading import load_model
from ccmb.tasks.captioning.predict import caption_images
from ccmb.tasks.finetuning.run import finetune
from tests.helpers.downstream_samples import jpeg, put
from tests.helpers.recipes import TINY, load, write_sample
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.tuning import recipe_of, save_pairs, save_start


@pytest.mark.numeric
def test_a_captioner_learns_to_say_what_images_show(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "mine")
    values = {
        "training.steps": 80,
        "validation.every": 40,
        "objectives.fgr": "off",
        "optimizer.muon_lr_scale": 2.5,
        "optimizer.cross_lr": "",
        "data.fields": "[words]",
    }
    report = finetune(recipe_of(start, data, "captioning", **values), tmp_path / "run")
    assert report is not None
    [entry] = report["sets"]
    metric = entry["figures"]["CIDEr-D"]
    assert metric["before"] is None
    assert metric["after"]["value"] > 100  # of 20 seeds the worst is 311
    assert report["chosen"]["figure"] == "val_CIDEr-D"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"captioning", "gcpr"} < lines[0].keys()
    model, processor = load_captioner(tmp_path / "run")
    results = caption_images(model, processor, tiny_images(len(TEXTS)))
    assert all(result.text for result in results)
    assert load_model(tmp_path / "run")[0].can_rank


@pytest.mark.parametrize("name", ["aic-icc", "flickr8k-cn"])
def test_the_shipped_recipes_train_on_their_sets_as_published(name: str, tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), write_sample(name, tmp_path / "data")
    recipe = f"{name}-caption"
    if name == "flickr8k-cn":
        with pytest.raises(UsageError, match="flickr8k-cn, split val: one image; CIDEr-D needs two or more"):
            finetune(load(recipe, *TINY, f"data.folder={data}", f"model.init_from={start}"), tmp_path / "alone")
        row = {"image": "84.jpg", "split": "val", "captions": ["山"], "mt_baidu": ["山"]}
        with (data / "captions.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        put(data / "images" / "84.jpg", jpeg(84))
    recipe = load(recipe, *TINY, f"data.folder={data}", f"model.init_from={start}", "validation.every=1")
    assert recipe.task == "captioning"
    report = finetune(recipe, tmp_path / "run")
    assert report is not None
    [entry] = report["sets"]
    assert (entry["name"], entry["split"]) == (name, "val")
    assert entry["details"]["after"]["references"] == len(open_dataset(name, data, "val").queries)
    assert report["chosen"]["figure"] == "val_CIDEr-D"


@pytest.mark.parametrize("objectives", [{"objectives.gcpr": "off", "objectives.fgr": "off"}, {}])
def test_captions_from_the_stored_states_of_a_frozen_image_tower_have_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objectives: dict[str, str]
) -> None:
    monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "mine")
    values = {
        "training.steps": 4,
        "training.log_every": 1,
        "validation.every": 4,
        "model.freeze.image": "all",
        "data.augmentation": "{flip: true, num_views: 2}",
        "data.augmentation.flip": None,
        "data.augmentation.min_crop_scale": None,
        "captioning.standardize_states": "on",
    }
    losses = {}
    for stored in ("on", "off"):
        recipe = recipe_of(start, data, "captioning", **values, **objectives, **{"training.frozen_states": stored})
        finetune(recipe, tmp_path / stored)
        lines = [json.loads(line) for line in (tmp_path / stored / "metrics.jsonl").read_text().splitlines()]
        losses[stored] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["on"]) == 4
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-3)  # states are stored in half precision
    assert list((tmp_path / "cache" / "states").glob("image-*"))
    assert not list((tmp_path / "cache" / "states").glob("text-*"))


def test_what_cannot_become_a_captioner_is_refused_before_the_training(tmp_path: Path) -> None:
    data = save_pairs(tmp_path / "mine")
    towers = save_start(tmp_path / "towers", cross_layers=0)
    with pytest.raises(UsageError, match="no cross encoders"):
        finetune(recipe_of(towers, data, "captioning", **{"objectives.fgr": "off"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_captioner_can_be_tuned_further_and_has_metrics_before(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "mine")
    few = {"training.steps": 2, "validation.every": 0}
    finetune(recipe_of(start, data, "captioning", **few), tmp_path / "first")
    report = finetune(recipe_of(tmp_path / "first", data, "captioning", **few), tmp_path / "second", mixes=True)
    assert report is not None
    metric = report["sets"][0]["figures"]["CIDEr-D"]
    assert metric["before"] is not None
    assert len(metric["shares"]) == 5
