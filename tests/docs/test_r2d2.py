"""The examples of docs/r2d2.md and docs/r2d2.zh.md run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.r2d2.loading import load_model
from tests.helpers.runs import command_line, tiny_corpus, tiny_recipe
from tests.helpers.sources import made_backbone, save_backbone, save_sentence_encoder
from tests.helpers.tiny import tiny_images
from tests.helpers.tuning import arguments, save_pairs, save_start

DOCS = Path(__file__).parents[2] / "docs"
BACKBONES = {"docs/r2d2.md": "## Other backbones", "docs/r2d2.zh.md": "## 其他主干"}
PAGES = {"docs/r2d2.md": "## Other sizes", "docs/r2d2.zh.md": "## 其他尺寸"}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the model and the images that the pages name."""
    save_start(tmp_path / "quickstart" / "run" / "model")
    save_start(tmp_path / "RUN")
    for name, image in zip(("a.jpg", "b.jpg"), tiny_images(2), strict=True):
        image.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examples(page: str) -> list[str]:
    text = (DOCS.parent / page).read_text(encoding="utf-8")
    return [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "from_towers" not in block]


@pytest.mark.parametrize("page", PAGES)
def test_every_python_example_runs_where_what_it_imports_is_there(page: str, workplace: Path) -> None:
    ran = 0
    for example in examples(page):
        if "sentence_transformers" in example and not _is_there("sentence_transformers"):
            continue
        if "Trainer(" in example and not _is_there("accelerate"):
            continue
        values: dict[str, object] = {}
        exec(example, values)
        ran += 1
        if "scores" in values:
            assert values["scores"].shape == (1, 2)  # type: ignore[attr-defined]
    assert ran >= 2
    assert load_model(workplace / "copy")[0].can_rank


def _is_there(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def test_both_pages_have_the_same_examples() -> None:
    def code(page: str) -> list[str]:
        return [re.sub(r"#.*", "", example) for example in examples(page)]

    assert code("docs/r2d2.md") == code("docs/r2d2.zh.md")


@pytest.mark.parametrize("page", BACKBONES)
def test_the_examples_of_other_backbones_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("google/efficientnet-b0", "efficientnet-b0"):
        save_backbone(tmp_path / name, "efficientnet")
    for name in ("intfloat/multilingual-e5-small", "multilingual-e5-small"):
        save_sentence_encoder(tmp_path / name, layers=6)
    text = (DOCS.parent / page).read_text(encoding="utf-8").split(BACKBONES[page], 1)[1]
    values: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], values)
    assert values["model"].config.text_pooling == "mean"
    assert values["processor"].text_prefix == "query: "
    _, verb, _, *changes = shlex.split(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)[0])
    given = {change.partition("=")[0] for change in changes}
    tiny = [one for one in tiny_recipe(tiny_corpus(tmp_path / "corpus"), 1) if one.partition("=")[0] not in given]
    done = command_line(monkeypatch, capfd)(verb, *tiny, *changes, "model.max_text_tokens=24", "--out", "run")
    assert done.code == 0, done.err
    assert "ccmb: frozen: image tower: all; text tower: the lowest 6 of 6 layers" in done.err
    model, processor = load_model(tmp_path / "run")
    assert (model.config.text_pooling, processor.text_prefix) == ("mean", "query: ")
    assert torch.equal(model.image_tower.encoder.top_conv.weight, made_backbone("efficientnet").encoder.top_conv.weight)
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| frozen | image tower: all; text tower: the lowest 6 of 6 layers |" in card
    assert "| image tower | efficientnet, 8 layers of 256, 64 x 64 pixels |" in card


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_other_sizes_run(
    page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (DOCS.parent / page).read_text(encoding="utf-8").split(PAGES[page], 1)[1]
    convert, tune = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)[0].splitlines()
    command = command_line(monkeypatch, capfd)
    done = command(*shlex.split(convert)[1:])
    assert done.code == 0, done.err
    model, processor = load_model(workplace / "models" / "r2d2-336")
    assert (model.config.image_size, processor.image_size, processor.max_text_tokens) == (336, 336, 96)
    words = [word for word in shlex.split(tune)[1:] if "flickr30k-cn" not in word]  # the set is not here
    data = arguments(save_pairs(workplace / "mydata"), training__steps=1, validation__every=0)
    done = command(words[0], "retrieval", *words[1:], *data, "--out", "tuned")
    assert done.code == 0, done.err
    model, processor = load_model(workplace / "tuned")
    assert (model.config.image_size, processor.image_size, processor.max_text_tokens) == (336, 336, 96)
