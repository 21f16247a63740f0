"""Where programs in a sandbox find their name server."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Final

from sandnet.model.address import Address

ADDRESS: Final = IPv4Address("127.0.0.11")
"""The resolver's address inside each sandbox, the same as Docker's."""
SECOND_ADDRESS: Final = IPv4Address("127.0.0.12")
"""Its address in a container of an engine that has a resolver of its own."""
PORT: Final = 53
"""UDP and TCP."""

GATEWAY_SOCKETS: Final = IPv4Network("127.64.0.0/10")
"""Addresses of the host's loopback at which the resolver has the sockets for questions at gateways over IPv4."""
GATEWAY_SOCKETS_IPV6: Final = IPv6Network("fd03:6e7a:5ec3::/64")
"""The same over IPv6, which has only one loopback address of its own: a random prefix (RFC 4193) that never leaves the
host. A route makes all its addresses local."""


def gateway_socket(container_id: str, version: int) -> Address:
    """Return the address of the host to which the questions of a sandbox at its gateway are translated.

    It is derived from the id, so nothing has to record it. Two sandboxes with one address do not harm each other: the
    second one is not served, as the first one's sockets are in the way, and answers only its own address.

    Args:
        container_id: the sandbox's.
        version: of IP, 4 or 6.
    """
    within = GATEWAY_SOCKETS if version == 4 else GATEWAY_SOCKETS_IPV6
    number = int.from_bytes(hashlib.sha256(container_id.encode()).digest()[: 4 if version == 4 else 8])
    return ip_address(int(within.network_address) + number % within.num_addresses)
