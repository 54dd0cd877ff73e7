"""The file of a test split of ECommerce-T2I: its layout, its images, and a run that goes on."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.r2d2.generative.generator import load_generator
from ccmb.tasks.generation import submission
from ccmb.tasks.generation.predict import SamplingOptions, paint_texts
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import tiny_processor

pytest.importorskip("diffusers")
from tests.helpers.generators import tiny_generator

TEXTS = {"8cf9": "男士皮鞋", "12": "女童连衣裙", "7": "一只红色的小船" * 9, "65": "帽子", "3": "围巾"}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A generator and a test split, which has no images."""
    save_model(tmp_path / "model", tiny_generator(), tiny_processor())
    (tmp_path / "t2i").mkdir()
    lines = "".join(f"{key}\t{text}\n" for key, text in TEXTS.items())
    (tmp_path / "t2i/T2I_test.txt.tsv").write_text(lines, "utf-8")
    monkeypatch.setattr(submission, "BATCH", 2)
    return tmp_path


def asked(folder: Path, *more: object) -> tuple[object, ...]:
    return ("generate", "--model", folder / "model", "--data", f"ecommerce-t2i={folder / 't2i'}",
            "--out", folder / "T2I_test.tsv", "--steps", 2, *more)  # fmt: skip


def read(path: Path) -> dict[str, Image.Image]:
    pairs = (line.split("\t") for line in path.read_text("utf-8").splitlines())
    return {key: Image.open(io.BytesIO(base64.b64decode(image, validate=True))) for key, image in pairs}


def test_a_line_is_an_id_and_the_image_of_its_text_in_base64(folder: Path, command: Command) -> None:
    done = command(*asked(folder, "--seed", 3, "--json"))
    assert done.code == 0, done.err
    assert "1 of 5 texts are longer than the model reads" in done.err
    assert json.loads(done.out)["cut"] == 1
    images = read(folder / "T2I_test.tsv")
    assert list(images) == list(TEXTS)
    model, processor = load_generator(folder / "model")
    for place, (key, text) in enumerate(TEXTS.items()):
        short = submission.within_length(processor, text)
        (alone,) = paint_texts(model, processor, [short], SamplingOptions(steps=2, seed=3), place=place)
        apart = zip(images[key].tobytes(), alone.first.image.tobytes(), strict=True)
        assert max(abs(one - other) for one, other in apart) <= 2  # batches of other sizes are rounded otherwise
    assert not list(folder.glob("*.partial"))


def test_a_stopped_run_goes_on_and_one_of_other_settings_begins_anew(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*asked(folder)).code == 0
    whole = (folder / "T2I_test.tsv").read_bytes()
    painted, plain, fails_at = list[int](), submission.paint_texts, 4

    def stops(model: Any, processor: Any, texts: Any, *rest: Any, place: int) -> Any:
        if place == fails_at:
            raise CcmbError("the power failed")
        painted.append(place)
        return plain(model, processor, texts, *rest, place=place)

    monkeypatch.setattr(submission, "paint_texts", stops)
    stopped = command(*asked(folder))
    assert (stopped.code, "the power failed" in stopped.err) == (1, True)
    with open(folder / "T2I_test.tsv.partial", "ab") as file:  # and the last line was cut
        file.write(b"3\tiVBOR")
    painted.clear()
    fails_at = -1
    assert command(*asked(folder)).code == 0
    assert painted == [4]
    assert (folder / "T2I_test.tsv").read_bytes() == whole
    fails_at = 2
    assert command(*asked(folder)).code == 1
    painted.clear()
    fails_at = -1
    assert command(*asked(folder, "--seed", 4)).code == 0
    assert painted == [0, 2, 4]
    assert (folder / "T2I_test.tsv").read_bytes() != whole


def test_what_is_not_to_be_handed_in_is_refused(folder: Path, command: Command) -> None:
    model = "--model", folder / "model"
    for line, words in (
        (("generate", *model), "nothing to paint; give texts, or a set as --data"),
        (("generate", "一只猫", *model, "--data", f"ecommerce-t2i={folder}"), "give texts or --data"),
        (("generate", "一只猫", *model, "--split", "val"), "of --data"),
        (asked(folder, "--images", "all"), "of --data one file is written"),
        (("generate", *model, "--data", f"muge={folder}"), "is not handed in as images; there is ecommerce-t2i"),
    ):
        done = command(*line)
        assert done.code == 2, (line, done.err)
        assert words in " ".join(done.err.replace("│", " ").split()), done.err
