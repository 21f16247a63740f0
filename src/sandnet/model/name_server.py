"""Where programs in a sandbox find their name server."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, ip_network
from typing import Final

ADDRESS: Final = IPv4Address("127.0.0.11")
"""The resolver's address inside each sandbox, the same as Docker's."""
SECOND_ADDRESS: Final = IPv4Address("127.0.0.12")
"""Its address in a container of an engine that has a resolver of its own."""
PORT: Final = 53
"""UDP and TCP."""

_GUESTS: Final = ip_network("127.64.0.0/10")
"""Addresses of the host's loopback at which the resolver answers virtual machines, each at one of its own."""


def guest_address(container_id: str) -> IPv4Address:
    """Return the address of the host's loopback to which the questions of a virtual machine are translated.

    It is derived from the id, so nothing has to record it. Two machines with one address do not harm each other: the
    second one is not served, as the first one's sockets are in the way, and answers only its own address.
    """
    number = int.from_bytes(hashlib.sha256(container_id.encode()).digest()[:4])
    return IPv4Address(int(_GUESTS.network_address) + number % _GUESTS.num_addresses)
