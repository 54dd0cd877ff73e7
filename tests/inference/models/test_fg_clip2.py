"""FG-CLIP 2 is SigLIP 2 by its modules, with budgets of patches and long texts by its authors' rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.helpers.exact import TINY_ERROR
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import LONG, SHORT, save_two_towers
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, Siglip2Config, Siglip2Model

from ccmb.core.errors import UsageError
from ccmb.inference.models.fg_clip2 import FgClip2, patch_budget
from ccmb.inference.models.open_model import open_model

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_two_towers(tmp_path_factory.mktemp("models") / "fg", "fgclip2")


def siglip2_of(model: FgClip2, positions: Tensor, head: nn.Linear) -> Siglip2Model:
    """SigLIP 2 itself, with FG-CLIP 2's weights but for its text positions and text head."""
    text = model.config.text_config.to_dict() | {"model_type": "siglip2_text_model"}
    text["max_position_embeddings"] = len(positions)
    vision = model.config.vision_config.to_dict() | {"model_type": "siglip2_vision_model"}
    siglip2 = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).eval()
    weights = {name: tensor for name, tensor in model.state_dict().items() if name in siglip2.state_dict()}
    weights["text_model.embeddings.position_embedding.weight"] = positions
    weights |= {f"text_model.head.{name}": tensor for name, tensor in head.state_dict().items()}
    siglip2.load_state_dict(weights)
    return siglip2


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_texts_are_siglip2s_with_the_walks_positions_and_head(folder: Path, length: int) -> None:
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    embeddings, head = model.text_model.embeddings, model.text_model.head
    positions = embeddings.position_embedding.weight
    if length == LONG:
        head, kept = model.longtext_head, model.config.text_config.keep_len
        positions = embeddings.position_embedding_res.weight.clone()
        positions[:kept] = embeddings.position_embedding_ori.weight[:kept]
    tokens = tokenizer(list(TEXTS), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = siglip2_of(model, positions.detach(), head).get_text_features(**tokens).pooler_output
    opened = open_model(str(folder), None if length == SHORT else length)
    assert (opened.kind, opened.context_length) == ("fgclip2", length)
    features = opened.encode_texts(TEXTS).embed
    assert features.std(0).max() > 0.001
    torch.testing.assert_close(features, normalize(expected, dim=-1), rtol=0, atol=TINY_ERROR)
    assert torch.equal(opened.encode_texts(["ABC 船"]).embed, opened.encode_texts(["abc 船"]).embed)


def test_images_of_several_budgets_in_one_batch_are_each_as_siglip2_sees_it_alone(folder: Path) -> None:
    sizes = {(64, 64): 128, (300, 180): 256, (400, 300): 576, (500, 400): 784, (900, 300): 1024, (640, 480): 1024}
    images = [tiny_images(1)[0].resize(size) for size in sizes]
    assert [patch_budget(image) for image in images] == list(sizes.values())
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    siglip2 = siglip2_of(model, model.text_model.embeddings.position_embedding.weight.detach(), model.text_model.head)
    expected = []
    for image, budget in zip(images, sizes.values(), strict=True):
        pixels = processor(images=image, max_num_patches=budget, return_tensors="pt")
        with torch.no_grad():
            expected.append(normalize(siglip2.get_image_features(**pixels).pooler_output, dim=-1))
    features = open_model(str(folder)).encode_images(range(len(images)), images.__getitem__).embed
    torch.testing.assert_close(features, torch.cat(expected), rtol=0, atol=TINY_ERROR)


@pytest.mark.parametrize(("side", "budget"), [(128, 128), (192, 256), (256, 256), (272, 576), (448, 784), (464, 1024)])
def test_budgets_at_their_borders(side: int, budget: int) -> None:
    assert patch_budget(Image.new("RGB", (side, side))) == budget


def test_a_length_of_neither_walk_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="--context-length is 30; fg reads texts padded to 20 tokens, or long ones"):
        open_model(str(folder), 30)
    with pytest.raises(UsageError, match=r"--context-length is 99; .* between 3 and 40"):
        open_model(str(folder), 99)
