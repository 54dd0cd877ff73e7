"""Shards behind a URL: with and without ranges, over connections that break, and where nothing answers."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.shards.locate import find_shards
from ccmb.data.shards.read import count_samples
from ccmb.data.shards.remote import BrokenFile, open_file
from ccmb.data.shards.stream import stream_batches
from ccmb.data.shards.write import verify_shards
from tests.helpers.shard_folders import SIZE, joined, open_folder, texts_of, write_shards


@dataclass
class Server:
    """Serves a folder.

    Attributes:
        ranges: whether parts of a file can be asked for.
        breaks: how many more answers of each file end early.
        refuses: how many more requests of each file are answered by an error of the server.
        forbidden: files that are not given.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    breaks: dict[str, int] = field(default_factory=Counter)
    refuses: dict[str, int] = field(default_factory=Counter)
    forbidden: set[str] = field(default_factory=set)
    requests: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("ccmb.data.shards.remote.WAITS", (0.01, 0.02, 0.04))
    state = Server(write_shards(tmp_path, 40, 5))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(send=False)

        def do_GET(self) -> None:
            self.answer(send=True)

        def answer(self, send: bool) -> None:
            name = self.path.strip("/").split("?")[0]
            path = state.folder / name
            state.requests[name] += send
            if name in state.forbidden:
                return self.send_error(403)
            if state.refuses[name] > 0:
                state.refuses[name] -= 1
                return self.send_error(503)
            if not name or not path.exists():
                return self.send_error(404)
            data = path.read_bytes()
            first, last, status = 0, len(data) - 1, 200
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if state.ranges and asked:
                first, last, status = int(asked[1]), min(int(asked[2]), last), 206
            self.send_response(status)
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("Accept-Ranges", "bytes" if state.ranges else "none")
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            if send:
                part = data[first : last + 1]
                if state.breaks[name] > 0:
                    state.breaks[name] -= 1
                    part = part[: len(part) // 4]
                    self.close_connection = True
                self.wfile.write(part)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        yield state
        http.shutdown()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("breaks", [0, 2])
def test_a_url_gives_what_the_folder_gives(server: Server, ranges: bool, breaks: int) -> None:
    server.ranges = ranges
    server.breaks |= {path.name: breaks for path in server.folder.iterdir()}
    local, remote = open_folder(server.folder, 8, 4), open_folder(f"{server.url}/", 8, 4)
    assert texts_of(remote, 3, 12) == texts_of(local, 3, 12)
    assert verify_shards([f"{server.url}/"]).problems == []


def test_workers_read_urls_too(server: Server) -> None:
    source = server.url + "/shard-{000000..000007}.tar"
    assert texts_of(open_folder(source, 8, 2), 0, 5, workers=2) == texts_of(open_folder(server.folder, 8, 2), 0, 5)


@pytest.mark.parametrize("ranges", [True, False])
def test_shards_that_fail_for_good_are_lost_by_name_and_the_rest_goes_on(server: Server, ranges: bool) -> None:
    server.ranges = ranges
    stream = open_folder(f"{server.url}/", 8, 4)
    server.breaks["shard-000003.tar"] = server.refuses["shard-000005.tar"] = 10**6
    (server.folder / "shard-000006.tar").rename(server.folder / "gone")
    items = joined(stream_batches(stream, SIZE, 0, 5, list, joined))
    (server.folder / "gone").rename(server.folder / "shard-000006.tar")
    whole = joined(texts_of(open_folder(server.folder, 8, 4), 0, 5))
    present = [(item[1], text) for item, text in zip(items, whole, strict=True) if not isinstance(item, str)]
    assert all(one == other for one, other in present)
    lost = sorted({item.removeprefix(f"{server.url}/") for item in items if isinstance(item, str)})
    expected = [
        r"shard-000003\.tar: (broke off at byte [\d,]+|could not be opened), and 3 further attempts failed too \(.+\)"
        r" after \d of 5 samples; the others are lost",
        r"shard-000005\.tar: could not be opened, and 3 further attempts failed too \(503.+\)"
        r" after 0 of 5 samples; the others are lost",
        r"shard-000006\.tar: no such file after 0 of 5 samples; the others are lost",
    ]
    assert all(any(re.fullmatch(pattern, line) for line in lost) for pattern in expected), lost
    expected.append(r"shard-000003\.tar/\d+: (\.\w+ is cut short|the shard breaks off in it)")
    assert all(any(re.fullmatch(pattern, line) for pattern in expected) for line in lost), lost
    assert len(present) >= 25


def test_a_server_that_comes_back_costs_nothing(server: Server) -> None:
    server.refuses |= {path.name: 3 for path in server.folder.iterdir()}
    with open_file(f"{server.url}/shard-000000.tar") as file:
        assert file.read() == (server.folder / "shard-000000.tar").read_bytes()


def test_a_missing_file_is_not_asked_for_again_and_again(server: Server) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.tar: no such file"):
        open_file(f"{server.url}/none.tar")
    assert server.requests["none.tar"] <= 1
    with pytest.raises(CcmbError, match=r"none\.tar: no such shard"):
        count_samples(f"{server.url}/none.tar")


def test_what_the_server_does_not_allow_is_said_at_once(server: Server) -> None:
    server.forbidden = {"shards.jsonl", "shard-000001.tar"}
    shards = find_shards([f"{server.url}/shard-{{000000..000001}}.tar?key=secret"])
    assert [(shard.name, shard.samples) for shard in shards] == [("shard-000000.tar", None), ("shard-000001.tar", None)]
    assert count_samples(shards[0].url) == (5, None)
    with pytest.raises(BrokenFile, match=r"shard-000001\.tar\?key=secret: the server does not allow it \(403"):
        count_samples(shards[1].url)
    assert server.requests["shard-000001.tar"] <= 1


def test_a_manifest_that_a_server_cannot_give_now_is_not_taken_for_none(server: Server) -> None:
    server.refuses["shards.jsonl"] = 10**6
    with pytest.raises(BrokenFile, match=r"shards\.jsonl: could not be opened, and 3 further"):
        find_shards([f"{server.url}/shard-000000.tar"])


def test_without_a_manifest_headers_are_counted(server: Server) -> None:
    (server.folder / "shards.jsonl").unlink()
    [shard] = find_shards([f"{server.url}/shard-000000.tar"])
    assert shard.samples is None
    assert count_samples(shard.url) == (5, None)


def test_where_nothing_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccmb.data.shards.remote.WAITS", (0.01,))
    with pytest.raises(BrokenFile, match=r"127\.0\.0\.1:9/a\.tar: could not be opened, and 1 further") as caught:
        open_file("http://127.0.0.1:9/a.tar")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"gs://x/a\.tar: "):
        open_file("gs://x/a.tar")
