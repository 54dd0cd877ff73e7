"""`ccmb finetune` of generation: what a tiny painter learns, how it goes on, and from a published pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccmb.core.errors import CcmbError, UsageError
from ccmb.r2d2.generative.captioner import has_captioner
from ccmb.r2d2.generative.generator import R2D2Generator, load_generator
from ccmb.r2d2.loading import load_model
from ccmb.scenes.close_ups import write_close_ups
from ccmb.tasks.finetuning.run import finetune
from ccmb.tasks.generation.predict import SamplingOptions, paint_texts
from ccmb.training.checkpoints import load_checkpoint
from tests.helpers.recipes import TINY, load, write_sample
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.tuning import recipe_of, save_pairs, save_start

pytest.importorskip("diffusers")

FEW = {
    "training.steps": 4, "validation.every": 0, "generation.image_size": 16, "generation.channels": "[16,32]",
    "generation.attention_head_dim": 8, "generation.sampling_steps": 2, "data.augmentation.min_crop_scale": 1.0,
}  # fmt: skip

# A pipeline has a painter of its own, whose shape nothing else may give.
OF_A_PAINTER = ("generation.channels", "generation.attention_head_dim", "generation.image_size")
OF_A_PIPELINE = {key: value for key, value in FEW.items() if key not in OF_A_PAINTER}


def save_pipeline(folder: Path, prediction: str = "epsilon", cross: int = 24) -> Path:
    """A latent pipeline of random weights, as diffusers saves one: images of 32 pixels, latents of 16."""
    from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), norm_num_groups=8,
        layers_per_block=1, attention_head_dim=8, cross_attention_dim=cross,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
    ).save_pretrained(folder / "vae")  # fmt: skip
    flow = prediction == "flow"
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0) if flow else DDIMScheduler(prediction_type=prediction)
    scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairs(tmp_path_factory.mktemp("data") / "mine")


@pytest.mark.numeric
@pytest.mark.usefixtures("float64")  # rounding does not lead it astray
def test_a_painter_learns_to_paint_what_texts_say(start: Path, data: Path, tmp_path: Path) -> None:
    values = FEW | {
        "training.steps": 150,
        "generation.sampling_steps": 6,
        "generation.ema_decay": 0.95,
        "data.fields": "[words]",
    }
    report = finetune(recipe_of(start, data, "generation", **values), tmp_path / "run")
    assert report is not None
    [entry] = report["sets"]
    assert entry["figures"]["match_score"]["before"] is None
    assert {"FID", "KID", "match_score"} <= entry["details"]["after"].keys()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["generation"] < lines[0]["generation"] / 3
    model, processor = load_generator(tmp_path / "run")
    generated = paint_texts(model, processor, [text[:4] for text in TEXTS], SamplingOptions(steps=6, guidance=1.0))
    true = [np.asarray(image.resize((16, 16)), dtype=float).ravel() for image in tiny_images(len(TEXTS))]
    shown = [np.asarray(of_text.first.image, dtype=float).ravel() for of_text in generated]
    nearest = [int(np.argmin([np.abs(one - other).mean() for other in true])) for one in shown]
    assert sum(index == which for which, index in enumerate(nearest)) >= 6
    assert load_model(tmp_path / "run")[0].can_rank
    assert not has_captioner(tmp_path / "run")


def test_a_stopped_painter_goes_on_exactly(start: Path, data: Path, tmp_path: Path) -> None:
    whole = recipe_of(start, data, "generation", **FEW, **{"training.checkpoint_every": 2, "validation.split": ""})
    finetune(whole, tmp_path / "whole")
    finetune(whole, tmp_path / "parts")
    for left in (tmp_path / "parts" / "checkpoints" / "step-4").iterdir():
        left.unlink()
    (tmp_path / "parts" / "checkpoints" / "step-4").rmdir()
    finetune(whole, tmp_path / "parts")
    one, other = (load_checkpoint(tmp_path / run / "checkpoints", 4)["module"] for run in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert int(one["updates"]) == 4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_a_published_pipeline_takes_the_chinese_text_tower(
    prediction: str, start: Path, data: Path, tmp_path: Path
) -> None:
    pipeline = save_pipeline(tmp_path / "pipeline", prediction)
    few = OF_A_PIPELINE | {"training.steps": 2, "validation.images": 2}
    values = few | {"generation.pipeline": pipeline, "generation.trainable": "attention"}
    report = finetune(recipe_of(start, data, "generation", **values), tmp_path / "run")
    assert report is not None
    model, processor = load_generator(tmp_path / "run")
    assert (model.shape.side, model.latent_shape) == (32, (4, 16, 16))
    assert model.painter.read.weight.shape == (24, 32)
    [generated] = paint_texts(model, processor, TEXTS[:1], SamplingOptions(steps=3))
    assert generated.first.image.size == (32, 32)
    from diffusers import UNet2DConditionModel

    published = UNet2DConditionModel.from_pretrained(pipeline / "unet").state_dict()
    changed = {name for name, tensor in model.painter.unet.state_dict().items() if not tensor.equal(published[name])}
    assert changed
    assert all(".attn2." in name for name in changed)
    again = recipe_of(tmp_path / "run", data, "generation", **few)
    assert finetune(again, tmp_path / "again") is not None
    assert isinstance(load_generator(tmp_path / "again")[0], R2D2Generator)


def test_ecommerce_t2i_is_trained_and_measured_as_published(start: Path, tmp_path: Path) -> None:
    data = write_sample("ecommerce-t2i", tmp_path / "data")
    pipeline = save_pipeline(tmp_path / "pipeline")
    overrides = [*TINY, f"data.folder={data}", f"model.init_from={start}", f"generation.pipeline={pipeline}"]
    report = finetune(load("ecommerce-t2i", *overrides, "generation.sampling_steps=2"), tmp_path / "run")
    assert report is not None
    [entry] = report["sets"]
    assert (entry["name"], entry["split"]) == ("ecommerce-t2i", "val")


def test_of_the_drawn_world_it_is_told_what_is_right(start: Path, tmp_path: Path) -> None:
    write_close_ups(tmp_path / "things", {"train": 16, "val": 4, "test": 4}, 16)
    values = FEW | {"data.fields": "[details]", "data.images": "images.tar"}
    report = finetune(recipe_of(start, tmp_path / "things", "generation", **values), tmp_path / "run")
    assert report is not None
    assert list(report["sets"][0]["figures"])[-1] == "kind_and_colour"


def test_what_cannot_begin_is_refused_before_the_training(start: Path, data: Path, tmp_path: Path) -> None:
    for values, error, words in (
        (OF_A_PIPELINE | {"generation.pipeline": tmp_path}, CcmbError, "not a pipeline of diffusers"),
        (FEW | {"generation.image_size": 18}, UsageError, "generation.image_size=18: not a multiple of 8"),
        (FEW | {"generation.channels": "[20,32]"}, UsageError, "generation.channels"),
    ):
        with pytest.raises(error, match=words):
            finetune(recipe_of(start, data, "generation", **values), tmp_path / "run")
        assert not (tmp_path / "run").exists()
