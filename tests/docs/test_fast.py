"""The page on fast inference: its commands run as they stand, and its benchmark's report holds."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.helpers.pages import blocks
from tests.helpers.runs import command_line, tiny_corpus
from tests.helpers.tiny import tiny_model, tiny_processor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fast_inference


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_corpus(Path("quickstart/corpus"))
    tiny_model().save_pretrained("quickstart/run/model")
    tiny_processor().save_pretrained("quickstart/run/model")
    command = command_line(monkeypatch, capfd)
    for line in blocks("docs/fast.md", "bash")[1].splitlines():
        if not line.startswith("#"):
            result = command(*shlex.split(line)[1:])
            assert result.code == 0, result.err
    assert Path("quickstart/run/model/fast/export.json").is_file()


@pytest.mark.numeric
@pytest.mark.parametrize("native", [True, False])
def test_the_benchmark_reports_speed_and_closeness(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_inference, "native_bf16", lambda device: native)
    options = ["--shape", "test", "--repeats", "1", "--pictures", "2", "--texts", "2", "--depth", "3"]
    fast_inference.main([*options, "--json", str(tmp_path / "fast.json")])
    report = json.loads((tmp_path / "fast.json").read_text())
    close = [claim for claim in report["claims"] if "greatest difference" in claim["name"]]
    assert len(close) == 4
    assert all(claim["value"] < claim["target"] for claim in close)
    lines = report["results"]["speed"]["both cross encoders"]
    assert [line["name"] for line in lines] == [
        "torch, fp32", *["torch, bf16"][: int(native)], "export, fp32", "export, int8"
    ]  # fmt: skip
    assert all(line["pairs_per_second"] > 0 for line in lines)
