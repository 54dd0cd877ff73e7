"""Tiny runs of the command line: a drawn corpus, a recipe that trains on it in a second, and a way to call verbs."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable, Collection
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from transformers.utils.logging import disable_progress_bar

from ccmb.cli import main as cli
from ccmb.scenes.corpus import write_scene_corpus
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import pretrain

SIZE = 32
TRAIN, GALLERY = 24, 6
_TOWER = "hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """A function that calls `ccmb` in this process as a shell would."""
    disable_progress_bar()  # as the environment of a fresh process does
    # However slow the machine, nothing takes so long that it tells its progress.
    monkeypatch.setattr("ccmb.core.progress.time", SimpleNamespace(monotonic=lambda: 0.0))

    def command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ccmb", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return Outcome(int(exit.value.code or 0), *capfd.readouterr())

    return command


def tiny_corpus(folder: Path) -> Path:
    """A drawn corpus of TRAIN training and GALLERY test images."""
    write_scene_corpus(folder, TRAIN, GALLERY, 2, SIZE)
    return folder


def tiny_recipe(corpus: Path, steps: int = 3) -> list[str]:
    """The quickstart's recipe and what makes it tiny, as arguments of `ccmb pretrain`."""
    vision = f"model_type: stem_vision, image_size: {SIZE}, patch_size: 16, stem_channels: [4, 4, 8], {_TOWER}"
    values = {
        "data.folder": corpus,
        "data.num_workers": 0,
        "model.vision": f"{{{vision}}}",
        "model.text": f"{{model_type: bert, {_TOWER}}}",
        "model.embed_dim": 16,
        "model.cross_layers": 1,
        "objectives.tgd.queue_size": 32,
        "training.steps": steps,
        "training.batch_size": 8,
        "training.log_every": 1,
        "training.precision": "fp32",
        "training.threads": 1,
    }
    return ["quickstart", *(f"{key}={value}" for key, value in values.items())]


def starting_from(arguments: list[str], start: object) -> list[str]:
    """The same from a model, which has a network of its own."""
    return [*(one for one in arguments if not one.startswith("model.")), f"model.init_from={start}"]


def damage_images(corpus: Path, names: list[str]) -> None:
    """Put something that is no image in the place of some images of the corpus."""
    with tarfile.open(corpus / "images.tar", "a") as tar:
        for name in names:  # of members with equal names the last counts
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, BytesIO(b"empty"))


def log_of(recipe: PretrainRecipe, out: Path, names: Collection[str]) -> list[dict[str, Any]]:
    """Some metrics of each line that a run of the recipe logs."""
    pretrain(recipe, out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in names if name in line} for line in lines]
