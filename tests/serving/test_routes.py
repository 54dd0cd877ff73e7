"""The server's addresses: what they answer is what the package computes, and what is wrong is said in one form."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import torch

from ccmb.core.errors import CcmbError
from ccmb.data.class_names import classes_of_names
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.user_images import Prepared
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.search.query import Condition, SearchQuery
from ccmb.serving.app import make_app
from ccmb.serving.model_worker import ModelWork
from ccmb.tasks.captioning.predict import caption_images
from ccmb.tasks.classification.prompts import SETS
from ccmb.tasks.classification.rerank import classify
from ccmb.tasks.matching.predict import match_images
from tests.helpers.exact import TINY_ERROR
from tests.helpers.serving import (
    ADMIN,
    KEYS,
    SEARCHER,
    SECRET,
    FakeIndex,
    asked,
    b64,
    error_of,
    png,
    post,
    tiny_app,
    tiny_network,
)
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor


def test_searches_that_come_together_are_one_call() -> None:
    index = FakeIndex()
    app = tiny_app(index, wait=0.1)

    async def all_at_once(http: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(
            *(http.post("/search", json={"text": text, "k": 3 + position}) for position, text in enumerate(TEXTS))
        )

    result = asked(app, all_at_once)
    assert [answer.status_code for answer in result] == [200] * len(TEXTS)
    assert [len(answer.json()["hits"]) for answer in result] == [3 + position for position in range(len(TEXTS))]
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
    index, image = FakeIndex(), tiny_images(1, seed=3)[0]
    app, key = tiny_app(index), next(iter(index.images))
    body = {
        "text": "船", "k": 5, "offset": 2, "depth": 9, "rank": True, "min_probability": 0.1, "budget": 0.5,
        "collapse": True, "where": [{"field": "width", "comparison": ">=", "value": 300}, "folder under 夏"],
        "picture": b64(png(image)),
    }  # fmt: skip
    form = {name: str(value) for name, value in body.items() if name not in ("where", "picture")}

    async def both(http: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await http.post("/search", json={"like": key, "rank": False}),
            await http.post("/search", json=body),
            await http.post(
                "/search",
                data=form | {"where": ["width>=300", "folder under 夏"]},
                files={"picture": ("x.png", png(image))},
            ),
        ]

    result = asked(app, both)
    assert [answer.status_code for answer in result] == [200] * 3, [answer.text for answer in result]
    like, as_json, as_form = index.queries
    assert (like.like, like.rank) == (key, False)
    for query in (as_json, as_form):
        assert query.image is not None
        assert isinstance(query.image, Prepared)
        assert torch.equal(query.image.value, tiny_network().model.prepare(image))
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
        ({"text": "船", "rank": False, "depth": 9}, "invalid_request"),
        ({"text": "船", "rank": False, "budget": 0.5}, "invalid_request"),
        ({"like": "0" * 32, "depth": 9}, "invalid_request"),
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
    status, result = error_of(post(tiny_app(FakeIndex()), "/search", body))
    assert result == code
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


def test_an_image_that_goes_while_its_like_is_asked_for_is_not_there() -> None:
    index = FakeIndex()
    key = next(iter(index.images))

    def lose(queries: Sequence[SearchQuery]) -> None:
        index.delete([key])
        raise CcmbError(f"{SECRET}/{key}: no such image in the index")

    index.before = lose
    assert error_of(post(tiny_app(index), "/search", {"like": key})) == (404, "no_such_picture")


def test_embeddings_are_the_networks_in_both_forms() -> None:
    app, network, image = tiny_app(), tiny_network(), tiny_images(1, seed=5)[0]
    texts = network.embed_texts(TEXTS[:2])
    [of_image] = network.embed_images([Prepared(network.model.prepare(image))])
    result = post(app, "/embed", {"texts": TEXTS[:2], "pictures": [b64(png(image))]}).json()
    assert result["dim"] == len(of_image)
    torch.testing.assert_close(torch.tensor(result["texts"]), torch.stack(texts), rtol=0, atol=TINY_ERROR)
    torch.testing.assert_close(torch.tensor(result["pictures"]), of_image[None], rtol=0, atol=TINY_ERROR)

    mixed = [TEXTS[0], {"image": "data:image/png;base64," + b64(png(image))}, TEXTS[1]]
    for form in ("float", "base64"):
        answer = post(app, "/v1/embeddings", {"input": mixed, "model": "r2d2", "encoding_format": form}).json()
        assert (answer["object"], answer["model"], answer["usage"]["total_tokens"] > 4) == ("list", "tiny", True)
        assert [item["index"] for item in answer["data"]] == [0, 1, 2]
        rows = [item["embedding"] for item in answer["data"]]
        if form == "base64":
            rows = [struct.unpack(f"<{len(of_image)}f", base64.b64decode(row)) for row in rows]
        torch.testing.assert_close(
            torch.tensor(rows), torch.stack([texts[0], of_image, texts[1]]), rtol=0, atol=TINY_ERROR
        )
    assert error_of(post(app, "/v1/embeddings", {"input": "船", "dimensions": 3}))[0] == 422
    assert error_of(post(app, "/v1/embeddings", {"input": [1, 2]}))[0] == 422


def test_matching_is_that_of_the_command_line() -> None:
    images = tiny_images(3, seed=1)
    network = tiny_network()
    expected = match_images(network.model, TEXTS[0], images, 0.5)
    body = {"text": TEXTS[0], "pictures": [b64(png(item)) for item in images], "min_probability": 0.5}
    result = post(tiny_app(), "/match", body).json()["results"]
    for item, right in zip(result, expected, strict=True):
        assert item["cosine"] == pytest.approx(right.cosine, abs=TINY_ERROR)
        assert item["match"] == pytest.approx(right.score, abs=TINY_ERROR)
        assert item["probability"] == pytest.approx(right.probability, abs=TINY_ERROR)
        assert item["is_match"] == right.match


def test_a_model_that_is_not_calibrated_gives_no_probability() -> None:
    app = make_app(ModelWork(R2D2Stages(tiny_model(), tiny_processor())), FakeIndex())
    body = {"text": TEXTS[0], "pictures": [b64(png(tiny_images(1)[0]))]}
    [results] = post(app, "/match", body).json()["results"]
    assert results["match"] is not None
    assert (results["probability"], results["is_match"]) == (None, None)
    for server, calibrated in ((app, False), (tiny_app(), True)):
        assert asked(server, lambda http: http.get("/about")).json()["calibrated"] is calibrated
    for path, given in (("/match", body), ("/search", {"text": TEXTS[0]})):
        answer = post(app, path, given | {"min_probability": 0.5})
        assert error_of(answer) == (422, "invalid_request")
        assert "min_probability: a least probability needs a calibrated model" in answer.json()["error"]["message"]


def test_reranking_orders_images_keys_and_texts() -> None:
    index = FakeIndex()
    app, keys = tiny_app(index), list(index.images)[:2]
    images = tiny_images(4, seed=2)
    body = {"text": TEXTS[1], "pictures": [b64(png(item)) for item in images], "keys": keys}
    result = post(app, "/rerank", body).json()["results"]
    assert sorted(item["index"] for item in result) == list(range(6))
    assert [item["score"] for item in result] == sorted((item["score"] for item in result), reverse=True)
    matched = post(app, "/match", {name: body[name] for name in ("text", "pictures")}).json()["results"]
    for item in result:
        if item["index"] < 4:
            assert item["match"] == pytest.approx(matched[item["index"]]["match"], abs=TINY_ERROR)
    texts = post(app, "/rerank", {"picture": body["pictures"][0], "texts": list(TEXTS), "top": 3}).json()["results"]
    assert len(texts) == 3
    assert error_of(post(app, "/rerank", {"text": "船", "texts": ["船"]}))[0] == 422
    assert error_of(post(app, "/rerank", {"text": "船", "keys": ["0" * 32]})) == (404, "no_such_picture")


@pytest.mark.parametrize("depth", [None, 2])
def test_classes_are_those_of_the_command_line(depth: int | None) -> None:
    names = ["猫/猫咪", "狗", "红色的船", "湖泊"]
    images, network = tiny_images(3, seed=4), tiny_network()
    expected = classify(network.model, images, classes_of_names(names), SETS["plain"], top=3, depth=depth)
    body = {"pictures": [b64(png(item)) for item in images], "classes": names, "top": 3, "depth": depth}
    result = post(tiny_app(), "/classify", body).json()["results"]
    for item, right in zip(result, expected, strict=True):
        assert [guess["name"] for guess in item] == [guess.name for guess in right.classes]
        assert [guess["cosine"] for guess in item] == pytest.approx(
            [guess.cosine for guess in right.classes], abs=TINY_ERROR
        )
        if depth:
            assert item[0]["score"] == pytest.approx(right.classes[0].score, abs=TINY_ERROR)
    assert error_of(post(tiny_app(), "/classify", body | {"classes": ["猫", "猫"]}))[0] == 422
    assert error_of(post(tiny_app(), "/classify", body | {"classes": "/etc/passwd"}))[0] == 422
    many = body | {"classes": [f"类{index}" for index in range(500)], "templates": "all"}
    assert "prompts" in post(tiny_app(), "/classify", many).json()["error"]["message"]


def test_images_are_added_found_shown_and_deleted_by_an_admin_alone() -> None:
    index = FakeIndex()
    app = tiny_app(index, KEYS)
    new = tiny_images(1, seed=8)[0]
    form = {"data": {"name": "新.png", "fields": '{"artist": "李", "width": 40}'}, "files": {"picture": png(new)}}

    async def work(http: httpx.AsyncClient) -> None:
        reader = {"Authorization": f"Bearer {SEARCHER}"}
        assert error_of(await http.post("/pictures", **form, headers=reader)) == (403, "not_admin")
        key = next(iter(index.images))
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
def test_names_of_new_images_lead_nowhere(name: str) -> None:
    app = tiny_app(FakeIndex(), KEYS)
    assert error_of(post(app, "/pictures", {"picture": b64(png()), "name": name}, ADMIN))[0] == 422


def test_captions_are_those_of_the_command_line() -> None:
    plain = tiny_network()
    captioner = R2D2Captioner.from_r2d2(tiny_model(match_temperature=2.0), tiny_processor()).eval()
    work = ModelWork(plain.model, (captioner, tiny_processor()))
    images = tiny_images(2, seed=6)
    expected = caption_images(captioner, tiny_processor(), images)
    result = post(make_app(work), "/caption", {"pictures": [b64(png(item)) for item in images]}).json()["results"]
    assert [[one["text"] for one in item] for item in result] == [
        [one.text for one in item.candidates] for item in expected
    ]


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/healthz", "/about", "/openapi.json", "/metrics", "/pictures/", "/thumbnails/"]
)
def test_head_is_answered_wherever_get_is(path: str) -> None:
    index = FakeIndex()
    path += next(iter(index.images)) if path.endswith("s/") else ""
    app = tiny_app(index)
    got, headed = (asked(app, lambda http, method=method: http.request(method, path)) for method in ("GET", "HEAD"))
    assert headed.status_code == got.status_code == 200
    assert headed.content == b"" != got.content
    for name in ("content-type", "etag", "cache-control", "content-security-policy"):
        assert headed.headers.get(name) == got.headers.get(name)
    if path != "/metrics":  # which counts this very request
        assert headed.headers["content-length"] == str(len(got.content))


def test_head_of_what_get_is_not_is_refused() -> None:
    assert asked(tiny_app(), lambda http: http.head("/search")).status_code == 405
    assert asked(tiny_app(), lambda http: http.head("/none")).status_code == 404
