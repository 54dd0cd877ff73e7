"""Checkpoints as trainers and downloads leave them: unwrapped, or refused by what they are."""

from __future__ import annotations

import argparse
import gzip
import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.official import convert_from_official, read_checkpoint
from tests.helpers.official_states import WORDS, official_state, same
from tests.helpers.runs import command_line
from tests.helpers.tiny import tiny_model

STATE = official_state()


def under(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def within(infix: str) -> dict[str, Tensor]:
    return {name.replace("encoder.", f"encoder.{infix}.", 1): tensor for name, tensor in STATE.items()}


OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (STATE, ""),
        (OrderedDict(STATE), ""),
        (under("module."), "module"),
        ({"model": under("module."), "epoch": 3}, "model.module"),
        (
            {"state_dict": under("model."), "optimizer_states": [{"state": {0: {"m": torch.zeros(1)}}}]},
            "state_dict.model",
        ),
        ({"model_state_dict": under("module._orig_mod.")}, "model_state_dict.module"),
        ({"net": STATE, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, "net"),
        ({"module": under("module."), "ds_config": {}}, "module.module"),
        ({"model_ema": under("module.")}, "model_ema.module"),
        ({"ema": STATE}, "ema"),
        ({"teacher": under("backbone.")}, "teacher.backbone"),
        (under("_orig_mod."), ""),
        (within("_fsdp_wrapped_module"), ""),
        (within("_orig_mod"), ""),
        ({"model": STATE, "ema": OTHER}, "model"),
        ({"ema": OTHER, "model": STATE}, "model"),
        ({"teacher": under("module.", OTHER), "student": under("module.")}, "student.module"),
        ({"state_dict": under("model_ema.", OTHER) | under("model.")}, "state_dict.model"),
    ],
    ids=str,
)
def test_what_trainers_wrap_around_weights_is_taken_off(tmp_path: Path, content: Any, where: str) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    result = read_checkpoint(tmp_path / "checkpoint.pth")
    assert result.where == where
    assert same(result.state, STATE)


def test_an_average_is_taken_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    file, command = tmp_path / "both.pth", command_line(monkeypatch, capfd)
    torch.save({"model": STATE, "model_ema": under("module.", OTHER), "criterion": {"centre": torch.zeros(3)}}, file)
    common = "--tokenizer", tmp_path / "vocab.txt"
    outcome = command("convert", file, tmp_path / "trained", *common)
    assert outcome.code == 0
    assert f"{file}: the weights at model\n" in outcome.err
    assert f"{file}: others at model_ema.module; --key takes one of them\n" in outcome.err
    assert f"{file}: 1 tensors that are no weights of the network were left out\n" in outcome.err
    assert command("convert", file, tmp_path / "average", *common, "--key", "model_ema.module").code == 0
    one, other = (float(load_model(tmp_path / name)[0].temperature.detach()) for name in ("trained", "average"))
    assert other == pytest.approx(one + 1)
    outcome = command("convert", file, tmp_path / "none", *common, "--key", "ema")
    assert outcome.code == 1
    assert "no weights at 'ema'; there are weights at 'model', 'model_ema.module'" in outcome.err


def torch_bytes(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def test_the_content_and_not_the_suffix_says_how_a_file_is_read(tmp_path: Path) -> None:
    for name, content in {
        "safe.pth": save(STATE),
        "torch.safetensors": torch_bytes(STATE),
        "old.bin": torch_bytes(STATE, _use_new_zipfile_serialization=False),
        "none": torch_bytes(STATE),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert same(read_checkpoint(tmp_path / name).state, STATE)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("r2d2/r2d2.pth", b"weights")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("r2d2.pth"))
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234567890\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"", "an empty file; fetch it again"),
        (lambda: b"\r\n<!DOCTYPE html>\n<html>", "a web page, not the file that the address seems to name"),
        (lambda: "\ufeff<html lang=zh>".encode(), "a web page"),
        (lambda: POINTER, "a pointer of Git LFS that stands for 1,234.6 MB, not the file; fetch it with git lfs pull"),
        (lambda: b'{"error": "Access denied"}', "JSON, perhaps an error that a server gave"),
        (lambda: "没有这个文件".encode(), "but text"),
        (lambda: gzip.compress(b"x"), "a gzip file; unpack it first"),
        (zipped, "a zip archive with r2d2/r2d2.pth; unpack it first"),
        (tarred, "a tar archive; unpack it first"),
        (scripted, "a program of TorchScript; save its state_dict() in Python and give that"),
        (lambda: torch_bytes(STATE)[:-10], "a zip file or checkpoint of torch that was cut short"),
        (lambda: torch_bytes(STATE, _use_new_zipfile_serialization=False)[:5000], "perhaps cut short"),
        (lambda: save(STATE)[:-10], "not a whole safetensors file, perhaps cut short"),
        (lambda: b"\x93NUMPY\x01\x00", "an array of numpy"),
        (lambda: bytes(range(256)), "no file of weights"),
        (lambda: torch_bytes(torch.zeros(2)), "holds no named tensors, but one tensor"),
        (lambda: torch_bytes([torch.zeros(2)]), "holds no named tensors, but a list of 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, content: Callable[[], bytes], words: str
) -> None:
    (tmp_path / "file.pth").write_bytes(content())
    with pytest.raises(CcmbError) as error:
        read_checkpoint(tmp_path / "file.pth")
    assert str(error.value).startswith(f"{tmp_path / 'file.pth'}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.float64(3), "numpy."),
        (Path("runs"), "pathlib"),
        (defaultdict(list), "collections.defaultdict"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_class_that_was_refused_is_named(tmp_path: Path, extra: Any, name: str) -> None:
    torch.save({"model": STATE, "args": extra}, tmp_path / "zip.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"args": extra}, protocol=4))
    for file in ("zip.pth", "pickle.pth"):
        with pytest.raises(CcmbError, match=rf"refused, for it holds more than tensors .*\({name}") as error:
            read_checkpoint(tmp_path / file)
        assert "save the weights alone" in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {"module.bert.encoder.layer.0.a": torch.zeros(1)}}, "a Chinese-CLIP or BERT in another form"),
        ({"visual.conv1.weight": torch.zeros(1)}, "open_clip:ARCHITECTURE/FILE` takes it"),
        ({"module": under("model.", tiny_model().state_dict())}, "of this package; give its run or model folder"),
        ({"base_model.visual.lora_A.weight": torch.zeros(1)}, "an adapter (LoRA)"),
    ],
    ids=["chinese_clip", "clip", "ours", "lora"],
)
def test_weights_of_another_network_say_whose_they_are(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CcmbError, match=r"other\.pth: lacks the tensor .*it is not R2D2's or PRD2's but") as error:
        read_checkpoint(tmp_path / "other.pth")
    assert words in str(error.value)


def test_half_precision_checkpoints_come_back_bit_for_bit_and_are_opened_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    half, command = {name: tensor.half() for name, tensor in STATE.items()}, command_line(monkeypatch, capfd)
    torch.save(half, tmp_path / "half.pth")
    assert command("convert", tmp_path / "half.pth", tmp_path / "ours", "--tokenizer", tmp_path / "vocab.txt").code == 0
    assert {tensor.dtype for tensor in load_model(tmp_path / "ours")[0].state_dict().values()} >= {torch.float32}
    assert command("convert", tmp_path / "ours", tmp_path / "back.safetensors").code == 0
    assert same(load_file(tmp_path / "back.safetensors"), half)
    refused = command("convert", tmp_path / "ours", tmp_path / "again.safetensors", "--tokenizer", "x", "--key", "ema")
    assert refused.code == 2
    assert "--tokenizer and --key are of a checkpoint that becomes a model folder; leave them out" in refused.err


def test_a_checkpoint_of_nan_is_refused(tmp_path: Path) -> None:
    torch.save(STATE | {"temp": torch.tensor(float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(CcmbError, match=r"nan\.pth: .*temp holds 1 values that are not finite"):
        convert_from_official(tmp_path / "nan.pth", tmp_path / "out", tmp_path / "vocab.txt")
