"""Zero-shot classification: class embeddings, both stages, accuracies, and folders of images."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.class_names import ImageClass
from ccmb.data.images.source import ImageSource
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.stages import ImageLoader, R2D2Encoder
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.scenes.classification import scene_classes, write_class_folders
from ccmb.scenes.drawing import FILLS
from ccmb.tasks.classification.classifier import (
    Classifier,
    ClassScores,
    accuracy_report,
    class_embeddings,
    classify_images,
    label_ranks,
)
from ccmb.tasks.classification.evaluate import evaluate_classes
from ccmb.tasks.classification.prompts import PLAIN_TEMPLATE, TEMPLATES, fill
from ccmb.tasks.classification.rerank import classify, make_classifier
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

CLASSES = [
    ImageClass(("小船", "帆船")),
    ImageClass(("猫",)),
    ImageClass(("足球",)),
    ImageClass(("苹果", "牛奶", "湖泊")),
]


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_a_class_is_the_unit_mean_of_the_unit_embeddings_of_all_its_prompts(batch: int) -> None:
    encoder = R2D2Encoder(tiny_model(), tiny_processor())
    embeds = class_embeddings(encoder, CLASSES, TEMPLATES[:5], batch)
    for one, embed in zip(CLASSES, embeds, strict=True):
        prompts = [fill(template, name) for name in one.names for template in TEMPLATES[:5]]
        mean = torch.stack([encoder.encode_texts([prompt]).embed[0] for prompt in prompts]).mean(0)
        assert_same(embed, mean / mean.norm())


class Batches:
    """An encoder of nothing that notes how much it was given at once."""

    def __init__(self) -> None:
        self.max_batch = 0

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.encode_texts(["图"] * len(names))

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        self.max_batch = max(self.max_batch, len(texts))
        return TowerOutput(torch.ones(len(texts), 4) * 3, torch.zeros(len(texts), 1, 4))


def test_never_more_than_a_batch_is_held_however_many_classes_prompts_and_images() -> None:
    encoder = Batches()
    classes = [ImageClass((str(index),)) for index in range(500)]
    embed_CD = class_embeddings(encoder, classes, batch=16)
    assert encoder.max_batch == 16
    assert_same(embed_CD, torch.full((500, 4), 0.5))  # embeddings of any length are made unit ones
    results = classify_images(Classifier(encoder, classes, embed_CD), [None] * 100, top=2, batch=8)
    assert encoder.max_batch == 16
    assert [guess.index for guess in results[99].classes] == [0, 1]


@pytest.mark.parametrize("depth", [None, 1, 3, 9])
def test_classes_come_in_the_order_in_which_the_model_scores_them(depth: int | None) -> None:
    model, processor, images = tiny_model(), tiny_processor(), tiny_images(5)
    results = classify(R2D2Stages(model, processor), images, CLASSES, [PLAIN_TEMPLATE], top=4, depth=depth)
    encoder = R2D2Encoder(model, processor)
    encoded, classes = (
        encoder.encode_images(images, lambda image: image),
        class_embeddings(encoder, CLASSES, [PLAIN_TEMPLATE]),
    )
    first_names = encoder.encode_texts([fill(PLAIN_TEMPLATE, one.name) for one in CLASSES])
    for row, result in enumerate(results):
        cosine = encoded.embed[row] @ classes.T
        order = cosine.argsort(descending=True).tolist()
        if depth is not None:
            zeros = torch.full((4,), row)
            with torch.no_grad():
                score = cosine + model.rank(encoded, first_names, zeros, torch.arange(4)).score
            order = sorted(order[:depth], key=lambda index: -float(score[index])) + order[depth:]
            for rank, guess in enumerate(result.classes):
                expected = float(score[guess.index]) if rank < depth else None
                assert guess.score == same(expected)
        assert [guess.index for guess in result.classes] == order
        assert [guess.name for guess in result.classes] == [CLASSES[index].name for index in order]
        assert [guess.cosine for guess in result.classes] == same(cosine[order].tolist())
    assert depth is not None or all(guess.score is None for result in results for guess in result.classes)


def test_unreadable_images_are_marked_unless_there_is_no_other(tmp_path: Path) -> None:
    classifier = make_classifier(R2D2Stages(tiny_model(), tiny_processor()), CLASSES, [PLAIN_TEMPLATE])
    gone, good = tmp_path / "gone.png", tiny_images(1)[0]
    results = classify_images(classifier, [gone, good, good], top=2, batch=2)
    assert [result.error for result in results] == [f"{gone}: no such image", None, None]
    assert [len(result.classes) for result in results] == [0, 2, 2]
    with pytest.raises(CcmbError, match=r"^\S+gone\.png: no such image$"):
        classify_images(classifier, [gone])
    with pytest.raises(CcmbError, match=r"none of the images could be read \(.*gone\.png"):
        classify_images(classifier, [gone, gone])
    assert classify_images(classifier, []) == []


def test_towers_alone_have_no_second_stage() -> None:
    with pytest.raises(UsageError, match="--rerank-k needs a second stage"):
        make_classifier(R2D2Stages(tiny_model(cross_layers=0), tiny_processor()), CLASSES, depth=2)
    with pytest.raises(CcmbError, match="'猫' must have exactly one"):
        make_classifier(R2D2Stages(tiny_model(), tiny_processor()), CLASSES, ["猫"])


# --- ranks and accuracies


def test_ties_count_against_the_model_and_a_class_beyond_the_candidates_stays_where_it_was() -> None:
    cosine = torch.tensor([[0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [0.1, 0.5, 0.9]])
    candidates, ranking = torch.tensor([[0, 1], [0, 1], [2, 1]]), torch.tensor([[0.1, 0.2], [0.3, 0.2], [1.0, 1.0]])
    labels = torch.tensor([0, 1, 0])
    first, second = label_ranks(ClassScores(cosine), labels)
    assert (first.tolist(), second) == ([1, 3, 3], None)
    first, second = label_ranks(ClassScores(cosine, candidates, ranking), labels)
    assert second is not None
    assert (first.tolist(), second.tolist()) == ([1, 3, 3], [2, 3, 3])


def test_a_model_that_says_nothing_with_a_number_is_never_right() -> None:
    nothing = ClassScores(torch.full((2, 3), torch.nan), torch.tensor([[0, 1]] * 2), torch.full((2, 2), torch.nan))
    first, second = label_ranks(nothing, torch.tensor([0, 2]))
    assert second is not None
    assert (first.tolist(), second.tolist()) == ([3, 3], [3, 3])


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), min_size=1, max_size=30))
def test_accuracies_are_shares_in_percent(pairs: list[tuple[int, int]]) -> None:
    ranks, labels = (torch.tensor(values) for values in zip(*pairs, strict=True))
    report = accuracy_report(ranks, labels)
    by_class = {label: [rank == 1 for rank, rank_label in pairs if rank_label == label] for _, label in pairs}
    assert report["top1"] == pytest.approx(100 * np.mean([rank == 1 for rank, _ in pairs]), abs=0.01)
    assert report["top5"] == pytest.approx(100 * np.mean([rank <= 5 for rank, _ in pairs]), abs=0.01)
    assert report["mean_per_class"] == pytest.approx(
        100 * np.mean([np.mean(outcomes) for outcomes in by_class.values()]), abs=0.01
    )
    for name, (low, high) in report["interval"].items():
        assert 0 <= low <= report[name] + 0.01
        assert report[name] - 0.01 <= high <= 100


def test_intervals_are_those_of_drawing_the_images_again() -> None:
    rng = np.random.default_rng(1)
    ranks, labels = torch.from_numpy(rng.integers(1, 4, 300)), torch.from_numpy(rng.integers(0, 5, 300))
    right = (ranks == 1).double().numpy()
    drawn = [100 * right[rng.integers(0, 300, 300)].mean() for _ in range(4000)]
    interval = accuracy_report(ranks, labels)["interval"]["top1"]
    assert interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.7)
    assert accuracy_report(ranks, labels)["interval"]["top1"] == interval


# --- folders of images of synthetic scenes


class ColourEye:
    """An encoder that sees how much of each colour there is in an image, and knows the colours' names."""

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        fills = np.array(list(FILLS.values()))
        shares = []
        for image in map(load, names):
            pixels = np.asarray(image).astype(int)[:, :, None]
            shares.append((np.abs(pixels - fills).sum(3) < 24).mean((0, 1)))
        return self._output(torch.tensor(np.array(shares)).float())

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self._output(torch.tensor([[colour + "色" in text for colour in FILLS] for text in texts]).float())

    def _output(self, embed: Tensor) -> TowerOutput:
        return TowerOutput(embed, embed[:, None])


def test_a_model_that_sees_colours_is_found_to(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "colours", "colour", per_class=4, size=64)
    classes, encoder = scene_classes("colour"), ColourEye()
    embed_CD = class_embeddings(encoder, classes, [PLAIN_TEMPLATE])
    report = evaluate_classes(Classifier(encoder, classes, embed_CD), ImageSource.open(tmp_path / "colours"), batch=5)
    metrics = report["classification"]
    assert (metrics["pictures"], metrics["classes"], metrics["classes_with_pictures"]) == (32, 8, 8)
    assert metrics["top1"] > 85
    assert metrics["top1"] == metrics["mean_per_class"]  # as many images of each
    assert "ranking" not in metrics
    wrong = Classifier(encoder, classes, embed_CD.roll(1, 0))
    assert evaluate_classes(wrong, ImageSource.open(tmp_path / "colours"))["classification"]["top1"] < 15


@pytest.mark.parametrize("batch", [2, 64])
def test_both_stages_are_scored_and_unreadable_images_listed(batch: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    images = tiny_images(6)
    for number, image in enumerate(images):
        folder = tmp_path / CLASSES[rng.randrange(3)].name
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{number}.png")
    (tmp_path / "猫").mkdir(exist_ok=True)
    (tmp_path / "猫" / "bad.png").write_bytes(b"no picture")
    classifier = make_classifier(R2D2Stages(tiny_model(), tiny_processor()), CLASSES, [PLAIN_TEMPLATE], depth=2)
    folder = ImageSource.open(tmp_path)
    report = evaluate_classes(classifier, folder, batch)
    assert [line.split(": ")[0] for line in report["unreadable"]] == [f"{tmp_path}/猫/bad.png"]
    metrics = report["classification"]
    assert (metrics["pictures"], metrics["ranking"]["depth"]) == (6, 2)
    good = [name for name in folder.names if "bad" not in name]
    guesses = classify_images(classifier, [folder.load(name) for name in good], top=4)
    right = [guess.classes[0].name == name.split("/")[0] for guess, name in zip(guesses, good, strict=True)]
    assert metrics["ranking"]["top1"] == pytest.approx(100 * sum(right) / 6, abs=0.01)
    assert metrics["top5"] == metrics["ranking"]["top5"] == 100.0


def test_if_no_image_can_be_read_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "猫").mkdir()
    (tmp_path / "猫" / "bad.png").write_bytes(b"no picture")
    classifier = Classifier(Batches(), CLASSES, torch.ones(4, 4))
    with pytest.raises(CcmbError, match=r"none of the images could be read \(.*bad\.png"):
        evaluate_classes(classifier, ImageSource.open(tmp_path))


# --- drawing the folders


def test_folders_hold_images_of_one_thing_and_only_their_arguments_decide(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_class_folders(tmp_path / name, "kind", per_class=2, size=32, seed=seed)
    names = ImageSource.open(tmp_path / "one").names
    assert {name.split("/")[0] for name in names} == {one.name for one in scene_classes("kind")}
    assert len(names) == 2 * len(scene_classes("kind")) >= 48
    files = {folder: [(tmp_path / folder / name).read_bytes() for name in names] for folder in ("one", "same", "other")}
    assert files["one"] == files["same"] != files["other"]
    assert len(set(files["one"])) == len(names)
    assert Image.open(tmp_path / "one" / names[0]).size == (32, 32)
    write_class_folders(tmp_path / "one", "kind", per_class=2, size=32)  # is there already
    with pytest.raises(CcmbError, match="one: this folder holds something else"):
        write_class_folders(tmp_path / "one", "colour", per_class=2, size=32)


def test_a_stopped_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ccmb.scenes.classification.render_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        write_class_folders(tmp_path / "kinds", "kind", per_class=2, size=32)
    assert list(tmp_path.iterdir()) == []
