"""A tiny model to start from, and images with texts that it can be tuned on within a second."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from ccmb.tasks.finetuning.run import finetune
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor


def save_start(folder: Path, **changes: Any) -> Path:
    """A model folder of random weights."""
    save_model(folder, tiny_model(**changes), tiny_processor())
    return folder


def save_pairs(folder: Path, splits: tuple[str, ...] = ("train", "val", "test"), copies: int = 1) -> Path:
    """Own pairs: in each split the same eight images, with other noise, and texts of its own for each.

    Args:
        copies: of each image and its texts in the training split.
    """
    (folder / "images").mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for split in splits:
        shown = list(zip(tiny_images(len(TEXTS)), TEXTS, strict=True)) * (copies if split == "train" else 1)
        for index, (image, text) in enumerate(shown):
            noisy = np.asarray(image) + rng.integers(-15, 15, np.asarray(image).shape)
            name = f"{split}-{index}.png"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
            line = {"image": name, "split": split, "texts": [text, text[2:]], "words": text[:4]}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def save_what_pages_name() -> None:
    """In the current folder, the model and the own pairs that the commands of the pages name."""
    save_start(Path("runs") / "flickr8k-cn")
    save_pairs(Path("mydata"), copies=8)
    with tarfile.open("mydata/images.tar", "w") as tar:
        for name in os.listdir("mydata/images"):
            tar.add(f"mydata/images/{name}", name)


def arguments(data: Path, **changes: Any) -> list[str]:
    """Overrides that make the recipe of own data tiny; `None` leaves one out."""
    values = {
        "data.folder": data, "data.images": "images", "data.num_workers": 0, "data.augmentation.flip": "off",
        "data.augmentation.min_crop_scale": 0.9, "optimizer.lr": 5e-3, "optimizer.warmup_steps": 3,
        "training.epochs": "", "training.steps": 24, "training.batch_size": 8, "training.log_every": 4,
        "training.precision": "fp32", "training.threads": 1, "validation.every": 8,
    }  # fmt: skip
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    if values.get("validation.split") == "" and "validation__every" not in changes:
        del values["validation.every"]  # which would do nothing
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def recipe_of(start: Path, data: Path, name: str = "retrieval", **changes: Any) -> FinetuneRecipe:
    overrides = [*arguments(data, **changes), f"model.init_from={start}"]
    return load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), overrides)


def tuned(start: Path, data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """The report of a fine-tuning."""
    report = finetune(recipe_of(start, data, **changes), out)
    assert report is not None
    return report


def save_labelled(folder: Path) -> Path:
    """Of every image of `save_pairs` its own text and another's."""
    save_pairs(folder)
    lines = []
    for line in map(json.loads, (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()):
        index = TEXTS.index(line["texts"][0])
        for step, label in ((0, 1), (3, 0)):
            about = {"image": line["image"], "split": line["split"], "label": label}
            lines.append(json.dumps(about | {"text": TEXTS[(index + step) % len(TEXTS)]}, ensure_ascii=False) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
