"""Packets of translated connections that connection tracking finds invalid: they end nothing, and leave nowhere."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import pytest

from tests.e2e.test_forged_packets import link_mac, mac
from tests.support import ethernet as f
from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RunningDaemon,
    Sandbox,
    mapping,
)
from tests.support.service_cases import published
from tests.support.traffic import DEADLINE, DOUBT, TCP, UDP, Place, ask_again

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
    """A sandbox with a published port, and whoever talks with it."""

    daemon: RunningDaemon
    sandbox: Sandbox

    def address(self, place: Place, version: int) -> str:
        """Of the sandbox, or of the machine outside."""
        if isinstance(place, Sandbox):
            return place.address if version == 4 else place.address6
        return OUTSIDE_ADDRESS if version == 4 else OUTSIDE_ADDRESS6

    def send(self, place: Place, packet: bytes) -> None:
        """From a sandbox or the machine outside to the host."""
        inside = isinstance(place, Sandbox)
        target = link_mac(self.daemon, "blue") if inside else mac(self.daemon.here, "uplink")
        with f.raw(self.daemon.host, place) as wire:
            kind = f.IP if packet[0] >> 4 == 4 else f.IPV6
            wire.send(f.ether(target, mac(place, "eth0"), kind, packet))

    @contextmanager
    def nothing_leaves(self) -> Iterator[None]:
        """No packet that bears an address of the sandbox comes to the machine outside."""
        with f.raw(self.daemon.host, self.daemon.outside) as wire:
            yield
            wire.settimeout(DOUBT)
            seen = []
            try:
                while True:
                    seen.append(wire.recv(2048))
            except TimeoutError:
                pass
        own = [
            socket.inet_pton(socket.AF_INET, self.sandbox.address),
            socket.inet_pton(socket.AF_INET6, self.sandbox.address6),
        ]
        assert not [frame for frame in seen if frame[26:30] == own[0] or frame[22:38] == own[1]]


@pytest.fixture
def lab(daemon: RunningDaemon) -> Lab:
    """The network has both families."""
    daemon.api.network("blue", ipv6=True, anti_spoofing=False)
    sandbox = daemon.sandbox("blue", "web", mapping(80, 8080), mapping(80, 8080, UDP))
    for address in ("0.0.0.0", "::"):
        sandbox.serve("web", 80, address=address)
        sandbox.serve("web", 80, UDP, address=address)
        daemon.outside.serve("far", 7000, address=address)
    return Lab(daemon, sandbox)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["out of the box", "into the box"])
def test_out_of_window_segment_keeps_published_port_connection(lab: Lab, way: str, version: int) -> None:
    host = HOST_ADDRESS if version == 4 else HOST_ADDRESS6
    far, own = lab.address(lab.daemon.outside, version), lab.address(lab.sandbox, version)
    with lab.daemon.outside.client(host, 8080) as client:
        port, at = ask_again(client).port, numbers(client)
        if way == "into the box":
            sender, packet = lab.daemon.outside, f.tcp(far, host, (port, 8080), at.sent + WINDOW, at.received)
        else:
            sender, packet = lab.sandbox, f.tcp(own, far, (80, port), at.received + WINDOW, at.sent)
        with lab.nothing_leaves():
            lab.send(sender, packet)
        assert ask_again(client).server == "web"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["out of the box", "into the box"])
def test_out_of_window_segment_keeps_masqueraded_connection(lab: Lab, way: str, version: int) -> None:
    host = HOST_ADDRESS if version == 4 else HOST_ADDRESS6
    far, own = lab.address(lab.daemon.outside, version), lab.address(lab.sandbox, version)
    with lab.sandbox.client(far, 7000) as client:
        seen, at, port = ask_again(client), numbers(client), client.getsockname()[1]
        if way == "into the box":
            sender, packet = lab.daemon.outside, f.tcp(far, host, (7000, seen.port), at.received + WINDOW, at.sent)
        else:
            sender, packet = lab.sandbox, f.tcp(own, far, (port, 7000), at.sent + WINDOW, at.received)
        with lab.nothing_leaves():
            lab.send(sender, packet)
        assert ask_again(client).server == "far"


def test_out_of_window_segment_keeps_neighbour_port_connection(
    lab: Lab,
) -> None:
    """The sandbox answers to the bridge's address, or where br_netfilter is on to the neighbour's."""
    neighbour = lab.daemon.sandbox("blue", "neighbour")
    with neighbour.client(HOST_ADDRESS, 8080) as client:
        seen, at = ask_again(client), numbers(client)
        lab.send(lab.sandbox, f.tcp(lab.sandbox.address, seen.address, (80, seen.port), at.received + WINDOW, at.sent))
        ports = (client.getsockname()[1], 8080)
        lab.send(neighbour, f.tcp(neighbour.address, HOST_ADDRESS, ports, at.sent + WINDOW, at.received))
        assert ask_again(client).server == "web"


def test_client_on_a_forgotten_connection_is_answered(lab: Lab) -> None:
    for place, address, port in (lab.daemon.outside, HOST_ADDRESS, 8080), (lab.sandbox, OUTSIDE_ADDRESS, 7000):
        with place.client(address, port) as client:
            assert ask_again(client)
            lab.daemon.host.sh("conntrack", "-F")
            assert ask_again(client)


@pytest.mark.parametrize("version", [4, 6])
def test_packets_of_no_connection_do_not_leave_the_host(lab: Lab, version: int) -> None:
    """A datagram with a wrong checksum, and an error about a packet that was never sent."""
    own, far = lab.address(lab.sandbox, version), lab.address(lab.daemon.outside, version)
    stray = f.udp(far, own, 4444, 5555)
    broken = f.udp(own, far)
    head = 20 if version == 4 else 40
    broken = broken[: head + 6] + bytes([broken[head + 6] ^ 0xFF, broken[head + 7] | 1]) + broken[head + 8 :]
    with lab.nothing_leaves():
        lab.send(lab.sandbox, broken)
        lab.send(lab.sandbox, f.unreachable(own, far, stray))


def test_out_of_window_segment_keeps_host_server_connection(lab: Lab) -> None:
    """What is the host's own is the host's to answer."""
    lab.daemon.here.serve("host", 7001)
    with lab.daemon.outside.client(HOST_ADDRESS, 7001) as client, f.raw(lab.daemon.host, lab.daemon.outside) as wire:
        assert ask_again(client)
        at, port = numbers(client), client.getsockname()[1]
        lab.send(lab.daemon.outside, f.tcp(OUTSIDE_ADDRESS, HOST_ADDRESS, (port, 7001), at.sent + WINDOW, at.received))
        assert _acknowledges(wire, at.sent)
        assert ask_again(client)


def _acknowledges(wire: socket.socket, sequence: int) -> bool:
    """Whether the host reports once more how far it has got (RFC 9293, 3.10.7.4)."""
    wire.settimeout(2)
    try:
        while True:
            frame = wire.recv(2048)
            ours = frame[12:14] == b"\x08\0" and frame[23] == f.TCP and frame[34:36] == (7001).to_bytes(2, "big")
            if ours and frame[47] == 0x10 and int.from_bytes(frame[42:46], "big") == sequence:
                return True
    except TimeoutError:
        return False


class Talk(NamedTuple):
    """A connection whose server speaks first."""

    server: socket.socket
    client: socket.socket

    def server_reports(self, word: bytes) -> None:
        """The server goes on; the client has sent nothing since its flow was forgotten."""
        self.server.sendall(word)
        assert self.client.recv(2048) == word

    def client_reports(self, word: bytes) -> None:
        """The client goes on."""
        self.client.sendall(word)
        assert self.server.recv(2048) == word


@contextmanager
def talk(listener: socket.socket, place: Place, address: str, port: int) -> Iterator[Talk]:
    """A client's connection, to which the server has sent its first word."""
    listener.listen()
    with place.client(address, port) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(DEADLINE)
            both = Talk(server, client)
            both.server_reports(b"220 ready")
            yield both


FORGET = [("-F",), ("-D", "-p", "tcp")]


@pytest.mark.parametrize("forget", FORGET, ids=" ".join)
@pytest.mark.parametrize("version", [4, 6])
def test_published_tcp_server_reaches_client_of_forgotten_flow(lab: Lab, version: int, forget: tuple[str, ...]) -> None:
    host, any_address = (HOST_ADDRESS, "0.0.0.0") if version == 4 else (HOST_ADDRESS6, "::")
    sandbox = lab.daemon.sandbox("blue", "mail", mapping(25, 2525), mapping(26, 2626, host_ip=host))
    for inside, outside in (25, 2525), (26, 2626):
        with (
            sandbox.bound(any_address, TCP, inside) as listener,
            talk(listener, lab.daemon.outside, host, outside) as each,
        ):
            for round_ in range(3):
                lab.daemon.host.sh("conntrack", *forget, "-f", "ipv4" if version == 4 else "ipv6")
                each.server_reports(b"%d" % round_)
                each.client_reports(b"%d" % round_)


def test_backend_reaches_the_client_of_a_forgotten_connection(
    daemon: RunningDaemon,
) -> None:
    service = published(daemon, mapping(25, 2525))
    listeners = [service.attach_idle(name).bound("0.0.0.0", TCP, 25) for name in ("one", "two")]
    for listener in listeners:
        listener.listen()
    with daemon.outside.client(HOST_ADDRESS, 2525) as client:
        ready, _, _ = select.select(listeners, (), (), DEADLINE)
        server, _ = ready[0].accept()
        with server:
            both = Talk(server, client)
            both.server_reports(b"220 ready")
            daemon.host.sh("conntrack", "-F")
            both.server_reports(b"250 ok")


def test_published_udp_server_reaches_client_of_forgotten_flow(
    lab: Lab,
) -> None:
    sandbox = lab.daemon.sandbox("blue", "game", mapping(27, 2727, UDP))
    with sandbox.bound("0.0.0.0", UDP, 27) as server, lab.daemon.outside.client(HOST_ADDRESS, 2727, UDP) as client:
        client.send(b"?")
        _, peer = server.recvfrom(100)
        lab.daemon.host.sh("conntrack", "-F")
        server.sendto(b"!", peer)
        assert client.recv(100) == b"!"


def test_forgotten_masqueraded_connection_is_not_reset(
    lab: Lab,
) -> None:
    """The host cannot know whose it is until the sandbox speaks; then the server's words arrive."""
    with (
        lab.daemon.outside.bound("0.0.0.0", TCP, 7002) as listener,
        talk(listener, lab.sandbox, OUTSIDE_ADDRESS, 7002) as each,
    ):
        lab.daemon.host.sh("conntrack", "-F")
        each.server.sendall(b"250 ok")
        each.client.settimeout(DOUBT)
        with pytest.raises(TimeoutError):
            each.client.recv(100)
        each.client.settimeout(DEADLINE)
        each.client_reports(b"NOOP")
        assert each.client.recv(100) == b"250 ok"


@pytest.mark.parametrize("access", [True, False])
@pytest.mark.parametrize("caller", ["the host", "a neighbour"])
def test_forgotten_connection_of_a_host_client_is_not_reset(daemon: RunningDaemon, caller: str, access: bool) -> None:
    """Under br_netfilter a neighbour is answered past the host, and nothing reports that it had called the host."""
    name = "net.bridge.bridge-nf-call-iptables"
    before = daemon.host.sh("sysctl", "-en", name).strip() or "0"
    daemon.host.sh("sysctl", "-eqw", f"{name}=0")
    daemon.stack.callback(daemon.host.sh, "sysctl", "-eqw", f"{name}={before}")
    daemon.api.network("blue", host_access=access)
    sandbox = daemon.sandbox("blue", "mail", mapping(25, 2525))
    place = daemon.here if caller == "the host" else daemon.sandbox("blue", "neighbour")
    with sandbox.bound("0.0.0.0", TCP, 25) as listener, talk(listener, place, HOST_ADDRESS, 2525) as each:
        daemon.host.sh("conntrack", "-F")
        each.server.sendall(b"250 ok")
        each.client.settimeout(DOUBT)
        with suppress(TimeoutError):
            assert each.client.recv(100) == b"250 ok"
        each.client.settimeout(DEADLINE)
        each.client_reports(b"NOOP")
