"""Proxies that the environment names, for machines that reach the web through one alone; off unless asked for.

HTTP_PROXY and HTTPS_PROXY (or ALL_PROXY) name them, in capitals or not, and NO_PROXY the hosts that are reached
without: `*`, names with all below them, ports, addresses and networks. The proxy looks up the names of hosts and
connects to them. So `ccmb.fetch.address_guard` cannot see where a name leads: it still refuses private addresses that
stand in a URL or a redirect themselves, and names of this machine, but a name that leads into the network of the proxy
is the proxy's to refuse. The proxy itself may have any address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.request import getproxies_environment

from yarl import URL

from ccmb.core.errors import UsageError


class Proxies:
    """Which proxy an address is asked for through."""

    def __init__(self, use: bool) -> None:
        """
        Args:
            use: look at the environment; else there are none.

        Raises:
            UsageError: the environment names a proxy that is not one of HTTP.
        """
        named = getproxies_environment() if use else {}
        self._without = [name for name in re.split(r"[,\s]+", named.get("no", "").casefold()) if name]
        self._by_scheme = {
            scheme: _checked(proxy, f"{scheme}_proxy")
            for scheme in ("http", "https")
            if (proxy := named.get(scheme) or named.get("all"))
        }

    def proxy_for(self, url: URL) -> URL | None:
        """The proxy; None: none."""
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
