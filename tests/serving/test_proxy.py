"""A server behind a proxy: whom it believes, by which names it is asked, and below which path."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from ccmb.core.errors import UsageError
from ccmb.serving.config import ServeOptions
from ccmb.serving.http.proxy import Forwarded, TrustedProxies, same_origin
from tests.helpers.serving import FakeIndex, asked, client, error_of, tiny_app

BODY: dict[str, Any] = {"json": {"text": "船", "k": 1, "rank": False}}


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("https://example.org", "example.org"),
        ("https://example.org", "example.org:443"),
        ("https://example.org:443", "example.org"),
        ("http://example.org", "example.org:80"),
        ("https://Example.ORG", "example.org."),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://[2001:db8::1]", "[2001:DB8::1]:443"),
        ("https://xn--fiqs8s.example", "xn--fiqs8s.example"),
    ],
)
def test_origins_of_the_same_host_and_port(origin: str, host: str) -> None:
    assert same_origin(origin, [host])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://example.org", "example.org:80"),
        ("http://example.org", "example.org:443"),
        ("http://example.org:81", "example.org"),
        ("https://example.org.evil.com", "example.org"),
        ("https://evil.com/example.org", "example.org"),
        ("https://evil.com?@example.org", "example.org"),
        ("https://example.org@evil.com", "example.org"),
        ("null", "null"),
        ("example.org", "example.org"),
        ("file://", ""),
        ("chrome-extension://example.org", "example.org"),
    ],
)
def test_other_origins(origin: str, host: str) -> None:
    assert not same_origin(origin, [host])


def test_forwarded_ports_are_of_hosts_without_one() -> None:
    assert same_origin("http://example.org:8080", ["example.org"], port=8080)
    assert not same_origin("http://example.org", ["example.org"], port=8080)
    assert same_origin("http://example.org:81", ["example.org:81"], port=8080)


def scope(address: str | None, *headers: tuple[str, str]) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http", "client": None if address is None else (address, 1), "headers": pairs}


HEADERS = (
    ("x-forwarded-for", "9.9.9.9, 203.0.113.7, 10.0.0.2"), ("x-forwarded-host", "pictures.example.org"),
    ("x-forwarded-port", "8443"), ("x-forwarded-prefix", "/photos/"),
)  # fmt: skip
SAID = Forwarded("203.0.113.7", "pictures.example.org", 8443, "/photos")


@pytest.mark.parametrize(
    ("names", "address", "expected"),
    [
        ("10.0.0.0/8", "10.0.0.1", SAID),
        ("10.0.0.1, 10.0.0.2", "10.0.0.1", SAID),
        ("10.0.0.0/8,localhost", "::ffff:10.0.0.1", SAID),
        ("10.0.0.0/8", "192.168.0.1", Forwarded()),
        ("10.0.0.0/8", None, Forwarded()),
        (None, "10.0.0.1", Forwarded()),
        ("", "127.0.0.1", Forwarded()),
    ],
)
def test_only_a_named_proxy_is_believed(names: str | None, address: str | None, expected: Forwarded) -> None:
    assert TrustedProxies(names).read(scope(address, *HEADERS)) == expected


def test_the_client_is_the_last_address_that_is_no_proxy() -> None:
    proxies = TrustedProxies("localhost,10.0.0.0/8")
    for given, client_address in {
        "203.0.113.7": "203.0.113.7",
        "203.0.113.7:5123": "203.0.113.7",
        "made-up, 203.0.113.7": "203.0.113.7",
        "[2001:db8::1]:443, 10.1.1.1": "2001:db8::1",
        "10.0.0.9, 10.0.0.8": "10.0.0.9",
        "": None,
    }.items():
        assert proxies.read(scope("::1", ("x-forwarded-for", given))).client == client_address
    standard = 'for=192.0.2.43;proto=http, For="[2001:db8:cafe::17]:4711";host="example.org:8443";proto=https'
    assert proxies.read(scope("127.0.0.1", ("forwarded", standard))) == Forwarded(
        "2001:db8:cafe::17", "example.org:8443"
    )


@pytest.mark.parametrize("prefix", ["photos", "//evil.example", "/a b", "https://evil.example/", "/a\\b"])
def test_a_forwarded_prefix_is_a_path_or_nothing(prefix: str) -> None:
    assert TrustedProxies("*").read(scope("1.2.3.4", ("x-forwarded-prefix", prefix))).prefix == ""


def test_settings_that_cannot_be_obeyed_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"--proxy 'nginx': no address or network; give such as 127\.0\.0\.1"):
        ServeOptions(proxy="127.0.0.1, nginx")
    for prefix in ("photos", "/a b", "https://example.org/photos"):
        with pytest.raises(UsageError, match=r"--prefix '.*': give a path such as /pictures"):
            ServeOptions(prefix=prefix)
    assert ServeOptions(prefix="/").prefix == "/"


def test_a_page_behind_a_trusted_proxy_may_ask() -> None:
    public = {"X-Forwarded-Host": "pictures.example.org", "Origin": "https://pictures.example.org"}

    async def trusted(http: httpx.AsyncClient) -> None:
        assert (await http.post("/search", **BODY, headers=public)).status_code == 200
        strange = public | {"Origin": "https://evil.example"}
        assert error_of(await http.post("/search", **BODY, headers=strange)) == (403, "cross_origin")
        ports = {"X-Forwarded-Host": "example.org", "X-Forwarded-Port": "8443", "Origin": "https://example.org:8443"}
        assert (await http.post("/search", **BODY, headers=ports)).status_code == 200
        # A page that made its own name lead here: what it says of a proxy does not count.
        rebound = {"Host": "evil.example:8000", "X-Forwarded-Host": "127.0.0.1:8000"}
        assert error_of(await http.get("/about", headers=rebound)) == (421, "wrong_host")

    asked(tiny_app(FakeIndex(), proxy="127.0.0.1"), trusted)

    async def untrusted(http: httpx.AsyncClient) -> None:
        assert error_of(await http.post("/search", **BODY, headers=public)) == (403, "cross_origin")

    asked(tiny_app(FakeIndex()), untrusted)
    asked(tiny_app(FakeIndex(), proxy="192.0.2.1"), untrusted)


def test_names_may_hold_a_port_and_browsers_that_say_so_are_of_the_same_origin() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        # As of `proxy_set_header Host $host`, which drops the port.
        dropped = {"Host": "pictures.example.org", "Origin": "http://pictures.example.org:8080"}
        assert (await http.post("/search", **BODY, headers=dropped)).status_code == 200
        other = dropped | {"Origin": "http://pictures.example.org:9090"}
        assert error_of(await http.post("/search", **BODY, headers=other)) == (403, "cross_origin")
        assert (
            await http.post("/search", **BODY, headers=other | {"Sec-Fetch-Site": "same-origin"})
        ).status_code == 200
        crossing = other | {"Sec-Fetch-Site": "same-site"}
        assert error_of(await http.post("/search", **BODY, headers=crossing)) == (403, "cross_origin")

    asked(tiny_app(FakeIndex(), names=("pictures.example.org:8080",)), work)


def test_rates_count_the_client_behind_the_proxy() -> None:
    app = tiny_app(FakeIndex(), proxy="127.0.0.1", rate=0.001, burst=1)

    async def work(http: httpx.AsyncClient) -> None:
        statuses = [
            (await http.get("/about", headers={"X-Forwarded-For": address})).status_code
            for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")
        ]
        assert statuses == [200, 200, 429]

    asked(app, work)


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-Prefix": "/photos"}])
def test_a_server_below_a_path_prefix(headers: dict[str, str]) -> None:
    """The prefix by an option and by a header; the proxy passes it on, or has taken it away."""
    options = {"proxy": "127.0.0.1"} if headers else {"prefix": "/photos/"}
    app = tiny_app(FakeIndex(), **options)

    async def run() -> None:
        async with client(app) as http:
            for path in ("/photos/", "/"):
                page = await http.get(path, headers=headers)
                assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            moved = await http.get("/photos?q=船", headers=headers)
            assert (moved.status_code, moved.headers["location"]) == (308, "/photos/?q=%E8%88%B9")
            [hit] = (await http.post("/photos/search", **BODY, headers=headers)).json()["hits"]
            assert (await http.get(f"/photos/thumbnails/{hit['key']}", headers=headers)).status_code == 200
            described = (await http.get("/photos/openapi.json", headers=headers)).json()
            assert described["servers"] == [{"url": "/photos"}]
            assert (await http.get("/photosynthesis", headers=headers)).status_code == 404

    asyncio.run(run())
