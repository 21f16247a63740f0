"""Ethernet frames as an attacker makes them, and sockets that send and hear them in a sandbox."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address

from tests.support.network_host import Host
from tests.support.traffic import DEADLINE, Place

IP, ARP, IPV6, VLAN, QINQ, PPPOE, LLDP, SLOW = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x8864, 0x88CC, 0x8809
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY, NOBODY6 = "0.0.0.0", "::"
REQUEST, REPLY = 1, 2
SOLICIT_ROUTER, ADVERTISE_ROUTER, SOLICIT, ADVERTISE, REDIRECT = 133, 134, 135, 136, 137
SOURCE_MAC, TARGET_MAC, NONCE = 1, 2, 14
PORT = 9


def ether(target: str, source: str, kind: int, payload: bytes) -> bytes:
    """A frame, padded to the shortest there is."""
    return (_mac(target) + _mac(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(sender_mac: str, sender: str, target: str, operation: int = REPLY, target_mac: str = BROADCAST) -> bytes:
    """RFC 826."""
    ends = (_mac(sender_mac), _packed(sender), _mac(target_mac), _packed(target))
    return struct.pack("!HHBBH6s4s6s4s", 1, IP, 6, 4, operation, *ends)


def udp(source: str, target: str, port: int = PORT, sender_port: int = PORT) -> bytes:
    """A datagram in a packet of the addresses' family."""
    size = 8 + len(_PRINTED)
    head = struct.pack("!HHHH", sender_port, port, size, 0)
    if ":" in source:
        checked = _sum(_packed(source) + _packed(target) + struct.pack("!II", size, UDP) + head + _PRINTED)
        head = head[:6] + struct.pack("!H", checked)
        return ipv6(source, target, UDP, head + _PRINTED)
    return ipv4(source, target, UDP, head + _PRINTED)


def tcp(source: str, target: str, ports: tuple[int, int], sequence: int, acknowledged: int) -> bytes:
    """A segment with a little data, pushed and acknowledging (RFC 9293)."""
    numbers = (sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF)
    segment = struct.pack("!HHIIBBHHH", *ports, *numbers, 5 << 4, 0x18, 500, 0, 0) + _PRINTED
    pseudo = _packed(source) + _packed(target) + struct.pack("!II", len(segment), TCP)
    segment = segment[:16] + struct.pack("!H", _sum(pseudo + segment)) + segment[18:]
    return ipv6(source, target, TCP, segment) if ":" in source else ipv4(source, target, TCP, segment)


def unreachable(source: str, target: str, about: bytes) -> bytes:
    """An error of ICMP that reports that a port does not take what came (RFC 792, RFC 4443)."""
    if ":" in source:
        message = struct.pack("!BBHI", 1, 4, 0, 0) + about
        pseudo = _packed(source) + _packed(target) + struct.pack("!II", len(message), ICMPV6)
        checked = struct.pack("!H", _sum(pseudo + message))
        return ipv6(source, target, ICMPV6, message[:2] + checked + message[4:])
    message = struct.pack("!BBHI", 3, 3, 0, 0) + about
    return ipv4(source, target, ICMP, message[:2] + struct.pack("!H", _sum(message)) + message[4:])


def ipv4(source: str, target: str, kind: int, payload: bytes) -> bytes:
    """RFC 791, without options."""
    ends = (_packed(source), _packed(target))
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, kind, 0, *ends)
    return packet[:10] + struct.pack("!H", _sum(packet)) + packet[12:] + payload


def source_routed(packet: bytes, last: str) -> bytes:
    """An IPv4 packet that its target is to send on to ``last`` (RFC 791, loose source and record route)."""
    option = bytes([131, 7, 4]) + _packed(last) + b"\0"
    size = struct.unpack("!H", packet[2:4])[0] + len(option)
    head = bytes([0x47]) + packet[1:2] + struct.pack("!H", size) + packet[4:10] + bytes(2) + packet[12:20] + option
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + packet[20:]


def routed_header(packet: bytes, last: str) -> bytes:
    """An IPv6 packet with a routing header of type 0 (RFC 2460, 4.4; forbidden by RFC 5095)."""
    header = struct.pack("!BBBBI", packet[6], 2, 0, 1, 0) + _packed(last)
    size = struct.unpack("!H", packet[4:6])[0] + len(header)
    return packet[:4] + struct.pack("!HB", size, 43) + packet[7:40] + header + packet[40:]


def ipv6(source: str, target: str, kind: int, payload: bytes) -> bytes:
    """RFC 8200, with the hop limit that neighbour discovery wants."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), kind, 255)
    return head + _packed(source) + _packed(target) + payload


def discovery(source: str, target: str, kind: int, body: bytes, *, hidden: bool = False) -> bytes:
    """A message of RFC 4861 (``body`` begins behind the checksum), perhaps behind an empty extension header."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = _packed(source) + _packed(target) + struct.pack("!II", len(message), ICMPV6)
    message = message[:2] + struct.pack("!H", _sum(pseudo + message)) + message[4:]
    if hidden:
        return ipv6(source, target, 60, struct.pack("!BBBBI", ICMPV6, 0, 1, 4, 0) + message)
    return ipv6(source, target, ICMPV6, message)


def igmp(source: str, kind: int) -> bytes:
    """A message of RFC 3376 (and its relatives) to all systems."""
    body = struct.pack("!BBH4s", kind, 100, 0, bytes(4))
    return ipv4(source, "224.0.0.1", 2, body[:2] + struct.pack("!H", _sum(body)) + body[4:])


def behind(packet: bytes, header: int) -> bytes:
    """A packet with a header more before its payload.

    Hop-by-hop (0) or destination options (60), a fragment header (44) or an authentication header (51).
    """
    ahead, place = (40, 6) if packet[0] >> 4 == 6 else (20, 9)
    following = packet[place]
    extra = {
        0: struct.pack("!BBBBHBB", following, 0, 5, 2, 0, 1, 0),  # router alert (RFC 2711), as MLD has it
        60: struct.pack("!BBBBI", following, 0, 1, 4, 0),
        44: struct.pack("!BBHI", following, 0, 0, 7),
        51: struct.pack("!BBHII12s", following, 4, 0, 256, 1, bytes(12)),
    }[header]
    if ahead == 40:
        size = struct.unpack("!H", packet[4:6])[0] + len(extra)
        return packet[:4] + struct.pack("!HB", size, header) + packet[7:40] + extra + packet[40:]
    head = (
        packet[:2] + struct.pack("!H", len(packet) + len(extra)) + packet[4:9] + bytes([header, 0, 0]) + packet[12:20]
    )
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + extra + packet[20:]


def first_fragment(packet: bytes) -> bytes:
    """The first fragment of an IPv6 packet behind destination options: it shows these and nothing of what follows."""
    whole = behind(behind(packet, 60), 44)
    return whole[:4] + struct.pack("!H", 16) + whole[6:42] + struct.pack("!H", 1) + whole[44:56]


def neighbour(about: str, option: bytes = b"", flags: int = 0x20000000) -> bytes:
    """The body of a neighbour solicitation or advertisement."""
    return struct.pack("!I", flags) + _packed(about) + option


def mac_option(kind: int, mac: str) -> bytes:
    """Source or target link-layer address, or six bytes of a nonce."""
    return bytes([kind, 1]) + _mac(mac)


def tagged(frame: bytes, *tags: int) -> bytes:
    """A frame with VLAN tags of these kinds."""
    words = b"".join(struct.pack("!HH", kind, 5) for kind in tags)
    return frame[:12] + words + frame[12:]


def link_local(mac: str) -> str:
    """What Linux gives an interface of that MAC."""
    packed = _mac(mac)
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([packed[0] ^ 2]) + packed[1:3] + b"\xff\xfe" + packed[3:]))


@contextmanager
def raw(host: Host, place: Place, interface: str = "eth0") -> Iterator[socket.socket]:
    """A packet socket of a place that hears and reports everything."""

    def made() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

    opened = host.inside(place.namespace, made) if place.namespace else host.run(made)
    with opened:
        opened.bind((interface, 3))
        opened.settimeout(DEADLINE)
        yield opened


def received(listener: socket.socket, frame: bytes, before: bytes = b"") -> bool:
    """Whether the frame comes, in time and before another one."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            seen = _bare(listener.recv(2048))
        except TimeoutError:
            break
        if seen in (_bare(frame), _bare(_untagged(frame))):
            return True
        if before and seen == _bare(before):
            return False
    assert not before, "not even what had to come came"
    return False


def received_from(listener: socket.socket) -> int:
    """The sender's port of the first datagram of ours that comes, by whatever way.

    Raises:
        TimeoutError: none does.
    """
    while True:
        frame = listener.recv(2048)
        place = frame.find(_PRINTED)
        quoted = (frame[12:14], frame[23:24]) == (b"\x08\0", b"\x01") or (frame[12:14], frame[20:21]) == (
            b"\x86\xdd",
            b":",
        )
        if place >= 0 and not quoted:  # the host complains (ICMP) to whom it takes for the sender
            return int(struct.unpack_from("!H", frame, place - 8)[0])


def _bare(frame: bytes) -> bytes:
    """Padding may be cut off on the way."""
    return frame.rstrip(b"\0")


def _untagged(frame: bytes) -> bytes:
    """A packet socket is given frames without their outer tag."""
    return frame[:12] + frame[16:] if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else frame


_PRINTED = b"sandnet"


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
