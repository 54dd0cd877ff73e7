"""Lines of one image are one image everywhere: in training, validation, evaluation, the benchmark and the doctor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.runner import run_benchmark
from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, write_json
from ccmb.data.grouping import image_key, merge_by_image
from ccmb.data.labelled_pairs import read_labelled_pairs
from ccmb.data.pairs import open_pairs, read_pairs
from ccmb.data.sample import Sample
from ccmb.datasets import open_dataset
from ccmb.inference.models.stored_features import StoredFeatures
from ccmb.search.index_folder import IndexRecord
from ccmb.search.indexing.user_fields import read_user_fields
from ccmb.tasks.common.datasets import open_training
from ccmb.tasks.doctor.run import examine
from ccmb.tasks.pretraining.batches import PairReader
from ccmb.tasks.registry import finetuner_of
from tests.helpers.runs import command_line
from tests.helpers.tiny import tiny_images
from tests.helpers.tuning import recipe_of, save_start

pytestmark = pytest.mark.usefixtures("lines")

SPELLINGS = ("./0.png", "0.png", "a/../0.png", ".//0.png", "a/b/../../0.png")


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def line_for_each_text(folder: Path, splits: tuple[str, ...] = ("train", "val", "test"), count: int = 6) -> Path:
    """Own pairs of six images a split, in twelve lines of one text each, the second by another name of the image."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index, split in enumerate(splits):
        for position, image in enumerate(tiny_images(count, index)):
            image.save(folder / "images" / f"{split}-{position}.png")
            for name, text in ((f"{split}-{position}.png", "第一句"), (f"./{split}-{position}.png", "第二句")):
                lines.append({"image": name, "texts": f"{text}，{split}的第{position}张", "split": split})
    # All first texts, then all second ones: lines of one image need not stand together.
    lines = [*lines[::2], *lines[1::2]]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_all_spellings_of_a_name_are_one_image() -> None:
    assert {image_key(name) for name in SPELLINGS} == {"0.png"}
    assert {image_key(name) for name in ("a//0.png", "a/0.png", "./a/0.png", "a/./0.png")} == {"a/0.png"}
    assert image_key("../0.png") == "../0.png"  # which is outside, and refused when it is opened
    assert image_key("0.PNG") != image_key("0.png")


def test_texts_of_merged_lines_are_united_in_order_without_duplicates() -> None:
    lines = [
        Sample("./0.png", ("甲", "乙"), "train", None, {"from": "a", "minimal_pairs": [1]}, (("甲",), ("乙",))),
        Sample("1.png", ("丙",), "train", fields=(("丙",), ())),
        Sample(
            "0.png", ("丁", "甲", "乙"), "train", "g", {"from": "b", "minimal_pairs": [1, 2]}, (("丁", "甲"), ("乙",))
        ),
    ]
    assert merge_by_image(lines) == [
        Sample(
            "0.png", ("甲", "丁", "乙"), "train", "g", {"from": "a", "minimal_pairs": [1, 2]}, (("甲", "丁"), ("乙",))
        ),
        Sample("1.png", ("丙",), "train", fields=(("丙",), ())),
    ]
    alone = Sample("0.png", ("甲", "甲"), fields=(("甲", "甲"),))
    assert merge_by_image([alone]) == [alone]  # what one line says twice stays: published counts are of such files


def test_evaluation_and_training_count_the_same_images_and_texts(tmp_path: Path, command) -> None:
    data, start = line_for_each_text(tmp_path / "data"), save_start(tmp_path / "start")
    recipe = recipe_of(start, data, training__batch_size=6)
    family = finetuner_of("retrieval")
    for samples in (
        open_training(recipe.data)[0], family.open_held_out(recipe, "val").samples,
        open_measured_set(f"own={data / 'pairs.jsonl'}").samples, read_pairs(data / "pairs.jsonl", "test"),
    ):  # fmt: skip
        assert [len(samples), sum(len(sample.texts) for sample in samples)] == [6, 12]
    PairReader(*open_training(recipe.data), recipe.data, recipe.training)  # six images fill a batch of six
    seven = recipe_of(start, data, training__batch_size=7)
    with pytest.raises(CcmbError, match=r"6 images do not fill training\.batch_size=7"):
        PairReader(*open_training(seven.data), seven.data, seven.training)
    [finding] = [result for result in examine(recipe) if result.check == "image names"]
    assert "6 images with 12 texts" in finding.message
    done = command("evaluate", "--model", start, "--data", data / "pairs.jsonl", "--json", tmp_path / "report.json")
    assert (done.code, done.out.splitlines()[0]) == (0, "6 images, 12 texts, top 128 ranked")
    report = read_json(tmp_path / "report.json")
    assert (report["retrieval"]["gallery"], report["retrieval"]["texts"]) == (6, 12)
    assert report["in_other_splits"] == 0
    outcome = run_benchmark(
        [str(start)], [open_measured_set(f"own={data / 'pairs.jsonl'}")], tmp_path / "results", Settings()
    )
    assert [read_json(path)["data"]["images"] for path in outcome.measured] == [6]
    assert [read_json(path)["data"]["texts"] for path in outcome.measured] == [12]


def test_recalls_are_the_same_in_one_line_an_image_and_one_line_a_text(tmp_path: Path, command) -> None:
    data, start = line_for_each_text(tmp_path / "data", ("test",)), save_start(tmp_path / "start")
    samples = read_pairs(data / "pairs.jsonl")
    lines = [{"image": sample.image, "texts": sample.texts, "split": "test"} for sample in samples]
    (data / "joined.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reports = []
    for name in ("pairs.jsonl", "joined.jsonl"):
        assert command("evaluate", "--model", start, "--data", data / name, "--json", tmp_path / name).code == 0
        reports.append(read_json(tmp_path / name)["retrieval"])
    assert reports[0] == reports[1]


def test_images_in_two_splits_are_said_with_their_number(tmp_path: Path, capfd, command) -> None:
    data, start = line_for_each_text(tmp_path / "data"), save_start(tmp_path / "start")
    with open(data / "pairs.jsonl", "a", encoding="utf-8") as file:
        for position in (1, 4):
            file.write(
                json.dumps({"image": f"a/../train-{position}.png", "texts": "也在测试里", "split": "test"}) + "\n"
            )
    result = open_pairs(data / "pairs.jsonl", "test")
    assert (len(result.samples), result.in_other_splits) == (8, ("train-1.png", "train-4.png"))
    output = capfd.readouterr().err
    assert (
        "2 images are in split 'test' and in another one too ('train'), such as train-1.png, first in line 2" in output
    )
    assert open_pairs(data / "pairs.jsonl", "val").in_other_splits == ()
    assert capfd.readouterr().err == ""
    done = command("evaluate", "--model", start, "--data", data / "pairs.jsonl", "--json", tmp_path / "report.json")
    assert (done.code, read_json(tmp_path / "report.json")["in_other_splits"]) == (0, 2)
    assert "2 images are in split 'test'" in done.err


def test_labelled_pairs_of_one_image_by_several_names_are_of_one_image(tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    lines = [{"image": name, "text": f"第{n}句", "label": n % 2} for n, name in enumerate(SPELLINGS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [sample.image for sample in read_labelled_pairs(path)] == ["0.png"] * len(SPELLINGS)


def test_labelled_pairs_that_contradict_each_other_are_said(tmp_path: Path, capfd) -> None:
    path = tmp_path / "labelled.jsonl"
    lines = [
        ("0.png", "红车", 1),
        ("./0.png", " 红车", 0),
        ("0.png", "蓝车", 0),
        ("0.png", "蓝车", 0),
        ("1.png", "红车", 0),
    ]
    path.write_text("".join(json.dumps({"image": i, "text": t, "label": n}) + "\n" for i, t, n in lines))
    assert len(read_labelled_pairs(path)) == 5
    assert f"{path}: 1 pair is labelled both 1 and 0, such as 0.png: 红车" in capfd.readouterr().err


def test_flickr8k_may_have_one_line_for_each_text(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    tiny_images(1)[0].save(tmp_path / "images" / "0.png")
    lines = [{"image": name, "captions": [f"第{n}句"], "split": "val"} for n, name in enumerate(SPELLINGS)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = open_dataset("flickr8k-cn", tmp_path, "val")
    assert [(sample.image, len(sample.texts)) for sample in dataset.samples] == [("0.png", 5)]
    assert (len(dataset.queries), dataset.gallery) == (5, ["0.png"])


def test_fields_of_an_index_may_stand_in_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "fields.jsonl"
    lines = [{"image": "./a//0.png", "year": 2023, "place": "上海"}, {"image": "a/0.png", "year": 2024}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = read_user_fields(path, IndexRecord(model="m", fingerprint="f", embed_dim=4))
    assert fields._by_name == {"a/0.png": {"year": 2024, "place": "上海"}}


def test_stored_features_are_found_by_any_spelling(tmp_path: Path) -> None:
    for name in ("images", "texts"):
        np.save(tmp_path / f"{name}.npy", np.ones((1, 4), dtype=np.float32))
    write_json(tmp_path / "ids.json", {"images": ["./0.png"], "texts": ["./一"]})
    model = StoredFeatures("features", tmp_path)
    assert len(model.encode_images(["0.png"], lambda name: name)) == len(model.encode_texts(["./一"])) == 1
