"""Any backbone is an image tower: convolutional networks, windows, pyramids; small random ones on disk."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.interface import TwoStageModel
from ccmb.objectives.batch import Batch
from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.common_api import checkpoint_layers
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.onnx.export import export_model
from ccmb.r2d2.onnx.runtime import load_exported
from ccmb.r2d2.pretrained.towers import from_towers
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.resizing import resize
from ccmb.r2d2.towers.image_forms import as_tokens
from tests.helpers.exact import TINY_ERROR, assert_same
from tests.helpers.sources import BACKBONES, EYE, SMALL, assert_arrived, made_backbone, save_backbone, save_text_tower
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = pytest.mark.numeric

# Width, and whether there is a class token; what is projected.
FORMS = {
    "efficientnet": (256, False, "tower"),
    "resnet": (32, False, "tower"),
    "regnet": (32, False, "tower"),
    "convnext": (32, False, "tower"),
    "convnextv2": (32, False, "tower"),
    "dinov3_convnext": (32, True, "first"),
    "mobilenet_v1": (102, False, "tower"),
    "mobilenet_v2": (1280, False, "tower"),
    "swin": (32, False, "tower"),
    "swinv2": (32, False, "tower"),
    "pvt": (32, True, "first"),
    "pvt_v2": (32, False, "mean"),
    "segformer": (32, False, "mean"),
    "poolformer": (32, False, "mean"),
    "aimv2_vision_model": (32, False, "tower"),
    "vit": (32, True, "first"),
    "clip_vision_model": (32, True, "first"),
    "siglip_vision_model": (32, False, "tower"),
    "dinov2": (32, True, "first"),
    "dinov2_with_registers": (32, True, "first"),
}
# Its positions are interpolated with antialiasing wherever a graph is traced, for which ONNX has no operator.
NOT_TRACED = {"dinov2_with_registers"}
OBJECTIVES = Objectives.model_validate({"tgd": {"queue": 6}})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_tower(tmp_path_factory.mktemp("bert"))


def built(kind: str, bert: Path, folder: Path, **config: Any) -> tuple[R2D2Model, R2D2Processor]:
    torch.manual_seed(0)
    model, processor = from_towers(save_backbone(folder / "vision", kind), bert, **SMALL | config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "tower" not in name and weight.dim() > 1:  # so that what a random network says differs
                weight.mul_(10)
    return model, processor


def batch_of(processor: R2D2Processor, count: int = 4) -> Batch:
    texts = processor.texts(TEXTS[:count])
    pixels = processor.images(tiny_images(count))
    return Batch(
        pixel_values=pixels, **texts, maskable=processor.maskable(texts["input_ids"]), image_ids=torch.arange(count)
    )


def outputs_of(model: TwoStageModel, pixels: Tensor, texts: dict[str, Tensor]) -> list[Tensor]:
    index = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    with torch.no_grad():
        images, words = model.encode_image(pixels), model.encode_text(**texts)
        heads = [model.match_text_image(images, words, *index), model.match_image_text(images, words, *index)]
    return [images.embed, images.states, words.embed, words.states[texts["attention_mask"].bool()], *heads]


@pytest.mark.parametrize("kind", FORMS)
def test_a_backbone_arrives_unchanged_and_its_folder_opens_bit_for_bit(kind: str, bert: Path, tmp_path: Path) -> None:
    model, processor = built(kind, bert, tmp_path)
    config = model.config
    assert (config.image_width, config.image_class_token, config.image_pooling) == FORMS[kind]
    assert_arrived(model.image_tower, tmp_path / "vision")
    original, tower = made_backbone(kind).double(), copy.deepcopy(model).double()
    pixels = processor.images(tiny_images(2)).double()
    with torch.no_grad():
        output, own_output = original(pixels), tower.encode_image(pixels)
    cells = as_tokens(output.last_hidden_state)
    assert_same(own_output.states[:, own_output.states.shape[1] - cells.shape[1] :], cells)
    assert own_output.states.shape[1] == cells.shape[1] + (not config.image_class_token)
    if config.image_pooling == "tower":
        assert_same(own_output.pooled, output.pooler_output.flatten(1))
    assert (own_output.embed[0] - own_output.embed[1]).abs().max() > 1e-6  # deep random networks tell little apart

    model.save_pretrained(tmp_path / "r2d2")
    processor.save_pretrained(tmp_path / "r2d2")
    opened, its_processor = load_model(tmp_path / "r2d2")
    assert opened.config.to_diff_dict() == config.to_diff_dict()
    assert its_processor.to_dict() == processor.to_dict()
    state = opened.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", FORMS)
def test_all_objectives_train_a_backbone(kind: str, bert: Path, tmp_path: Path) -> None:
    model, processor = built(kind, bert, tmp_path)
    training = PreTraining(model, OBJECTIVES, processor.tokenizer.mask_token_id).train()
    buffers = {name: tensor.clone() for name, tensor in model.image_tower.named_buffers()}
    losses, _ = training.losses(batch_of(processor), 0.0, torch.Generator().manual_seed(0))
    assert set(losses) == {"gcpr", "fgr", "mlm", "tgd", "fgd"}
    training.total(losses).backward()
    trained = [p for p in model.image_tower.parameters() if p.grad is not None and p.grad.any()]
    assert len(trained) > 0.5 * len(list(model.image_tower.parameters()))
    assert all(p.grad.isfinite().all() for p in trained if p.grad is not None)
    with torch.no_grad():
        for parameter in trained:
            parameter.sub_(parameter.grad, alpha=1e-3)
    training.after_step()
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.image_tower.named_buffers())


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind not in NOT_TRACED])
def test_an_export_says_what_a_backbone_says(kind: str, bert: Path, tmp_path: Path) -> None:
    model, processor = built(kind, bert, tmp_path)
    model.save_pretrained(tmp_path / "r2d2")
    processor.save_pretrained(tmp_path / "r2d2")
    export_model(tmp_path / "r2d2", tmp_path / "export", "fp32")
    exported, _ = load_exported(tmp_path / "export")
    for count in (2, 3):  # a graph is made of two images
        pixels, texts = processor.images(tiny_images(count)), processor.texts(TEXTS[:count])
        for one, other in zip(outputs_of(exported, pixels, texts), outputs_of(model, pixels, texts), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=TINY_ERROR * float(other.abs().max().clamp(min=1)))


PREPROCESSED: list[tuple[dict[str, Any], tuple[int, float, float]]] = [
    ({"image_mean": [0.1] * 3, "image_std": [0.4] * 3, "size": {"height": 96, "width": 96}}, (96, 0.1, 0.4)),
    ({"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}, (64, 0.485, 0.229)),
    ({"size": {"shortest_edge": 96}}, (96, 0.485, 0.229)),
    ({"crop_size": 48, "do_center_crop": False, "size": 128}, (128, 0.485, 0.229)),
    ({"image_mean": [0.2] * 3, "image_std": [0.3] * 3, "do_normalize": False}, (224, 0.0, 1.0)),
    ({"image_mean": [0.2] * 3, "image_std": [0.3] * 3, "include_top": True}, (224, 0.2, 0.09)),
    (
        {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        (224, 0.5, 0.5),
    ),
]


@pytest.mark.parametrize(("said_values", "expected"), PREPROCESSED)
def test_size_and_statistics_are_those_of_the_source(
    said_values: dict[str, Any], expected: tuple[int, float, float], bert: Path, tmp_path: Path
) -> None:
    source = save_backbone(tmp_path / "vision", "resnet")
    (source / "preprocessor_config.json").write_text(json.dumps(said_values))
    model, processor = from_towers(source, bert, **SMALL)
    size, mean, std = expected
    assert (processor.image_size, model.config.image_size) == (size, size)
    assert processor.image_mean[0] == pytest.approx(mean)
    assert processor.image_std[0] == pytest.approx(std)
    assert model.encode_image(processor.images(tiny_images(1))).states.shape[1] == 1 + (-(-size // 32)) ** 2


def test_a_tower_of_positions_keeps_the_size_that_its_configuration_names(bert: Path, tmp_path: Path) -> None:
    source = save_backbone(tmp_path / "vision", "vit")
    (source / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 96, "width": 96}}))
    assert from_towers(source, bert, **SMALL)[1].image_size == 32


@pytest.mark.parametrize(
    ("key", "value"), [("do_flip_channel_order", True), ("do_rescale", False)]
)  # fmt: skip
def test_pixels_that_the_processor_does_not_give_are_refused(key: str, value: bool, bert: Path, tmp_path: Path) -> None:
    source = save_backbone(tmp_path / "vision", "resnet")
    values = {"image_mean": [0.1] * 3, "image_std": [0.4] * 3, key: value}
    (source / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(CcmbError, match=rf"preprocessor_config.json: {key}"):
        from_towers(source, bert, **SMALL)


@pytest.mark.parametrize("kind", ["resnet", "efficientnet", "pvt_v2", "swin"])
def test_another_size_gives_another_number_of_cells_and_the_same_weights(kind: str, bert: Path, tmp_path: Path) -> None:
    model, processor = resize(*built(kind, bert, tmp_path), image_size=96)
    assert (model.config.image_size, processor.image_size) == (96, 96)
    with torch.no_grad():
        states = model.encode_image(processor.images(tiny_images(1))).states
        given = as_tokens(made_backbone(kind)(processor.images(tiny_images(1))).last_hidden_state)
    assert states.shape[1] == given.shape[1] + 1
    torch.testing.assert_close(states[:, 1:], given, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "larger")
    processor.save_pretrained(tmp_path / "larger")
    assert load_model(tmp_path / "larger")[0].config.image_size == 96


def test_positions_that_cannot_be_interpolated_are_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="image_size cannot be changed: the image tower, pvt, has positions in"):
        resize(*built("pvt", bert, tmp_path), image_size=96)


@pytest.mark.parametrize("kind", ["pvt_v2", "swin", "siglip_vision_model"])
def test_gradient_checkpointing_changes_no_gradient(kind: str, bert: Path, tmp_path: Path) -> None:
    model, processor = built(kind, bert, tmp_path)
    pixels = processor.images(tiny_images(2))
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_layers(model)
        for module in model.train().modules():
            if isinstance(module, torch.nn.Dropout) or type(module).__name__.endswith("DropPath"):
                module.eval()
        model.zero_grad()
        model.encode_image(pixels).states.square().sum().backward()
        grads = {name: p.grad.clone() for name, p in model.image_tower.named_parameters() if p.grad is not None}
        gradients.append(grads)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_poolings_that_a_backbone_has_not_are_refused(bert: Path, tmp_path: Path) -> None:
    source = save_backbone(tmp_path / "pvt_v2", "pvt_v2")
    with pytest.raises(UsageError, match="image_pooling is 'first', but a pvt_v2 gives a feature map"):
        from_towers(source, bert, **SMALL, image_pooling="first")
    with pytest.raises(UsageError, match="image_pooling is 'tower', but a pvt_v2 has no pooled output"):
        from_towers(source, bert, **SMALL, image_pooling="tower")


def test_a_backbone_that_hides_patches_by_chance_is_refused(bert: Path, tmp_path: Path) -> None:
    hf.ViTMAEModel(hf.ViTMAEConfig(**EYE | {"patch_size": 4})).save_pretrained(tmp_path / "mae")
    with pytest.raises(UsageError, match="vit_mae says something else of the same image each time"):
        from_towers(tmp_path / "mae", bert, **SMALL)


def test_a_pooling_layer_that_is_not_there_by_default_is_not_asked_for(bert: Path, tmp_path: Path) -> None:
    hf.IJepaModel(hf.IJepaConfig(**EYE)).save_pretrained(tmp_path / "ijepa")
    assert from_towers(tmp_path / "ijepa", bert, **SMALL)[0].config.image_pooling == "mean"


def test_a_model_that_gives_no_states_is_refused(bert: Path, tmp_path: Path) -> None:
    hf.HGNetV2Config().save_pretrained(tmp_path / "hgnet")
    with pytest.raises(UsageError, match="hgnet_v2, gives no last_hidden_state"):
        from_towers(tmp_path / "hgnet", bert, **SMALL)


def test_an_older_folder_that_says_nothing_of_the_form_opens_as_it_was(tmp_path: Path) -> None:
    for kind, has_token in (("clip_vision_model", True), ("siglip_vision_model", False)):
        vision = tiny_model().config.vision_config.to_dict() | {"model_type": kind}
        model = tiny_model(vision_config=vision)
        model.save_pretrained(tmp_path / kind)
        tiny_processor().save_pretrained(tmp_path / kind)
        file = tmp_path / kind / "config.json"
        values = json.loads(file.read_text())
        new = ("image_width", "image_class_token", "text_pooling", "text_prefix", "train_batch_norm")
        file.write_text(json.dumps({key: value for key, value in values.items() if key not in new}))
        opened = load_model(tmp_path / kind)[0]
        assert opened.config.image_class_token is has_token
        assert all(getattr(opened.config, key) == getattr(model.config, key) for key in new)
        pixels = tiny_processor().images(tiny_images(2))
        with torch.no_grad():
            assert torch.equal(opened.encode_image(pixels).states, model.encode_image(pixels).states)


def test_a_saved_folder_opens_without_trying_the_backbone_out(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = built("resnet", bert, tmp_path)
    model.save_pretrained(tmp_path / "r2d2")
    processor.save_pretrained(tmp_path / "r2d2")
    values = json.loads((tmp_path / "r2d2" / "config.json").read_text())
    monkeypatch.setattr("ccmb.r2d2.configuration.image_form", None)
    assert R2D2Config(**values).image_width == 32


def test_every_backbone_has_a_form() -> None:
    assert {*FORMS} <= {*BACKBONES}
