"""Headers of proxies in front of the server: the client's address, the host name and the path prefix.

Only a proxy that is named (`ccmb serve --proxy`) is believed, since anyone can send these headers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from ccmb.core.errors import UsageError

PREFIX = re.compile(r"(?:/[\w.~%-]+)+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FORWARDED_PAIR = re.compile(r'\s*([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s]*)')


@dataclass(frozen=True, slots=True)
class Forwarded:
    """How the client reached the proxy; None or empty if the proxy does not say.

    Attributes:
        client: the client's address.
        host: the host name, with the port if one was given.
        port: the proxy's port, for a `host` without one.
        prefix: path below which the proxy serves this server, such as `/pictures`.
    """

    client: str | None = None
    host: str | None = None
    port: int | None = None
    prefix: str = ""


class TrustedProxies:
    """The proxies whose headers are believed.

    Args:
        names: addresses, networks, `localhost` or `*` (anyone), separated by commas; None trusts nobody.

    Raises:
        UsageError: a name is none of these.
    """

    def __init__(self, names: str | None) -> None:
        words = [word.strip() for word in (names or "").split(",") if word.strip()]
        self._all = "*" in words
        self._networks = [network for word in words if word != "*" for network in _networks(word)]

    def trusts(self, address: str | None) -> bool:
        if self._all:
            return True
        try:
            parsed = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)

    def read(self, scope: Scope) -> Forwarded:
        """The forwarding headers of a request; empty if it does not come from a trusted proxy."""
        client_address = scope["client"][0] if scope.get("client") else None
        if not self.trusts(client_address):
            return Forwarded()
        headers = Headers(scope=scope)
        standard = _forwarded(headers.getlist("forwarded"))
        addresses = _listed(headers.getlist("x-forwarded-for")) or [
            pairs["for"] for pairs in standard if "for" in pairs
        ]
        hosts = _listed(headers.getlist("x-forwarded-host")) or [pairs["host"] for pairs in standard if "host" in pairs]
        port = next(iter(_listed(headers.getlist("x-forwarded-port"))), "")
        prefix = next(iter(_listed(headers.getlist("x-forwarded-prefix"))), "").rstrip("/")
        return Forwarded(
            self._client(addresses),
            hosts[0] if hosts else None,
            int(port) if port.isascii() and port.isdigit() and len(port) < 6 else None,
            prefix if PREFIX.fullmatch(prefix) else "",
        )

    def _client(self, addresses: Sequence[str]) -> str | None:
        """The last address that is not a trusted proxy's: the client may have invented all addresses before it."""
        plain = [_without_port(address) for address in addresses]
        strange = [address for address in plain if not self.trusts(address)]
        return strange[-1] if strange else plain[0] if plain else None


def same_origin(origin: str, hosts: Sequence[str], port: int | None = None) -> bool:
    """Whether a page's Origin (`SCHEME://HOST[:PORT]`) is one of the request's hosts.

    A scheme's own port may be left out on either side.

    Args:
        hosts: values of Host and X-Forwarded-Host.
        port: for hosts without a port; None is the default of the origin's scheme.
    """
    scheme, separator, host_and_port = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme.lower())
    if not separator or default is None:
        return False
    forwarded = split_host(host_and_port, default)
    return forwarded is not None and any(forwarded == split_host(host, port or default) for host in hosts)


def split_host(host: str, default_port: int) -> tuple[str, int] | None:
    """The name in lower case, without brackets or a last dot, and the port; None if it is not a host."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:/?#@\s]+)(?::(\d{0,5}))?", host)
    if match is None:
        return None
    return match[1].strip("[]").rstrip(".").lower(), int(match[2] or default_port)


def _networks(word: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    names = ("127.0.0.1", "::1") if word.lower() == "localhost" else (word.strip("[]"),)
    try:
        return [ipaddress.ip_network(name, strict=False) for name in names]
    except ValueError:
        raise UsageError(
            f"--proxy '{word}': no address or network; give such as 127.0.0.1 or 172.18.0.0/16, or * for whoever asks"
        ) from None


def _listed(values: Sequence[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _forwarded(values: Sequence[str]) -> list[dict[str, str]]:
    """The elements of `Forwarded` headers (RFC 7239), one for each proxy, in order."""
    elements = [element for value in values for element in re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', value)]
    return [{key.lower(): text.strip('"') for key, text in _FORWARDED_PAIR.findall(element)} for element in elements]


def _without_port(address: str) -> str:
    """The address in `1.2.3.4:5` or `[::1]:5`, without port and brackets."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
