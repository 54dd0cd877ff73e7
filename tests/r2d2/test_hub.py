"""The hub without a network: a cache made on disk for reading, a recorder in place of the service for writing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants

from ccmb.core.errors import CcmbError
from ccmb.data.seen_images import Read, SeenImages, read_seen
from ccmb.r2d2.loading import load_model, model_folder
from ccmb.r2d2.modeling import R2D2Model
from tests.helpers.exact import TINY_ERROR
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor


@pytest.fixture
def cached_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a model that the local cache of the hub holds; nothing else is to be had."""
    repository, commit = tmp_path / "hub" / "models--somebody--tiny-r2d2", "0" * 40
    snapshot = repository / "snapshots" / commit
    tiny_model().save_pretrained(snapshot)
    tiny_processor().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "somebody/tiny-r2d2"


def test_a_hub_id_loads_like_a_folder(cached_hub: str) -> None:
    model, processor = load_model(cached_hub)
    inputs = processor(tiny_images(2), TEXTS[:2])
    with torch.no_grad():
        scores, expected = model(**inputs, rank=True).scores, tiny_model()(**inputs, rank=True).scores
        # Not bit for bit: weights lie elsewhere in memory.
        torch.testing.assert_close(scores, expected, rtol=0, atol=TINY_ERROR)


def test_an_id_that_the_hub_does_not_give_is_one_line(cached_hub: str) -> None:
    with pytest.raises(CcmbError, match="somebody/else: no such model folder, and not to be had from the hub") as error:
        model_folder("somebody/else")
    assert "\n" not in str(error.value)


def test_a_name_beside_an_existing_folder_is_never_asked_of_the_hub(
    cached_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody").mkdir()
    with pytest.raises(CcmbError, match=r"no such model folder$"):
        model_folder(cached_hub)


def test_push_to_hub_uploads_the_files_of_model_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: set[str] = set()

    def create_commit(repo_id: str, operations: Any, **_: Any) -> None:
        assert repo_id == "somebody/tiny-r2d2"
        uploaded.update(operation.path_in_repo for operation in operations)

    service = SimpleNamespace(create_repo=lambda id, **_: SimpleNamespace(repo_id=id), create_commit=create_commit)
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda **_: service)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: ModelCard("A card."))
    tiny_model().push_to_hub("somebody/tiny-r2d2")
    tiny_processor().push_to_hub("somebody/tiny-r2d2")
    needed = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert needed <= uploaded


def test_a_model_takes_along_the_record_of_what_it_was_trained_on(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "new")
    assert read_seen(tmp_path / "new") is None
    seen = SeenImages((Read("flickr8k-cn", "train", 2, 1),), frozenset({("flickr", 7)}))
    seen.write(tmp_path / "new")
    R2D2Model.from_pretrained(tmp_path / "new").save_pretrained(tmp_path / "copies" / "one")
    assert read_seen(tmp_path / "copies" / "one") == seen
