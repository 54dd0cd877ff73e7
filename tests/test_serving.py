"""The server's addresses: what they answer is what the package computes, and what is wrong is said in one form."""

from __future__ import annotations

import asyncio
import base64
import inspect
import re
import struct
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
import torch

from ccmb.cli_serve import serve
from ccmb.data.class_lists import classes_of_names
from ccmb.errors import CcmbError
from ccmb.r2d2.captioning import R2D2Captioner
from ccmb.search.query import Condition, Query
from ccmb.serving.app import make_app
from ccmb.serving.model_work import ModelWork
from ccmb.serving.options import ServeOptions
from ccmb.tasks.captioning import caption_pictures
from ccmb.tasks.class_ranking import classify
from ccmb.tasks.matching import match_pictures
from ccmb.tasks.prompts import SETS
from serving import ADMIN, KEYS, SEARCHER, SECRET, FakeIndex, client, listening, png, tiny_app, tiny_network
from tiny import TEXTS, tiny_pictures


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def asked(app: Any, work: Callable[[httpx.AsyncClient], Awaitable[Any]], key: str | None = None) -> Any:
    """What `work` returns with a client of the application."""

    async def run() -> Any:
        async with client(app, key) as http:
            return await work(http)

    return asyncio.run(run())


def post(app: Any, path: str, body: Any, key: str | None = None) -> httpx.Response:
    return asked(app, lambda http: http.post(path, json=body), key)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, whose form is checked."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "code"}
    assert "secret" not in answer.text
    return answer.status_code, body["error"]["code"]


def test_searches_that_come_together_are_one_call() -> None:
    index = FakeIndex()
    app = tiny_app(index, wait=0.1)

    async def all_at_once(http: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(
            *(http.post("/search", json={"text": text, "k": 3 + place}) for place, text in enumerate(TEXTS))
        )

    found = asked(app, all_at_once)
    assert [answer.status_code for answer in found] == [200] * len(TEXTS)
    assert [len(answer.json()["hits"]) for answer in found] == [3 + place for place in range(len(TEXTS))]
    assert index.calls == [len(TEXTS)]


def test_a_search_says_all_of_a_hit_but_where_it_lies() -> None:
    body = post(tiny_app(FakeIndex()), "/search", {"text": "红船", "k": 2}).json()
    assert {key: body[key] for key in ("no_match", "candidates", "ranked", "more")} == {
        "no_match": False, "candidates": 12, "ranked": 12, "more": True,
    }  # fmt: skip
    first = body["hits"][0]
    assert (first["name"], first["match"], first["place"]) == ("11.png", 1.0, 12)
    assert first["fields"] == {"folder": "夏", "width": 1100}
    assert "source" not in first
    assert set(body["seconds"]) == {"encode", "pre_ranking", "ranking"}


def test_every_way_to_ask_reaches_the_index() -> None:
    index, picture = FakeIndex(), tiny_pictures(1, seed=3)[0]
    app, key = tiny_app(index), next(iter(index.pictures))
    body = {
        "text": "船", "k": 5, "offset": 2, "depth": 9, "rank": True, "min_probability": 0.1, "budget": 0.5,
        "collapse": True, "where": [{"field": "width", "comparison": ">=", "value": 300}, "folder under 夏"],
        "picture": b64(png(picture)),
    }  # fmt: skip
    form = {name: str(value) for name, value in body.items() if name not in ("where", "picture")}

    async def both(http: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await http.post("/search", json={"like": key, "rank": False}),
            await http.post("/search", json=body),
            await http.post(
                "/search",
                data=form | {"where": ["width>=300", "folder under 夏"]},
                files={"picture": ("x.png", png(picture))},
            ),
        ]

    found = asked(app, both)
    assert [answer.status_code for answer in found] == [200] * 3, [answer.text for answer in found]
    like, as_json, as_form = index.queries
    assert (like.like, like.rank) == (key, False)
    for query in (as_json, as_form):
        assert query.picture is not None
        assert torch.equal(*(tiny_network().processor.images([of]) for of in (query.picture, picture)))
        shown = {name: getattr(query, name) for name in form}
        assert shown == {name: body[name] for name in form}
        assert query.where == (Condition("width", ">=", 300), Condition("folder", "under", "夏"))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"text": ""}, "invalid_request"),
        ({"text": "  "}, "invalid_request"),
        ({"text": "船" * 2001}, "invalid_request"),
        ({"text": 3}, "invalid_request"),
        ({"text": "船", "k": 101}, "invalid_request"),
        ({"text": "船", "k": "many"}, "invalid_request"),
        ({"text": "船", "kk": 1}, "invalid_request"),
        ({"text": "船", "offset": -1}, "invalid_request"),
        ({"text": "船", "min_probability": 2}, "invalid_request"),
        ({"text": "船", "rank": False, "min_probability": 0.5}, "invalid_request"),
        ({"text": "船", "where": [{"field": "colour", "comparison": "==", "value": 1}]}, "invalid_request"),
        ({"text": "船", "where": ["width"]}, "invalid_request"),
        ({"text": "船", "where": ["width>=wide"]}, "invalid_request"),
        ({"text": "船", "where": [f"folder under {SECRET}"]}, "invalid_request"),
        ({"text": "船", "where": ["folder==夏"]}, "invalid_request"),
        ({"like": "../../etc/passwd"}, "invalid_request"),
        ({"like": "0" * 32}, "no_such_picture"),
        ({"picture": "no base64!"}, "invalid_request"),
        ({"picture": b64(b"no picture")}, "unreadable_picture"),
        ({"picture": b64(png()[:60])}, "unreadable_picture"),
        ({"picture": "file:///etc/passwd"}, "invalid_request"),
        ({"picture": "http://127.0.0.1/x.png"}, "invalid_request"),
    ],
)
def test_a_search_that_cannot_be_is_refused(body: dict[str, Any], code: str) -> None:
    status, found = error_of(post(tiny_app(FakeIndex()), "/search", body))
    assert found == code
    assert status == (404 if code == "no_such_picture" else 422)


def test_bodies_that_are_no_json_or_form_are_refused() -> None:
    app = tiny_app(FakeIndex())
    sent = [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, (400, "invalid_json")),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, (400, "invalid_json")),
        ({"content": b'{"text": "\\ud800"}', "headers": {"content-type": "application/json"}}, (400, "invalid_json")),
        ({"content": b"text=x", "headers": {"content-type": "text/plain"}}, (415, "unsupported_media_type")),
        ({"content": b"x"}, (415, "unsupported_media_type")),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, (400, "invalid_form")),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, (400, "invalid_form")),
        ({"content": b"[]", "headers": {"content-type": "application/json"}}, (422, "invalid_request")),
        ({"content": b'{"text": "x", "budget": NaN}', "headers": {"content-type": "application/json"}},
         (422, "invalid_request")),
    ]  # fmt: skip
    for request, expected in sent:
        answer = asked(app, lambda http, request=request: http.post("/search", **request))
        assert error_of(answer) == expected, (request, answer.text)


def test_addresses_and_methods_that_are_not_served() -> None:
    app = tiny_app()

    async def ask(http: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await http.get("/nothing"),
            await http.get("/../../etc/passwd"),
            await http.get("/%2e%2e/%2e%2e/etc/passwd"),
            await http.get("/page.js/../../app.py"),
            await http.get("/search"),
            await http.post("/search", json={"text": "船"}),
            await http.post("/caption", json={"pictures": [b64(png())]}),
            await http.get("/thumbnails/%2e%2e%2fsecret"),
        ]

    codes = [error_of(answer) for answer in asked(app, ask)]
    assert codes[:4] == [(404, "not_found")] * 4
    assert codes[4] == (405, "method_not_allowed")
    assert codes[5:7] == [(404, "not_served")] * 2
    assert codes[7][0] in (404, 422)


def test_a_picture_that_goes_while_its_like_is_asked_for_is_not_there() -> None:
    index = FakeIndex()
    key = next(iter(index.pictures))

    def lose(queries: Sequence[Query]) -> None:
        index.delete([key])
        raise CcmbError(f"{SECRET}/{key}: no such picture in the index")

    index.before = lose
    assert error_of(post(tiny_app(index), "/search", {"like": key})) == (404, "no_such_picture")


def test_embeddings_are_the_networks_in_both_forms() -> None:
    app, network, picture = tiny_app(), tiny_network(), tiny_pictures(1, seed=5)[0]
    texts = network.embed_texts(TEXTS[:2])
    [of_picture] = network.embed_pictures([picture])
    found = post(app, "/embed", {"texts": TEXTS[:2], "pictures": [b64(png(picture))]}).json()
    assert found["dim"] == len(of_picture)
    torch.testing.assert_close(torch.tensor(found["texts"]), torch.stack(texts))
    torch.testing.assert_close(torch.tensor(found["pictures"]), of_picture[None])

    mixed = [TEXTS[0], {"image": "data:image/png;base64," + b64(png(picture))}, TEXTS[1]]
    for form in ("float", "base64"):
        answer = post(app, "/v1/embeddings", {"input": mixed, "model": "r2d2", "encoding_format": form}).json()
        assert (answer["object"], answer["model"], answer["usage"]["total_tokens"] > 4) == ("list", "tiny", True)
        assert [of["index"] for of in answer["data"]] == [0, 1, 2]
        rows = [of["embedding"] for of in answer["data"]]
        if form == "base64":
            rows = [struct.unpack(f"<{len(of_picture)}f", base64.b64decode(row)) for row in rows]
        torch.testing.assert_close(torch.tensor(rows), torch.stack([texts[0], of_picture, texts[1]]))
    assert error_of(post(app, "/v1/embeddings", {"input": "船", "dimensions": 3}))[0] == 422
    assert error_of(post(app, "/v1/embeddings", {"input": [1, 2]}))[0] == 422


def test_matching_is_that_of_the_command_line() -> None:
    pictures = tiny_pictures(3, seed=1)
    network = tiny_network()
    expected = match_pictures(network.model, network.processor, TEXTS[0], pictures, 0.5)
    body = {"text": TEXTS[0], "pictures": [b64(png(of)) for of in pictures], "min_probability": 0.5}
    found = post(tiny_app(), "/match", body).json()["results"]
    for of, right in zip(found, expected, strict=True):
        assert of["cosine"] == pytest.approx(right.cosine, abs=1e-5)
        assert of["match"] == pytest.approx(right.score, abs=1e-5)
        assert of["probability"] == pytest.approx(right.probability, abs=1e-5)
        assert of["is_match"] == right.match


def test_reranking_orders_pictures_keys_and_texts() -> None:
    index = FakeIndex()
    app, keys = tiny_app(index), list(index.pictures)[:2]
    pictures = tiny_pictures(4, seed=2)
    body = {"text": TEXTS[1], "pictures": [b64(png(of)) for of in pictures], "keys": keys}
    found = post(app, "/rerank", body).json()["results"]
    assert sorted(of["index"] for of in found) == list(range(6))
    assert [of["score"] for of in found] == sorted((of["score"] for of in found), reverse=True)
    matched = post(app, "/match", {name: body[name] for name in ("text", "pictures")}).json()["results"]
    for of in found:
        if of["index"] < 4:
            assert of["match"] == pytest.approx(matched[of["index"]]["match"], abs=1e-5)
    texts = post(app, "/rerank", {"picture": body["pictures"][0], "texts": list(TEXTS), "top": 3}).json()["results"]
    assert len(texts) == 3
    assert error_of(post(app, "/rerank", {"text": "船", "texts": ["船"]}))[0] == 422
    assert error_of(post(app, "/rerank", {"text": "船", "keys": ["0" * 32]})) == (404, "no_such_picture")


@pytest.mark.parametrize("depth", [None, 2])
def test_classes_are_those_of_the_command_line(depth: int | None) -> None:
    names = ["猫/猫咪", "狗", "红色的船", "湖泊"]
    pictures, network = tiny_pictures(3, seed=4), tiny_network()
    expected = classify(
        network.model, network.processor, pictures, classes_of_names(names), SETS["plain"], top=3, depth=depth
    )
    body = {"pictures": [b64(png(of)) for of in pictures], "classes": names, "top": 3, "depth": depth}
    found = post(tiny_app(), "/classify", body).json()["results"]
    for of, right in zip(found, expected, strict=True):
        assert [guess["name"] for guess in of] == [guess.name for guess in right.classes]
        assert [guess["cosine"] for guess in of] == pytest.approx([guess.cosine for guess in right.classes], abs=1e-5)
        if depth:
            assert of[0]["score"] == pytest.approx(right.classes[0].score, abs=1e-4)
    assert error_of(post(tiny_app(), "/classify", body | {"classes": ["猫", "猫"]}))[0] == 422
    assert error_of(post(tiny_app(), "/classify", body | {"classes": "/etc/passwd"}))[0] == 422
    many = body | {"classes": [f"类{number}" for number in range(500)], "templates": "all"}
    assert "prompts" in post(tiny_app(), "/classify", many).json()["error"]["message"]


def test_pictures_are_added_found_shown_and_deleted_by_an_admin_alone() -> None:
    index = FakeIndex()
    app = tiny_app(index, KEYS)
    new = tiny_pictures(1, seed=8)[0]
    form = {"data": {"name": "新.png", "fields": '{"artist": "李", "width": 40}'}, "files": {"picture": png(new)}}

    async def work(http: httpx.AsyncClient) -> None:
        reader = {"Authorization": f"Bearer {SEARCHER}"}
        assert error_of(await http.post("/pictures", **form, headers=reader)) == (403, "not_admin")
        key = next(iter(index.pictures))
        assert error_of(await http.delete(f"/pictures/{key}", headers=reader)) == (403, "not_admin")
        added = await http.post("/pictures", **form)
        assert added.status_code == 201
        key = added.json()["key"]
        hits = (await http.post("/search", json={"text": "船", "k": 50})).json()["hits"]
        assert {hit["key"]: hit["fields"] for hit in hits}[key] == {"artist": "李", "width": 40}
        shown = await http.get(f"/thumbnails/{key}", headers=reader)
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
        tag = {"If-None-Match": shown.headers["etag"]}
        assert (await http.get(f"/thumbnails/{key}", headers=tag)).status_code == 304
        assert (await http.get(f"/pictures/{key}")).content[:2] == b"\xff\xd8"
        assert (await http.delete(f"/pictures/{key}")).json() == {"deleted": 1}
        assert error_of(await http.delete(f"/pictures/{key}")) == (404, "no_such_picture")
        for path in (f"/pictures/{key}", f"/thumbnails/{key}"):
            assert error_of(await http.get(path)) == (404, "no_such_picture")
        hits = (await http.post("/search", json={"text": "船", "k": 50})).json()["hits"]
        assert key not in {hit["key"] for hit in hits}

    asked(app, work, ADMIN)
    assert error_of(post(tiny_app(index), "/pictures", {"picture": b64(png()), "name": "x.png"})) == (403, "not_admin")


@pytest.mark.parametrize("name", ["../x.png", "a/b.png", ".hidden.png", "", "x\0.png", "a\\b.png", "x" * 201])
def test_names_of_new_pictures_lead_nowhere(name: str) -> None:
    app = tiny_app(FakeIndex(), KEYS)
    assert error_of(post(app, "/pictures", {"picture": b64(png()), "name": name}, ADMIN))[0] == 422


def test_captions_are_those_of_the_command_line() -> None:
    plain = tiny_network()
    captioner = R2D2Captioner.from_r2d2(plain.model, plain.processor).eval()
    work = ModelWork(plain.model, plain.processor, (captioner, plain.processor))
    pictures = tiny_pictures(2, seed=6)
    expected = caption_pictures(captioner, plain.processor, pictures)
    found = post(make_app(work), "/caption", {"pictures": [b64(png(of)) for of in pictures]}).json()["results"]
    assert [[one["text"] for one in of] for of in found] == [[one.text for one in of.candidates] for of in expected]


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


def test_bodies_and_pictures_have_a_largest_size() -> None:
    app = tiny_app(FakeIndex(), max_bytes=20_000, max_pixels=40_000)

    async def work(http: httpx.AsyncClient) -> None:
        assert error_of(await http.post("/search", json={"text": "船", "picture": "A" * 20_000})) == (413, "too_large")

        async def endless() -> Any:
            for _ in range(100):
                yield b"x" * 1000

        chunked = await http.post("/search", content=endless(), headers={"content-type": "application/json"})
        assert error_of(chunked) == (413, "too_large")
        bomb = png(tiny_pictures(1)[0].resize((201, 200)))
        answer = await http.post("/search", json={"picture": b64(bomb)})
        assert error_of(answer) == (422, "unreadable_picture")
        assert "40,000 pixels" in answer.text

    asked(app, work)


def test_a_client_that_asks_too_often_is_slowed_and_no_other() -> None:
    app = tiny_app(FakeIndex(), KEYS, rate=0.001, burst=3)

    async def work(http: httpx.AsyncClient) -> None:
        found = [await http.post("/search", json={"text": "船"}) for _ in range(4)]
        assert [answer.status_code for answer in found] == [200, 200, 200, 429]
        assert error_of(found[3]) == (429, "too_many_requests")
        assert int(found[3].headers["retry-after"]) > 100
        other = {"Authorization": f"Bearer {ADMIN}"}
        assert (await http.post("/search", json={"text": "船"}, headers=other)).status_code == 200
        assert (await http.get("/healthz")).status_code == 200

    asked(app, work, SEARCHER)


def test_what_takes_too_long_ends_and_is_dropped() -> None:
    index, go = FakeIndex(), threading.Event()

    def hold(queries: Sequence[Query]) -> None:
        assert go.wait(10)

    index.before = hold
    app = tiny_app(index, timeout=0.2, wait=0.0)

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
    index, go = FakeIndex(), threading.Event()
    index.before = lambda queries: go.wait(10) and None
    for options in ({"queue": 2, "batch": 1}, {"max_requests": 3}):
        go.clear()
        app = tiny_app(index, **options)

        async def work(http: httpx.AsyncClient) -> list[httpx.Response]:
            tasks = [asyncio.create_task(http.post("/search", json={"text": "first"}))]
            await asyncio.sleep(0.1)  # it is worked on
            tasks += [asyncio.create_task(http.post("/search", json={"text": str(place)})) for place in range(5)]
            await asyncio.sleep(0.1)
            go.set()
            return await asyncio.gather(*tasks)

        found = asked(app, work)
        assert [answer.status_code for answer in found] == [200] * 3 + [503] * 3
        assert error_of(found[-1]) == (503, "overloaded")
        assert found[-1].headers["retry-after"] == "1"


def test_what_is_in_flight_when_the_server_is_told_to_stop_is_answered() -> None:
    index, started, go = FakeIndex(), threading.Event(), threading.Event()

    def hold(queries: Sequence[Query]) -> None:
        started.set()
        assert go.wait(10)

    index.before = hold
    found = list[httpx.Response]()
    with listening(tiny_app(index)) as url:
        asking = threading.Thread(target=lambda: found.append(httpx.post(f"{url}/search", json={"text": "船", "k": 2})))
        asking.start()
        assert started.wait(10)
        threading.Timer(0.3, go.set).start()  # well after the server is told to stop
    asking.join()
    assert len(found[0].json()["hits"]) == 2


def test_a_fault_of_the_server_is_internal_and_names_nothing() -> None:
    index = FakeIndex()

    def fail(queries: Sequence[Query]) -> None:
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
    found = asked(tiny_app(keys=KEYS), lambda http: http.get("/openapi.json")).json()
    assert found["openapi"].startswith("3.1")
    content = found["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    for media in content.values():
        name = media["schema"]["$ref"].rpartition("/")[2]
        assert "text" in found["components"]["schemas"][name]["properties"]
    assert found["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    served = {"/search", "/match", "/embed", "/v1/embeddings", "/rerank", "/caption", "/classify", "/healthz"}
    assert served <= set(found["paths"])


def test_options_by_default_are_those_of_the_command() -> None:
    shown = {name: of.default for name, of in inspect.signature(serve).parameters.items()}
    options = ServeOptions()
    assert (shown["batch"], shown["wait"], shown["queue"]) == (options.batch, 1000 * options.wait, options.queue)
    assert (shown["timeout"], shown["rate"], shown["burst"]) == (options.timeout, options.rate, options.burst)
    assert shown["max_megabytes"] * 2**20 == options.max_bytes
    assert shown["max_megapixels"] * 1e6 == options.max_pixels
