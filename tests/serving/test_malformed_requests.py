"""Malformed requests: each is refused with one of the 4xx, none is a fault of the server, and none learns a path."""

from __future__ import annotations

import asyncio
import errno
import json
import random
import re
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import ccmb
from tests.helpers.serving import ADMIN, KEYS, SECRET, FakeIndex, b64, client, listening, png, tiny_app
from tests.helpers.tiny import tiny_images

LEAKS = re.compile(
    "|".join([re.escape(str(SECRET)), re.escape(str(Path(ccmb.__file__).parent)), "Traceback", "\\.py\\b"])
)
POSTED = ("/search", "/pictures", "/embed", "/v1/embeddings", "/match", "/rerank", "/classify", "/caption")


class Asker:
    """Sends requests to one server and counts the statuses of its answers, which are checked."""

    def __init__(self, http: httpx.AsyncClient, runner: asyncio.Runner) -> None:
        self.http, self.runner, self.statuses = http, runner, Counter[int]()

    def __call__(self, **request: Any) -> int:
        answer = self.runner.run(self.http.request(**request))
        self.statuses[answer.status_code] += 1
        assert answer.status_code < 500, (request, answer.text)
        assert not LEAKS.search(answer.text), (request, answer.text)
        assert not LEAKS.search(str(answer.headers))
        if answer.status_code >= 400 and request["method"].upper() != "HEAD":
            assert set(answer.json()["error"]) == {"message", "code"}
        return answer.status_code

    def refused(self, **request: Any) -> None:
        """Send what must be refused."""
        assert 400 <= self(**request) < 500, request


@pytest.fixture
def asker() -> Iterator[Asker]:
    with asyncio.Runner() as runner:
        yield Asker(client(tiny_app(FakeIndex(), KEYS, max_pixels=10**6), ADMIN, raises=False), runner)


def described(asker: Asker, examples: int) -> None:
    """Send `examples` requests to each operation of our description that break it somewhere."""
    schemathesis = pytest.importorskip("schemathesis")
    document = asker.runner.run(asker.http.get("/openapi.json")).json()
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = result.ok()
        strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

        @given(strategy)
        @settings(
            max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def send(case: Any) -> None:
            request = _as_request(case)
            try:
                asker.http.build_request(**request)
            except (ValueError, TypeError, httpx.InvalidURL, UnicodeError):
                return  # no client can send it
            asker(**request)

        send()


def _as_request(case: Any) -> dict[str, Any]:
    given = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
    request = {name: given[name] for name in ("method", "url", "params", "json") if given.get(name) is not None}
    request["headers"] = {name: value for name, value in given["headers"].items() if name.lower() != "authorization"}
    if isinstance(given.get("data"), bytes | str):
        request["content"] = given["data"]
    elif given.get("data") is not None:
        request["data"] = given["data"]
    if given.get("files"):
        request["files"] = [(name, _as_part(part)) for name, part in given["files"]]
    return request


def _as_part(part: Any) -> Any:
    values = list(part) if isinstance(part, tuple) else [None, part]
    values[1] = values[1] if isinstance(values[1], bytes | str) else json.dumps(values[1])
    return tuple(values)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A small PNG file of a very large image."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", head) + _png_chunk(b"IDAT", body) + _png_chunk(b"IEND", b"")


def damaged_images(count: int) -> Iterator[bytes]:
    """Files that end too early or have wrong bytes, by chance."""
    rng, whole = random.Random(0), [_as(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    for index in range(count):
        data = bytearray(whole[index % len(whole)])
        if index % 3 == 0:
            yield bytes(data[: rng.randrange(len(data) // 2)])
            continue
        for _ in range(rng.randrange(1, 40)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield bytes(data)


def _as(kind: str) -> bytes:
    import io

    file = io.BytesIO()
    tiny_images(1)[0].resize((64, 64)).save(file, kind)
    return file.getvalue()


def send_images(asker: Asker, count: int) -> None:
    """Bombs, and images that are none; an image with some wrong pixels may well pass."""
    for side in (1001, 30_000, 2**31 - 1):
        asker.refused(method="POST", url="/search", json={"picture": b64(bomb(side))})
        asker.refused(method="POST", url="/pictures", files={"picture": bomb(side)}, data={"name": "bomb.png"})
    for index, data in enumerate(damaged_images(count)):
        path = ("/search", "/embed", "/match", "/pictures")[index % 4]
        bodies = {
            "/search": {"picture": b64(data)}, "/embed": {"pictures": [b64(data)]},
            "/match": {"text": "船", "pictures": [b64(png()), b64(data)]},
            "/pictures": {"picture": b64(data), "name": "x"},
        }  # fmt: skip
        asker(method="POST", url=path, json=bodies[path])


def send_odd_values(asker: Asker) -> None:
    """Huge texts, wrong types, deep nests, paths and addresses where images, keys and names belong."""
    huge = "船" * 1_000_000
    odd: list[Any] = [None, True, -1, 1e308, "", "\0", "../../etc/passwd", huge, [], {}, [[[]]], {"text": {}}]
    for path in POSTED:
        for value in odd:
            asker.refused(method="POST", url=path, json=value)
            for name in ("text", "picture", "pictures", "texts", "input", "like", "where", "name", "classes"):
                asker.refused(method="POST", url=path, json={name: value, "unknown": 1})
        for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"text":' * 50_000, b'{"text": "\\ud800"}'):
            asker.refused(method="POST", url=path, content=content, headers={"content-type": "application/json"})
        for media in (
            "text/html",
            "multipart/form-data",
            "multipart/form-data; boundary=x",
            "application/xml",
            b"\xe9",
        ):
            asker.refused(method="POST", url=path, content=b"--x", headers={"content-type": media})
        many = [("text", (None, "x"))] * 2000
        asker.refused(method="POST", url=path, files=many)
    for position in ("file:///etc/passwd", "http://169.254.169.254/", "/etc/passwd", "..\\x", "data:image/png;base64,"):
        asker.refused(method="POST", url="/search", json={"picture": position})
        asker.refused(method="POST", url="/v1/embeddings", json={"input": {"image": position}})
    paths = ("..", "%2e%2e%2fetc%2fpasswd", "..%5c..%5cx", "%00", "a" * 5000, "%ff", "x;rm", "0" * 65, "-1", "*")
    for position in paths:
        for method in ("GET", "DELETE", "POST", "PUT", "PATCH", "HEAD"):
            for start in ("/pictures/", "/thumbnails/", "/", "/page.js/", "//", "/v1/"):
                asker(method=method, url=f"http://127.0.0.1:8000{start}{position}")


def test_requests_that_break_the_description_are_refused(asker: Asker) -> None:
    described(asker, 1)
    send_images(asker, 24)
    assert sum(asker.statuses.values()) > 30
    assert asker.statuses[422] > 10


@pytest.mark.slow
def test_a_thousand_malformed_requests_are_refused(asker: Asker) -> None:
    described(asker, 40)
    send_images(asker, 300)
    send_odd_values(asker)
    print(dict(asker.statuses))
    assert sum(asker.statuses.values()) > 2000
    assert sum(count for status, count in asker.statuses.items() if status >= 400) > 1000


def test_odd_values_are_refused(asker: Asker) -> None:
    for name, value in {"text": "船" * 100_000, "like": "../../x", "where": {}, "picture": "/etc/passwd"}.items():
        asker.refused(method="POST", url="/search", json={name: value})
    for path in ("/pictures/..%2f..%2fetc%2fpasswd", "/thumbnails/%00", "/page.js/../app.py", "/" + "a" * 9000):
        asker.refused(method="GET", url=f"http://127.0.0.1:8000{path}")
    assert sum(asker.statuses.values()) == 8
    assert all(400 <= status < 500 for status in asker.statuses)


CLOSED = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


def exchange(port: int, data: bytes) -> bytes:
    """Send `data` to this port and return the answer.

    A server may close while it is being sent more. The system then resets the connection, and the answer may be lost.
    """
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        try:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while part := raw.recv(65536):
                received += part
        except OSError as error:
            if error.errno not in CLOSED:
                raise
    return bytes(received)


def test_what_is_no_http_harms_nobody() -> None:
    noise = random.Random(0)
    sent = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise.randbytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",  # no Host
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        noise.randbytes(5000),
        b"",
    ]
    answered = 0
    with listening(tiny_app(FakeIndex())) as url:
        for data in sent:
            answer = exchange(int(url.rpartition(":")[2]), data)
            answered += bool(answer)
            assert not answer or re.match(rb"HTTP/1\.1 4\d\d ", answer), (data[:60], answer[:200])
            assert not LEAKS.search(answer.decode(errors="replace"))
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
    assert answered >= 5  # of the short ones none can be lost
