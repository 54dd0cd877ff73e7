"""An address is asked for byte for byte: a server on loopback notes the very request line that comes."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from yarl import URL

from ccmb.core.errors import UsageError
from ccmb.corpus.inputs.tables import read_test_texts
from ccmb.data.shards.remote import open_file
from ccmb.fetch.asked_urls import BadUrl, check_url, redirected_url
from ccmb.fetch.fetcher import Fetched, Fetcher
from ccmb.fetch.proxies import Proxies
from ccmb.search.indexing.image_sources import read_urls
from ccmb.search.indexing.url_images import fetch_images
from tests.helpers.image_web import network

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


class Recorder:
    """A server that notes requests as they come, and gives answers in turn, the last one for ever."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening, self.port = listening, listening.getsockname()[1]
        self.requests: list[bytes] = []
        self.answers = [OK]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[bytes]:
        """What stands between the method and the version."""
        return [request.split(b"\r\n")[0].removeprefix(b"GET ").removesuffix(b" HTTP/1.1") for request in self.requests]

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(4096)):
                    request += more
                if request:
                    self.requests.append(request)
                    connection.sendall(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


@pytest.fixture
def server() -> Iterator[Recorder]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        recorder = Recorder(listening)
        threading.Thread(target=recorder.serve, daemon=True).start()
        yield recorder
        listening.shutdown(socket.SHUT_RDWR)


def fetch(url: str, **changes: object) -> Fetched:
    async def run() -> Fetched:
        async with Fetcher(network(retries=0, **changes)) as fetcher:
            fetched = await fetcher.fetch(url)
            fetcher.done(fetched)
            return fetched

    return asyncio.run(run())


def moved(location: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


SIGNED = "/b/1.jpg?X-Amz-Credential=AK%2F20300101%2Fs3&X-Amz-Signature=a%3D%3D&e=1+2&p=a,b;c(d)'!*~$@:"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/a%2Cb%2cc.jpg", "/a%2Cb%2cc.jpg"), ("/a%7Eb,c~d", "/a%7Eb,c~d"), (SIGNED, SIGNED),
        ("/%E7%8C%AB/%c3%a8", "/%E7%8C%AB/%c3%a8"), ("/%bd%ba.jpg", "/%bd%ba.jpg"),
        ("/a//b/../c/./d", "/a//b/../c/./d"),
        ("/a?", "/a?"), ("/a?b?c", "/a?b?c"), ("?q=1", "/?q=1"), ("", "/"), ("/a?l[]=1", "/a?l[]=1"),
        ("/猫 1.jpg?名=红船", "/%E7%8C%AB%201.jpg?%E5%90%8D=%E7%BA%A2%E8%88%B9"),
        ("/100%.jpg", "/100%25.jpg"), ("/a|b{c}^\"<>\\`", "/a%7Cb%7Bc%7D%5E%22%3C%3E%5C%60"),
        ("/\udcc3\udca8", "/%C3%A8"),
        ("/a#top", "/a"), ("/a?b=1#c?d", "/a?b=1"), ("/a\tb\nc", "/abc"),
        ("/i?w=1&amp;h=2", "/i?w=1&h=2"), ("/i?w=1&amp;amp;h=2&amp;amp;x", "/i?w=1&h=2&x"), ("/i&#x26;j", "/i&j"),
        ("/i?w=1&amp;h=2&x=3", "/i?w=1&amp;h=2&x=3"), ("/i?a=1&copy=2", "/i?a=1&copy=2"),
        ("/i?a&ampb=1", "/i?a&ampb=1"),
    ],
)  # fmt: skip
def test_an_address_is_asked_byte_for_byte(server: Recorder, path: str, asked: str) -> None:
    assert fetch(f" {server.base}{path} ").status == "ok"
    assert server.targets == [asked.encode()]
    assert b"Host: 127.0.0.1:%d\r\n" % server.port in server.requests[0]


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/猫.jpg?名=1".encode("gbk"), "/%C3%A8.jpg?%C3%FB=1"), ("/猫.jpg".encode(), "/%E7%8C%AB.jpg"),
        (b"/a%2Cb?x=%2f&amp;y=1 2", "/a%2Cb?x=%2f&amp;y=1%202"), (b"c.jpg", "/d/c.jpg"), (b"?z=%2C", "/d/e?z=%2C"),
        (b"/a/../b//c?", "/a/../b//c?"), (b"//127.0.0.1:PORT/x%2C", "/x%2C"),
        (b"http://127.0.0.1:PORT/y?s=a%2Bb#f", "/y?s=a%2Bb"),
        ("猫/1.jpg".encode("gbk"), "/d/%C3%A8/1.jpg"),
    ],
)  # fmt: skip
def test_a_redirect_is_followed_byte_for_byte(server: Recorder, location: bytes, asked: str) -> None:
    server.answers = [moved(location.replace(b"PORT", str(server.port).encode())), OK]
    assert fetch(f"{server.base}/d/e?q=1").status == "ok"
    assert server.targets == [b"/d/e?q=1", asked.encode()]


@pytest.mark.parametrize(
    "location", [b"ftp://a/b", b"http://u:p@a.cn/", b"http://\xba\xec.cn/", b"http:///x", b"http://a:x/"]
)
def test_a_redirect_that_leads_nowhere_is_bad(server: Recorder, location: bytes) -> None:
    server.answers = [moved(location)]
    assert fetch(f"{server.base}/").status == "bad_redirect"


def test_hosts_of_other_scripts_and_addresses_without_scheme() -> None:
    assert str(check_url("//例子.cn/a%2Cb")) == "http://xn--fsqu00a.cn/a%2Cb"
    assert str(check_url("HTTP://例子。CN:8080/图")) == "http://xn--fsqu00a.cn:8080/%E5%9B%BE"
    assert str(check_url("https://[2606:4700::1]:8443/a?b")) == "https://[2606:4700::1]:8443/a?b"
    assert str(redirected_url(check_url("https://a.cn/x"), "//b.cn/y")) == "https://b.cn/y"
    for text in ("http://a b.cn/", "http://u%40a.cn/", "http://a.cn%2Fb/", "http://a\\@b.cn/"):
        with pytest.raises(BadUrl):
            check_url(text)


def test_images_behind_urls_of_an_index_are_asked_so_too(server: Recorder, tmp_path: Path) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(GIF) + GIF]
    listed = tmp_path / "urls.txt"
    listed.write_bytes(f"{server.base}/小猫%2C.gif?a=1&amp;b=2\r\n//127.0.0.1:{server.port}/2.gif\r\n".encode("gbk"))
    urls = read_urls(listed)
    names, failed = fetch_images(urls, tmp_path / "held", ["127.0.0.1"])
    assert (sorted(names), failed) == (sorted(urls), [])
    assert sorted(server.targets) == [b"/%E5%B0%8F%E7%8C%AB%2C.gif?a=1&b=2", b"/2.gif"]


def set_proxies(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_proxies_of_the_environment_are_used_by_an_option_alone(server: Recorder, monkeypatch) -> None:
    proxy = f"http://me:secret@127.0.0.1:{server.port}"
    set_proxies(monkeypatch, HTTP_PROXY=proxy, HTTPS_PROXY=proxy, NO_PROXY="inside.example,127.0.0.1")
    assert fetch("http://nowhere.invalid/a").status == "dns"
    assert server.requests == []
    assert fetch("http://nowhere.invalid/a%2Cb?c=%2F&d", proxy_from_environment=True, allow_private=()).status == "ok"
    assert server.targets == [b"http://nowhere.invalid/a%2Cb?c=%2F&d"]
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:secret") in server.requests[0]
    server.requests.clear()
    assert fetch("https://nowhere.invalid/a", proxy_from_environment=True).status != "ok"  # it is no proxy for CONNECT
    assert server.requests[0].startswith(b"CONNECT nowhere.invalid:443 ")
    server.requests.clear()
    assert fetch(f"{server.base}/direct", proxy_from_environment=True).status == "ok"
    assert server.targets == [b"/direct"]


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "[::1]", "169.254.169.254", "2130706433", "0x7f.1", "127.1", "localhost", "a.localhost."])  # fmt: skip  # noqa: E501
def test_private_addresses_are_refused_behind_a_proxy_too(server: Recorder, monkeypatch, host: str) -> None:
    set_proxies(monkeypatch, ALL_PROXY=f"127.0.0.1:{server.port}")
    changes = {"proxy_from_environment": True, "allow_private": ()}
    assert fetch(f"http://{host}/a", **changes).status == "refused_address"
    server.answers = [moved(f"http://{host}/a".encode())]
    assert fetch("http://example.invalid/", **changes).status == "refused_address"
    assert server.targets == [b"http://example.invalid/"]


@pytest.mark.parametrize(
    ("without", "host", "direct"),
    [
        ("*", "a.cn", True), ("a.cn", "a.cn", True), ("a.cn", "b.a.cn", True), ("a.cn", "ba.cn", False),
        (".a.cn, *.b.cn", "x.b.cn", True), ("a.cn:80", "a.cn", True), ("a.cn:81", "a.cn", False), ("", "a.cn", False),
        ("10.0.0.0/8", "10.1.2.3", True), ("10.0.0.0/8", "11.1.2.3", False), ("::1", "[::1]", True),
        ("A.CN", "a.cn.", True),
    ],
)  # fmt: skip
def test_hosts_that_are_reached_without_a_proxy(monkeypatch, without: str, host: str, direct: bool) -> None:
    set_proxies(monkeypatch, http_proxy="proxy.example:3128", no_proxy=without)
    assert (Proxies(True).proxy_for(URL(f"http://{host}/")) is None) is direct
    assert Proxies(False).proxy_for(URL(f"http://{host}/")) is None


def test_a_proxy_that_is_not_known_is_named(monkeypatch) -> None:
    set_proxies(monkeypatch, ALL_PROXY="socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(UsageError, match="http_proxy: only http and https proxies are known, not 'socks5'") as raised:
        Fetcher(network(proxy_from_environment=True))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "asked"),
    [(SIGNED, SIGNED), ("/a%2Cb%7E.jsonl", "/a%2Cb%7E.jsonl"), ("/猫 1.jsonl", "/%E7%8C%AB%201.jsonl")],
)
def test_remote_files_are_asked_byte_for_byte_too(server: Recorder, path: str, asked: str) -> None:
    with open_file(f"{server.base}{path}") as file:
        assert file.read() == b"abc"
    assert {target.decode() for target in server.targets if b"HEAD" not in target} == {asked}


def test_test_texts_behind_a_signed_address_are_read(server: Recorder) -> None:
    assert read_test_texts([f"{server.base}/texts.txt?X-Signature=a%2Fb%3D"]) == ["abc"]
    assert all(b"/texts.txt?X-Signature=a%2Fb%3D" in target for target in server.targets)
