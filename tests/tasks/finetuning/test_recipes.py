"""The shipped recipes of fine-tuning: what they say, and that each trains on its set as published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccmb.core.errors import UsageError
from ccmb.core.files import read_json_lines
from ccmb.datasets import CARDS, open_dataset
from ccmb.datasets.formats.multilingual import READ
from ccmb.tasks.common.datasets import open_held_out, open_training
from ccmb.tasks.finetuning.recipe import FINETUNING
from ccmb.tasks.finetuning.run import finetune
from ccmb.training.recipe import DataRecipe
from tests.helpers.downstream_samples import write_flickr8k, write_muge
from tests.helpers.recipes import TINY, _append, load, write_sample
from tests.helpers.tuning import save_start

pytestmark = pytest.mark.usefixtures("lines")

SHIPPED = sorted(path.stem for path in FINETUNING.glob("*.yaml"))
OFFICIAL = ("flickr30k-cna", "icr", "iqr")
# Those of one language: sets of many are tested on.
SETS = [name for name, card in CARDS.items() if "retrieval" in card.families and name not in READ]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "model")


def test_there_is_one_for_each_set_of_retrieval_and_one_for_own_data() -> None:
    assert set(SETS) | {"retrieval", "matching"} <= set(SHIPPED)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_settings_are_those_of_the_released_code(name: str) -> None:
    recipe = load(name, "data.folder=x")
    epochs, depth = (20, 128) if name == "flickr30k-cna" else (10, 64)
    assert recipe.objectives.on() == ["gcpr", "fgr"]
    assert recipe.objectives.gcpr.weight == recipe.objectives.fgr.weight == 1
    assert recipe.training.epochs == recipe.optimizer.lr_decay_stages == epochs
    assert (recipe.training.batch_size, recipe.training.precision, recipe.training.seed) == (256, "fp32", 42)
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.lr * optimizer.warmup_start_factor, optimizer.warmup_steps) == (
        1e-5,
        pytest.approx(1e-6),
        500,
    )
    assert (optimizer.weight_decay, optimizer.min_lr_factor, optimizer.schedule) == (0.05, 0.0, "cosine")
    assert recipe.model.freeze_image_tower
    augmentation = recipe.data.augmentation
    assert augmentation.rand_augment is not None
    assert (augmentation.min_crop_scale, augmentation.crop_shape, augmentation.flip) == (0.5, "square", True)
    assert (augmentation.rand_augment.num_ops, augmentation.rand_augment.magnitude) == (2, 5)
    assert recipe.validation.rerank_k == depth


@pytest.mark.parametrize("name", SETS)
def test_each_trains_on_its_set_as_published(name: str, start: Path, tmp_path: Path) -> None:
    folder = write_sample(name, tmp_path / "data")
    recipe = load(name, *TINY, f"data.folder={folder}", f"model.init_from={start}")
    report = finetune(recipe, tmp_path / "run")
    assert report is not None
    [entry] = report["sets"]
    assert (entry["name"], entry["split"]) == (name, "val")
    assert entry["details"]["after"]["texts"] == len(open_dataset(name, folder, "val").queries)
    last = [line for _, line in read_json_lines(tmp_path / "run" / "metrics.jsonl")][-1]
    assert last["step"] == 2
    assert {"gcpr", "fgr", "val_mean_recall"} <= last.keys()


def test_muge_is_measured_by_text_alone_over_the_whole_gallery(start: Path, tmp_path: Path) -> None:
    folder = write_muge(tmp_path / "data")
    recipe = load("muge", *TINY, f"data.folder={folder}", f"model.init_from={start}")
    report = finetune(recipe, tmp_path / "run")
    assert report is not None
    details = report["sets"][0]["details"]["after"]
    assert (details["gallery"], "image_to_text" in details) == (3, False)
    with pytest.raises(Exception, match="do not say which images are right"):
        finetune(recipe, tmp_path / "other", test=True)
    assert not (tmp_path / "other").exists()


def test_a_set_without_a_test_split_says_so_before_anything_is_trained(start: Path, tmp_path: Path) -> None:
    folder = write_sample("icr", tmp_path / "data")
    recipe = load("icr", *TINY, f"data.folder={folder}", f"model.init_from={start}")
    with pytest.raises(UsageError, match=r"ICR has no split 'test'.*published splits: train, val"):
        finetune(recipe, tmp_path / "run", test=True)
    assert not (tmp_path / "run").exists()


def test_fields_of_a_published_set_are_chosen_by_name(tmp_path: Path) -> None:
    folder = str(write_flickr8k(tmp_path))
    for fields, texts in (
        (["captions"], ("一只狗", "跑步的狗")),
        (["mt_baidu", "captions"], ("一条狗在跑", "一只狗", "跑步的狗")),
    ):
        [sample], _ = open_training(DataRecipe(dataset="flickr8k-cn", folder=folder, fields=fields))
        assert sample.texts == texts
        assert [text for field in sample.fields for text in field] == list(texts)
    with pytest.raises(UsageError, match=r"data\.fields: Flickr8k-CN has no 'texts'; it has: captions, mt_baidu"):
        open_training(DataRecipe(dataset="flickr8k-cn", folder=folder))
    # Measured is what people wrote.
    assert open_held_out(DataRecipe(dataset="flickr8k-cn", folder=folder), "val").samples[0].texts == ("海边的人",)


def test_images_of_a_set_may_lie_in_a_named_place_of_its_folder(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path)
    (folder / "images").rename(folder / "elsewhere")
    data = DataRecipe(dataset="flickr8k-cn", folder=str(folder), images="elsewhere", fields=["captions"])
    samples, images = open_training(data)
    assert samples[0].image in images


def test_what_is_wrong_with_lines_of_a_set_is_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sample("iqr", tmp_path)
    _append(folder / "train" / "short_itr_train.json", json.dumps({"text": "无图", "image_path": "9.jpg"}).encode())
    samples, _ = open_training(DataRecipe(dataset="iqr", folder=str(folder)))
    assert len(samples) == 2
    assert "no image 9.jpg" in capsys.readouterr().err
