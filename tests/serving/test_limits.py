"""What the server lets in, how much and how long, and what it says of itself."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Sequence
from typing import Any

import httpx

from ccmb.cli.serve import serve
from ccmb.search.query import SearchQuery
from ccmb.serving.config import ServeOptions
from tests.helpers.serving import (
    ADMIN,
    KEYS,
    SEARCHER,
    SECRET,
    FakeIndex,
    asked,
    b64,
    client,
    error_of,
    listening,
    png,
    tiny_app,
)
from tests.helpers.tiny import TEXTS, tiny_images


def test_keys_open_what_they_should() -> None:
    app = tiny_app(FakeIndex(), KEYS)

    async def work(http: httpx.AsyncClient) -> None:
        assert error_of(await http.post("/search", json={"text": "船"})) == (401, "no_key")
        wrong = {"Authorization": "Bearer wrong-key-of-the-tests"}
        assert error_of(await http.post("/search", json={"text": "船"}, headers=wrong)) == (401, "no_key")
        assert error_of(await http.get("/metrics")) == (401, "no_key")
        right = {"X-API-Key": SEARCHER}
        assert (await http.post("/search", json={"text": "船"}, headers=right)).status_code == 200
        assert (await http.get("/about", headers=right)).json()["can_write"] is False
        for path in ("/healthz", "/", "/page.js", "/openapi.json"):
            assert (await http.get(path)).status_code == 200

    asked(app, work)


def test_other_pages_and_other_names_are_refused() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"json": {"text": "船"}}
        strange = {"Origin": "https://example.org"}
        assert error_of(await http.post("/search", **body, headers=strange)) == (403, "cross_origin")
        own = {"Origin": "http://127.0.0.1:8000"}
        assert (await http.post("/search", **body, headers=own)).status_code == 200
        for odd in ("null", "http://[", "127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:80"):
            assert error_of(await http.post("/search", **body, headers={"Origin": odd})) == (403, "cross_origin")
        rebound = {"Host": "example.org:8000", "Origin": "http://example.org:8000"}
        assert error_of(await http.post("/search", **body, headers=rebound)) == (421, "wrong_host")

    asked(tiny_app(FakeIndex()), work)

    async def named(http: httpx.AsyncClient) -> None:
        assert (await http.get("/healthz", headers={"Host": "pictures.example.org"})).status_code == 200
        assert (await http.get("/healthz", headers={"Host": "localhost:8000"})).status_code == 200
        assert error_of(await http.get("/healthz", headers={"Host": "example.org"})) == (421, "wrong_host")

    asked(tiny_app(names=("pictures.example.org",)), named)
    everywhere = {"Host": "anything.example.org"}
    assert asked(tiny_app(host="0.0.0.0"), lambda http: http.get("/healthz", headers=everywhere)).status_code == 200


def test_bodies_and_images_have_a_largest_size() -> None:
    app = tiny_app(FakeIndex(), max_bytes=20_000, max_pixels=40_000)

    async def work(http: httpx.AsyncClient) -> None:
        assert error_of(await http.post("/search", json={"text": "船", "picture": "A" * 20_000})) == (413, "too_large")

        async def endless() -> Any:
            for _ in range(100):
                yield b"x" * 1000

        chunked = await http.post("/search", content=endless(), headers={"content-type": "application/json"})
        assert error_of(chunked) == (413, "too_large")
        bomb = png(tiny_images(1)[0].resize((201, 200)))
        answer = await http.post("/search", json={"picture": b64(bomb)})
        assert error_of(answer) == (422, "unreadable_picture")
        assert "40,000 pixels" in answer.text

    asked(app, work)


def test_headers_have_a_largest_size() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        assert (await http.get("/healthz", headers={"X-Filler": "y" * 30_000})).status_code == 200
        for path in ("/healthz", "/", "/about"):
            assert error_of(await http.get(path, headers={"X-Filler": "y" * 40_000})) == (431, "headers_too_large")

    asked(tiny_app(FakeIndex()), work)


def test_a_client_that_asks_too_often_is_slowed_and_no_other() -> None:
    app = tiny_app(FakeIndex(), KEYS, rate=0.001, burst=3)

    async def work(http: httpx.AsyncClient) -> None:
        result = [await http.post("/search", json={"text": "船"}) for _ in range(4)]
        assert [answer.status_code for answer in result] == [200, 200, 200, 429]
        assert error_of(result[3]) == (429, "too_many_requests")
        assert int(result[3].headers["retry-after"]) > 100
        other = {"Authorization": f"Bearer {ADMIN}"}
        assert (await http.post("/search", json={"text": "船"}, headers=other)).status_code == 200
        assert (await http.get("/healthz")).status_code == 200

    asked(app, work, SEARCHER)


def test_what_takes_too_long_ends_and_is_dropped() -> None:
    index, go = FakeIndex(), threading.Event()

    def hold(queries: Sequence[SearchQuery]) -> None:
        assert go.wait(10)

    index.before = hold
    app = tiny_app(index, timeout=1.0, wait=0.0)

    async def work(http: httpx.AsyncClient) -> None:
        first, second = await asyncio.gather(
            http.post("/search", json={"text": "一"}), http.post("/search", json={"text": "二"})
        )
        assert [error_of(answer) for answer in (first, second)] == [(504, "too_slow")] * 2
        go.set()
        assert (await http.post("/search", json={"text": "三"})).status_code == 200
        # The second was still in the queue when its time ended, unless both were of one call.
        assert [query.text for query in index.queries] in (["一", "三"], ["一", "二", "三"])

    asked(app, work)


def test_too_much_at_once_is_refused_with_a_time_to_come_back() -> None:
    index, go, busy = FakeIndex(), threading.Event(), threading.Event()

    def hold(queries: Sequence[SearchQuery]) -> None:
        busy.set()
        assert go.wait(60)

    index.before = hold
    for options in ({"queue": 2, "batch": 1}, {"max_requests": 3}):
        go.clear()
        busy.clear()
        app = tiny_app(index, **options)

        async def work(http: httpx.AsyncClient) -> list[httpx.Response]:
            tasks = [asyncio.create_task(http.post("/search", json={"text": "first"}))]
            assert await asyncio.to_thread(busy.wait, 60)  # it is worked on
            tasks += [asyncio.create_task(http.post("/search", json={"text": str(position)})) for position in range(5)]
            async with asyncio.timeout(60):
                while sum(task.done() for task in tasks) < 3:  # those that are refused
                    await asyncio.sleep(0.01)
            go.set()
            return await asyncio.gather(*tasks)

        result = asked(app, work)
        assert [answer.status_code for answer in result] == [200] * 3 + [503] * 3
        assert error_of(result[-1]) == (503, "overloaded")
        assert result[-1].headers["retry-after"] == "1"


def test_what_is_in_flight_when_the_server_is_told_to_stop_is_answered() -> None:
    index, started, go = FakeIndex(), threading.Event(), threading.Event()

    def hold(queries: Sequence[SearchQuery]) -> None:
        started.set()
        assert go.wait(10)

    index.before = hold
    result = list[httpx.Response]()
    with listening(tiny_app(index)) as url:
        asking = threading.Thread(
            target=lambda: result.append(httpx.post(f"{url}/search", json={"text": "船", "k": 2}))
        )
        asking.start()
        assert started.wait(10)
        threading.Timer(0.3, go.set).start()  # well after the server is told to stop
    asking.join()
    assert len(result[0].json()["hits"]) == 2


def test_a_fault_of_the_server_is_internal_and_names_nothing() -> None:
    index = FakeIndex()

    def fail(queries: Sequence[SearchQuery]) -> None:
        if any(query.text == "坏" for query in queries):
            raise RuntimeError(f"{SECRET}/vectors.db is broken")

    index.before = fail
    app = tiny_app(index, wait=0.05)

    async def work() -> list[httpx.Response]:
        async with client(app, raises=False) as http:
            return await asyncio.gather(*(http.post("/search", json={"text": text}) for text in ("好", "坏", "美")))

    good, bad, fair = asyncio.run(work())
    assert error_of(bad) == (500, "internal")
    assert (good.status_code, fair.status_code) == (200, 200)


def test_metrics_count_requests_by_route_and_calls_by_size() -> None:
    app = tiny_app(FakeIndex(), wait=0.05)

    async def work(http: httpx.AsyncClient) -> str:
        await asyncio.gather(*(http.post("/search", json={"text": text}) for text in TEXTS[:4]))
        await http.get("/thumbnails/" + "0" * 32)
        await http.get("/any/thing/at/all")
        return (await http.get("/metrics")).text

    text = asked(app, work)
    assert 'ccmb_requests_total{method="POST",route="/search",status="200"} 4.0' in text
    assert 'ccmb_requests_total{method="GET",route="/thumbnails/{key}",status="404"} 1.0' in text
    assert 'ccmb_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'ccmb_batch_items_bucket{le="4.0",work="searches"} 1.0' in text
    assert 'ccmb_batch_items_bucket{le="2.0",work="searches"} 0.0' in text
    assert "ccmb_pictures 12.0" in text
    assert "any/thing" not in text


def test_every_answer_keeps_browsers_safe() -> None:
    app = tiny_app()

    async def work(http: httpx.AsyncClient) -> list[httpx.Response]:
        return [await http.get(path) for path in ("/", "/healthz", "/nothing")]

    for answer in asked(app, work):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?:", policy)
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_description_names_both_forms_of_a_body() -> None:
    result = asked(tiny_app(keys=KEYS), lambda http: http.get("/openapi.json")).json()
    assert result["openapi"].startswith("3.1")
    content = result["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    for media in content.values():
        name = media["schema"]["$ref"].rpartition("/")[2]
        assert "text" in result["components"]["schemas"][name]["properties"]
    assert result["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    served = {"/search", "/match", "/embed", "/v1/embeddings", "/rerank", "/caption", "/classify", "/healthz"}
    assert served <= set(result["paths"])


def test_options_by_default_are_those_of_the_command() -> None:
    shown = {name: item.default for name, item in inspect.signature(serve).parameters.items()}
    options = ServeOptions()
    assert (shown["batch"], shown["wait"], shown["queue"]) == (options.batch, 1000 * options.wait, options.queue)
    assert (shown["timeout"], shown["rate"], shown["burst"]) == (options.timeout, options.rate, options.burst)
    assert shown["max_megabytes"] * 2**20 == options.max_bytes
    assert shown["max_megapixels"] * 1e6 == options.max_pixels
