"""No link, redirect or name leads a download to an address that is not public."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import UsageError
from ccmb.fetch.address_guard import AddressGuard, RefusedAddress
from ccmb.fetch.asked_urls import BadUrl, check_url
from ccmb.fetch.fetcher import Fetched, Fetcher
from tests.helpers.image_web import network

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "::127.0.0.1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(address: str) -> None:
    with pytest.raises(RefusedAddress):
        AddressGuard().check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not(address: str) -> None:
    AddressGuard().check(address)


@given(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fc00::/7"))
def test_what_is_allowed_is_that_network_alone(address: object) -> None:
    with pytest.raises(RefusedAddress):
        AddressGuard(["192.168.0.0/16"]).check(str(address))
    AddressGuard(["10.0.0.0/8", "fc00::/7"]).check(str(address))


def test_a_faulty_allow_list_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"allow_private: 'localhost' .*; write addresses such as 127\.0\.0\.1"):
        AddressGuard(["localhost"])


@pytest.mark.parametrize(
    "url",
    ["ftp://a.cn/1.jpg", "file:///etc/passwd", "a.jpg", "", "http://", "http:///1.jpg",
     "http://user:word@a.cn/1.jpg", "http://user@a.cn/1.jpg", "http://a.cn:99999/1.jpg", "http://[::1/1.jpg",
     "javascript:alert(1)", "http://a.cn:x/"],
)  # fmt: skip
def test_urls_that_are_none_of_an_image(url: str) -> None:
    with pytest.raises(BadUrl):
        check_url(url)


@given(st.text())
def test_any_text_is_a_url_or_is_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://a.cn/{text}"):
        with suppress(BadUrl):
            assert check_url(url).scheme in ("http", "https")


def test_chinese_urls_are_quoted() -> None:
    assert str(check_url(" http://例子.cn/图 1.jpg ")) == "http://xn--fsqu00a.cn/%E5%9B%BE%201.jpg"


@pytest.fixture
def canary() -> Iterator[tuple[int, list[str]]]:
    """A port on loopback where nobody may knock, and the addresses of those who did."""
    knocks: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            while True:
                try:
                    connection, (address, _) = listening.accept()
                except OSError:
                    return
                knocks.append(address)
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield listening.getsockname()[1], knocks
        listening.shutdown(socket.SHUT_RDWR)


def fetch(url: str, **changes: object) -> Fetched:
    async def run() -> Fetched:
        async with Fetcher(network(**changes)) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.1.", "0x7f.1", "2130706433", "127.1", "0"],
)
def test_no_spelling_of_an_address_slips_by(host: str, canary: tuple[int, list[str]]) -> None:
    port, knocks = canary
    fetched = fetch(f"http://{host}:{port}/1.jpg", allow_private=())
    assert fetched.status in ("refused_address", "bad_url", "dns")
    assert fetched.attempts == 1
    assert knocks == []


def answer(*addresses: str) -> list[tuple[object, ...]]:
    """What getaddrinfo says of a name with these addresses."""
    entries: list[tuple[object, ...]] = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        where = (address, 80, 0, 0) if ":" in address else (address, 80)
        entries.append((family, socket.SOCK_STREAM, 6, "", where))
    return entries


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[tuple[object, ...]]) -> None:
    """Let names resolve to the answers, one after the other, and then to the last."""
    left = list(answers)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: left.pop(0) if len(left) > 1 else left[0])


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["10.0.0.1", "::1", "169.254.169.254"]])
def test_a_name_of_private_addresses_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch, canary: tuple[int, list[str]], addresses: list[str]
) -> None:
    resolve_to(monkeypatch, answer(*addresses))
    assert fetch(f"http://pictures.example:{canary[0]}/1.jpg", allow_private=()).status == "refused_address"
    assert canary[1] == []


def test_a_name_that_turns_private_the_second_time_is_refused(
    monkeypatch: pytest.MonkeyPatch, canary: tuple[int, list[str]]
) -> None:
    resolve_to(monkeypatch, answer("1.1.1.1"), answer("127.0.0.1"))
    made: list[str] = []
    original = AddressGuard.make_socket

    def make_socket(guard: AddressGuard, info: tuple[object, ...]) -> socket.socket:
        made.append(info[4][0])  # type: ignore[index]
        made_socket = original(guard, info)
        made_socket.close()  # so that nothing leaves this machine
        raise ConnectionRefusedError

    async def twice() -> list[str]:
        async with Fetcher(network(allow_private=(), retries=0)) as fetcher:
            # Names are kept with their port, so that this one is looked up anew.
            return [(await fetcher.fetch(f"http://turning.example:{port}/1.jpg")).status for port in (9, canary[0])]

    monkeypatch.setattr(AddressGuard, "make_socket", make_socket)
    assert asyncio.run(twice()) == ["connection", "refused_address"]
    assert made == ["1.1.1.1", "127.0.0.1"]
    assert canary[1] == []


def test_of_several_addresses_the_refused_ones_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve_once, args=(listening,), daemon=True).start()
        port = listening.getsockname()[1]
        both = [(*entry[:4], (entry[4][0], port)) for entry in answer("10.0.0.1", "127.0.0.1")]  # type: ignore[index]
        resolve_to(monkeypatch, both)
        assert fetch(f"http://both.example:{port}/1.jpg").body == b"picture"


def _serve_once(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture")


@pytest.mark.parametrize(
    ("error_number", "status", "attempts"), [(socket.EAI_NONAME, "dns", 1), (socket.EAI_AGAIN, "dns_failed", 2)]
)
def test_only_a_name_server_without_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, error_number: int, status: str, attempts: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(error_number, "no")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    fetched = fetch("http://none.example/1.jpg")
    assert (fetched.status, fetched.attempts) == (status, attempts)
