"""Announces to the neighbours that an address has moved: gratuitous ARP and unsolicited neighbour advertisement.

Each is sent three times, a second apart (RFC 4861, 10: MAX_NEIGHBOR_ADVERTISEMENT, RETRANS_TIMER; RFC 5227 requires two
announcements): a datagram may be lost, and the port of a new pair may not forward yet.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from heapq import heappop, heappush
from typing import Final, NamedTuple

from sandnet.kernel.netlink.rtnetlink import get_link, list_addresses, mac_bytes
from sandnet.kernel.netlink.socket import Netlink
from sandnet.kernel.syscalls import NotANetworkNamespaceError, in_namespace, opened_namespace
from sandnet.model.address import Address

_ETHER_ARP: Final = 0x0806
_ETHER_IPV6: Final = 0x86DD
_ALL_NODES: Final = bytes.fromhex("ff02") + bytes(13) + b"\x01"
_BROADCAST: Final = b"\xff" * 6
_ADVERTISEMENT: Final = 136
DELAYS: Final = (0.0, 1.0, 2.0)
"""Seconds after which an address is announced."""
_OVERRIDE: Final = 0x20000000


def frame(mac: bytes, address: Address) -> bytes:
    """Return the Ethernet frame by which ``mac`` claims ``address``.

    IPv4: a request for the address from itself (RFC 5227, 3). IPv6: an advertisement to all nodes that overrides their
    neighbour entry (RFC 4861, 7.2.6).
    """
    if address.version == 4:
        arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address.packed, bytes(6), address.packed)
        return _BROADCAST + mac + struct.pack("!H", _ETHER_ARP) + arp
    body = struct.pack("!BBHI16sBB6s", _ADVERTISEMENT, 0, 0, _OVERRIDE, address.packed, 2, 1, mac)
    pseudo = address.packed + _ALL_NODES + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255, address.packed, _ALL_NODES)
    return b"\x33\x33" + _ALL_NODES[-4:] + mac + struct.pack("!H", _ETHER_IPV6) + header + body


def announce(namespace: int, interface: str, mac: bytes, addresses: Iterable[Address]) -> None:
    """Announce each address once, from an interface of the namespace behind the descriptor ``namespace``.

    Closing a packet socket waits for a grace period of the kernel, 13 to 19 ms, so a separate thread closes it.

    Raises:
        OSError: the interface does not exist or is down.
    """
    with in_namespace(namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        raw.bind((interface, 0))
        for address in addresses:
            raw.send(frame(mac, address))
    finally:
        threading.Thread(target=raw.close, name="close", daemon=True).start()


class Claim(NamedTuple):
    """The addresses to announce, and the interface to announce them from."""

    path: str
    """Where the namespace is pinned."""
    inode: int
    """The namespace's identity."""
    interface: str
    mac: str
    addresses: tuple[Address, ...]


class Announcer:
    """Repeats announcements in the background, as long as the claim is true. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, Claim]] = []
        """A heap of times (seconds, monotonic) and the claims to announce then."""
        self._thread: threading.Thread | None = None
        """The background thread; it exists while anything is due."""

    def schedule(self, claim: Claim, delays: Iterable[float]) -> None:
        """Announce the claim after each of these delays, in seconds."""
        now = time.monotonic()
        with self._changed:
            for delay in delays:
                heappush(self._due, (now + delay, claim))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="announce", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while claim := self._next():
            with suppress(OSError, NotANetworkNamespaceError):  # its sandbox or interface was deleted in the meantime
                _announce_again(claim)

    def _next(self) -> Claim | None:
        """Wait for the next claim that is due; ``None``: there is none, and the thread is to end."""
        with self._changed:
            while self._due:
                delay = self._due[0][0] - time.monotonic()
                if delay <= 0:
                    return heappop(self._due)[1]
                self._changed.wait(delay)
            self._thread = None
            return None


def _announce_again(claim: Claim) -> None:
    """Announce those addresses that the interface still has: others may belong to another sandbox by now."""
    with opened_namespace(claim.path) as namespace:
        if os.fstat(namespace).st_ino != claim.inode:
            return
        with Netlink.inside(namespace) as netlink:
            link = get_link(netlink, claim.interface)
            if link is None or not link.up or link.mac != claim.mac:
                return
            held = {address.ip for address in list_addresses(netlink, link.ifindex)}
        if addresses := [address for address in claim.addresses if address in held]:
            announce(namespace, claim.interface, mac_bytes(claim.mac), addresses)


def _checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071; ``data`` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
