"""A hub that cannot be reached is found out once and at once, and the error says what helps."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants as constants
import pytest

from ccmb.core.errors import CcmbError, UsageError
from ccmb.fetch import hub
from ccmb.r2d2.loading import model_folder
from ccmb.r2d2.pretrained.sources import read_config


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if nothing were known of the hub, and without proxies."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    hub._look_for_hub.cache_clear()
    yield
    hub._look_for_hub.cache_clear()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_an_unreachable_hub_is_looked_for_once(
    online: None, closed_port: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    for opening in (read_config, model_folder):
        with pytest.raises(CcmbError, match="cannot be reached: set another mirror, or give modelscope:ID") as failed:
            opening("some/model")
        assert closed_port in str(failed.value)
    assert [record.message for record in caplog.records].count(
        f"{closed_port} cannot be reached: only models that were fetched before can be opened by id"
    ) == 1
    monkeypatch.delenv("HF_ENDPOINT")
    assert "HF_ENDPOINT=https://hf-mirror.com" in hub.hub_hint()


def test_a_proxy_is_left_to_say_what_it_reaches(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://127.0.0.1:1"})
    assert hub.local_name("some/model") == "some/model"
    assert not constants.HF_HUB_OFFLINE


def test_local_folders_and_names_of_libraries_ask_no_hub(online: None, tmp_path: Path) -> None:
    for name in (str(tmp_path), "open_clip:ViT-B-32/x"):
        assert hub.local_name(name) == name
    assert not constants.HF_HUB_OFFLINE


def test_models_of_modelscope_become_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(model: str) -> str:
        if model != "group/name":
            raise ValueError("no such model")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))  # type: ignore[arg-type]
    assert hub.local_name("modelscope:group/name") == str(tmp_path)
    with pytest.raises(CcmbError, match=r"modelscope:group/other: not to be had from ModelScope \(no such model\)"):
        hub.local_name("modelscope:group/other")
    monkeypatch.setitem(sys.modules, "modelscope", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="pip install modelscope"):
        hub.local_name("modelscope:group/name")
