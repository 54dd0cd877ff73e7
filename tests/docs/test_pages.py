"""The page about the network: what it names exists, its examples run, its table is what the command prints."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ccmb.r2d2.presets import PRESETS, preset_table
from tests.helpers.pages import PAGES, blocks, read
from tests.helpers.sources import save_chinese_clip, save_clip, save_text_tower
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor


@pytest.mark.parametrize("page", PAGES)
def test_every_function_named_beside_an_equation_exists(page: str) -> None:
    names = re.findall(r"`(ccmb\.[\w.]+)`", read(page))
    assert len(names) > 15
    for name in names:
        parts = name.split(".")
        length = next(length for length in range(len(parts), 0, -1) if _is_module(".".join(parts[:length])))
        target: Any = import_module(".".join(parts[:length]))
        for part in parts[length:]:
            target = getattr(target, part)


def _is_module(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def test_both_languages_have_the_same_equations_and_examples() -> None:
    english, chinese = map(read, PAGES)
    assert re.findall(r"\$\$(.*?)\$\$", english) == re.findall(r"\$\$(.*?)\$\$", chinese)
    code = [[re.sub(r" *#.*", "", block) for block in blocks(page, "python")] for page in PAGES]
    assert code[0] == code[1]


def test_the_table_is_what_the_command_prints_and_names_every_preset() -> None:
    table = preset_table()
    assert all(table in read(page) for page in PAGES)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(PRESETS)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "quickstart" / "run" / "model"
    tiny_model().save_pretrained(model)
    tiny_processor().save_pretrained(model)
    for name, image in zip(("a.jpg", "b.jpg"), tiny_images(2), strict=True):
        image.save(name)
    use, *_, build, _ = blocks(PAGES[0], "python")  # the others: tests/docs/test_r2d2.py
    values: dict[str, Any] = {}
    exec(use, values)
    assert values["scores"].shape == (1, 2)
    assert (tmp_path / "copy" / "model.safetensors").is_file()
    # The hub's names become folders of the working directory.
    save_clip(tmp_path / "openai" / "clip-vit-base-patch16")
    save_text_tower(tmp_path / "hfl" / "chinese-roberta-wwm-ext")
    save_chinese_clip(tmp_path / "OFA-Sys" / "chinese-clip-vit-base-patch16")
    exec(build, values)
    assert values["model"].can_rank
