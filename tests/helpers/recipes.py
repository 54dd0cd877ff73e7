"""Recipes made small, and samples of the sets that they name."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from tests.helpers.downstream_samples import WRITERS, jpeg, lines, put

TINY = [
    "data.num_workers=0",
    "training.epochs=",
    "training.steps=2",
    "optimizer.lr_decay_stages=",
    "training.batch_size=2",
    "training.threads=1",
]


def load(name: str, *overrides: object) -> FinetuneRecipe:
    return load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), [str(override) for override in overrides])


def write_sample(name: str, folder: Path) -> Path:
    """The set's sample with at least two images in its training split."""
    dataset = WRITERS[name](folder)
    if name == "flickr30k-cna":
        _append(dataset / "train" / "flickr30k_cna_train.txt", "14.jpg#0\t一只猫\n".encode())
        put(dataset / "flickr30k-images" / "14.jpg", jpeg(14))
    elif name == "flickr30k-cn":
        _append(
            dataset / "zhbbosontrain" / "seg.flickr30kzhbbosontrain.caption.txt",
            "24.jpg#zhb#0 一:m 只:q 猫:n\n".encode(),
        )
        put(dataset / "images" / "24.jpg", jpeg(24))
    elif name == "coco-cn":
        _append(dataset / "imageid.human-written-caption.txt", "\nCOCO_train2014_000000000034#zhc#0\t一只猫".encode())
        _append(dataset / "coco-cn_train.txt", b"COCO_train2014_000000000034\n")
        put(dataset / "images" / "train2014" / "COCO_train2014_000000000034.jpg", jpeg(34))
    elif name == "flickr8k-cn":
        row = {"image": "83.jpg", "split": "train", "captions": ["一只猫"], "mt_baidu": ["一只小猫"]}
        _append(dataset / "captions.jsonl", lines(row))
        put(dataset / "images" / "83.jpg", jpeg(83))
    return dataset


def _append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)
