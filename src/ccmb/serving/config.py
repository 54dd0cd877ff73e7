"""What `ccmb serve` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ccmb.core.errors import UsageError
from ccmb.serving.http.proxy import PREFIX, TrustedProxies


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Limits and switches of a server.

    Attributes:
        host, port: where it listens; port 0 is any that is free.
        names: host names besides that it may be asked by, with the port where pages come from another than a scheme's
            own; without any, a server of this machine alone (a loopback
            host) is asked by loopback names, and any other by every name.
        api_keys: file of keys, see `auth.Keys.read`; without one everybody may ask, and nobody write.
        batch: most items of a call of the network; 1 is no batching.
        wait: seconds that the first item of a call waits for others.
        queue: items of each kind of work that may wait.
        timeout: seconds that a request may take, from its last byte.
        upload_timeout: seconds that a request's body may take to come.
        max_bytes: of a request's body.
        max_pixels: of a picture.
        max_requests: that are in the house at once.
        rate, burst: requests per second of a client, and how many at once; rate 0 is no limit.
        proxy: addresses or networks, with commas between, of proxies whose Forwarded and X-Forwarded-For, -Host, -Port
            and -Prefix are believed.
        prefix: path below which a proxy serves it, such as /pictures; the proxy may pass it on or take it away.
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
        """
        Raises:
            UsageError: `proxy` names no address, or `prefix` is no path.
        """
        TrustedProxies(self.proxy)
        if self.prefix.rstrip("/") and not PREFIX.fullmatch(self.prefix.rstrip("/")):
            raise UsageError(f"--prefix '{self.prefix}': give a path such as /pictures")
