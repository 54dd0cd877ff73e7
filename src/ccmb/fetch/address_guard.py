"""Which addresses a download may connect to: public ones over HTTP(S), and private ones that are allowed by name.

Strangers write link lists. A link or a redirect may lead to a machine in the local network: by its address, by a host
name that resolves to it, or by a name that resolves to it only the second time. So the guard checks the address itself
when the socket is made, after all names are resolved and all redirects followed.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ccmb.core.errors import UsageError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Gateways of IPv6-only networks carry an IPv4 address in the last four bytes.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class RefusedAddress(OSError):
    """An address that the guard does not connect to.

    It is an OSError, so that the next address of the host is tried. It has an error number, because nothing else is
    left when the errors of several addresses are combined.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EACCES, message)


class AddressGuard:
    """Tells public addresses from private ones.

    Args:
        allow_private: private addresses or networks that are allowed, such as those of a local server:
            `["127.0.0.1", "10.1.0.0/16"]`.

    Raises:
        UsageError: an entry is neither an address nor a network.
    """

    def __init__(self, allow_private: Sequence[str] = ()) -> None:
        try:
            self.allowed: list[_Network] = [ipaddress.ip_network(network) for network in allow_private]
        except ValueError as error:
            raise UsageError(f"allow_private: {error}; write addresses such as 127.0.0.1 or 10.1.0.0/16") from None

    def check(self, address: str) -> None:
        """Check a numeric address.

        Raises:
            RefusedAddress: the address is neither public nor allowed.
        """
        reached = _reached(ipaddress.ip_address(address.split("%")[0]))
        if any(reached in network for network in self.allowed):
            return
        if not reached.is_global or reached.is_multicast or reached.is_reserved:
            raise RefusedAddress(f"{address} is not a public address")

    def check_host(self, host: str) -> None:
        """Check a host that a proxy looks up.

        Only addresses, in any notation, and names of this machine can be checked. Only the proxy knows where another
        name leads.

        Raises:
            RefusedAddress: the host is a private address that is not allowed, or a name of this machine.
        """
        name = host.rstrip(".").casefold()
        if name == "localhost" or name.endswith((".localhost", ".localdomain")):
            raise RefusedAddress(f"{host} is not a public name")
        try:
            self.check(str(ipaddress.ip_address(name.split("%")[0])))
        except ValueError:
            if (numeric := _numeric_address(name)) is not None:
                self.check(numeric)

    def make_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """A socket for one entry of `getaddrinfo`, for aiohttp's `socket_factory`.

        All sockets of the download are made here, with exactly the address that is connected to next. So a resolver
        that changes its answer does not get past the check, nor does a literal address.

        Raises:
            RefusedAddress: see `check`.
        """
        family, kind, protocol, _, where = address_info
        self.check(where[0])
        return socket.socket(family, kind, protocol)


def _numeric_address(name: str) -> str | None:
    """The address that a C library reads from other notations, such as 127.1 and 0x7f000001; None if it is none."""
    with suppress(OSError, UnicodeError):
        return socket.inet_ntoa(socket.inet_aton(name)) if name[:1].isdigit() else None
    return None


def _reached(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address leads to; the address itself if it leads to none."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    tunnelled = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or tunnelled or address
