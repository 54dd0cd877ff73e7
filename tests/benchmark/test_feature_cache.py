"""Galleries on disk: what is read is what was encoded, in any order, and any damage means that there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from ccmb.benchmark.evaluation.feature_cache import discard_if_large, open_gallery, store_gallery
from ccmb.core.errors import CcmbError
from ccmb.inference.gallery import Gallery, encode_gallery_with
from ccmb.inference.items import EncodedItems
from ccmb.inference.stages import R2D2Encoder
from ccmb.inference.two_stage import two_stage_ranks
from ccmb.r2d2.towers.two_towers import TowerOutput
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

TEXTS_OF = [TEXTS[:2], TEXTS[2:3], TEXTS[3:6], TEXTS[6:7], TEXTS[7:8]]
IMAGE_OF_TEXT = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "made" / "a.safetensors"
    encoder = R2D2Encoder(tiny_model(), tiny_processor())
    store_gallery(path, encoder, range(5), TEXTS, tiny_images(5).__getitem__, batch=3)
    return path


@pytest.fixture(scope="module")
def stored(path: Path) -> Gallery:
    gallery = open_gallery(path, 5, IMAGE_OF_TEXT)
    assert gallery is not None
    return gallery


@pytest.fixture(scope="module")
def held() -> Gallery:
    encoder = R2D2Encoder(tiny_model(), tiny_processor())
    return encode_gallery_with(encoder, range(5), TEXTS_OF, tiny_images(5).__getitem__, batch=3)


def sides(gallery: Gallery) -> tuple[EncodedItems, EncodedItems]:
    return gallery.images, gallery.texts


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_items_read_by_index_are_those_that_were_encoded(stored: Gallery, held: Gallery, indices: list[int]) -> None:
    index = torch.tensor(indices)
    for read_back, in_memory in zip(sides(stored), sides(held), strict=True):
        assert len(read_back) == len(in_memory)
        assert torch.equal(read_back.lengths(index), in_memory.lengths(index))
        read, expected = read_back[index], in_memory[index]
        assert_same(read.embed, expected.embed)
        assert (read.mask is None) == (expected.mask is None)
        longest = read.states.shape[1]
        assert longest == int(expected.lengths(torch.arange(len(index))).max())  # and no longer
        if expected.mask is None:
            assert_same(read.states, expected.states)
        else:
            assert torch.equal(read.mask, expected.mask[:, :longest])
            real = read.mask.bool()
            assert_same(read.states[real], expected.states[:, :longest][real])


def test_embeddings_are_read_in_runs(stored: Gallery, held: Gallery) -> None:
    for read_back, in_memory in zip(sides(stored), sides(held), strict=True):
        assert_same(read_back.embed, in_memory.embed)
        for rows in (slice(1, 3), slice(4, 100), slice(None), slice(2, 2)):
            assert_same(read_back.embeds(rows), in_memory.embeds(rows))


def test_ranks_from_disk_are_those_from_memory(stored: Gallery, held: Gallery) -> None:
    for direction in ("text_to_image", "image_to_text"):
        read_back, in_memory = (two_stage_ranks(tiny_model(), gallery, direction, 4) for gallery in (stored, held))
        assert torch.equal(read_back.pre_ranking, in_memory.pre_ranking)
        assert torch.equal(read_back.ranking, in_memory.ranking)


def test_the_file_is_safetensors_for_any_program(path: Path, held: Gallery) -> None:
    tensors = load_file(path)
    assert_same(tensors["images.embed"], held.images.embed)
    assert_same(tensors["texts.embed"], held.texts.embed)
    assert tensors["texts.states"].shape == (int(tensors["texts.lengths"].sum()), 32)  # without padding
    for index in range(len(TEXTS)):
        start, length = (int(tensors[f"texts.{part}"][index]) for part in ("starts", "lengths"))
        assert_same(tensors["texts.states"][start:][:length], held.texts[torch.tensor([index])].states[0, :length])


class OneStage:
    """An encoder without token states."""

    def encode_images(self, names: range, load: object) -> TowerOutput:
        return TowerOutput(torch.eye(8)[list(names)], torch.empty(len(names), 0, 0))

    def encode_texts(self, texts: list[str]) -> TowerOutput:
        return TowerOutput(torch.eye(8)[[int(text) for text in texts]], torch.empty(len(texts), 0, 0))


def test_models_without_token_states_are_stored_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    store_gallery(path, OneStage(), range(8), list("01234567"), lambda name: name, batch=3)
    gallery = open_gallery(path, 8, torch.arange(8))
    assert gallery is not None
    assert torch.equal(gallery.texts.embed, torch.eye(8))
    assert gallery.images[torch.tensor([3, 1])].states.shape == (2, 0, 0)


def test_a_file_cut_anywhere_or_of_another_size_or_kind_is_none(path: Path, tmp_path: Path) -> None:
    intact, damaged = path.read_bytes(), tmp_path / "b.safetensors"
    assert open_gallery(damaged, 5, IMAGE_OF_TEXT) is None
    for length in (0, 5, 8, 100, 4096, len(intact) // 2, len(intact) - 1):
        damaged.write_bytes(intact[:length])
        assert open_gallery(damaged, 5, IMAGE_OF_TEXT) is None
    other = json.dumps({"images.embed": {"dtype": "F32", "shape": [5, 1], "data_offsets": [0, 20]}}).encode()
    for header in (b"[]" + b" " * 9, b"{}", b"\xff" * 20, other):
        damaged.write_bytes(len(header).to_bytes(8, "little") + header + bytes(20))
        assert open_gallery(damaged, 5, IMAGE_OF_TEXT) is None
    assert open_gallery(path, 4, IMAGE_OF_TEXT) is None
    assert open_gallery(path, 5, IMAGE_OF_TEXT[:-1]) is None


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c.safetensors"
    copy.write_bytes(path.read_bytes())
    gallery = open_gallery(copy, 5, IMAGE_OF_TEXT)
    assert gallery is not None
    copy.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CcmbError, match=f"{copy}: cut short"):
        gallery.texts[torch.arange(8)]


def test_an_encoder_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def load(name: int) -> object:
        raise CcmbError(f"{name}: no image")

    encoder = R2D2Encoder(tiny_model(), tiny_processor())
    with pytest.raises(CcmbError, match="0: no image"):
        store_gallery(tmp_path / "a.safetensors", encoder, range(5), TEXTS, load)
    assert list(tmp_path.iterdir()) == []


def test_only_large_files_are_discarded(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "c.safetensors"
    copy.write_bytes(path.read_bytes())
    discard_if_large(copy)
    assert copy.exists()
    monkeypatch.setattr("ccmb.benchmark.evaluation.feature_cache.MAX_BYTES", copy.stat().st_size - 1)
    discard_if_large(copy)
    assert not copy.exists()
