"""Which addresses a download may talk to: public ones over HTTP(S), and private ones that are named one by one.

A link list is written by strangers. A link, or the redirect it leads to, may name a machine inside the network that
the download runs in, by address, by a host name that resolves to it, or by one that resolves to it only the second
time. So the address itself is looked at, where the socket is made, after all resolving and redirecting.
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
    """An address that is not connected to. An OSError, so that of several addresses of a host the next is tried; with
    a number, since only that is left of the errors of several.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EACCES, message)


class AddressGuard:
    """Tells public addresses from private ones.

    Args:
        allow_private: addresses or networks that are connected to although they are not public, as those of a server
            in the own house: `["127.0.0.1", "10.1.0.0/16"]`.

    Raises:
        UsageError: one of them is neither address nor network.
    """

    def __init__(self, allow_private: Sequence[str] = ()) -> None:
        try:
            self.allowed: list[_Network] = [ipaddress.ip_network(of) for of in allow_private]
        except ValueError as error:
            raise UsageError(f"allow_private: {error}; write addresses such as 127.0.0.1 or 10.1.0.0/16") from None

    def check(self, address: str) -> None:
        """
        Raises:
            RefusedAddress: the numeric address is neither public nor allowed.
        """
        found = _reached(ipaddress.ip_address(address.split("%")[0]))
        if any(found in network for network in self.allowed):
            return
        if not found.is_global or found.is_multicast or found.is_reserved:
            raise RefusedAddress(f"{address} is not a public address")

    def check_host(self, host: str) -> None:
        """What can be told of a host that a proxy looks up: whether it is an address, however it is written, or a name
        of this machine. Where another name leads, the proxy alone knows.

        Raises:
            RefusedAddress: it is a private address that is not allowed, or a name of this machine.
        """
        name = host.rstrip(".").casefold()
        if name == "localhost" or name.endswith((".localhost", ".localdomain")):
            raise RefusedAddress(f"{host} is not a public name")
        try:
            self.check(str(ipaddress.ip_address(name.split("%")[0])))
        except ValueError:
            if (number := _number_of(name)) is not None:
                self.check(number)

    def make_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """A socket for one entry of `getaddrinfo`, for aiohttp's `socket_factory`.

        It is all that makes sockets for the download, and is called with the very address that is connected to next,
        so neither a resolver that answers otherwise the second time nor a literal address slips by.

        Raises:
            RefusedAddress: see `check`.
        """
        family, kind, protocol, _, where = address_info
        self.check(where[0])
        return socket.socket(family, kind, protocol)


def _number_of(name: str) -> str | None:
    """The address that a C library makes of other ways of writing one, such as 127.1 and 0x7f000001."""
    with suppress(OSError, UnicodeError):
        return socket.inet_ntoa(socket.inet_aton(name)) if name[:1].isdigit() else None
    return None


def _reached(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one leads to, if it is of that kind; else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    tunnelled = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or tunnelled or address
