"""`ccmb serve` as a process: it serves an index or a model, ends in order, and says in one line what cannot be."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import ccmb
from ccmb.core.errors import CcmbError
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.search.indexing.indexer import build_index
from ccmb.search.query import SearchQuery
from ccmb.serving.app import make_app
from ccmb.serving.http.auth import Keys
from ccmb.serving.http.rate_limit import RateLimiter
from ccmb.serving.server import opened
from tests.helpers.runs import command_line
from tests.helpers.serving import client
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

SOURCE = str(Path(ccmb.__file__).parents[1])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images and their index."""
    root = tmp_path_factory.mktemp("shelf")
    (root / "pictures").mkdir()
    for index, image in enumerate(tiny_images(12)):
        image.save(root / "pictures" / f"{index}.png")
    tiny_model().save_pretrained(root / "model")
    tiny_processor().save_pretrained(root / "model")
    build_index([root / "pictures"], root / "index", R2D2Stages(tiny_model(), tiny_processor(), source=root / "model"))
    return root


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ccmb serve` on a free port: the process and its address."""
    words = [sys.executable, "-m", "ccmb", "serve", *map(str, arguments), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = list[str]()
        for line in process.stderr:
            lines.append(line)
            if match := re.search(r"serving at (http://\S+)", line):
                yield process, match[1]
                return
        raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_what_is_in_flight_at_sigterm_is_answered_and_the_end_is_orderly(shelf: Path) -> None:
    with serving(shelf / "index", "--wait", 1500) as (process, url):
        whole = httpx.post(f"{url}/search", json={"text": TEXTS[0], "k": 12}, timeout=30).json()
        assert len(whole["hits"]) == 12
        assert {"cosine", "match", "probability"} <= set(whole["hits"][0])
        assert str(shelf) not in str(whole)
        responses = list[httpx.Response]()
        asking = threading.Thread(
            target=lambda: responses.append(httpx.post(f"{url}/search", json={"text": TEXTS[0], "k": 12}, timeout=30))
        )
        asking.start()
        time.sleep(0.5)  # it waits in the queue
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert responses[0].json()["hits"] == whole["hits"]
        assert process.wait(timeout=15) == 0
        assert process.stderr is not None
        assert "what was in flight is answered" in process.stderr.read()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz")


def test_a_model_alone_serves_all_but_search(shelf: Path) -> None:
    with opened(None, shelf / "model") as (network, index):
        app = make_app(network, index)

        async def work() -> None:
            async with client(app) as http:
                about = (await http.get("/about")).json()
                assert (about["pictures"], about["can_rank"], about["can_caption"]) == (None, True, False)
                assert len((await http.post("/embed", json={"texts": TEXTS})).json()["texts"]) == len(TEXTS)
                assert (await http.post("/search", json={"text": "船"})).status_code == 404

        asyncio.run(work())


def test_a_captioner_serves_captions_too_and_searches_its_index(shelf: Path, tmp_path: Path) -> None:
    R2D2Captioner.from_r2d2(tiny_model(), tiny_processor()).save_pretrained(tmp_path / "captioner")
    tiny_processor().save_pretrained(tmp_path / "captioner")
    for model, captioner in [(tmp_path / "captioner", None), (shelf / "model", str(tmp_path / "captioner"))]:
        with opened(shelf / "index", model, captioner) as (network, index):
            assert index is not None
            [answer] = index.search_many([SearchQuery(TEXTS[0], k=3)])
            assert len(answer.hits) == 3
            assert network.caption(tiny_images(1))[0].text is not None


def test_what_cannot_be_served_is_said_in_one_line(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = command_line(monkeypatch, capfd)
    (tmp_path / "keys").write_text("reader search short\n")
    for code, words, arguments in [
        (2, "give an index, or name one with --model", []),
        (1, "no index here", [tmp_path]),
        (1, "no such file", [shelf / "index", "--api-keys", tmp_path / "none"]),
        (1, "keys:1: the key must have 16", [shelf / "index", "--api-keys", tmp_path / "keys"]),
        (1, "choose others with --host", [shelf / "index", "--host", "192.0.2.1"]),
        (1, "writes no captions yet", ["--model", shelf / "model", "--captioner", shelf / "model"]),
    ]:
        outcome = command("serve", *arguments)
        assert (outcome.code, outcome.err.count("\n")) == (code, 1), outcome.err
        assert words in outcome.err


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_what_is_not_installed_is_named_with_the_way_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("ccmb.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    outcome = command_line(monkeypatch, capfd)("serve", "index")
    assert outcome.code == 1
    assert outcome.err == f"ccmb: serving needs {missing}, which is not installed: pip install 'ccmb[serve]'\n"


def test_keys_are_read_with_their_roles_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\nreader search 0123456789abcdef\nkeeper admin fedcba9876543210\n")
    keys = Keys.read(path)
    reader, keeper = keys.find("0123456789abcdef"), keys.find("fedcba9876543210")
    assert reader is not None
    assert keeper is not None
    assert (reader.name, reader.admin, keeper.name, keeper.admin) == ("reader", False, "keeper", True)
    assert keys.find("0123456789abcdeF") is None
    assert keys.find("\udcff") is None
    for line in ("reader admin 0123456789abcdef", "other search 0123456789abcdef", "a guest 0123456789abcdef", "a b"):
        path.write_text(f"reader search 0123456789abcdef\n{line}\n")
        with pytest.raises(CcmbError, match="keys:2: ") as error:
            Keys.read(path)
        assert "0123456789abcdef" not in str(error.value)


def test_a_bucket_fills_at_its_rate_and_no_further_than_its_brim() -> None:
    now = 0.0
    limiter = RateLimiter(2.0, 3, max_clients=2, clock=lambda: now)
    assert [limiter.wait("a") for _ in range(4)] == [0, 0, 0, 1]
    now = 0.5
    assert [limiter.wait("a"), limiter.wait("a")] == [0, 1]
    assert limiter.wait("b") == 0
    now = 100.0
    assert [limiter.wait("a", 0.5) for _ in range(7)] == [0] * 6 + [1]
    for name in ("c", "d", "e"):
        limiter.wait(name)
    assert limiter.wait("a") == 0  # forgotten, for others came since
    assert RateLimiter(0, 1).wait("a", 1e9) == 0
