"""What the interface inside a sandbox gets, whether its pair was prepared, is new, or exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.kernel.netlink.neighbours import kept
from sandnet.kernel.netlink.rtnetlink import address_request, mac_bytes, service_address_request
from sandnet.kernel.netlink.socket import Request
from sandnet.kernel.types import Veth
from sandnet.model.address import Address

USUAL_MTU: Final = 1500
"""Bytes: the MTU of a new link."""


def interface_requests(index: int, veth: Veth) -> Iterator[Request]:
    """Yield the requests that give an interface its own addresses, and neighbour entries for its bridge.

    Args:
        index: of the interface, which is up.
        veth: the desired link.
    """
    for address in (veth.address_ipv6, veth.address):  # the slower one first
        if address:
            yield address_request(index, address)
    for further in veth.additional_addresses:
        yield service_address_request(index, further)
    yield from bridge_entries(index, veth)


def bridge_entries(index: int, veth: Veth) -> Iterator[Request]:
    """Yield the requests by which a sandbox keeps neighbour entries for its bridge.

    Args:
        index: the interface inside.
        veth: the desired link.
    """
    mac = mac_bytes(veth.link_mac) if veth.link_mac else b""
    for address in veth.bridge_addresses:
        yield kept(index, address, mac)


def announces_itself(veth: Veth, outdated: Sequence[Address]) -> bool:
    """Return whether the kernel announces the first of these addresses: the primary IPv4 address.

    A hairpin port returns the request, which ends the kernel's series.
    """
    return bool(outdated and veth.address and outdated[0] == veth.address.ip and not veth.hairpin)
