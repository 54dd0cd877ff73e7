"""The painter beside R2D2: noise and back, guidance, folders, and painting with a choice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.pipeline import Pipeline
from ccmb.objectives.generation import Generation
from ccmb.r2d2.generative.diffusion import Diffusion, FlowMatching, diffusion_process_of
from ccmb.r2d2.generative.generator import load_generator
from ccmb.r2d2.loading import load_model
from ccmb.tasks.generation.predict import SamplingOptions, check_texts, judge_images, paint_texts
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.exact import PROOFS, assert_same, product_error, same
from tests.helpers.generators import SMALL, tiny_generator
from tests.helpers.tiny import TEXTS, tiny_batch, tiny_model, tiny_processor

pytestmark = PROOFS

pytest.importorskip("diffusers")


@pytest.mark.usefixtures("float32")
def test_eulers_steps_are_those_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    weight, noise = torch.randn(4, 4), torch.randn(3, 4, 2, 2)

    def predict(x: Tensor, time_B: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", weight, x) + (time_B / 1000)[:, None, None, None]

    for shift in (1.0, 3.0):
        process = FlowMatching(shift, predicts_velocity=True)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(7)
        x = noise
        for time in scheduler.timesteps:
            x = scheduler.step(predict(x, time.expand(3)), time, x).prev_sample
        # Seven steps, each of a product of four terms and three operations more, whatever their order.
        limit = product_error(7 * (4 + 3), float(x.abs().max()))
        torch.testing.assert_close(process.sample(predict, noise, 7, "euler"), x, rtol=0, atol=limit)
        # What it adds noise by is ours, too.
        clean = torch.randn(3, 4, 2, 2)
        time = scheduler.timesteps[2:3]
        mixed = scheduler.scale_noise(clean, time, noise)
        torch.testing.assert_close(mixed, process.mix(clean, noise, time.expand(3)), rtol=0, atol=product_error(4, 8.0))


@pytest.mark.parametrize("steps", [2, 7, 28])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shift": 3.0},
        {"shift": 0.5},
        {"shift": 3.0, "shift_terminal": 0.1},
        {"shift": 2.0, "use_karras_sigmas": True},
        {"num_train_timesteps": 500, "shift": 3.0},
    ],
)
def test_a_published_flow_is_sampled_at_the_times_of_diffusers(options: dict[str, Any], steps: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    process = diffusion_process_of({"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler.config})
    assert isinstance(process, FlowMatching)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(process.times(steps), scheduler.sigmas, rtol=0, atol=0)
    asked: list[float] = []

    def predict(x: Tensor, time_B: Tensor) -> Tensor:
        asked.append(float(time_B[0]))
        return x

    process.sample(predict, torch.zeros(1, 1, 1, 1), steps, "euler")
    assert asked == pytest.approx(scheduler.timesteps.tolist(), rel=1e-6)


def test_a_published_flow_without_times_for_so_few_steps_is_refused() -> None:
    flow = FlowMatching(scheduler={"shift": 3.0, "shift_terminal": 0.1})
    with pytest.raises(UsageError, match="no times for 1 steps; take more"):
        flow.times(1)


def test_heuns_steps_are_those_of_diffusers() -> None:
    from diffusers import FlowMatchHeunDiscreteScheduler

    torch.manual_seed(0)
    weight, x = 0.5 * torch.randn(4, 4), torch.randn(3, 4, 2, 2)

    def predict(x: Tensor, time_B: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", weight, x) + (time_B / 1000)[:, None, None, None]

    scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    process = diffusion_process_of({"_class_name": "FlowMatchHeunDiscreteScheduler", **scheduler.config})
    sampled = process.sample(predict, x, 6, "heun")
    scheduler.set_timesteps(6)
    for time in scheduler.timesteps:
        x = scheduler.step(predict(x, time.expand(3)), time, x).prev_sample
    torch.testing.assert_close(sampled, x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting of FlowMatchEulerDiscreteScheduler is not known"),
        ({"invert_sigmas": True}, "invert_sigmas"),
        ({"stochastic_sampling": True}, "stochastic_sampling"),
        ({"_class_name": "FlowMatchLCMScheduler"}, "FlowMatchLCMScheduler is not known here"),
        ({"time_shift_type": "quadratic"}, "not one of flow matching"),
    ],
)
def test_what_a_flows_scheduler_asks_for_in_vain_is_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        diffusion_process_of({"_class_name": "FlowMatchEulerDiscreteScheduler"} | config)


def test_a_network_that_knows_the_image_is_followed_to_it_and_heun_bends_where_euler_cuts() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    flow = FlowMatching()
    assert_same(flow.sample(lambda x, time: clean, noise, 5, "euler"), clean)

    def curved(x: Tensor, time_B: Tensor) -> Tensor:  # dx/dt = x, whose solution is noise / e at 0
        return x

    speed = FlowMatching(predicts_velocity=True)
    euler, heun = (
        float((speed.sample(curved, noise, 8, solver) - noise / torch.e).abs().max()) for solver in ("euler", "heun")
    )
    assert heun < euler / 5


def test_the_loss_of_an_image_that_is_said_is_that_of_its_speed() -> None:
    torch.manual_seed(0)
    clean, noise, predicted = (torch.randn(5, 3, 4, 4) for _ in range(3))
    time = torch.tensor([200.0, 300.0, 500.0, 700.0, 990.0])
    noisy = FlowMatching().mix(clean, noise, time)
    speed = (noisy - predicted) / (time / 1000)[:, None, None, None]
    expected = FlowMatching(predicts_velocity=True).loss(speed, clean, noise, time)
    assert_same(FlowMatching().loss(predicted, clean, noise, time), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_published_networks_own_noise_is_undone_by_what_it_is_asked_for(prediction: str) -> None:
    noise_kind = diffusion_process_of(
        {"_class_name": "PNDMScheduler", "prediction_type": prediction, "num_train_timesteps": 1000}
    )
    assert isinstance(noise_kind, Diffusion)
    torch.manual_seed(0)
    clean, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    alphas = noise_kind.training.alphas_cumprod

    def oracle(x: Tensor, time_B: Tensor) -> Tensor:
        signal = alphas[time_B.long()][:, None, None, None].sqrt()
        hidden = (x - signal * clean) / (1 - signal.square()).sqrt()
        predicted = {"epsilon": hidden, "sample": clean}
        return predicted.get(prediction, signal * hidden - (1 - signal.square()).sqrt() * clean)

    # The scheduler's own constants are float32. Ten steps, each off by a few eps of values up to 4, and the first of
    # them, at the most noise, divides by the root of what is left of the image.
    limit = product_error(10 * 8, 4 / float(alphas[-1].sqrt()))
    torch.testing.assert_close(noise_kind.sample(oracle, noise, 10, "euler"), clean, rtol=0, atol=limit)
    time = torch.tensor([10, 800])
    assert noise_kind.loss(oracle(noise_kind.mix(clean, noise, time), time), clean, noise, time) < 1e-6
    assert diffusion_process_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}).shift == 3.0  # type: ignore[attr-defined]


def test_guidance_goes_from_what_is_painted_without_the_text_beyond_what_is_painted_with_it() -> None:
    generator, processor = tiny_generator(), tiny_processor()
    texts = generator.encode_text(**processor.texts(TEXTS[:2]))
    noise, silent = torch.randn(2, *generator.latent_shape), torch.ones(2, dtype=torch.bool)
    time = torch.full((2,), 1000.0)
    with torch.inference_mode():
        conditional, unconditional = (
            generator.painter(noise, time, texts),
            generator.painter(noise, time, texts, silent),
        )
        assert not torch.allclose(conditional, unconditional)
        for guidance in (0.0, 1.0, 2.5):
            sampled = generator.sample_images(texts, noise, 1, guidance)
            expected = generator.to_pixels(unconditional + guidance * (conditional - unconditional))
            assert_same(sampled, expected)


def test_every_token_of_the_text_counts_and_padding_does_not() -> None:
    generator, processor = tiny_generator(), tiny_processor()
    noise, time = torch.randn(1, *generator.latent_shape).expand(2, -1, -1, -1), torch.full((2,), 500.0)
    with torch.inference_mode():
        alone = generator.painter(noise[:1], time[:1], generator.encode_text(**processor.texts(TEXTS[1:2])))
        padded = generator.painter(noise, time, generator.encode_text(**processor.texts([TEXTS[1], TEXTS[3]])))
        assert_same(alone, padded[:1])
        texts = generator.encode_text(**processor.texts(TEXTS[1:2]))
        texts.states[:, -2] += 1.0
        assert (generator.painter(noise[:1], time[:1], texts) - alone).abs().max() > 1e-3


def test_folding_pixels_loses_nothing() -> None:
    generator, pixels = tiny_generator(), torch.rand(2, 3, 16, 16) * 2 - 1
    assert_same(generator.to_pixels(generator.to_latent(pixels)), pixels)


def test_a_generators_folder_is_a_whole_r2d2_and_comes_back_as_it_was(tmp_path: Path) -> None:
    generator, processor = tiny_generator(), tiny_processor()
    save_model(tmp_path / "model", generator, processor)
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}
    again, _ = load_generator(tmp_path / "model")
    assert again.shape == generator.shape
    for name, tensor in generator.state_dict().items():
        assert_same(again.state_dict()[name], tensor)
    model, _ = load_model(tmp_path / "model")
    assert model.can_rank
    weights = tmp_path / "model" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CcmbError, match=r"generator\.safetensors: the generator cannot be loaded"):
        load_generator(tmp_path / "model")


def test_what_is_painted_depends_on_seed_and_place_and_not_on_the_batch() -> None:
    generator, processor = tiny_generator(), tiny_processor()
    options = SamplingOptions(steps=2, best_of=3, seed=5)
    whole = paint_texts(generator, processor, TEXTS[:3], options, batch=9)
    parts = paint_texts(generator, processor, TEXTS[:3], options, batch=2)
    assert [entry.text for entry in whole] == list(TEXTS[:3])
    for one, other in zip(whole, parts, strict=True):
        for a, b in zip(one.candidates, other.candidates, strict=True):
            assert _apart(a.image, b.image) <= 1
    alone = paint_texts(generator, processor, TEXTS[:3], SamplingOptions(steps=2, seed=5))
    assert all(_apart(a.first.image, b.first.image) <= 1 for a, b in zip(whole, alone, strict=True))
    assert _apart(whole[0].candidates[0].image, whole[0].candidates[1].image) > 1
    other = paint_texts(generator, processor, TEXTS[:1], SamplingOptions(steps=2, seed=6))
    assert _apart(other[0].first.image, alone[0].first.image) > 1


def test_the_judge_orders_candidates_by_match_score() -> None:
    generator, processor = tiny_generator(), tiny_processor()
    judge = Pipeline.from_model(tiny_model(seed=3), tiny_processor(), name="tiny")
    results = paint_texts(generator, processor, TEXTS[:2], SamplingOptions(steps=2, best_of=4), judge)
    for result in results:
        scores = [candidate.match_score for candidate in result.candidates]
        assert scores == sorted(scores, reverse=True)
        assert sorted(candidate.number for candidate in result.candidates) == [0, 1, 2, 3]
        scored = judge_images(judge, [candidate.image for candidate in result.candidates], [result.text] * 4)
        assert [match for _, match in scored] == same(scores)
    towers = Pipeline.from_model(tiny_model(match_heads=False), tiny_processor(), name="towers")
    [generated] = paint_texts(generator, processor, TEXTS[:1], SamplingOptions(steps=2, best_of=2), towers)
    assert generated.candidates[0].match_score is None
    assert generated.candidates[0].cosine >= generated.candidates[1].cosine  # type: ignore[operator]


def test_the_average_paints_and_only_the_painter_learns() -> None:
    torch.manual_seed(0)
    generator = tiny_generator()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    task = Generation(generator, SMALL.model_copy(update={"ema_decay": 0.5}))
    batch = tiny_batch()
    batch = replace(batch, pixel_values=torch.rand(4, 3, 16, 16) * 2 - 1)
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], 0.1)
    task.train().losses(batch)[0]["generation"].backward()
    optimizer.step()
    task.after_step()
    after = generator.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.startswith("painter.") for name in changed)
    rate = 2 / 11  # of the first step
    name = "painter.read.weight"
    expected = rate * before[name] + (1 - rate) * task.student.read.weight
    assert_same(after[name], expected)
    half = Generation(tiny_generator(), SMALL.model_copy(update={"trainable": "attention"}))
    trained = {name for name, parameter in half.student.named_parameters() if parameter.requires_grad}
    assert "read.weight" in trained
    assert all(".attn2." in name or not name.startswith("unet.") for name in trained)


def test_texts_that_cannot_be_painted_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="is empty"):
        check_texts(tiny_processor(), ["一只猫", " "])
    with pytest.raises(UsageError, match="tokens; this model reads up to 24"):
        check_texts(tiny_processor(), ["猫" * 30])


def test_the_command_paints_a_grid_and_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ccmb.cli.main import app

    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", tiny_generator(), tiny_processor())
    save_model(tmp_path / "plain", tiny_model(), tiny_processor())
    run = CliRunner().invoke
    arguments = ["generate", TEXTS[0], TEXTS[1], "--steps", "2", "--best-of", "3", "--pictures", "all", "--json"]
    done = run(app, [*arguments, "--model", "model", "--out", "grid.png"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert [entry["text"] for entry in values["texts"]] == list(TEXTS[:2])
    assert Image.open("grid.png").size == (3 * (128 + 4) + 4, 2 * (128 + 4) + 4)
    assert len(list(Path("all").iterdir())) == 6
    failures = {
        ("  ",): "empty",
        ("猫" * 40,): "up to 24",
    }
    for texts, words in failures.items():
        failed = run(app, ["generate", *texts, "--model", "model"])
        assert isinstance(failed.exception, UsageError)
        assert words in str(failed.exception)
    failed = run(app, ["generate", TEXTS[0], "--model", "plain"])
    assert isinstance(failed.exception, CcmbError)
    assert "paints no images yet" in str(failed.exception)


def _apart(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of two pixels: batches of other sizes are rounded otherwise."""
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))
