"""Peers: whatever the model, its embeddings are those of the library it comes from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.exact import TINY_ERROR
from tests.helpers.model_features import save_features
from tests.helpers.official_states import WORDS, official_model, official_state
from tests.helpers.sources import save_text_tower
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor
from tests.helpers.two_towers import BUILDS, save_r2d2, save_two_towers
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.models.open_model import is_r2d2, label_and_source, may_rank, open_model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.towers.two_towers import TowerOutput

pytestmark = pytest.mark.numeric

IMAGES = tiny_images(3)
KINDS = [kind for kind in BUILDS if kind != "fgclip2"]  # which has tests of its own
USUAL = {"chinese_clip": 52, "altclip": 65, "siglip": 20, "siglip2": 20, "metaclip_2": 24, "clip": 24}


def library_texts(folder: Path, kind: str, length: int) -> Tensor:
    """Normalised text features of TEXTS, cut at so many tokens, by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    padding, names = True, ["input_ids", "attention_mask"]
    if kind.startswith("siglip"):
        padding, names = "max_length", ["input_ids"]
    tokens = tokenizer(list(TEXTS), padding=padding, max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return normalize(model.get_text_features(**{name: tokens[name] for name in names}).pooler_output, dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_the_librarys_features_normalised(kind: str, tmp_path: Path) -> None:
    folder = save_two_towers(tmp_path / kind, kind)
    opened = open_model(str(folder))
    pixels = AutoImageProcessor.from_pretrained(folder)(images=IMAGES, return_tensors="pt")
    with torch.no_grad():
        images = AutoModel.from_pretrained(folder).eval().get_image_features(**pixels).pooler_output
    assert (opened.kind, opened.can_rank, opened.name) == (kind, False, kind)
    features, texts = opened.encode_images(range(3), IMAGES.__getitem__).embed, opened.encode_texts(TEXTS).embed
    assert min(features.std(0).max(), texts.std(0).max()) > 0.001  # items differ by far more than the tolerance
    torch.testing.assert_close(features, normalize(images, dim=-1), rtol=0, atol=TINY_ERROR)
    torch.testing.assert_close(texts, library_texts(folder, kind, USUAL[kind]), rtol=0, atol=TINY_ERROR)


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_length_is_the_authors_within_the_models_positions(kind: str, tmp_path: Path) -> None:
    folder = save_two_towers(tmp_path / kind, kind)
    assert open_model(str(folder)).context_length == USUAL[kind]
    short = open_model(str(folder), context_length=6)
    assert short.context_length == 6
    features = short.encode_texts(TEXTS).embed
    torch.testing.assert_close(features, library_texts(folder, kind, 6), rtol=0, atol=TINY_ERROR)
    with pytest.raises(UsageError, match=r"--context-length is 99; .* between 3 and"):
        open_model(str(folder), context_length=99)


def test_the_longest_texts_fit_the_positions(tmp_path: Path) -> None:
    for kind in BUILDS:
        opened = open_model(str(save_two_towers(tmp_path / kind, kind)))
        assert opened.encode_texts(["船" * 200]).embed.isfinite().all()


def test_siglips_texts_are_lower_case(tmp_path: Path) -> None:
    opened = open_model(str(save_two_towers(tmp_path / "siglip", "siglip")))
    assert torch.equal(opened.encode_texts(["ABC 船"]).embed, opened.encode_texts(["abc 船"]).embed)


def test_r2d2_encodes_and_ranks_as_the_model_does(tmp_path: Path) -> None:
    opened = open_model(str(save_r2d2(tmp_path / "run" / "model").parent))  # a run folder
    model, processor = tiny_model(), tiny_processor()
    with torch.no_grad():
        images = model.encode_image(processor.images(IMAGES))
        texts = model.encode_text(**processor.texts(TEXTS[:2]))
        index = torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1])
        cosine = (images.embed[index[0]] * texts.embed[index[1]]).sum(1)
        expected = cosine + model.rank(images, texts, *index).score
    encoded = opened.encode_images(range(3), IMAGES.__getitem__), opened.encode_texts(TEXTS[:2])
    for features, reference in zip(encoded, (images, texts), strict=True):
        torch.testing.assert_close(features.embed, reference.embed, rtol=0, atol=TINY_ERROR)
        torch.testing.assert_close(features.states, reference.states, rtol=TINY_ERROR, atol=TINY_ERROR)
    assert (opened.kind, opened.can_rank, opened.context_length) == ("R2D2", True, 24)
    torch.testing.assert_close(opened.rank_scores(*encoded, *index, cosine), expected, rtol=0, atol=TINY_ERROR)


def test_a_context_length_is_the_models_own_and_the_processor_stays_as_it_is() -> None:
    model, processor, text = tiny_model(), tiny_processor(), TEXTS[3]
    short = R2D2Stages(model, processor, context_length=6)
    assert (short.context_length, short.processor.max_text_tokens, processor.max_text_tokens) == (6, 6, 24)
    with torch.no_grad():
        expected = model.encode_text(**processor(text=[text], max_length=6, truncation=True))
    encoded = short.encode_texts([text])
    assert encoded.states.shape[1] == 6
    torch.testing.assert_close(encoded.embed, expected.embed, rtol=0, atol=TINY_ERROR)
    full = R2D2Stages(model, processor)
    assert full.processor is processor
    assert not torch.allclose(full.encode_texts([text]).embed, encoded.embed, atol=1e-3)


def test_towers_alone_are_a_model_of_one_stage(tmp_path: Path) -> None:
    opened = open_model(str(save_r2d2(tmp_path / "model", cross_layers=0)))
    assert (opened.kind, opened.can_rank) == ("PRD2", False)


def test_a_model_of_one_stage_does_not_rank(tmp_path: Path) -> None:
    opened = open_model(str(save_two_towers(tmp_path, "clip")))
    nothing = TowerOutput(torch.empty(0, 1), torch.empty(0, 0, 0))
    with pytest.raises(ValueError, match="no second stage"):
        opened.rank_scores(nothing, nothing, *torch.empty(3, 0).long())


def test_a_chinese_clip_reads_curly_quotes_as_straight_ones_and_others_do_not(tmp_path: Path) -> None:
    for kind, alike in (("chinese_clip", True), ("clip", False)):
        opened = open_model(str(save_two_towers(tmp_path / kind, kind)))
        normalizer = opened._tokenizer.backend_tokenizer.normalizer  # type: ignore[attr-defined]
        assert ('"' in normalizer.normalize_str("“红”")) == alike


def test_fingerprints_tell_weights_and_settings_apart(tmp_path: Path) -> None:
    clip = str(save_two_towers(tmp_path / "clip", "chinese_clip"))
    first, second = str(save_r2d2(tmp_path / "a")), str(save_r2d2(tmp_path / "b", seed=1))
    rule = str(save_r2d2(tmp_path / "c", ranking_rule="log_odds"))
    models = [open_model(clip), open_model(clip, 20), *map(open_model, (first, second, rule)), open_model(first, 10)]
    assert len({model.fingerprint for model in models}) == len(models)
    assert open_model(first).fingerprint == open_model(f"x={first}").fingerprint
    # A calibration changes no order.
    config = json.loads((tmp_path / "a" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"match_temperature": 2.0}), encoding="utf-8")
    assert open_model(first).fingerprint == models[2].fingerprint


# --- features on disk


def features(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(3, 5, generator=generator), torch.randn(2, 5, generator=generator)
    return save_features(folder, images, texts, ["a.jpg", "b.jpg", "c.jpg"], list(TEXTS[:2]))


def test_features_are_looked_up_by_name_and_text(tmp_path: Path) -> None:
    opened = open_model(str(features(tmp_path)))

    def load(name: str) -> Image.Image:
        raise AssertionError("no image is opened")

    stored = torch.from_numpy(np.load(tmp_path / "images.npy"))
    looked_up = opened.encode_images(["c.jpg", "a.jpg"], load).embed
    torch.testing.assert_close(looked_up, normalize(stored[[2, 0]], dim=-1), rtol=0, atol=TINY_ERROR)
    assert len(opened.encode_texts([TEXTS[1], TEXTS[1]])) == 2
    with pytest.raises(CcmbError, match=r'"images" lacks \'d.jpg\' and 1 more; make its features too'):
        opened.encode_images(["d.jpg", "a.jpg", "e.jpg"], load)


def test_faulty_features_are_named(tmp_path: Path) -> None:
    good = torch.ones(2, 3)
    cases = [
        (good, torch.ones(2, 4), "have 3 numbers each, but texts 4"),
        (torch.ones(3, 3), good, '"images" must list the 3 items of images.npy'),
        (good / 0, good, r"needs finite floats \(items, D\)"),
        (good.long(), good, r"needs finite floats .* found int64"),
    ]
    for images, texts, words in cases:
        with pytest.raises(CcmbError, match=words):
            open_model(str(save_features(tmp_path / "f", images, texts, ["a", "b"], ["c", "d"])))
    (tmp_path / "f" / "texts.npy").write_bytes(b"\x93NUM")
    save = np.ones((2, 3), np.float32)
    np.save(tmp_path / "f" / "images.npy", save)
    with pytest.raises(CcmbError, match=r"texts.npy: not a whole .npy"):
        open_model(str(tmp_path / "f"))
    (tmp_path / "f" / "ids.json").unlink()
    with pytest.raises(CcmbError, match=r"ids.json: missing; features are images.npy, texts.npy, ids.json"):
        open_model(str(tmp_path / "f"))
    with pytest.raises(UsageError, match="leave out --context-length"):
        open_model(str(features(tmp_path / "g")), context_length=10)


# --- names and errors


def test_names_and_labels(tmp_path: Path) -> None:
    (tmp_path / "quick" / "run" / "model").mkdir(parents=True)
    (tmp_path / "lr=0.1").mkdir()
    cases = {
        "OFA-Sys/chinese-clip-vit-base-patch16": ("OFA-Sys/chinese-clip-vit-base-patch16",) * 2,
        f"{tmp_path}/quick/run": ("quick", f"{tmp_path}/quick/run"),
        f"{tmp_path}/lr=0.1": ("lr=0.1", f"{tmp_path}/lr=0.1"),
        "mine=open_clip:ViT-B-32/laion": ("mine", "open_clip:ViT-B-32/laion"),
    }
    for name, expected in cases.items():
        assert label_and_source(name) == expected
    for wrong in ("", "=x", "x="):
        with pytest.raises(UsageError, match="names no model"):
            label_and_source(wrong)


def test_what_is_no_model_to_compare_is_refused_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bert is no model of two towers"):
        open_model(str(save_text_tower(tmp_path / "bert")))
    with pytest.raises(CcmbError, match="no such model folder"):
        open_model(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CcmbError, match=r"config.json: missing"):
        open_model(str(tmp_path / "empty"))
    folder = save_two_towers(tmp_path / "clip", "clip")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CcmbError, match="the image processor cannot be loaded") as caught:
        open_model(str(folder))
    assert "\n" not in str(caught.value)


def test_short_vectors_are_the_first_numbers_normalised(tmp_path: Path) -> None:
    folder = save_r2d2(tmp_path / "short" / "model").parent
    whole, short = open_model(str(folder)), open_model(f"{folder}?dim=8")
    assert (short.name, short.embed_dim, short.can_rank) == ("short?dim=8", 8, True)
    for encode in (lambda one: one.encode_texts(TEXTS), lambda one: one.encode_images([0, 1], IMAGES.__getitem__)):
        expected = normalize(encode(whole).embed[:, :8], dim=-1)
        torch.testing.assert_close(encode(short).embed, expected, rtol=0, atol=TINY_ERROR)
        torch.testing.assert_close(encode(short).states, encode(whole).states, rtol=0, atol=0)
    again = open_model(short.source)
    assert (again.embed_dim, again.fingerprint, again.weights_id) == (8, short.fingerprint, short.weights_id)
    assert len({whole.fingerprint, short.fingerprint, whole.weights_id, short.weights_id}) == 4
    clip = save_two_towers(tmp_path / "clip", "clip")
    for name, words in ((f"{folder}?dim=0", "dim=0 is no number"), (f"{folder}?dim=99", "embeddings have"),
                        (f"{folder}?size=8", "unknown option"), (f"{clip}?dim=8", "dim is of R2D2")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            open_model(name)


# --- official checkpoints


def test_an_official_checkpoint_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    torch.save(official_state(), tmp_path / "r2d2.pth")
    name = f"{tmp_path / 'r2d2.pth'}?tokenizer={tmp_path / 'vocab.txt'}"
    opened, reference = open_model(name), official_model()
    assert (opened.name, opened.kind, opened.can_rank, is_r2d2(name), may_rank(name)) == ("r2d2", "R2D2", *[True] * 3)
    pixels = opened.encode_images([0], tiny_images(1).__getitem__).embed
    processor = opened.processor  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = reference.encode_image(processor.images(tiny_images(1))).embed
    torch.testing.assert_close(pixels, expected, rtol=0, atol=TINY_ERROR)
    monkeypatch.setattr("ccmb.inference.models.official_checkpoint.convert_from_official", None)
    assert open_model(name).fingerprint == open_model(opened.source).fingerprint == opened.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))
    torch.save(official_state(0), tmp_path / "r2d2.pth")
    assert not open_model(name).can_rank
    (tmp_path / "r2d2.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CcmbError, match=r"r2d2\.pth"):
        open_model(name)
    with pytest.raises(UsageError, match="unknown option 'vocab'"):
        open_model(f"{tmp_path / 'r2d2.pth'}?vocab=x")


# --- open_clip


class _FakeOpenClip(torch.nn.Module):
    """What of open_clip's models the adapter uses."""

    context_length = 8

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) * self.scale

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.float() * self.scale


def test_open_clip_by_architecture_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def create(architecture: str, pretrained: str | None) -> tuple[object, None, object]:
        calls.append((architecture, pretrained))
        return _FakeOpenClip(), None, lambda image: torch.tensor(image.getpixel((0, 0))).float()

    def tokenizer(texts: list[str], context_length: int) -> Tensor:
        return torch.tensor([[len(text)] * context_length for text in texts])

    fake = SimpleNamespace(create_model_and_transforms=create, get_tokenizer=lambda name: tokenizer)
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    opened = open_model("open_clip:ViT-B-32/laion2b")
    assert (calls, opened.kind, opened.context_length, opened.can_rank) == (
        [("ViT-B-32", "laion2b")],
        "open_clip",
        8,
        False,
    )
    pixels = torch.tensor([IMAGES[index].getpixel((0, 0)) for index in (2, 0)]).float()
    torch.testing.assert_close(
        opened.encode_images([2, 0], IMAGES.__getitem__).embed, normalize(pixels, dim=-1), rtol=0, atol=TINY_ERROR
    )
    assert opened.encode_texts(["一只猫"]).embed.shape == (1, 8)
    fake.create_model_and_transforms = None
    with pytest.raises(CcmbError, match="open_clip cannot open it"):
        open_model("open_clip:ViT-B-32")


def test_open_clip_is_asked_for_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UsageError, match=r"needs open_clip; install it with pip install 'ccmb\[open-clip\]'"):
        open_model("open_clip:ViT-B-32/laion2b")
