"""What hosts know of each other's encrypted tunnels.

A host is a peer by its key (WireGuard), and each key has an address of its own inside the tunnel, derived from it. So a
host that changes its key changes its address too, and for a time others accept both.
"""

from __future__ import annotations

import hashlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from ipaddress import IPv6Address, IPv6Network
from typing import Final, NamedTuple

import msgspec

from sandnet.model.address import Address

TUNNEL_RANGE: Final = IPv6Network("fdb3:ede6:d204::/64")
"""Addresses inside of tunnels: a unique local prefix (RFC 4193), whose digits were drawn once, for all hosts."""
TUNNEL_PREFIX: Final = "snwg"
"""Beginning of the names of WireGuard links."""
TUNNEL_LINK: Final = f"{TUNNEL_PREFIX}0"
"""The WireGuard link of a host."""
TUNNEL_OVERHEAD: Final = {4: 60, 6: 80}
"""Bytes around a packet in a tunnel, by the version of the IP outside: IP, UDP and WireGuard."""
MOST_KEYS: Final = 2
"""How many keys a host has at a time, for others: the one in use, and the next one."""
_KEY_LENGTH: Final = 32


class HostTunnel(msgspec.Struct, frozen=True, kw_only=True):
    """What other hosts need to know to reach a host by its tunnel."""

    port: int
    """UDP port of WireGuard."""
    keys: tuple[str, ...]
    """Its public keys: the one in use, and perhaps the next one."""

    @property
    def accepted_keys(self) -> tuple[str, ...]:
        """The keys that other hosts accept. Another program may have written anything, and any number, into the store:
        each key would be an argument of a command, and an element of the packet filter for each container.
        """
        return tuple(key for key in self.keys[:MOST_KEYS] if is_public_key(key))


class TunnelHost(NamedTuple):
    """Another host that encrypted networks reach."""

    underlay: Address
    tunnel: HostTunnel


def is_public_key(text: str) -> bool:
    """Return whether a text is a key as WireGuard writes it: 32 bytes in base64."""
    try:
        return len(text) == 44 and len(a2b_base64(text, strict_mode=True)) == _KEY_LENGTH
    except (Base64Error, ValueError):
        return False


def tunnel_address(public_key: str) -> IPv6Address:
    """Return the address inside the tunnel that belongs to a key."""
    digest = hashlib.blake2s(public_key.encode(), digest_size=8).digest()
    return TUNNEL_RANGE[int.from_bytes(digest, "big")]
