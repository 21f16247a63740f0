"""Packets of translated connections that connection tracking finds invalid: they end nothing, and leave nowhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.e2e import frames as f
from tests.e2e.test_tricks import bridge_mac, mac
from tests.e2e.traffic import DOUBT, UDP, Place, ask_again
from tests.e2e.world import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    Box,
    World,
    mapping,
)

WINDOW = 10_000_000
"""Bytes beyond what anybody has room for."""
REPAIR, QUEUE, QUEUE_SEQUENCE = 19, 20, 21
"""``TCP_REPAIR`` and its kin (linux/tcp.h): the only way to ask the kernel for sequence numbers."""


class Numbers(NamedTuple):
    """Where a connection stands."""

    sent: int
    received: int


def numbers(connection: socket.socket) -> Numbers:
    """Of a connected socket, which stays as it is."""
    connection.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
    found = []
    for queue in (2, 1):
        connection.setsockopt(socket.IPPROTO_TCP, QUEUE, queue)
        found.append(connection.getsockopt(socket.IPPROTO_TCP, QUEUE_SEQUENCE) & 0xFFFFFFFF)
    connection.setsockopt(socket.IPPROTO_TCP, REPAIR, -1)
    return Numbers(*found)


class Lab(NamedTuple):
    """A box with a published port, and whoever talks with it."""

    world: World
    box: Box

    def address(self, place: Place, version: int) -> str:
        """Of the box, or of the machine outside."""
        if isinstance(place, Box):
            return place.address if version == 4 else place.address6
        return OUTSIDE_ADDRESS if version == 4 else OUTSIDE_ADDRESS6

    def send(self, place: Place, packet: bytes) -> None:
        """From a box or the machine outside to the host."""
        inside = isinstance(place, Box)
        target = bridge_mac(self.world, "blue") if inside else mac(self.world.here, "uplink")
        with f.raw(self.world.host, place) as wire:
            kind = f.IP if packet[0] >> 4 == 4 else f.IPV6
            wire.send(f.ether(target, mac(place, "eth0"), kind, packet))

    @contextmanager
    def nothing_leaves(self) -> Iterator[None]:
        """No packet that bears an address of the box comes to the machine outside."""
        with f.raw(self.world.host, self.world.outside) as wire:
            yield
            wire.settimeout(DOUBT)
            seen = []
            try:
                while True:
                    seen.append(wire.recv(2048))
            except TimeoutError:
                pass
        own = [socket.inet_pton(socket.AF_INET, self.box.address), socket.inet_pton(socket.AF_INET6, self.box.address6)]
        assert not [frame for frame in seen if frame[26:30] == own[0] or frame[22:38] == own[1]]


@pytest.fixture
def lab(world: World) -> Lab:
    """The network has both families."""
    world.api.network("blue", ipv6=True, anti_spoofing=False)
    box = world.box("blue", "web", mapping(80, 8080), mapping(80, 8080, UDP))
    for address in ("0.0.0.0", "::"):
        box.serve("web", 80, address=address)
        box.serve("web", 80, UDP, address=address)
        world.outside.serve("far", 7000, address=address)
    return Lab(world, box)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["out of the box", "into the box"])
def test_given_a_published_port_when_a_segment_beyond_the_window_comes_then_its_connection_goes_on(
    lab: Lab, way: str, version: int
) -> None:
    host = HOST_ADDRESS if version == 4 else HOST_ADDRESS6
    far, own = lab.address(lab.world.outside, version), lab.address(lab.box, version)
    with lab.world.outside.client(host, 8080) as client:
        port, at = ask_again(client).port, numbers(client)
        if way == "into the box":
            sender, packet = lab.world.outside, f.tcp(far, host, (port, 8080), at.sent + WINDOW, at.received)
        else:
            sender, packet = lab.box, f.tcp(own, far, (80, port), at.received + WINDOW, at.sent)
        with lab.nothing_leaves():
            lab.send(sender, packet)
        assert ask_again(client).server == "web"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["out of the box", "into the box"])
def test_given_a_masqueraded_connection_when_a_segment_beyond_the_window_comes_then_it_goes_on(
    lab: Lab, way: str, version: int
) -> None:
    host = HOST_ADDRESS if version == 4 else HOST_ADDRESS6
    far, own = lab.address(lab.world.outside, version), lab.address(lab.box, version)
    with lab.box.client(far, 7000) as client:
        seen, at, port = ask_again(client), numbers(client), client.getsockname()[1]
        if way == "into the box":
            sender, packet = lab.world.outside, f.tcp(far, host, (7000, seen.port), at.received + WINDOW, at.sent)
        else:
            sender, packet = lab.box, f.tcp(own, far, (port, 7000), at.sent + WINDOW, at.received)
        with lab.nothing_leaves():
            lab.send(sender, packet)
        assert ask_again(client).server == "far"


def test_given_a_neighbours_published_port_when_a_segment_beyond_the_window_comes_then_its_connection_goes_on(
    lab: Lab,
) -> None:
    """The box answers to the bridge's address, or where br_netfilter is on to the neighbour's."""
    neighbour = lab.world.box("blue", "neighbour")
    with neighbour.client(HOST_ADDRESS, 8080) as client:
        seen, at = ask_again(client), numbers(client)
        lab.send(lab.box, f.tcp(lab.box.address, seen.address, (80, seen.port), at.received + WINDOW, at.sent))
        ports = (client.getsockname()[1], 8080)
        lab.send(neighbour, f.tcp(neighbour.address, HOST_ADDRESS, ports, at.sent + WINDOW, at.received))
        assert ask_again(client).server == "web"


def test_given_a_forgotten_connection_when_its_client_goes_on_then_it_is_answered(lab: Lab) -> None:
    for place, address, port in (lab.world.outside, HOST_ADDRESS, 8080), (lab.box, OUTSIDE_ADDRESS, 7000):
        with place.client(address, port) as client:
            assert ask_again(client)
            lab.world.host.sh("conntrack", "-F")
            assert ask_again(client)


@pytest.mark.parametrize("version", [4, 6])
def test_given_a_box_when_it_sends_what_belongs_to_nothing_then_none_of_it_leaves(lab: Lab, version: int) -> None:
    """A datagram with a wrong checksum, and an error about a packet that was never sent."""
    own, far = lab.address(lab.box, version), lab.address(lab.world.outside, version)
    stray = f.udp(far, own, 4444, 5555)
    broken = f.udp(own, far)
    head = 20 if version == 4 else 40
    broken = broken[: head + 6] + bytes([broken[head + 6] ^ 0xFF, broken[head + 7] | 1]) + broken[head + 8 :]
    with lab.nothing_leaves():
        lab.send(lab.box, broken)
        lab.send(lab.box, f.unreachable(own, far, stray))


def test_given_the_hosts_own_server_when_a_segment_beyond_the_window_comes_then_it_answers_as_ever(lab: Lab) -> None:
    """What is the host's own is the host's to answer."""
    lab.world.here.serve("host", 7001)
    with lab.world.outside.client(HOST_ADDRESS, 7001) as client, f.raw(lab.world.host, lab.world.outside) as wire:
        assert ask_again(client)
        at, port = numbers(client), client.getsockname()[1]
        lab.send(lab.world.outside, f.tcp(OUTSIDE_ADDRESS, HOST_ADDRESS, (port, 7001), at.sent + WINDOW, at.received))
        assert _acknowledges(wire, at.sent)
        assert ask_again(client)


def _acknowledges(wire: socket.socket, sequence: int) -> bool:
    """Whether the host says once more how far it has got (RFC 9293, 3.10.7.4)."""
    wire.settimeout(2)
    try:
        while True:
            frame = wire.recv(2048)
            ours = frame[12:14] == b"\x08\0" and frame[23] == f.TCP and frame[34:36] == (7001).to_bytes(2, "big")
            if ours and frame[47] == 0x10 and int.from_bytes(frame[42:46], "big") == sequence:
                return True
    except TimeoutError:
        return False
