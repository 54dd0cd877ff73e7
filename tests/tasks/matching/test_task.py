"""Training on labelled pairs: what is read, what a batch holds, and a run that resumes exactly and learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import ImageSource
from ccmb.data.images.transforms import Augmentation
from ccmb.data.labelled_pairs import as_label, is_labelled, label_of, read_labelled_pairs
from ccmb.data.sample import Sample
from ccmb.objectives.matching import Matching, MatchingOptions
from ccmb.tasks.matching.task import LabelledLoader, MatchingTask
from ccmb.tasks.pretraining.batches import run_batches
from ccmb.training.recipe import DataRecipe, OptimizerRecipe, TrainingRecipe
from ccmb.training.throughput import MEASURED
from ccmb.training.trainer import Trainer
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

IMAGES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`pairs.jsonl` of two true and two false texts of each of PICTURES images, beside `images`."""
    (tmp_path / "images").mkdir()
    lines = []
    for index, image in enumerate(tiny_images(IMAGES)):
        image.save(tmp_path / "images" / f"{index}.png")
        for step in range(4):
            text = TEXTS[(index + step) % len(TEXTS)]
            lines.append({"image": f"{index}.png", "text": text, "label": int(step < 2), "split": "train"})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "pairs.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


# --- reading


def test_labelled_lines_become_samples_of_one_text(folder: Path) -> None:
    samples = read_labelled_pairs(folder / "pairs.jsonl", "train")
    assert len(samples) == 4 * IMAGES
    assert [(s.image, s.texts, label_of(s)) for s in samples[:3]] == [
        ("0.png", (TEXTS[0],), 1),
        ("0.png", (TEXTS[1],), 1),
        ("0.png", (TEXTS[2],), 0),
    ]
    assert is_labelled(folder / "pairs.jsonl")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "0.png", "text": "猫"}', r'pairs\.jsonl:1: "label" must be 1'),
        ('{"image": "0.png", "text": "猫", "label": 2}', r'pairs\.jsonl:1: "label" must be 1'),
        ('{"image": "0.png", "text": "猫", "label": true}', r'pairs\.jsonl:1: "label" must be 1'),
        ('{"image": "0.png", "text": ["猫"], "label": 1}', r'pairs\.jsonl:1: no "text": each line'),
        ('{"image": "0.png", "text": " ", "label": 1}', r'pairs\.jsonl:1: "text"\[0\] is not a text or empty'),
        ('{"text": "猫", "label": 1}', r'pairs\.jsonl:1: no "image"'),
        (
            '{"image": "0.png", "text": "猫", "label": 1, "split": "test"}',
            r"no images in split 'train'.*it has: test",
        ),
    ],
)
def test_a_faulty_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(CcmbError, match=words) as caught:
        read_labelled_pairs(tmp_path / "pairs.jsonl", "train")
    assert "\n" not in str(caught.value)


def test_labels_are_numbers_or_texts_that_mean_them() -> None:
    assert [as_label(value) for value in (0, 1, "0", "1")] == [0, 1, 0, 1]
    assert {as_label(value) for value in (True, 1.0, 2, "yes", None, [1])} == {None}


def test_retrieval_pairs_are_not_labelled(tmp_path: Path) -> None:
    for text, expected in (('{"image": "a", "texts": ["猫"]}', False), ("", False)):
        (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
        assert is_labelled(tmp_path / "a.jsonl") is expected


# --- batches


def loader(folder: Path, steps: int = 9, batch: int = 8, workers: int = 0) -> LabelledLoader:
    samples, images = read_labelled_pairs(folder / "pairs.jsonl"), ImageSource.open(folder / "images")
    data = DataRecipe(
        folder=str(folder), num_workers=workers, augmentation=Augmentation(min_crop_scale=0.5, color_jitter=0.3)
    )
    return LabelledLoader(samples, images, data, TrainingRecipe(steps=steps, batch_size=batch, seed=3))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_holds_each_image_once_and_every_pair_with_its_own(folder: Path, workers: int) -> None:
    samples = {(s.image, s.texts[0]): label_of(s) for s in read_labelled_pairs(folder / "pairs.jsonl")}
    repeated = 0
    for batch, unreadable in loader(folder, workers=workers)(tiny_processor(), 0, 9):
        assert batch is not None
        assert unreadable == []
        assert len(batch.pixel_values) == len(set(batch.names)) == int(batch.image_index.max()) + 1
        repeated += len(batch.names) - len(batch.pixel_values)
        for row, (name, text) in enumerate(zip(batch.names, batch.texts, strict=True)):
            assert int(batch.labels[row]) == samples[name, text]
            assert batch.names[batch.image_index.tolist().index(int(batch.image_index[row]))] == name
            assert batch.image_ids[row] == int(name.removesuffix(".png"))
        same_text = batch.text_ids[:, None] == batch.text_ids
        assert same_text.tolist() == [[one == other for other in batch.texts] for one in batch.texts]
    assert repeated > 9


def test_pairs_of_an_image_are_augmented_alike_within_an_epoch_alone(folder: Path) -> None:
    """Else a batch on two processes would not be the one of one process, where it stands but once."""
    load = loader(folder)
    by_epoch: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for step, (batch, _) in enumerate(load(tiny_processor(), 0, 9)):
        assert batch is not None
        for name, index in zip(batch.names, batch.image_index, strict=True):
            pixels = batch.pixel_values[index]
            assert torch.equal(by_epoch[step // 3].setdefault(name, pixels), pixels)
    assert not any(torch.equal(by_epoch[0][name], by_epoch[1][name]) for name in by_epoch[0])


def test_a_run_goes_on_with_the_batches_of_its_step(folder: Path) -> None:
    whole = [batch for batch, _ in loader(folder)(tiny_processor(), 0, 9)]
    remaining = [batch for batch, _ in loader(folder)(tiny_processor(), 5, 9)]
    for one, other in zip(whole[5:], remaining, strict=True):
        assert one is not None
        assert other is not None
        assert (one.names, one.texts) == (other.names, other.texts)
        assert torch.equal(one.pixel_values, other.pixel_values)


def test_what_cannot_be_read_is_left_out_and_listed_once(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "2.png").write_bytes(b"nothing")
    out = tmp_path / "run"
    out.mkdir()
    load = loader(folder)
    batches = list(run_batches(lambda start, stop: load(tiny_processor(), start, stop), out, 8)(0, 3))
    assert all("2.png" not in batch.names for batch in batches)
    assert sum(len(batch.names) for batch in batches) == 3 * 8 - 4
    [line] = (out / "unreadable.txt").read_text().splitlines()
    assert "2.png: not an image" in line


def test_too_few_pairs_are_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(CcmbError, match=r"24 pairs do not fill training\.batch_size=99"):
        loader(folder, batch=99)


# --- a run


def train(folder: Path, out: Path, options: MatchingOptions, steps: int, stop: int | None = None) -> Trainer:
    samples, images = read_labelled_pairs(folder / "pairs.jsonl"), ImageSource.open(folder / "images")
    recipe = TrainingRecipe(
        steps=steps, batch_size=8, seed=3, log_every=5, checkpoint_every=4, precision="fp32", device="cpu",
        tensorboard=False,
    )  # fmt: skip
    load = LabelledLoader(samples, images, DataRecipe(folder=str(folder), num_workers=0), recipe)
    optimizer = OptimizerRecipe(lr=2e-3, cross_lr=4e-3, muon_lr_scale=2.5, warmup_steps=5)
    task = MatchingTask(Matching(tiny_model(), options), optimizer)
    out.mkdir(exist_ok=True)
    trainer = Trainer(task, optimizer, recipe, out)
    trainer.resume()
    batches = run_batches(lambda start, end: load(tiny_processor(), start, end), out, 8)
    if stop is None:
        trainer.fit(batches)
        return trainer
    with pytest.raises(RuntimeError, match="pulled"):
        trainer.fit(lambda start, end: _until(batches(start, end), stop - start))
    return trainer


def _until(batches, count):  # type: ignore[no-untyped-def]
    for _ in range(count):
        yield next(batches)
    raise RuntimeError("pulled")


OPTIONS = pytest.mark.parametrize("options", [MatchingOptions(), MatchingOptions(loss="official", gcpr_weight=0.5)])


@pytest.mark.numeric
@OPTIONS
def test_a_run_learns_the_labels(folder: Path, tmp_path: Path, options: MatchingOptions) -> None:
    train(folder, tmp_path, options, steps=90)
    lines = _lines(tmp_path)
    # Of 20 seeds the worst has 0.18 and 0.44 with the official loss, which cannot fall below 0.31, and an accuracy of
    # 0.875; who guesses has 0.69 and 0.5.
    assert _mean(lines[-4:], "matching") < 0.55
    assert _mean(lines[-4:], "match_accuracy") > 0.75
    assert ("gcpr" in lines[0]) == bool(options.gcpr_weight)


@OPTIONS
def test_a_run_goes_on_exactly(folder: Path, tmp_path: Path, options: MatchingOptions) -> None:
    whole = train(folder, tmp_path / "whole", options, steps=16)
    train(folder, tmp_path / "parts", options, steps=16, stop=11)  # in the fourth epoch, three steps after a checkpoint
    parts = train(folder, tmp_path / "parts", options, steps=16)
    assert _lines(tmp_path / "parts") == _lines(tmp_path / "whole")
    for name, value in whole.task.module.state_dict().items():
        assert torch.equal(value, parts.task.module.state_dict()[name]), name


def _mean(lines: list[dict[str, float]], name: str) -> float:
    return sum(line[name] for line in lines) / len(lines)


def _lines(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def test_every_weight_is_in_one_group_with_its_own_learning_rate() -> None:
    model = tiny_model()
    task = MatchingTask(Matching(model, MatchingOptions()), OptimizerRecipe(lr=1e-3, cross_lr=3e-3))
    lr_of = {id(p): group.lr for group in task.groups() for p in group.parameters}
    assert len(lr_of) == sum(len(group.parameters) for group in task.groups())
    for name, parameter in model.named_parameters():
        peak = 3e-3 if name.startswith(("text_image", "image_text", "image_to_cross", "mlm_head")) else 1e-3
        assert lr_of[id(parameter)] == peak, name


def test_a_batch_of_a_faulty_step_is_told_in_words(folder: Path) -> None:
    batch, _ = next(iter(loader(folder)(tiny_processor(), 0, 1)))
    assert batch is not None
    description = MatchingTask(Matching(tiny_model(), MatchingOptions()), OptimizerRecipe()).describe(batch)
    assert json.loads(json.dumps(description)) == description
    assert description["labels"] == batch.labels.tolist()


def test_labels_that_nobody_gave_are_a_fault_of_the_program() -> None:
    with pytest.raises(AssertionError):
        label_of(Sample("a.png", ("猫",)))
