"""Proxies of the environment, for machines that reach the web only through a proxy. They are off by default.

HTTP_PROXY and HTTPS_PROXY (or ALL_PROXY) name the proxies, in capitals or not. NO_PROXY names the hosts that need none:
`*`, names with all subdomains, ports, addresses and networks.

The proxy looks up host names and connects to the hosts. So `ccmb.fetch.address_guard` cannot see where a name leads. It
still refuses private addresses in a URL or a redirect, and names of this machine. Only the proxy can refuse a name that
leads into its own network. The proxy itself may have any address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.request import getproxies_environment

from yarl import URL

from ccmb.core.errors import UsageError


class Proxies:
    """The proxy for each URL."""

    def __init__(self, use: bool) -> None:
        """Read the environment.

        Args:
            use: whether to use the proxies of the environment; otherwise there are none.

        Raises:
            UsageError: the environment names a proxy that is not an HTTP proxy.
        """
        named = getproxies_environment() if use else {}
        self._without = [name for name in re.split(r"[,\s]+", named.get("no", "").casefold()) if name]
        self._by_scheme = {
            scheme: _checked(proxy, f"{scheme}_proxy")
            for scheme in ("http", "https")
            if (proxy := named.get(scheme) or named.get("all"))
        }

    def proxy_for(self, url: URL) -> URL | None:
        """The proxy for a URL; None: connect without one."""
        proxy = self._by_scheme.get(url.scheme)
        if proxy is None:
            return None
        return None if _is_without(url, self._without) else proxy


def _is_without(url: URL, names: Sequence[str]) -> bool:
    host = (url.raw_host or "").casefold().rstrip(".")
    for name in names:
        known = name.removeprefix("*").removesuffix(f":{url.port}").strip(".")
        if name == "*" or (known and (host == known or host.endswith(f".{known}"))) or _holds(name, host):
            return True
    return False


def _holds(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def _checked(proxy: str, name: str) -> URL:
    try:
        url = URL(proxy if "://" in proxy else f"http://{proxy}")
        known = url.scheme in ("http", "https") and bool(url.host)
    except ValueError:
        known = False
    if not known:
        scheme = proxy.partition("://")[0]
        raise UsageError(f"{name}: only http and https proxies are known, not {scheme[:20]!r}; set one, or unset it")
    return url
