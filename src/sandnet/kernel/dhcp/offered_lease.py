"""Read a lease from what a DHCP server stated: every value of it is a stranger's, and is checked (RFC 2132)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from sandnet.model.interfaces.dhcp_lease import FOREVER, DhcpLease

VALUES: Final = ("ip", "subnet", "router", "dns", "domain", "serverid", "lease")
"""The names under which udhcpc passes on what is read here."""
_LONGEST_PREFIX: Final = 30
_SHORTEST_PREFIX: Final = 8
_MOST_SERVERS: Final = 3
"""As many as a resolv.conf has (resolv.conf(5))."""
_DOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}|\.(?=[A-Za-z0-9]))*")
_SHOWN: Final = 40


def read_lease(values: Mapping[str, str], at: float) -> DhcpLease:
    """Return the lease.

    A router, a name server or a domain that cannot be one is left out. Without a usable address there is no lease.

    Args:
        values: what the server stated, by the names of :data:`VALUES`.
        at: when, in seconds since the epoch.

    Raises:
        ValueError: the address cannot be used; the text has the reason.
    """
    address = _address(values)
    routers = (each for each in _addresses(values.get("router", "")) if _is_neighbour(each, address))
    servers = tuple(dict.fromkeys(_addresses(values.get("dns", ""))))
    domain = values.get("domain", "").rstrip(".")
    return DhcpLease(
        address=address,
        router=next(routers, None),
        dns=servers[:_MOST_SERVERS],
        domain=domain.lower() if _DOMAIN.fullmatch(domain) else "",
        server=next(_addresses(values.get("serverid", "")), None),
        seconds=_seconds(values.get("lease", "")),
        obtained=at,
    )


def _address(values: Mapping[str, str]) -> IPv4Interface:
    given, mask = values.get("ip", ""), values.get("subnet", "")
    try:
        # a mask, not a host mask or a length, which ipaddress would take for one as well
        bits = int(IPv4Address(mask))
        length = bits.bit_count()
        address = IPv4Interface((IPv4Address(given), length))
    except ValueError:
        raise ValueError(f"address {given[:_SHOWN]!r} with mask {mask[:_SHOWN]!r} is none") from None
    if bits != int(address.netmask) or not _SHORTEST_PREFIX <= length <= _LONGEST_PREFIX:
        raise ValueError(f"{mask} is no mask of a segment")
    if not _is_unicast(address.ip) or not _is_host(address.ip, address):
        raise ValueError(f"{address} is no address of a machine")
    return address


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 0 < int(text) <= FOREVER:
        raise ValueError(f"a lease of {text[:_SHOWN]!r} seconds is none")
    return int(text)


def _addresses(text: str) -> Iterator[IPv4Address]:
    """Yield the addresses of a list that machines can have."""
    for word in text.split():
        try:
            address = IPv4Address(word)
        except ValueError:
            continue
        if _is_unicast(address):
            yield address


def _is_neighbour(router: IPv4Address, own: IPv4Interface) -> bool:
    return router in own.network and router != own.ip and _is_host(router, own)


def _is_host(address: IPv4Address, own: IPv4Interface) -> bool:
    return address not in (own.network.network_address, own.network.broadcast_address)


def _is_unicast(address: IPv4Address) -> bool:
    """Return whether a machine of a segment may have the address; 240.0.0.0/4 and 0.0.0.0/8 are reserved."""
    bad = address.is_loopback or address.is_multicast or address.is_reserved or address.is_link_local
    return not bad and int(address) >> 24 != 0
