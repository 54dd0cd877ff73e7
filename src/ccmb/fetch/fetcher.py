"""One URL -> its bytes, or a status that tells why not: politely, safely, and in bounded time and memory.

| status | meaning | may another day help? |
|---|---|---|
| bad_url, bad_redirect | not a URL of HTTP(S), or one with a password; or a redirect without an address | |
| refused_address | a private address, behind any name or redirect | |
| dns | no such host; dns_failed: the name server had no answer | dns_failed |
| connection, timeout, too_slow, truncated | no connection, or a broken one; no answer; a trickle; cut short | yes |
| certificate | the server cannot prove who it is | |
| bad_answer | not HTTP | yes |
| http_NNN | the status of the answer, such as http_404 | 408, 425, 429 and 5xx |
| host_paused | the host asked for a long pause after another request | yes |
| too_many_redirects, too_large, opted_out, empty | as named; see `ccmb.fetch.opt_outs` | |
| deadline | the time of the whole download was up | yes |
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import random
import socket
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

import aiohttp
from pydantic import ConfigDict, Field
from yarl import URL

from ccmb.core.config.base import ConfigBase
from ccmb.fetch.address_guard import AddressGuard
from ccmb.fetch.asked_urls import BadUrl, check_url, redirected_url
from ccmb.fetch.host_limits import HostPaused, Hosts
from ccmb.fetch.opt_outs import opted_out
from ccmb.fetch.proxies import Proxies

_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {"dns_failed", "connection", "timeout", "too_slow", "truncated", "bad_answer", "host_paused", "deadline"}
_TRANSIENT_HTTP = {408, 425, 429}
_BUSY = {429, 503}


class HttpOptions(ConfigBase):
    """How images are requested over HTTP. The default values are our choice."""

    model_config = ConfigDict(frozen=True)
    RETIRED: ClassVar = {
        "per_host": "connections_per_host",
        "longest_pause": "max_host_pause",
        "connect_seconds": "connect_timeout",
        "silent_seconds": "read_timeout",
        "total_seconds": "total_timeout",
        "least_rate": "min_bytes_per_second",
        "robot": "robot_name",
        "check_certificates": "verify_tls",
        "name_threads": "dns_threads",
    }
    connections: int = Field(128, gt=0, description="images at once that are being fetched or wait to be decoded")
    connections_per_host: int = Field(4, gt=0, description="requests to one host at once")
    host_delay: float = Field(0.05, ge=0, description="seconds between the starts of two requests to one host")
    max_host_pause: float = Field(120.0, ge=0, description="maximum wait in seconds for a host that sends Retry-After")
    retries: int = Field(3, ge=0, description="more attempts after a failure that may be temporary")
    backoff: float = Field(1.0, ge=0, description="seconds before the second attempt; doubled for each further one")
    connect_timeout: float = Field(10.0, gt=0, description="time limit for a connection")
    read_timeout: float = Field(10.0, gt=0, description="time limit without a byte")
    total_timeout: float = Field(60.0, gt=0, description="time limit for one whole answer")
    slow_after: float = Field(
        5.0, ge=0, description="seconds after which the mean rate of an answer must be `min_bytes_per_second`"
    )
    min_bytes_per_second: float = Field(2048.0, ge=0, description="minimum rate in bytes a second")
    max_bytes: int = Field(20 * 2**20, gt=0, description="maximum bytes of one image")
    max_redirects: int = Field(5, ge=0, description="maximum number of redirects")
    user_agent: str = Field("Mozilla/5.0 (compatible; ccmb)", description="User-Agent of the requests")
    robot_name: str = Field("ccmb", description="our name in X-Robots-Tag headers for single robots")
    obey_robots: bool = Field(True, description="refuse images whose server opts out, see ccmb.fetch.opt_outs")
    verify_tls: bool = Field(True, description="refuse HTTPS servers that cannot prove who they are")
    allow_private: tuple[str, ...] = Field((), description="private addresses or networks that are allowed")
    proxy_from_environment: bool = Field(
        False, description="use HTTP_PROXY and HTTPS_PROXY, except for hosts of NO_PROXY; see ccmb.fetch.proxies"
    )
    dns_threads: int = Field(32, gt=0, description="how many host names are looked up at once")


def is_transient(status: str) -> bool:
    """Whether another attempt may end otherwise."""
    if status.startswith("http_"):
        code = int(status.removeprefix("http_"))
        return code in _TRANSIENT_HTTP or code >= 500
    return status in _TRANSIENT


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result for a URL: its status, the body if the status is "ok", and the number of attempts."""

    status: str
    body: bytes
    attempts: int


class Failure(Exception):
    """One attempt failed.

    Attributes:
        status: see the table above.
        wait: seconds that the host asked to wait.
    """

    def __init__(self, status: str, wait: float | None = None) -> None:
        super().__init__(status)
        self.status, self.wait = status, wait


class Fetcher:
    """A client for many hosts, used as an async context manager."""

    def __init__(self, network: HttpOptions) -> None:
        self.network = network
        self.hosts = Hosts(network.connections_per_host, network.host_delay, network.max_host_pause)
        self._in_hand = asyncio.Semaphore(network.connections)
        self._guard = AddressGuard(network.allow_private)
        self._proxies = Proxies(network.proxy_from_environment)

    async def __aenter__(self) -> Fetcher:
        self._session = self._open_session(self._guard.make_socket)
        self._proxied = self._open_session(None)
        return self

    def _open_session(self, make_socket: Callable[..., Any] | None) -> aiohttp.ClientSession:
        network = self.network
        connector = aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=300, resolver=aiohttp.ThreadedResolver(),
            socket_factory=make_socket, ssl=network.verify_tls,
        )  # fmt: skip
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": network.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(sock_connect=network.connect_timeout, sock_read=network.read_timeout),
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._proxied.close()

    async def fetch(self, url: str) -> Fetched:
        """Fetch the bytes of an image. Whatever a server does, it raises no error.

        If the status is "ok", the caller holds one of the `connections` until it calls `done`. So at most that many
        bodies wait in memory, however slow the decoding is.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return Fetched("ok", await self._follow(url), attempt)
            except HostPaused:
                return Fetched("host_paused", b"", attempt)
            except Failure as failure:
                if attempt > self.network.retries or not is_transient(failure.status):
                    return Fetched(failure.status, b"", attempt)
                # Half of the wait is random, so that requests that failed together are not repeated together.
                longest = self.network.backoff * 2 ** (attempt - 1)
                if failure.wait is None:  # else the host itself is paused
                    await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    def done(self, fetched: Fetched) -> None:
        """Release the connection: the body is no longer needed."""
        if fetched.status == "ok":
            self._in_hand.release()

    async def _follow(self, text: str) -> bytes:
        try:
            url = check_url(text)
        except BadUrl:
            raise Failure("bad_url") from None
        for _ in range(self.network.max_redirects + 1):
            answer = await self._ask(url)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise Failure("too_many_redirects")

    async def _ask(self, url: URL) -> bytes | URL:
        """The body, with one of the connections held; or the target of a redirect."""
        host = url.host or ""
        async with self.hosts.turn(host):
            await self._in_hand.acquire()
            answer: bytes | URL | None = None
            try:
                async with asyncio.timeout(self.network.total_timeout):
                    answer = await self._get(url)
                return answer
            except Failure as failure:
                if failure.wait is not None:
                    self.hosts.pause(host, failure.wait)
                raise
            except Exception as error:  # servers fail in ways that no client has a name for
                raise Failure(_status_of(error)) from None
            finally:
                if not isinstance(answer, bytes):
                    self._in_hand.release()

    async def _get(self, url: URL) -> bytes | URL:
        session = self._session
        if (proxy := self._proxies.proxy_for(url)) is not None:
            self._guard.check_host(url.host or "")
            session = self._proxied
        async with session.get(url, allow_redirects=False, proxy=proxy) as response:
            if response.status in _REDIRECTS:
                return _redirected(url, response.headers)
            if response.status != 200:
                raise Failure(f"http_{response.status}", self._asked_wait(response))
            if self.network.obey_robots and opted_out(response.headers, self.network.robot_name):
                raise Failure("opted_out")
            return _unpacked(await self._read(response), response.headers, self.network.max_bytes)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        network, body = self.network, bytearray()
        if (response.content_length or 0) > network.max_bytes:
            raise Failure("too_large")
        started = time.monotonic()
        async for block in response.content.iter_any():
            body += block
            if len(body) > network.max_bytes:
                raise Failure("too_large")
            seconds = time.monotonic() - started
            if seconds > network.slow_after and len(body) < seconds * network.min_bytes_per_second:
                raise Failure("too_slow")
        if not body:
            raise Failure("empty")
        return bytes(body)

    def _asked_wait(self, response: aiohttp.ClientResponse) -> float | None:
        """Seconds to wait for a busy host: as it asks, or else as long as before a second attempt."""
        if response.status not in _BUSY:
            return None
        asked = retry_after(response.headers.get("Retry-After", ""))
        return self.network.backoff if asked is None else asked


def retry_after(value: str) -> float | None:
    """The seconds of a Retry-After header, which holds a number or a date; None if it holds neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _redirected(url: URL, headers: Mapping[str, str]) -> URL:
    try:
        return redirected_url(url, headers["Location"])
    except (KeyError, BadUrl):
        raise Failure("bad_redirect") from None


def _unpacked(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """The body, unpacked if the server compressed it although the request did not allow that."""
    if headers.get("Content-Encoding", "identity").lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    unpacker = zlib.decompressobj(wbits=47)
    try:
        unpacked = unpacker.decompress(body, max_bytes + 1)
    except zlib.error:
        raise Failure("truncated") from None
    if len(unpacked) > max_bytes:
        raise Failure("too_large")
    if not unpacker.eof:
        raise Failure("truncated")
    return unpacked


def _status_of(error: Exception) -> str:
    cause: Any = getattr(error, "os_error", error)
    if isinstance(cause, OSError) and cause.errno == errno.EACCES:
        return "refused_address"
    if isinstance(cause, socket.gaierror):
        return "dns_failed" if cause.errno == socket.EAI_AGAIN else "dns"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)):
        return "certificate"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "truncated"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "bad_url"
    return "connection" if isinstance(error, OSError | aiohttp.ServerDisconnectedError) else "bad_answer"
