"""Wukong's checkpoints: the network is CLIP's, and late interaction sentence-transformers' MeanMaxSim."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers.exact import TINY_ERROR
from tests.helpers.tiny import tiny_images
from tests.helpers.wukong import KINDS, REDUCED, clip, save_wukong, wukong_state
from torch import Tensor
from torch.nn.functional import normalize

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.class_names import ImageClass
from ccmb.inference.late_interaction import directed_scores, late_scores
from ccmb.inference.models.open_model import may_rank, open_model
from ccmb.inference.models.wukong_network import wukong_network
from ccmb.tasks.classification.prompts import fill
from ccmb.tasks.classification.rerank import make_classifier

pytestmark = pytest.mark.numeric

TEXTS = ["一只红色的小船", "海边", "小船停在海边", "红"]


def drawn(seed: int = 0, pairs: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of pairs, normalised, and the texts' mask; all cosines of one image are negative."""
    generator = torch.Generator().manual_seed(seed)
    image = normalize(torch.randn(pairs, 5, 8, generator=generator, dtype=torch.double), dim=-1)
    text = normalize(torch.randn(pairs, 7, 8, generator=generator, dtype=torch.double), dim=-1)
    mask = (torch.arange(7) < torch.tensor([7, 1, 3, 5, 2, 4])[:pairs, None]).long()
    image[1] = -text[1, :1]
    return image, text * mask[..., None], mask


def plain_scores(image: Tensor, text: Tensor, mask: Tensor, official: bool) -> tuple[list[float], list[float]]:
    to_text, to_image = [], []
    for tokens, words, real in zip(image, text, mask, strict=True):
        known = [word for word, is_real in zip(words, real, strict=True) if is_real]
        partners = list(words) if official else known
        to_text.append(sum(max(float(token @ word) for word in partners) for token in tokens) / len(tokens))
        to_image.append(sum(max(float(token @ word) for token in tokens) for word in known) / len(known))
    return to_text, to_image


@pytest.mark.parametrize("padding", ["exact", "official"])
def test_scores_are_the_plain_sums(padding: str) -> None:
    image, text, mask = drawn()
    scores = directed_scores(image, text, mask, padding)  # type: ignore[arg-type]
    for score, expected in zip(scores, plain_scores(image, text, mask, padding == "official"), strict=True):
        torch.testing.assert_close(score, torch.tensor(expected, dtype=torch.double), rtol=0, atol=1e-12)
    if padding == "official":  # where padding is the best partner
        assert float(scores[0][1]) == 0.0 > float(directed_scores(image, text, mask)[0][1])


def test_scores_are_mean_maxsim_both_ways() -> None:
    util = pytest.importorskip("sentence_transformers.util")
    image, text, mask = drawn(1)
    to_text, to_image = directed_scores(image, text, mask)
    for score, expected in (
        (to_text, util.mean_maxsim_pairwise(image, text, None, mask)),
        (to_image, util.mean_maxsim_pairwise(text, image, mask, None)),
    ):
        torch.testing.assert_close(score, expected.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(late_scores(image, text, mask), (to_text + to_image) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_clips(kind: str, tmp_path: Path) -> None:
    model, reference = open_model(save_wukong(tmp_path, kind)), clip(kind)
    assert (model.kind, model.can_rank, may_rank(model.source)) == ("wukong", kind != "global", True)
    pixels = torch.cat([model.prepare(image) for image in tiny_images(3)])  # type: ignore[attr-defined]
    ids = model.encode_texts(TEXTS)
    encoded = model.first._tokenizer if kind != "global" else model._tokenizer  # type: ignore[attr-defined]
    padded = (
        {"padding": "longest"} if kind == "global" else {"padding": "max_length", "max_length": model.context_length}
    )
    tokens = encoded(TEXTS, return_tensors="pt", **padded)["input_ids"]
    with torch.no_grad():
        seen = reference.vision_model(pixels)
        image_states = reference.visual_projection(reference.vision_model.post_layernorm(seen.last_hidden_state))
        text_states = reference.text_projection(reference.text_model(tokens).last_hidden_state)
    images = model.encode_images(range(3), tiny_images(3).__getitem__)
    if kind == "global":
        last = (tokens != 0).sum(1) - 1
        expected_texts = normalize(text_states[torch.arange(len(TEXTS)), last], dim=-1)
        torch.testing.assert_close(images.embed, normalize(image_states[:, 0], dim=-1), rtol=0, atol=TINY_ERROR)
        torch.testing.assert_close(ids.embed, expected_texts, rtol=0, atol=TINY_ERROR)
        return
    if kind == "token_wise":
        expected = normalize(image_states[:, 1:], dim=-1)
        torch.testing.assert_close(images.states, expected, rtol=0, atol=TINY_ERROR)
    assert images.states.shape == (3, REDUCED if kind == "reduced" else 16, KINDS[kind])
    mask = (tokens != 0)[..., None]
    torch.testing.assert_close(ids.states, normalize(text_states, dim=-1) * mask, rtol=0, atol=TINY_ERROR)


def test_tokens_are_reduced_by_softmax_weights_over_places() -> None:
    state = wukong_state("reduced")
    network = wukong_network("x", state)
    reduction, prefix = network.visual.token_reduction, "visual.token_learner."
    assert reduction is not None
    tokens = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    normed = torch.nn.functional.layer_norm(tokens, (32,), state[f"{prefix}norm.weight"], state[f"{prefix}norm.bias"])

    def grouped(values: Tensor, weight: Tensor) -> Tensor:  # (B, S, D), by eight groups of four features
        parts = [values[..., at * 4 : at * 4 + 4] @ weight[at * 4 : at * 4 + 4, :, 0, 0].T for at in range(8)]
        return torch.cat(parts, -1)

    maps = (
        grouped(normed, state[f"{prefix}attention_maps.0.weight"])
        @ state[f"{prefix}attention_maps.1.weight"][..., 0, 0].T
    )
    expected = maps.softmax(1).transpose(1, 2) @ grouped(tokens, state[f"{prefix}feat_conv.weight"])
    torch.testing.assert_close(reduction(tokens), expected, rtol=1e-4, atol=1e-4)


def test_both_stages_rank_and_are_calibrated(tmp_path: Path) -> None:
    model = open_model(save_wukong(tmp_path, "token_wise") + "&padding=exact")
    images, texts = model.encode_images(range(3), tiny_images(3).__getitem__), model.encode_texts(TEXTS)
    index = torch.tensor([0, 1, 2]), torch.tensor([3, 0, 1])
    scores = model.score_pairs(images, texts, *index)
    expected = late_scores(images.states[index[0]], texts.states[index[1]], texts.mask[index[1]])
    torch.testing.assert_close(scores.ranking, expected)
    assert not model.is_calibrated
    model.calibrate(0.1, 0.2)
    match = model.score_pairs(images, texts, *index).match
    assert match is not None
    torch.testing.assert_close(match.probability, ((expected - 0.2) / 0.1).sigmoid(), rtol=0, atol=1e-6)
    again = open_model(model.source)
    assert again.fingerprint == model.fingerprint


@pytest.mark.parametrize("kind", ["token_wise", "reduced"])
def test_classes_are_scored_by_shares_that_are_averaged_over_prompts(kind: str, tmp_path: Path) -> None:
    model, count = open_model(save_wukong(tmp_path, kind)), 3
    classes = [ImageClass(("猫",)), ImageClass(("狗", "小狗")), ImageClass(("船",)), ImageClass(("一只红色的小鸟",))]
    templates = ["{}", "{}的画"]
    scores = make_classifier(model, classes, templates, depth=len(classes)).scores(tiny_images(count))
    image_BSD = model.encode_images(range(count), tiny_images(count).__getitem__).states
    shares = []
    for template in templates:
        columns = []
        for one in classes:
            texts = [model.encode_texts([fill(template, name)]) for name in one.names]
            tokens_TD = [text.states[0] * text.mask[0, :, None] for text in texts]
            assert all(not text.mask.all() for text in texts)  # alone too, a text has padding, which is a zero vector
            columns.append(torch.stack([(image_BSD @ tokens.T).amax(2).mean(1) for tokens in tokens_TD]).mean(0))
        shares.append(torch.stack(columns, 1).softmax(1))
    expected_BC = torch.stack(shares).mean(0)
    torch.testing.assert_close(scores.ranking, expected_BC.gather(1, scores.candidates), rtol=0, atol=TINY_ERROR)


def test_faults_are_named(tmp_path: Path) -> None:
    name = save_wukong(tmp_path, "global")
    assert open_model(f"{name}&similarity=token_wise").can_rank
    for wrong, words in (
        (f"{name}&similarity=x", "there are global, token_wise"),
        (f"{name}&padding=none", "there are exact, official"),
        (f"{name}&padding=exact", "is of token-wise models"),
        (f"{name}&dim=3", "unknown option"),
    ):
        with pytest.raises(UsageError, match=words):
            open_model(wrong)
    with pytest.raises(UsageError, match="--context-length is 99"):
        open_model(name, 99)
    state = wukong_state("global")
    for broken, words in (
        ({"a": torch.zeros(1)}, r"lacks the tensor visual.conv1.weight; it is none of Wukong's"),
        ({key: value for key, value in state.items() if key != "visual.proj"}, "lacks the tensor visual.proj"),
        (state | {"visual.ln_pre.weight": torch.zeros(3)}, "not a whole checkpoint of Wukong"),
    ):
        torch.save(broken, tmp_path / "wukong.ckpt")
        with pytest.raises(CcmbError, match=words):
            open_model(name)
