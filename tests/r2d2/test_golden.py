"""The official network's outputs, reproduced: the same tensors in, the same numbers out, in float32.

The reference outputs are no part of the project. They are looked for in $CCMB_GOLDEN, or in shared/golden beside the
repository; without them these tests are skipped.
"""

from __future__ import annotations

import json
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ccmb.objectives.matching import match_log_probabilities, matching_loss
from ccmb.objectives.pre_ranking import gcpr_loss, multi_positive_targets, similarity
from ccmb.objectives.ranking import hard_negative_weights
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.official import from_official, to_official
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import load_tokenizer

GOLDEN = Path(os.environ.get("CCMB_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the official network's reference outputs")
TEXTS = ["一个孩子跑过喷泉。", "两只棕色的狗在草地上奔跑,其中一只嘴里叼着飞盘", "乔丹投篮", "iPhone 15 手机壳 透明防摔"]
# Both sides are float32. Roundings of n operations one after the other are of either sign and add up to about sqrt(n)
# eps of what is computed (Higham and Mary 2019, SIAM J. Sci. Comput. 41): a layer of width W has 12 W of them on a
# path, and 12 layers of 768 make 4e-5, 24 of 1024 6e-5; twice, and with room for the cross encoders.
TOLERANCE = {"base": 1e-4, "large": 2e-4, "prd2": 2e-4}
slow = pytest.mark.slow  # the large network: 2 GB of weights
NETWORKS = ["base", pytest.param("large", marks=slow), pytest.param("prd2", marks=slow)]
NORMS = ("LayerNorm.weight", "layer_norm1.weight", "layer_norm2.weight", "layrnorm.weight", "layernorm.weight")


def filled_state(network: str) -> dict[str, Tensor]:
    """The official state dict with the weights that the reference outputs were computed with."""
    state = {}
    for name, shape in json.loads((GOLDEN / f"{network}.state_dict.json").read_text()):
        rng = np.random.default_rng([zlib.crc32(name.encode()), 1])
        value = rng.standard_normal(size=shape, dtype=np.float32) * np.float32(0.02)
        if name.endswith(NORMS):
            value += 1
        state[name] = torch.as_tensor(np.float32(0.07) if name == "temp" else value)
    return state


@cache
def reference(network: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{network}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


class Outputs:
    """What our network says of the reference inputs."""

    def __init__(self, model: R2D2Model, network: str) -> None:
        pixels = np.random.default_rng([7, 1]).standard_normal((4, 3, 224, 224), dtype=np.float32)
        given = reference(network)
        with torch.no_grad():
            self.images = model.encode_image(torch.from_numpy(pixels))
            self.texts = model.encode_text(given["input_ids"].long(), given["attention_mask"].long())
            if model.can_rank:
                text, image = (index.flatten() for index in torch.meshgrid(*[torch.arange(4)] * 2, indexing="ij"))
                self.rank = model.rank(self.images, self.texts, image, text)
                self.text_cross = model.read_texts(self.images, self.texts, image, text)[:, 0]
                whole = model.image_text_encoder(
                    model.image_to_cross(self.images.states), None, self.texts.states, self.texts.mask, image, text
                )
                self.image_cross = whole.first
        self.temperature = model.temperature.detach()


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Any:
    """(name, outputs, whether the round trip gave back the same state)."""
    name: str = request.param
    state = filled_state(name)
    model = from_official(state)
    back = to_official(model)
    same = set(back) == set(state) and all(torch.equal(back[key], value) for key, value in state.items())
    return name, Outputs(model, name), same


def assert_agrees(own: Tensor, network: str, name: str) -> None:
    """Relative error, the largest difference over the largest value, within the network's tolerance."""
    expected = reference(network)[name]
    assert own.shape == expected.shape
    assert float((own - expected).abs().max() / expected.abs().max()) < TOLERANCE[network], name


def test_the_round_trip_gives_back_every_tensor_bit_for_bit(network: Any) -> None:
    assert network[2]


def test_towers_agree(network: Any) -> None:
    name, outputs, _ = network
    assert_agrees(outputs.images.embed, name, "image_embed")
    assert_agrees(outputs.texts.embed, name, "text_embed")
    if name != "prd2":
        assert_agrees(outputs.images.states[:, 0], name, "image_hidden_cls")
        assert_agrees(outputs.images.states[:, -1], name, "image_hidden_last")
        assert_agrees(outputs.texts.states[:, 0], name, "text_hidden_cls")


def test_cross_encoders_and_match_heads_agree(network: Any) -> None:
    name, outputs, _ = network
    if name == "prd2":
        pytest.skip("PRD2 has two towers alone")
    assert_agrees(outputs.text_cross, name, "text_cross_cls")
    assert_agrees(outputs.image_cross, name, "image_cross_cls")
    assert_agrees(outputs.rank.logits_text_image, name, "itm_logits_text")
    assert_agrees(outputs.rank.logits_image_text, name, "itm_logits_image")
    assert_agrees(outputs.rank.score.view(4, 4), name, "match_score")


def test_the_matching_loss_agrees(network: Any) -> None:
    name, outputs, _ = network
    if name == "prd2":
        pytest.skip("PRD2 has two towers alone")
    pairs = torch.arange(4) * 5  # image i with text i
    heads = outputs.rank.logits_text_image[pairs], outputs.rank.logits_image_text[pairs]
    assert_agrees(match_log_probabilities(*heads).exp(), name, "matching_pred")
    assert_agrees(matching_loss(*heads, torch.tensor([1, 0, 1, 0]), "official"), name, "matching_loss")


def test_gcpr_and_the_weights_of_hard_negatives_agree(network: Any) -> None:
    name, outputs, _ = network
    if name == "prd2":
        pytest.skip("no losses are recorded for it")
    image, text = outputs.images.embed, outputs.texts.embed
    for ids, loss in (([0, 1, 2, 3], "gcpr_loss"), ([0, 1, 1, 3], "gcpr_loss_multi_positive")):
        targets = multi_positive_targets(torch.tensor(ids)[:, None] == torch.tensor(ids)[None, :])
        assert_agrees(gcpr_loss(image, text, outputs.temperature, targets), name, loss)
    for rows, columns, weights in ((image, text, "i2t"), (text, image, "t2i")):
        own = hard_negative_weights(similarity(rows, columns, outputs.temperature), torch.eye(4, dtype=torch.bool))
        expected_values = reference(name)[f"hard_negative_weights_{weights}"]  # not normalised: drawing does that
        torch.testing.assert_close(
            own, expected_values / expected_values.sum(1, keepdim=True), rtol=TOLERANCE[name] * 10, atol=1e-6
        )


def test_token_ids_of_the_official_vocabulary_agree() -> None:
    processor = R2D2Processor(load_tokenizer(GOLDEN / "vocab.txt"), 224)
    encoded = processor.texts(TEXTS, padding="max_length")
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(encoded[name], reference("base")[name].long())
