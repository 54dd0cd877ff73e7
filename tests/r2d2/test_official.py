"""Official checkpoints: read without trust, every tensor accounted for, converted there and back."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ccmb.core.errors import CcmbError
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.official import convert_from_official, convert_to_official, from_official, read_checkpoint, to_official
from tests.helpers.exact import assert_same
from tests.helpers.official_states import WORDS, official_model, official_state, same
from tests.helpers.runs import command_line
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("cross_layers", [0, 2], ids=["PRD2", "R2D2"])
def test_official_to_ours_to_official_is_bit_identical(cross_layers: int) -> None:
    state = official_state(cross_layers)
    model = from_official(state)
    assert model.can_rank == bool(cross_layers)
    assert same(to_official(model), state)


def test_a_network_keeps_its_function_on_the_way_through_the_official_form() -> None:
    model = official_model().double()
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32, dtype=torch.double), "input_ids": torch.randint(5, 15, (3, 6))}
    with torch.no_grad():
        again = from_official(to_official(model)).double()
        assert_same(again(**inputs, rank=True).scores, model(**inputs, rank=True).scores)


def test_unread_tensors_and_wrappers_of_training_are_taken_as_they_come() -> None:
    state = official_state()
    positions = {"visual_encoder.embeddings.position_ids": torch.arange(5)[None]}
    wrapped = {f"module.{name}": tensor for name, tensor in (state | positions).items()}
    model: Any = from_official(wrapped)
    assert set(positions) < set(model.official_unused)
    assert {name.split(".")[0] for name in model.official_unused} == {
        "visual_encoder",
        "text_encoder",
        "text_joint_layer",
        "img_joint_layer",
    }
    assert same(to_official(model), state | positions)


def test_what_is_missing_unknown_or_misshapen_is_named() -> None:
    state = official_state()
    for name in ("itm_head.weight", "visual_encoder.pre_layrnorm.bias", "temp", "text_proj.weight"):
        with pytest.raises(CcmbError, match=f"lacks the tensor {name}"):
            from_official({key: value for key, value in state.items() if key != name})
    with pytest.raises(CcmbError, match=r"unknown tensor decoder\.weight and 1 more; it is not R2D2's"):
        from_official(state | {"decoder.weight": torch.zeros(2), "other": torch.zeros(2)})
    with pytest.raises(CcmbError, match=r"img_joint_proj\.weight is \(64, 63\), but the others ask for \(64, 64\)"):
        from_official(state | {"img_joint_proj.weight": torch.zeros(64, 63)})
    with pytest.raises(CcmbError, match=r"patch_embedding\.weight has 1 dimensions; 4 were expected"):
        from_official(state | {"visual_encoder.embeddings.patch_embedding.weight": torch.zeros(3)})


def test_a_checkpoint_of_another_architecture_is_refused() -> None:
    with pytest.raises(CcmbError, match=r"lacks the tensor visual_encoder\..*; it is not R2D2's or PRD2's"):
        from_official({"bert.embeddings.word_embeddings.weight": torch.zeros(10, 4)})


def test_a_network_with_other_towers_has_no_official_form() -> None:
    roberta = {"model_type": "roberta", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(CcmbError, match="towers are clip_vision_model and roberta"):
        to_official(tiny_model(text_config=roberta))
    with pytest.raises(CcmbError, match="pooled output"):
        to_official(tiny_model(image_pooling="tower"))


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_pth_and_safetensors_files_are_read(tmp_path: Path, wrapper: str | None) -> None:
    state = official_state()
    content = {wrapper: state, "epoch": 3} if wrapper else state
    torch.save(content, tmp_path / "official.pth")
    save_file(state, tmp_path / "official.safetensors")
    assert same(read_checkpoint(tmp_path / "official.pth").state, state)
    assert same(read_checkpoint(tmp_path / "official.safetensors").state, state)


class Hostile:
    """Runs a command wherever it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Hostile(mark)}))
    else:
        torch.save({"model": official_state(0) | {"temp": Hostile(mark)}}, path)
    with pytest.raises(CcmbError, match=r"evil\.pth: (refused|not a readable checkpoint)") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
@pytest.mark.parametrize("kept", [0, 4, 1000, -10])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    path = tmp_path / name
    state = official_state(0)
    if path.suffix == ".pth":
        torch.save({"model": state}, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CcmbError, match=name) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_files_without_named_tensors_are_refused(tmp_path: Path) -> None:
    for index, content in enumerate(([torch.zeros(2)], {"model": {"lr": 0.1}}, {3: torch.zeros(1)})):
        torch.save(content, tmp_path / f"{index}.pth")
        with pytest.raises(CcmbError, match=f"{index}.pth: holds no named tensors"):
            read_checkpoint(tmp_path / f"{index}.pth")
    with pytest.raises(CcmbError, match=r"none\.pth: no such checkpoint"):
        read_checkpoint(tmp_path / "none.pth")


def test_a_converted_folder_loads_and_converts_back_bit_for_bit(tmp_path: Path, vocabulary: Path) -> None:
    state = official_state()
    torch.save({"model": state}, tmp_path / "official.pth")
    convert_from_official(tmp_path / "official.pth", tmp_path / "ours", vocabulary)
    model, processor = load_model(tmp_path / "ours")
    inputs = processor(tiny_images(2), ["一只小船", "红色的海"])
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with torch.no_grad():
        again = from_official(state).double()
        assert_same(model.double()(**inputs, rank=True).scores, again(**inputs, rank=True).scores)
    assert convert_to_official(tmp_path / "ours", tmp_path / "back.safetensors") == []
    assert same(load_file(tmp_path / "back.safetensors"), state)


def test_a_network_of_our_own_says_what_the_official_form_leaves_out(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    left_out = convert_to_official(tmp_path / "model", tmp_path / "official.safetensors")
    assert left_out
    assert all(name.startswith("mlm_head.") for name in left_out)


def test_conversion_leaves_nothing_half_done(tmp_path: Path, vocabulary: Path) -> None:
    torch.save({"model": official_state()}, tmp_path / "official.pth")
    before = sorted(tmp_path.iterdir())
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n一\n", encoding="utf-8")
    with pytest.raises(CcmbError, match="has 6 tokens, but the checkpoint was trained with 16"):
        convert_from_official(tmp_path / "official.pth", tmp_path / "ours", vocabulary)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "ours").mkdir()
    with pytest.raises(CcmbError, match="ours: exists already"):
        convert_from_official(tmp_path / "official.pth", tmp_path / "ours", vocabulary)


def test_the_command_converts_there_and_back(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ccmb = command_line(monkeypatch, capfd)
    state = official_state()
    torch.save({"model": state}, tmp_path / "official.pth")
    present = ccmb("convert", tmp_path / "official.pth", tmp_path / "ours", "--tokenizer", vocabulary)
    assert present.code == 0, present.err
    assert "text_joint_layer.embeddings.word_embeddings.weight" in present.out
    back = ccmb("convert", tmp_path / "ours", tmp_path / "back.safetensors")
    assert back.code == 0, back.err
    assert same(load_file(tmp_path / "back.safetensors"), state)
    wrong = ccmb("convert", tmp_path / "ours", tmp_path / "back")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
