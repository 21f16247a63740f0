"""What the neighbours on a bridge may remember: the MAC that each address had last.

An announcement is a broadcast. The bridge copies it to each port, and each sandbox looks at it: at 900 sandboxes, three
announcements take longer than all else of a join. Most are not needed. The MAC of a sandbox follows from its address,
so the next sandbox that gets the address has the same one, and what neighbours remember stays true.
"""

from __future__ import annotations

import threading
from typing import Final

from sandnet.kernel.netlink.rtnetlink import mac_bytes
from sandnet.kernel.types import Veth
from sandnet.model.address import Address, mac_for

MOST_ADDRESSES: Final = 4096
"""Addresses of a bridge with a MAC of their own choice that are remembered."""
_MAC_LENGTH: Final = 6


class NeighbourHistory:
    """Remembers bridges since they were made. Safe to use from several threads.

    Of a bridge that it does not know, neighbours may remember anything. So it is with one that an earlier daemon made,
    that another program made, or whose sandboxes may send from addresses that are not theirs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bridges: dict[str, dict[Address, bytes]] = {}
        """By bridge: addresses whose last MAC does not follow from them, and that MAC; empty: it is in doubt."""

    def begin(self, bridge: str) -> None:
        """Remember a bridge that was just made, for a network that no sandbox has been on."""
        with self._lock:
            self._bridges[bridge] = {}

    def forget(self, bridge: str) -> None:
        """Let neighbours on the bridge remember anything from now on."""
        with self._lock:
            self._bridges.pop(bridge, None)

    def outdated(self, veth: Veth) -> tuple[Address, ...]:
        """Return the own addresses of an interface that neighbours may remember with another MAC."""
        mac = mac_bytes(veth.mac)
        with self._lock:
            last = self._bridges.get(veth.master)
            if last is None:
                return veth.own_addresses
            return tuple(each for each in veth.own_addresses if last.get(each, _default_mac(each)) != mac)

    def doubt(self, veth: Veth) -> None:
        """Let neighbours remember any MAC, until ``record``, for addresses whose MAC an interface is about to change.

        Some neighbours may have learned the MAC of an interface whose set-up fails. So the next interface with such an
        address announces it, whatever its MAC is.
        """
        mac = mac_bytes(veth.mac)
        with self._lock:
            last = self._bridges.get(veth.master)
            if last is None:
                return
            last.update((each, b"") for each in _answered(veth) if last.get(each, _default_mac(each)) != mac)
            if len(last) > MOST_ADDRESSES:
                del self._bridges[veth.master]

    def record(self, veth: Veth) -> None:
        """Remember the addresses that an interface answers for."""
        mac = mac_bytes(veth.mac)
        with self._lock:
            last = self._bridges.get(veth.master)
            if last is None:
                return
            for address in _answered(veth):
                if mac == _default_mac(address):
                    last.pop(address, None)
                else:
                    last[address] = mac
            # The addresses of a guest behind a tap inside the sandbox are not known here.
            if veth.inner_tap or len(last) > MOST_ADDRESSES:
                del self._bridges[veth.master]


def _answered(veth: Veth) -> tuple[Address, ...]:
    """Return the addresses that an interface answers for."""
    shared = (service.ip for service in (veth.service, veth.service_ipv6) if service and veth.holder)
    return (*veth.own_addresses, *shared)


def _default_mac(address: Address) -> bytes:
    """Return the MAC that an endpoint with the address has unless it requests another (``mac_for``, ``embedded_ipv6``).

    A network whose IPv6 addresses embed no MAC has others, which are announced.
    """
    return mac_bytes(mac_for(address)) if address.version == 4 else address.packed[-_MAC_LENGTH:]
