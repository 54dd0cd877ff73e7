"""The options of `ccmb serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ccmb.core.errors import UsageError
from ccmb.serving.http.proxy import PREFIX, TrustedProxies


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Limits and switches of a server.

    Attributes:
        host, port: the address to listen at; port 0 is any free port.
        names: further host names under which the server may be reached, with a port if pages come from another port
            than the scheme's own. Without any, a server on a loopback host accepts only loopback names, and any other
            server accepts every name.
        api_keys: file of keys, see `auth.Keys.read`; without one everybody may ask, and nobody may write.
        batch: most items of a call of the network; 1 is no batching.
        wait: seconds that the first item of a call waits for others.
        queue: the most items of each kind of work that may wait.
        timeout: seconds that a request may take after its last byte has come.
        upload_timeout: seconds in which a request's body has to come.
        max_bytes: of a request's body.
        max_pixels: of an image.
        max_requests: the most requests in flight.
        rate, burst: requests per second of a client, and how many at once; rate 0 is no limit.
        proxy: addresses or networks of trusted proxies, separated by commas. Their headers Forwarded and
            X-Forwarded-For, -Host, -Port and -Prefix are believed.
        prefix: path below which a proxy serves this server, such as /pictures; the proxy may pass it on or remove it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    api_keys: Path | None = None
    batch: int = 16
    wait: float = 0.005
    queue: int = 256
    timeout: float = 30.0
    upload_timeout: float = 20.0
    max_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000
    max_requests: int = 128
    rate: float = 0.0
    burst: float = 20.0
    proxy: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        """Check the options about proxies.

        Raises:
            UsageError: `proxy` names no address, or `prefix` is not a path.
        """
        TrustedProxies(self.proxy)
        if self.prefix.rstrip("/") and not PREFIX.fullmatch(self.prefix.rstrip("/")):
            raise UsageError(f"--prefix '{self.prefix}': give a path such as /pictures")
