"""The lease of an interface's address, from the DHCP server of a network's Ethernet segment (RFC 2131)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from typing import Final

import msgspec

DHCP: Final = "dhcp"
"""The value of ``ipam_driver`` for networks whose endpoints have addresses from such a server."""
FOREVER: Final = 0xFFFFFFFF
"""Seconds of a lease that does not end (RFC 2131, 3.3)."""
_REBINDING: Final = 0.875
"""Part of a lease after which any server is asked (RFC 2131, 4.4.5, T2): by then its own one did not renew it."""


class DhcpLease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address that a server gave an endpoint for a time, with what the server stated beside it."""

    address: IPv4Interface
    router: IPv4Address | None = None
    """Next hop of the default route; ``None``: the server named none that is on the segment."""
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    """For people: no name is completed by it."""
    server: IPv4Address | None = None
    seconds: int
    """How long it lasts, from ``obtained``."""
    obtained: float
    """When the server gave it, or renewed it last; seconds since the epoch."""

    @property
    def ends(self) -> float:
        """When it ends, in seconds since the epoch."""
        return float("inf") if self.seconds == FOREVER else self.obtained + self.seconds

    @property
    def overdue(self) -> float:
        """The time from which a lease that was not renewed is a problem, in seconds since the epoch."""
        return float("inf") if self.seconds == FOREVER else self.obtained + self.seconds * _REBINDING
