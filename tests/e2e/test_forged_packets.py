"""Ways around the walls, each tried with packets made by hand: other networks, and the host's loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from tests.support import ethernet as f
from tests.support.daemon import HOST_ADDRESS, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, RunningDaemon, Sandbox, mapping
from tests.support.traffic import UDP, Place

RIGHT = 7
"""Port of the sender whose datagram must come, and come first."""
LOOPBACK = "127.0.0.1"


def mac(place: Place, link: str) -> str:
    return str(json.loads(place.sh("ip", "-j", "link", "show", link))[0]["address"])


def link_mac(daemon: RunningDaemon, network: str) -> str:
    return mac(daemon.here, f"snb{daemon.api.reported(network)['id'][:10]}")


def first_received(
    daemon: RunningDaemon, attacker: Place, victim: Sandbox, tricks: Sequence[bytes], right: bytes
) -> int:
    """Whose datagram reaches the victim first, when all tricks are sent before the right one."""
    with f.raw(daemon.host, attacker) as mouth, f.raw(daemon.host, victim) as listener:
        for frame in (*tricks, *tricks):
            mouth.send(frame)
        return _answered(mouth, listener, right)


def _answered(mouth: socket.socket, listener: socket.socket, right: bytes) -> int:
    """Send the right frame, each second again: one behind a flood may find the receive queue full."""
    listener.settimeout(1)
    for _ in range(30):
        mouth.send(right)
        with suppress(TimeoutError):
            return f.received_from(listener)
    raise TimeoutError


@pytest.fixture
def sandboxes(daemon: RunningDaemon) -> tuple[Sandbox, Sandbox]:
    """Two sandboxes on two networks. The first may forge what it likes, and everything of the host is open to it."""
    daemon.api.network("foo", ipv6=True, anti_spoofing=False, host_access=True)
    daemon.api.network("bar", ipv6=True, anti_spoofing=False, host_access=True)
    one, two = daemon.sandbox("foo", "one"), daemon.sandbox("bar", "two", mapping(9, 9009, UDP))
    assert one.reaches(gateway(one))
    assert two.reaches(gateway(two))
    return one, two


def gateway(sandbox: Sandbox) -> str:
    return sandbox.address.rpartition(".")[0] + ".1"


def gateway6(sandbox: Sandbox) -> str:
    return sandbox.address6.partition("::")[0] + "::1"


def test_forged_packets_do_not_reach_another_network(daemon: RunningDaemon, sandboxes: tuple[Sandbox, Sandbox]) -> None:
    one, two = sandboxes
    neighbour = two.address.rpartition(".")[0] + ".77"
    neighbour6 = two.address6.partition("::")[0] + "::77"
    ours, theirs = link_mac(daemon, "foo"), link_mac(daemon, "bar")
    packets = [
        (f.IP, f.udp(source, two.address, 9, 1))
        for source in (one.address, neighbour, gateway(two), OUTSIDE_ADDRESS, LOOPBACK, two.address)
    ]
    packets += [
        (f.IPV6, f.udp(source, target, 9, 2))
        for source in (one.address6, neighbour6, gateway6(two), OUTSIDE_ADDRESS6, f.link_local(one.mac), "fe80::1")
        for target in (two.address6, f.link_local(two.mac))
    ]
    packets += [
        (f.IP, f.source_routed(f.udp(one.address, gateway(one), 9, 3), two.address)),
        (f.IPV6, f.routed_header(f.udp(one.address6, gateway6(one), 9, 4), two.address6)),
        (f.IPV6, f.udp(one.address6, "ff02::1", 9, 5)),
        (f.IP, f.udp(one.address, "255.255.255.255", 9, 6)),
        (f.IP, f.udp(one.address, two.address.rpartition(".")[0] + ".255", 9, 6)),
    ]
    tricks = [
        f.ether(target, source, kind, packet)
        for kind, packet in packets
        for target in (ours, theirs, two.mac, f.BROADCAST, "01:80:c2:00:00:02", "01:80:c2:00:00:0e")
        for source in (one.mac, two.mac, theirs)
    ]
    right = f.ether(ours, one.mac, f.IP, f.udp(one.address, gateway(one), 9009, RIGHT))
    assert first_received(daemon, one, two, tricks, right) == RIGHT


def test_forged_packets_do_not_leave_an_internal_network(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", internal=True, anti_spoofing=False, host_access=True)
    sandbox = daemon.sandbox("foo", "one")
    own = link_mac(daemon, "foo")
    with f.raw(daemon.host, sandbox) as mouth, f.raw(daemon.host, daemon.outside) as listener:
        for target in (own, f.BROADCAST, "01:80:c2:00:00:02", "01:80:c2:00:00:0e"):
            for source in (sandbox.address, HOST_ADDRESS, "203.0.113.77"):
                mouth.send(f.ether(target, sandbox.mac, f.IP, f.udp(source, OUTSIDE_ADDRESS, 9, 1)))
        # the answer of the host shows that all of them have been looked at
        mouth.send(f.ether(own, sandbox.mac, f.ARP, f.arp(sandbox.mac, sandbox.address, gateway(sandbox), f.REQUEST)))
        assert sandbox.reaches(gateway(sandbox))
        with f.raw(daemon.host, daemon.here, "uplink") as mine:
            mine.send(
                f.ether(f.BROADCAST, mac(daemon.here, "uplink"), f.IP, f.udp(HOST_ADDRESS, OUTSIDE_ADDRESS, 9, RIGHT))
            )
        assert f.received_from(listener) == RIGHT


@contextmanager
def loopback_port(daemon: RunningDaemon) -> Iterator[Sandbox]:
    """A sandbox with one port on 127.0.0.1 and another on an address of the host."""
    daemon.api.network("foo", anti_spoofing=False, host_access=True)
    ports = (mapping(9, 9009, UDP, host_ip=LOOPBACK), mapping(9, 9010, UDP, host_ip=HOST_ADDRESS))
    sandbox = daemon.sandbox("foo", "web", *ports)
    server = sandbox.bound("0.0.0.0", UDP, 9)
    with daemon.here.client(LOOPBACK, 9009, UDP) as client:
        client.send(b"local")
        assert server.recv(99) == b"local"
    yield sandbox


def test_outside_forgery_does_not_reach_a_127_0_0_1_port(daemon: RunningDaemon) -> None:
    with loopback_port(daemon) as web:
        target, source = mac(daemon.here, "uplink"), mac(daemon.outside, "eth0")
        tricks = [
            f.ether(to, source, f.IP, f.udp(sender, called, 9009, 1))
            for to in (target, f.BROADCAST)
            for sender in (OUTSIDE_ADDRESS, LOOPBACK, HOST_ADDRESS, web.address, gateway(web))
            for called in (LOOPBACK, "127.0.0.2", HOST_ADDRESS, web.address)
        ]
        direct = f.ether(target, source, f.IP, f.udp(OUTSIDE_ADDRESS, web.address, 9, 2))
        right = f.ether(target, source, f.IP, f.udp(OUTSIDE_ADDRESS, HOST_ADDRESS, 9010, RIGHT))
        assert first_received(daemon, daemon.outside, web, [*tricks, direct], right) == RIGHT


@pytest.mark.parametrize("network", ["foo", "bar"])
def test_sandbox_forgery_does_not_reach_a_127_0_0_1_port(daemon: RunningDaemon, network: str) -> None:
    with loopback_port(daemon) as web:
        if network == "bar":
            daemon.api.network("bar", anti_spoofing=False, host_access=True)
        sandbox = daemon.sandbox(network, "one")
        target = link_mac(daemon, network)
        tricks = [
            f.ether(to, sandbox.mac, f.IP, f.udp(sender, called, 9009, 1))
            for to in (target, "01:80:c2:00:00:02")  # what is bridged the sandbox would hear, and not take
            for sender in (sandbox.address, LOOPBACK, gateway(sandbox), web.address)
            for called in (LOOPBACK, "127.0.0.2", gateway(sandbox), HOST_ADDRESS)
        ]
        right = f.ether(target, sandbox.mac, f.IP, f.udp(sandbox.address, HOST_ADDRESS, 9010, RIGHT))
        assert first_received(daemon, sandbox, web, tricks, right) == RIGHT


def test_address_of_another_network_is_dropped_as_source(
    daemon: RunningDaemon, sandboxes: tuple[Sandbox, Sandbox]
) -> None:
    """The world would answer it, and the answer would belong to a known flow."""
    one, two = sandboxes
    target = link_mac(daemon, "foo")
    pairs = [
        (f.IP, two.address, one.address, OUTSIDE_ADDRESS),
        (f.IPV6, two.address6, one.address6, OUTSIDE_ADDRESS6),
    ]
    for kind, forged, own, far in pairs:
        listener = daemon.outside.bound("::" if kind == f.IPV6 else "0.0.0.0", UDP, 4444)
        with f.raw(daemon.host, one) as mouth:
            mouth.send(f.ether(target, one.mac, kind, f.udp(forged, far, 4444, 1)))
            mouth.send(f.ether(target, one.mac, kind, f.udp(own, far, 4444, RIGHT)))
        assert listener.recvfrom(99)[1][1] == RIGHT
