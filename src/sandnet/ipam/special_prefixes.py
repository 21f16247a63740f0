"""Prefixes and prefix lengths that no network of sandboxes can have on any host (RFC 6890)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from sandnet.model.tunnel import TUNNEL_RANGE

_UNUSABLE_V4: Final = {
    IPv4Network("0.0.0.0/8"): "'this' network",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}
"""Ranges whose addresses no sandbox can have (RFC 6890, RFC 5771)."""


_UNUSABLE_V6: Final = {
    IPv6Network("::/8"): "reserved",
    IPv6Network("fe80::/10"): "link-local",
    IPv6Network("ff00::/8"): "multicast",
    TUNNEL_RANGE: "that of the hosts' encrypted tunnels",
}
"""Ranges whose addresses no sandbox can have (RFC 4291)."""


_LENGTHS_V4: Final = (8, 30)


_LENGTHS_V6: Final = (64, 126)
"""The shortest and longest prefix that a network of sandboxes can have."""


def unfit(subnet: IPv4Network | IPv6Network) -> str:
    """Return why no network of sandboxes can have that subnet on any host (the end of a sentence), or nothing."""
    version4 = isinstance(subnet, IPv4Network)
    shortest, longest = _LENGTHS_V4 if version4 else _LENGTHS_V6
    if not shortest <= subnet.prefixlen <= longest:
        return f"is not between /{shortest} and /{longest}"
    unusable: Mapping[IPv4Network, str] | Mapping[IPv6Network, str] = _UNUSABLE_V4 if version4 else _UNUSABLE_V6
    overlapped = [f"overlaps {block}, which is {use}" for block, use in unusable.items() if subnet.overlaps(block)]
    return overlapped[0] if overlapped else ""
