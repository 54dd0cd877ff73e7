"""`ccmb finetune` of captions: what a tiny captioner learns, and that its folder stays a whole R2D2."""

from __future__ import annotations

import json
from pathlib import Path

from ccmb.r2d2.captioning import load_captioner
from ccmb.r2d2.loading import load_model
from ccmb.tasks.captioning import caption_pictures
from ccmb.tasks.finetuning import finetune
from tiny import TEXTS, tiny_pictures
from tuning import recipe_of, save_pairs, save_start


def test_a_captioner_learns_to_say_what_pictures_show(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "mine")
    values = {
        "training.steps": 80,
        "validation.every": 40,
        "objectives.fgr": "off",
        "optimizer.muon": 2.5,
        "optimizer.cross_lr": "",
        "data.fields": "[words]",
    }
    report = finetune(recipe_of(start, data, "captioning", **values), tmp_path / "run")
    assert report is not None
    [of] = report["sets"]
    figure = of["figures"]["CIDEr-D"]
    assert figure["before"] is None
    assert figure["after"]["value"] > 100
    assert report["chosen"]["figure"] == "val_CIDEr-D"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"captioning", "gcpr"} < lines[0].keys()
    model, processor = load_captioner(tmp_path / "run")
    found = caption_pictures(model, processor, tiny_pictures(len(TEXTS)))
    assert sum(of.text == text[:4] for of, text in zip(found, TEXTS, strict=True)) >= 6
    assert load_model(tmp_path / "run")[0].can_rank
