"""The middleware around all handlers: who asks, and limits of size, rate and time."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccmb.serving.config import ServeOptions
from ccmb.serving.http.auth import Client, Keys
from ccmb.serving.http.errors import ApiError, busy
from ccmb.serving.http.proxy import Forwarded, TrustedProxies, same_origin, split_host
from ccmb.serving.http.rate_limit import RateLimiter
from ccmb.serving.metrics import Metrics

MAX_HEADER_BYTES = 32_768
_IMAGE_COST = 0.1  # of a request: a page of results asks for dozens of small images
_GONE = 499  # the status, in metrics, of a client that went away
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=()",
}


class Middleware:
    """The middleware around the whole application.

    It refuses and counts requests, reads their bodies within limits, and ends requests that take too long.

    Args:
        public: paths that need no key and have no rate limit: the page's own files and the health check.
    """

    def __init__(
        self, app: ASGIApp, options: ServeOptions, keys: Keys | None, metrics: Metrics, public: frozenset[str]
    ) -> None:
        self.app, self.options, self.keys, self.metrics, self.public = app, options, keys, metrics, public
        self.inside = 0
        self._rates = RateLimiter(options.rate, options.burst)
        self._names = _host_names(options)
        self._proxies = TrustedProxies(options.proxy)
        metrics.watch_requests(lambda: self.inside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, started = scope["method"], time.perf_counter()
        response = _ResponseSender(send, headers_alone=method == "HEAD")
        if method == "HEAD":  # it is answered wherever GET is
            scope = {**scope, "method": "GET"}
        try:
            await self._serve(scope, receive, response)
        except ApiError as fault:
            await fault.response()(scope, receive, response.send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            status = response.status or _GONE
            self.metrics.request(route, method, status, time.perf_counter() - started)

    async def _serve(self, scope: Scope, receive: Receive, response: _ResponseSender) -> None:
        self._admit(scope)
        if self.inside >= self.options.max_requests:
            raise busy()
        self.inside += 1
        try:
            body = await _read(receive, Headers(scope=scope), self.options)
            if body is not None:
                await self._handle(scope, body, receive, response)
        finally:
            self.inside -= 1

    def _admit(self, scope: Scope) -> None:
        """Admit the request, and put its client into `scope["ccmb.client"]`.

        Raises:
            ApiError: it has too large headers, uses an unknown host name, comes from a page of another origin, has no
                valid key, or comes too often.
        """
        _check_header_size(scope)
        headers, forwarded = Headers(scope=scope), self._proxies.read(scope)
        self._check_names(headers, forwarded)
        path = self._within_prefix(scope, forwarded)
        address = forwarded.client or (scope["client"][0] if scope.get("client") else "unknown")
        if path in self.public:
            scope["ccmb.client"] = Client(address)
            return
        client = Client(address) if self.keys is None else self.keys.find(_key(headers))
        cost = _IMAGE_COST if path.startswith("/thumbnails/") else 1.0
        if wait := self._rates.wait(client.name if client else address, cost):
            raise ApiError(429, "too_many_requests", "too many requests; slow down", {"Retry-After": str(wait)})
        if client is None:
            message = "give a valid key: Authorization: Bearer KEY"
            raise ApiError(401, "no_key", message, {"WWW-Authenticate": "Bearer"})
        scope["ccmb.client"] = client

    def _check_names(self, headers: Headers, forwarded: Forwarded) -> None:
        """Check the host name and the origin of a request.

        Raises:
            ApiError: the host name is unknown, or the request comes from a page of another origin.
        """
        host = headers.get("host", "")
        if self._names is not None and _name(host) not in self._names:
            raise ApiError(421, "wrong_host", "this server is not reached by this name; see ccmb serve --name")
        origin = headers.get("origin")
        if origin is None or headers.get("sec-fetch-site") == "same-origin":  # no page can set the latter itself
            return
        hosts = [name for name in (host, forwarded.host) if name] + [name for name in self.options.names if ":" in name]
        if not same_origin(origin, hosts, forwarded.port):
            message = "pages of other origins may not ask this server; behind a proxy see ccmb serve --proxy and --name"
            raise ApiError(403, "cross_origin", message)

    def _within_prefix(self, scope: Scope, forwarded: Forwarded) -> str:
        """The path below the prefix, which becomes the request's path. A proxy may already have removed the prefix.

        Raises:
            ApiError: the path is the prefix without its slash, from which the page's relative addresses would be wrong.
        """
        prefix = forwarded.prefix or self.options.prefix.rstrip("/")
        scope["ccmb.prefix"] = prefix
        path: str = scope["path"]
        if prefix and path == prefix:
            query = scope["query_string"].decode("latin-1")
            raise ApiError(308, "moved", f"this server is at {prefix}/", {"Location": f"{prefix}/?{query}".rstrip("?")})
        if prefix and path.startswith(f"{prefix}/"):
            scope["path"] = path = path.removeprefix(prefix)
        return path

    async def _handle(self, scope: Scope, body: bytes, receive: Receive, response: _ResponseSender) -> None:
        """Run the application on a complete body, until it has answered, the client goes away, or the time ends.

        Raises:
            ApiError: the time ended before there was an answer.
        """
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                await asyncio.Event().wait()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        work = asyncio.ensure_future(self.app(scope, replay, response.send))
        gone = asyncio.ensure_future(receive())  # nothing but the end of the connection can come
        try:
            await asyncio.wait({work, gone}, timeout=self.options.timeout, return_when=asyncio.FIRST_COMPLETED)
            if work.done() or response.finished:
                await work
                return
            went_away = gone.done()
        finally:
            for task in (work, gone):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(work, gone, return_exceptions=True)
        if not went_away and not response.status:
            raise ApiError(504, "too_slow", f"no answer within {self.options.timeout:g} s")


class _ResponseSender:
    """Sends a response with the common headers and records its progress; for HEAD, it leaves out the body."""

    def __init__(self, send: Send, headers_alone: bool) -> None:
        self.status, self.finished, self._send, self._headers_alone = 0, False, send, headers_alone

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
        elif message["type"] == "http.response.body":
            self.finished = not message.get("more_body", False)
            if self._headers_alone:
                message = {**message, "body": b""}
        await self._send(message)


async def _read(receive: Receive, headers: Headers, options: ServeOptions) -> bytes | None:
    """The request's body; None if the client went away before its end.

    Raises:
        ApiError: the body is too large, or takes too long to come.
    """
    too_large = ApiError(413, "too_large", f"the body has more than the {options.max_bytes:,} bytes allowed")
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and len(length) < 20 and int(length) > options.max_bytes:
        raise too_large
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(options.upload_timeout):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > options.max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, "upload_too_slow", f"the body did not come within {options.upload_timeout:g} s") from None


def client_of(scope: Scope) -> Client:
    """The client of a request, see `Middleware`."""
    client: Any = scope["ccmb.client"]
    assert isinstance(client, Client)
    return client


def _check_header_size(scope: Scope) -> None:
    """Refuse too large headers, however they came: the server's own limit is only of headers that come in parts.

    Raises:
        ApiError: they are too large.
    """
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise ApiError(431, "headers_too_large", f"the headers are larger than {MAX_HEADER_BYTES:,} bytes")


def _key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _host_names(options: ServeOptions) -> frozenset[str] | None:
    """The host names under which the server may be reached; None for any name.

    This keeps a page of another site from reaching a local server by resolving its own name to a loopback address.
    """
    own = {options.host.strip("[]").lower(), "localhost", "127.0.0.1", "::1"}
    if options.names or _is_loopback(options.host):
        return frozenset(own | {_name(name) for name in options.names})
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name(host: str) -> str:
    """The name of a Host header, without the port."""
    split = split_host(host, 0)
    return "" if split is None else split[0]
