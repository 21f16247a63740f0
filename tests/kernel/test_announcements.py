"""What neighbours learn of a new sandbox, and what they do not have to hear."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.links import LinuxLinks
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.kernel.linux.pairs import new_pair
from sandnet.kernel.netlink.rtnetlink import link_header, mac_bytes
from sandnet.kernel.netlink.socket import Request
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.types import Bridge, Veth
from tests.support.ethernet import BROADCAST, ether, raw
from tests.support.network_host import Host
from tests.support.traffic import Place

FOLDER = "/run/netns-test"
BRIDGE = Bridge("snb0", 0, (IPv4Interface("10.9.0.1/24"), IPv6Interface("fd09::1/64")), new=True)
EXPERIMENT = 0x88B5
"""An EtherType for local experiments (IEEE 802)."""
ARP, IPV6 = b"\x08\x06", b"\x86\xdd"
ADVERTISEMENT = 136
DEADLINE = 10.0


class Segment:
    """A bridge with sandboxes on it."""

    def __init__(self, host: Host, stack: ExitStack) -> None:
        self._host = host
        self._stack = stack
        self.links = LinuxLinks()
        self._namespaces = LinuxNamespaces(FOLDER)

    def bridge(self, bridge: Bridge = BRIDGE) -> None:
        self._host.run(self.links.ensure_bridge, bridge)

    def join(self, key: str, number: int, mac: str = "", *, ipv6: bool = True, is_new: bool = False) -> Veth:
        """Make a sandbox; its MAC follows from its address unless another one is given."""
        veth = Veth(
            host_link=f"snv{key}",
            master="snb0",
            interface="eth0",
            mac=mac or f"02:42:0a:09:00:{number:02x}",
            mtu=0,
            address=IPv4Interface(f"10.9.0.{number}/24"),
            address_ipv6=IPv6Interface(f"fd09::242:a09:{number:x}/64") if ipv6 else None,
            isolated=False,
            hairpin=False,
        )
        self._host.run(self._namespaces.make, f"{FOLDER}/{key}")
        self._host.run(partial(self.links.plug, is_new=is_new), f"{FOLDER}/{key}", veth)
        return veth

    def pair(self, key: str) -> None:
        """Make a namespace and the pair of a sandbox that is about to be made, on no bridge yet."""
        self._host.run(self._namespaces.make, f"{FOLDER}/{key}")
        inside = self._host.run(os.open, f"{FOLDER}/{key}", os.O_RDONLY)
        peer = ("peer", "name", "eth0", "netns", f"/proc/{os.getpid()}/fd/{inside}")
        self._host.sh("ip", "link", "add", f"snv{key}", "type", "veth", *peer)
        os.close(inside)

    def leave(self, veth: Veth) -> None:
        self.retire(veth.host_link)

    def retire(self, host_link: str) -> None:
        self._host.run(self.links.retire, [host_link])
        self._host.run(self.links.reap)

    def neighbour_mac(self, number: int) -> str:
        """Return the MAC that the host has for an address; empty: none."""
        shown = self._host.sh("ip", "-j", "neigh", "show", f"10.9.0.{number}", "dev", "snb0")
        return "".join(each.get("lladdr", "") for each in json.loads(shown))

    def port_of(self, mac: str) -> str:
        """Return the port that the bridge has for a MAC for as long as the port exists; empty: none."""
        entries = json.loads(self._host.sh("bridge", "-j", "fdb", "show", "br", "snb0"))
        return "".join(each["ifname"] for each in entries if each["mac"] == mac and each.get("state") == "static")

    def listener(self, key: str = "") -> socket.socket:
        """Return a socket that hears what a sandbox gets, or the bridge."""
        place = Place(self._host, self._stack, f"{FOLDER}/{key}" if key else "")
        return self._stack.enter_context(raw(self._host, place, "eth0" if key else "snb0"))


@pytest.fixture
def segment(host: Host) -> Iterator[Segment]:
    with ExitStack() as stack:
        yield Segment(host, stack)


@pytest.fixture
def bridge_listener(segment: Segment) -> socket.socket:
    """A socket that hears what the bridge of a new network gets."""
    segment.bridge()
    return segment.listener()


def announcing(listener: socket.socket, until: Veth) -> set[str]:
    """Return the MACs that announce an address, until one of them has announced both of its addresses twice.

    The first announcement may be lost: the port of a new pair may not forward yet.
    """
    counted: Counter[tuple[str, bytes]] = Counter()
    deadline = time.monotonic() + DEADLINE
    while min(counted[until.mac, kind] for kind in (ARP, IPV6)) < 2 and time.monotonic() < deadline:
        frame = listener.recv(2048)
        kind = frame[12:14]
        if frame[0] & 1 and (kind == ARP or (kind == IPV6 and frame[54] == ADVERTISEMENT)):
            counted[frame[6:12].hex(":"), kind] += 1
    return {mac for mac, _ in counted}


def refuse(*_: object) -> None:
    """Fail as a busy kernel does."""
    raise Error(Kind.UNAVAILABLE, "the kernel is busy")


def test_only_address_with_a_requested_mac_is_announced(segment: Segment, bridge_listener: socket.socket) -> None:
    usual = [segment.join(f"usual{number}", number) for number in (2, 3)]
    chosen = segment.join("chosen", 4, mac="02:00:00:00:00:04")
    heard = announcing(bridge_listener, until=chosen)
    assert chosen.mac in heard
    assert not {each.mac for each in usual} & heard


def test_address_that_had_another_mac_is_announced(segment: Segment, bridge_listener: socket.socket) -> None:
    before = segment.join("before", 2, mac="02:00:00:00:00:02")
    assert before.mac in announcing(bridge_listener, until=before)
    segment.leave(before)
    after = segment.join("after", 2)
    assert after.mac in announcing(bridge_listener, until=after)


@pytest.mark.parametrize("announced", [True, False])
def test_address_is_announced_after_a_join_that_failed(
    segment: Segment, bridge_listener: socket.socket, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    """Neighbours may have learned the MAC of that join, or still have the one before it."""
    chosen = "02:00:00:00:00:02"
    if not announced:
        segment.leave(segment.join("before", 2, mac=chosen))
    with monkeypatch.context() as broken:
        broken.setattr(f"sandnet.kernel.linux.links.{'place_service_addresses' if announced else 'set_up_new'}", refuse)
        with pytest.raises(Error):
            segment.join("failed", 2, mac=chosen if announced else "")
    segment.retire("snvfailed")
    after = segment.join("after", 2)
    assert after.mac in announcing(bridge_listener, until=after)


@pytest.mark.parametrize("is_new", [True, False])
def test_address_of_a_prepared_pair_is_announced(
    segment: Segment, bridge_listener: socket.socket, is_new: bool
) -> None:
    """It was not, where the kernel had refused a part of the batch: the pair exists by then, as one of a restart."""
    segment.leave(segment.join("before", 2, mac="02:00:00:00:00:02"))
    segment.pair("after")
    after = segment.join("after", 2, is_new=is_new)
    marker = segment.join("marker", 9, mac="02:00:00:00:00:09")
    assert (after.mac in announcing(bridge_listener, until=marker)) == is_new


@pytest.mark.parametrize("refused", ["batch of a prepared pair", "batch of a new pair"])
def test_primary_address_is_announced_after_a_refusal(
    segment: Segment, bridge_listener: socket.socket, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """The batch inside the sandbox, which has the kernel announce it, is not sent where the host's was refused."""
    segment.leave(segment.join("before", 2, mac="02:00:00:00:00:02", ipv6=False))
    if refused == "batch of a prepared pair":
        segment.pair("after")
    else:
        monkeypatch.setattr(new_pair, "port_entries", lambda *_: [Request(RTM_SETLINK, link_header(1 << 30))])
    after = segment.join("after", 2, ipv6=False, is_new=True)
    marker = segment.join("marker", 9, mac="02:00:00:00:00:09")
    assert after.mac in announcing(bridge_listener, until=marker)
    assert segment.neighbour_mac(2) == after.mac
    assert segment.port_of(after.mac) == after.host_link


def test_address_that_keeps_its_mac_is_not_announced(segment: Segment, bridge_listener: socket.socket) -> None:
    before = segment.join("before", 2)
    segment.leave(before)
    after = segment.join("after", 2)
    assert after.mac == before.mac
    marker = segment.join("marker", 9, mac="02:00:00:00:00:09")
    assert announcing(bridge_listener, until=marker) == {marker.mac}


@pytest.mark.parametrize("known", ["made by an earlier daemon", "not guarded"])
def test_address_on_a_bridge_of_unknown_history_is_announced(segment: Segment, known: str) -> None:
    segment.bridge(BRIDGE._replace(new=known != "not guarded"))
    if known != "not guarded":
        segment.links = LinuxLinks()
        segment.bridge()
    listener = segment.listener()
    veth = segment.join("box", 2)
    assert veth.mac in announcing(listener, until=veth)


def test_frame_for_a_silent_sandbox_reaches_no_other(segment: Segment) -> None:
    segment.bridge()
    # With IPv6, the kernel reports multicast groups, and the bridge learns the MAC from that.
    silent, other = segment.join("silent", 2, ipv6=False), segment.join("other", 3, ipv6=False)
    hears, overhears, sender = segment.listener("silent"), segment.listener("other"), segment.listener()
    for target in (silent.mac, BROADCAST):
        sender.send(ether(target, other.mac, EXPERIMENT, target.encode()))
    assert experiments(hears, 2) == [mac_bytes(silent.mac), mac_bytes(BROADCAST)]
    assert experiments(overhears, 1) == [mac_bytes(BROADCAST)]


def experiments(listener: socket.socket, count: int) -> list[bytes]:
    """Return the targets of as many frames of the experiment."""
    found: list[bytes] = []
    while len(found) < count:
        frame = listener.recv(2048)
        if frame[12:14] == EXPERIMENT.to_bytes(2):
            found.append(frame[:6])
    return found
