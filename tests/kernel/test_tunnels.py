"""WireGuard links of real kernels: what reaches the other host, and that nothing leaves by another way."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sandnet.kernel.linux.host import LinuxHost
from sandnet.kernel.linux.taps import device
from sandnet.kernel.linux.wireguard.wireguard_links import LinuxTunnels
from sandnet.kernel.wireguard.base import Tunnel, TunnelPeer
from sandnet.model.tunnel import TUNNEL_LINK, TUNNEL_RANGE, tunnel_address
from tests.support.network_host import Host, eventually, unavailable
from tests.support.overlay_hosts import SWITCH, Switch
from tests.support.traffic import DOUBT
from tests.support.tunnels import kill_all, processes_here

PORT = 51871
WORD = b"a word that no one else sends"


class TunnelHost:
    """A host with a tunnel of wireguard-go."""

    def __init__(self, number: int, switch: Switch, stack: ExitStack) -> None:
        self.host = stack.enter_context(Host())
        switch.connect(self.host, number, 1500)
        self.host.sh("ip", "route", "add", "default", "via", SWITCH)
        self.host.sh("ip", "-6", "route", "add", "default", "via", "2001:db8::fe", "dev", "up0")
        self.address = IPv4Address(f"192.0.2.{number}")
        self.tunnels = LinuxTunnels("/run/wireguard.log", LinuxHost().missing_features, userspace_only=True)
        if reason := self.host.run(self.tunnels.missing):
            pytest.skip(reason)
        stack.callback(self.host.run, self.tunnels.delete, TUNNEL_LINK, TUNNEL_RANGE)
        key = self.tunnels.new_key()
        public = self.tunnels.public_key(key)
        self.own = tunnel_address(public)
        self.peer = TunnelPeer(public, self.own, self.address, PORT)
        self.tunnel = Tunnel(TUNNEL_LINK, PORT, 1440, key, (self.own,), TUNNEL_RANGE, frozenset())

    def ensure(self) -> None:
        self.host.run(self.tunnels.ensure, self.tunnel)

    def works(self) -> bool:
        return self.host.run(self.tunnels.works, self.tunnel)

    def differences(self) -> str:
        return " ".join(self.host.run(self.tunnels.differences, self.tunnel))

    def processes(self) -> list[int]:
        return self.host.run(processes_here)

    def kill(self) -> None:
        self.host.run(kill_all)
        eventually(lambda: not self.processes())

    def send(self, other: TunnelHost) -> None:
        """Send a word to another host by the tunnel, if anything lets it pass."""

        def send() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                for _ in range(3):
                    try:
                        sender.sendto(WORD, (str(other.own), 9))
                    except OSError:
                        time.sleep(0.01)

        self.host.run(send)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if reason := unavailable():
        pytest.skip(reason)
    with ExitStack() as made:
        yield made


@pytest.fixture
def switch(stack: ExitStack) -> Switch:
    return Switch(stack)


@pytest.fixture
def hosts(switch: Switch, stack: ExitStack) -> list[TunnelHost]:
    """Two hosts that know each other."""
    found = [TunnelHost(number, switch, stack) for number in (1, 2)]
    for host, other in (found, reversed(found)):
        host.tunnel = host.tunnel._replace(peers=frozenset({other.peer}))
        host.ensure()
    return found


def reaches(first: TunnelHost, second: TunnelHost, seconds: float = 10.0) -> bool:
    return first.host.reaches(str(second.own), seconds=seconds)


def test_hosts_reach_each_other_and_the_wire_has_no_word(hosts: list[TunnelHost], switch: Switch) -> None:
    first, second = hosts
    assert reaches(first, second)
    with switch.capture_all() as frames:
        first.send(second)
        assert reaches(second, first)
    assert frames
    assert not any(WORD in frame for frame in frames)


def test_link_outlives_its_process_and_drops_what_it_gets(hosts: list[TunnelHost], switch: Switch) -> None:
    first, second = hosts
    assert reaches(first, second)
    index = first.host.sh("ip", "-o", "link", "show", TUNNEL_LINK).partition(":")[0]
    first.kill()
    eventually(lambda: not first.works())
    assert "process" in first.differences()
    with switch.capture_all() as frames:
        first.send(second)
        assert not reaches(first, second, DOUBT)
    assert not any(WORD in frame for frame in frames)
    first.ensure()
    assert (first.works(), first.differences()) == (True, "")
    assert reaches(second, first), "the other host does not wait for the end of the former keys"
    assert index == first.host.sh("ip", "-o", "link", "show", TUNNEL_LINK).partition(":")[0], "the same link"


def test_nothing_takes_another_way_without_the_link(hosts: list[TunnelHost], switch: Switch) -> None:
    first, second = hosts
    assert reaches(first, second)
    first.host.sh("ip", "link", "delete", TUNNEL_LINK)
    with switch.capture_all() as frames:
        first.send(second)
    assert not any(WORD in frame for frame in frames)
    assert "gone" in first.differences()
    eventually(lambda: not first.processes())
    first.ensure()
    assert first.differences() == ""
    assert reaches(first, second)


def test_what_others_change_is_found_and_repaired(hosts: list[TunnelHost]) -> None:
    first, second = hosts
    commands = (
        ("ip", "-6", "route", "del", "blackhole", str(TUNNEL_RANGE)),
        ("ip", "-6", "route", "del", str(TUNNEL_RANGE), "dev", TUNNEL_LINK),
        ("ip", "address", "del", f"{first.own}/128", "dev", TUNNEL_LINK),
        ("ip", "link", "set", TUNNEL_LINK, "mtu", "1400"),
        ("ip", "link", "set", TUNNEL_LINK, "down"),
        ("wg", "set", TUNNEL_LINK, "peer", second.peer.public_key, "remove"),
        ("wg", "set", TUNNEL_LINK, "listen-port", "51999"),
    )
    for command in commands:
        first.host.sh(*command)
        assert first.differences(), command
        first.ensure()
        assert first.differences() == "", command
    assert reaches(first, second)


def test_process_that_hangs_is_replaced(hosts: list[TunnelHost]) -> None:
    first, second = hosts
    (pid,) = first.processes()
    os.kill(pid, signal.SIGSTOP)
    first.ensure()
    assert first.processes() != [pid]
    assert reaches(first, second)


def test_changed_key_leaves_the_port_and_the_link(hosts: list[TunnelHost]) -> None:
    first, second = hosts
    assert reaches(first, second)
    key = first.tunnels.new_key()
    public = first.tunnels.public_key(key)
    peer = TunnelPeer(public, tunnel_address(public), first.address, PORT)
    later = peer._replace(in_use=False)
    second.tunnel = second.tunnel._replace(peers=frozenset({first.peer, later}))
    second.ensure()
    assert reaches(first, second), "the former key is in use"
    first.tunnel = first.tunnel._replace(private_key=key, addresses=(peer.address, first.own))
    first.ensure()
    assert reaches(first, second), "by the next key"
    second.tunnel = second.tunnel._replace(peers=frozenset({peer}))
    second.ensure()
    assert second.host.reaches(str(peer.address), seconds=10.0)


def test_deletion_leaves_nothing(hosts: list[TunnelHost]) -> None:
    first = hosts[0]
    first.host.run(first.tunnels.delete, TUNNEL_LINK, TUNNEL_RANGE)
    assert TUNNEL_LINK not in first.host.sh("ip", "link")
    assert str(TUNNEL_RANGE) not in first.host.sh("ip", "-6", "route")
    eventually(lambda: not first.processes())
    assert first.host.sh("ls", "/run/wireguard") == ""


def test_host_without_taps_is_told_so(hosts: list[TunnelHost], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "DEVICE", str(tmp_path / "tun"))
    reason = hosts[0].host.run(hosts[0].tunnels.missing)
    assert reason.startswith("wireguard-go needs a tun, and this host makes no taps: ")
    assert "modprobe tun" in reason
