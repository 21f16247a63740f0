"""A port that was taken off its bridge, or renamed on it: the host takes nothing from it."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, RunningDaemon, Sandbox
from tests.support.ethernet import BROADCAST, IP, IPV6, VLAN, ether, raw, received, udp
from tests.support.network_host import eventually
from tests.support.traffic import DOUBT, UDP

PORT = 9
MOVES = {
    "off its bridge": ("ip link set {port} nomaster",),
    "off its bridge, with autoconfiguration": (
        "ip link set {port} down",
        "ip link set {port} nomaster",
        "ip link set {port} addrgenmode eui64",
        "sysctl -qw net.ipv6.conf.{port}.accept_ra=2",
        "ip link set {port} up",
    ),
    "off its bridge, under another name": (
        "ip link set {port} down",
        "ip link set {port} nomaster name other0 up",
    ),
    "off its bridge, below a VLAN device": (
        "ip link set {port} nomaster",
        "ip link add link {port} name {port}.5 type vlan id 5",
        "ip link set {port}.5 up",
    ),
    "into a VRF": (
        "sysctl -qw net.ipv4.udp_l3mdev_accept=1",
        "ip link add red type vrf table 10",
        "ip link set red up",
        "ip link set {port} nomaster",
        "ip link set {port} master red",
    ),
}
KINDS = {"vlan": "id 9", "vrf": "table 99"}
"""Kinds of devices that a kernel may lack, with what is needed to make one."""


def _host_end(daemon: RunningDaemon, sandbox: Sandbox) -> tuple[str, str]:
    """Name and MAC of the host end of a sandbox's pair."""
    index = json.loads(sandbox.sh("ip", "-j", "link", "show", "eth0"))[0]["link_index"]
    links = json.loads(daemon.host.sh("ip", "-j", "link"))
    return next((link["ifname"], link["address"]) for link in links if link["ifindex"] == index)


def _receives(listener: socket.socket) -> bool:
    listener.settimeout(DOUBT)
    try:
        return bool(listener.recv(100))
    except TimeoutError:
        return False


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
@pytest.mark.parametrize("move", MOVES)
def test_frames_from_a_port_off_its_bridge_are_dropped(
    fresh_daemon: RunningDaemon, move: str, *, guarded: bool
) -> None:
    """Without the daemon, which would put the port back."""
    daemon = fresh_daemon
    daemon.start()
    if missing := [kind for kind in KINDS if f" type {kind} " in str(MOVES[move]) and not _has(daemon, kind)]:
        pytest.skip(f"this kernel has no devices of kind {missing}")
    daemon.api.network("blue", ipv6=True, anti_spoofing=guarded, host_access=True)
    sandbox = daemon.sandbox("blue", "one")
    port, target = _host_end(daemon, sandbox)
    listeners = [daemon.here.bound("0.0.0.0", UDP, PORT), daemon.here.bound("::", UDP, PORT)]
    assert sandbox.reaches(HOST_ADDRESS)
    daemon.kill()
    for words in MOVES[move]:
        daemon.host.sh(*words.format(port=port).split())
    with raw(daemon.host, sandbox) as wire:
        for kind, packet in (IP, udp(sandbox.address, HOST_ADDRESS)), (IPV6, udp(sandbox.address6, HOST_ADDRESS6)):
            frame = ether(target, sandbox.mac, kind, packet)
            tag = bytes([VLAN >> 8, VLAN & 0xFF, 0, 5])
            wire.send(frame[:12] + tag + frame[12:] if "VLAN" in move else frame)
    assert [_receives(listener) for listener in listeners] == [False, False]


@pytest.mark.parametrize("name", ["other0", "snvffffffffff"])
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_frames_from_a_renamed_port_are_dropped(fresh_daemon: RunningDaemon, name: str, *, guarded: bool) -> None:
    """Without the daemon: the table alone closes the port."""
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("blue", ipv6=True, anti_spoofing=guarded, host_access=True)
    liar, victim, hearer = (daemon.sandbox("blue", each) for each in ("liar", "victim", "hearer"))
    port, _ = _host_end(daemon, liar)
    listener = daemon.here.bound("0.0.0.0", UDP, PORT)
    own = ether(hearer.mac, liar.mac, IP, udp(liar.address, hearer.address))
    others = ether(hearer.mac, victim.mac, IP, udp(victim.address, hearer.address, sender_port=7))
    bridge = f"snb{daemon.api.reported('blue')['id'][:10]}"
    gateway = json.loads(daemon.host.sh("ip", "-j", "link", "show", bridge))[0]["address"]
    right = ether(hearer.mac, victim.mac, IP, udp(victim.address, hearer.address, sender_port=8))
    with raw(daemon.host, hearer) as ear, raw(daemon.host, liar) as mouth, raw(daemon.host, victim) as honest:
        mouth.send(own)
        assert received(ear, own)
        daemon.kill()
        daemon.host.sh("ip", "link", "set", port, "down")
        daemon.host.sh("ip", "link", "set", port, "name", name)
        daemon.host.sh("ip", "link", "set", name, "up")
        eventually(lambda: "state forwarding" in daemon.host.sh("bridge", "link", "show", "dev", name))
        for frame in (own, others):
            mouth.send(frame)
            honest.send(right)
            assert not received(ear, frame, before=right)
        mouth.send(ether(gateway, liar.mac, IP, udp(liar.address, HOST_ADDRESS)))
    assert not _receives(listener)


def test_port_on_another_bridge_is_still_checked(fresh_daemon: RunningDaemon) -> None:
    """Without the daemon, which would put the port back."""
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("blue", ipv6=True)
    liar, victim = daemon.sandbox("blue", "liar"), daemon.sandbox("blue", "victim")
    port, _ = _host_end(daemon, liar)
    daemon.kill()
    daemon.host.sh("ip", "link", "add", "theirs", "type", "bridge")
    daemon.host.sh("ip", "link", "set", "theirs", "up")
    daemon.host.sh("ip", "link", "set", port, "master", "theirs")
    eventually(lambda: "state forwarding" in daemon.host.sh("bridge", "link", "show", "dev", port))
    own = ether(BROADCAST, liar.mac, IP, udp(liar.address, victim.address))
    with raw(daemon.host, daemon.here, "theirs") as ear, raw(daemon.host, liar) as mouth:
        for mac, address in ((victim.mac, liar.address), (liar.mac, victim.address), (victim.mac, victim.address)):
            forged = ether(BROADCAST, mac, IP, udp(address, victim.address))
            mouth.send(forged)
            mouth.send(own)
            assert not received(ear, forged, before=own)


def _has(daemon: RunningDaemon, kind: str) -> bool:
    try:
        daemon.host.sh(*f"ip link add try0 link uplink type {kind} {KINDS[kind]}".split())
        daemon.host.sh("ip", "link", "delete", "try0")
    except AssertionError:
        return False
    return True


def test_renamed_port_gets_its_name_back(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("blue", ipv6=True)
    sandbox, other = daemon.sandbox("blue", "one"), daemon.sandbox("blue", "two")
    port, _ = _host_end(daemon, sandbox)
    assert other.reaches(sandbox.address)
    daemon.host.sh("ip", "link", "set", port, "down")
    daemon.host.sh("ip", "link", "set", port, "name", "other0")
    with suppress(AssertionError):  # the daemon was faster
        daemon.host.sh("ip", "link", "set", "other0", "up")
    assert "other0" not in daemon.host.sh("nft", "list", "map", "bridge", "sandnet", "ports")
    daemon.api.post("/reconcile", fix=True)
    assert _host_end(daemon, sandbox)[0] == port
    assert "other0" not in daemon.host.sh("nft", "list", "map", "bridge", "sandnet", "ports")
    assert other.reaches(sandbox.address)
