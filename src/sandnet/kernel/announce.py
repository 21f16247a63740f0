"""Tells the neighbours that an address has moved: gratuitous ARP and unsolicited neighbour advertisement."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable
from typing import Final

from sandnet.kernel.syscalls import entered
from sandnet.model.address import Address

_ETHER_ARP: Final = 0x0806
_ETHER_IPV6: Final = 0x86DD
_ALL_NODES: Final = bytes.fromhex("ff02") + bytes(13) + b"\x01"
_BROADCAST: Final = b"\xff" * 6
_ADVERTISEMENT: Final = 136
_OVERRIDE: Final = 0x20000000


def frame(mac: bytes, address: Address) -> bytes:
    """The Ethernet frame by which ``mac`` claims ``address``.

    IPv4: a request for the address from itself (RFC 5227, 3). IPv6: an advertisement to all nodes that
    overrides what they know (RFC 4861, 7.2.6).
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
    """Send it once for each address, from an interface of the namespace behind the descriptor ``namespace``.

    Closing a packet socket waits for a grace period of the kernel, 13 to 19 ms: a thread of its own waits for it.

    Raises:
        OSError: the interface is gone or down.
    """
    with entered(namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        raw.bind((interface, 0))
        for address in addresses:
            raw.send(frame(mac, address))
    finally:
        threading.Thread(target=raw.close, name="close", daemon=True).start()


def _checksum(data: bytes) -> int:
    """RFC 1071; ``data`` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
