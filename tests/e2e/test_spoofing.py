"""No sandbox speaks in another's name: each trick is tried with a raw socket, with the guard and without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import pytest

from tests.support import ethernet as f
from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, JSON, RunningDaemon, Sandbox
from tests.support.service_cases import NAMES, Service, published
from tests.support.traffic import UDP, Place

ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
GROUP_MAC = "01:00:5e:00:00:01"
LLDP_MAC, LACP_MAC, STP_MAC = "01:80:c2:00:00:0e", "01:80:c2:00:00:02", "01:80:c2:00:00:00"
SPANNING_TREE: Final = bytes.fromhex("424203000000000080000000000000000000000080000000000000008001000014000200")


class Scene(NamedTuple):
    """Three sandboxes of one network: who lies, of whom, and to whom."""

    daemon: RunningDaemon
    liar: Sandbox
    victim: Sandbox
    hearer: Sandbox

    @property
    def own6(self) -> str:
        return f.link_local(self.liar.mac)

    def printed(self, kind: int, payload: bytes, target: str = "") -> bytes:
        """A frame that bears the liar's own MAC."""
        return f.ether(target or self.hearer.mac, self.liar.mac, kind, payload)

    def passes(self, frame: bytes) -> bool:
        """Whether the hearer gets a frame of the liar's."""
        with f.raw(self.daemon.host, self.hearer) as listener, f.raw(self.daemon.host, self.liar) as mouth:
            mouth.send(frame)
            return f.received(listener, frame)

    def is_refused(self, frame: bytes) -> bool:
        """Whether the hearer does not get it: not before one that is right and was sent behind it."""
        right = self.printed(f.IP, f.udp(self.liar.address, self.hearer.address, sender_port=7))
        with f.raw(self.daemon.host, self.hearer) as listener, f.raw(self.daemon.host, self.liar) as mouth:
            for each in (frame, frame, right):
                mouth.send(each)
            return not f.received(listener, frame, before=right)

    def solicit(self, source: str, about: str, option: bytes = b"", *, hidden: bool = False) -> bytes:
        return self._discovery(f.SOLICIT, source, f.neighbour(about, option, 0), hidden)

    def advertise(self, about: str, option: bytes = b"", *, source: str = "", hidden: bool = False) -> bytes:
        return self._discovery(f.ADVERTISE, source or self.own6, f.neighbour(about, option), hidden)

    def router(self, kind: int, body: bytes, source: str = "") -> bytes:
        return self._discovery(kind, source or self.own6, body, False)

    def group(self, kind: int, *headers: int, body: bytes = bytes(20), proto: int = f.ICMPV6) -> bytes:
        """A message to all nodes, behind these headers; the first is the innermost."""
        packet = f.discovery(self.own6, ALL_NODES, kind, body)
        if proto != f.ICMPV6:
            packet = f.ipv6(self.own6, ALL_NODES, proto, body)
        for header in headers:
            packet = f.behind(packet, header)
        return self.printed(f.IPV6, packet, ALL_NODES_MAC)

    def _discovery(self, kind: int, source: str, body: bytes, hidden: bool) -> bytes:
        return self.printed(f.IPV6, f.discovery(source, ALL_NODES, kind, body, hidden=hidden), ALL_NODES_MAC)


Made = Callable[[Scene], bytes]

TRICKS: Final[Mapping[str, Made]] = {
    "the victim's MAC": lambda s: f.ether(s.hearer.mac, s.victim.mac, f.IP, f.udp(s.liar.address, s.hearer.address)),
    "the victim's IPv4 address": lambda s: s.printed(f.IP, f.udp(s.victim.address, s.hearer.address)),
    "the victim's MAC and IPv4 address": lambda s: f.ether(
        s.hearer.mac, s.victim.mac, f.IP, f.udp(s.victim.address, s.hearer.address)
    ),
    "an IPv4 address of nobody": lambda s: s.printed(f.IP, f.udp("203.0.113.77", s.hearer.address)),
    "no IPv4 address": lambda s: s.printed(f.IP, f.udp(f.NOBODY, "255.255.255.255", 67, 68), f.BROADCAST),
    "an answer of a DHCP server": lambda s: s.printed(f.IP, f.udp(s.liar.address, s.hearer.address, 68, 67)),
    "an answer of a DHCPv6 server": lambda s: s.printed(f.IPV6, f.udp(s.own6, s.hearer.address6, 546, 547)),
    "ARP: the victim is at the liar's MAC": lambda s: s.printed(
        f.ARP, f.arp(s.liar.mac, s.victim.address, s.hearer.address)
    ),
    "ARP: the victim announces itself": lambda s: s.printed(
        f.ARP, f.arp(s.liar.mac, s.victim.address, s.victim.address, f.REQUEST), f.BROADCAST
    ),
    "ARP: the gateway is at the liar's MAC": lambda s: s.printed(
        f.ARP, f.arp(s.liar.mac, gateway(s), s.hearer.address)
    ),
    "ARP: the liar is at the victim's MAC": lambda s: s.printed(
        f.ARP, f.arp(s.victim.mac, s.liar.address, s.hearer.address)
    ),
    "ARP: the victim asks": lambda s: f.ether(
        f.BROADCAST, s.victim.mac, f.ARP, f.arp(s.victim.mac, s.victim.address, s.hearer.address, f.REQUEST)
    ),
    "ARP: somebody probes the victim's address": lambda s: s.printed(
        f.ARP, f.arp(s.liar.mac, f.NOBODY, s.victim.address, f.REQUEST), f.BROADCAST
    ),
    "ARP of other operations": lambda s: s.printed(f.ARP, f.arp(s.liar.mac, s.liar.address, s.hearer.address, 9)),
    "the victim's IPv6 address": lambda s: s.printed(f.IPV6, f.udp(s.victim.address6, s.hearer.address6)),
    "the victim's link-local address": lambda s: s.printed(
        f.IPV6, f.udp(f.link_local(s.victim.mac), s.hearer.address6)
    ),
    "the victim's MAC and IPv6 address": lambda s: f.ether(
        s.hearer.mac, s.victim.mac, f.IPV6, f.udp(s.victim.address6, s.hearer.address6)
    ),
    "no IPv6 address": lambda s: s.printed(f.IPV6, f.udp(f.NOBODY6, s.hearer.address6)),
    "ND: the victim is at the liar's MAC": lambda s: s.advertise(
        s.victim.address6, f.mac_option(f.TARGET_MAC, s.liar.mac)
    ),
    "ND: the victim advertises itself": lambda s: s.advertise(
        s.victim.address6, f.mac_option(f.TARGET_MAC, s.liar.mac), source=s.victim.address6
    ),
    "ND: the gateway is at the liar's MAC": lambda s: s.advertise("fe80::1", f.mac_option(f.TARGET_MAC, s.liar.mac)),
    "ND: the liar is at the victim's MAC": lambda s: s.advertise(
        s.liar.address6, f.mac_option(f.TARGET_MAC, s.victim.mac)
    ),
    "ND: one option behind another": lambda s: s.advertise(
        s.liar.address6, f.mac_option(f.NONCE, s.liar.mac) + f.mac_option(f.TARGET_MAC, s.victim.mac)
    ),
    "ND: the asker is at the victim's MAC": lambda s: s.solicit(
        s.liar.address6, s.hearer.address6, f.mac_option(f.SOURCE_MAC, s.victim.mac)
    ),
    "ND: somebody claims the victim's address": lambda s: s.solicit(f.NOBODY6, s.victim.address6),
    "ND behind an extension header": lambda s: s.advertise(s.liar.address6, hidden=True),
    "a router advertisement": lambda s: s.router(f.ADVERTISE_ROUTER, bytes.fromhex("4000070800000000 00000000")),
    "a redirect": lambda s: s.router(f.REDIRECT, bytes(4) + bytes(32)),
    "a router solicitation with the victim's MAC": lambda s: s.router(
        f.SOLICIT_ROUTER, bytes(4) + f.mac_option(f.SOURCE_MAC, s.victim.mac)
    ),
    "a VLAN tag": lambda s: f.tagged(s.printed(f.IP, f.udp(s.liar.address, s.hearer.address)), f.VLAN),
    "two VLAN tags": lambda s: f.tagged(s.printed(f.IP, f.udp(s.liar.address, s.hearer.address)), f.QINQ, f.VLAN),
    "a VLAN tag around the victim's ARP": lambda s: f.tagged(
        s.printed(f.ARP, f.arp(s.liar.mac, s.victim.address, s.hearer.address)), f.VLAN
    ),
    "PPPoE": lambda s: s.printed(f.PPPOE, b"\x11\x09\x00\x00\x00\x04\x01\x01\x00\x00"),
    "a spanning tree": lambda s: s.printed(len(SPANNING_TREE), SPANNING_TREE, STP_MAC),
    "LLDP": lambda s: s.printed(f.LLDP, b"\x02\x07\x04" + bytes(6), LLDP_MAC),
    "MLD: a query": lambda s: s.group(130, 0),
    "MLD: a query of version 2": lambda s: s.group(130, 0, body=bytes(24)),
    "MLD: a query without router alert": lambda s: s.group(130),
    "MLD: a query behind two headers": lambda s: s.group(130, 60, 0),
    "MLD: a query behind an authentication header": lambda s: s.group(130, 51),
    "MLD: a query behind options and an authentication header": lambda s: s.group(130, 51, 0),
    "MLD: a query behind options behind an authentication header": lambda s: s.group(130, 0, 51),
    "MLD: done": lambda s: s.group(132, 0),
    "MRD: an advertisement": lambda s: s.group(151, 0, body=bytes(4)),
    "MRD: a solicitation": lambda s: s.group(152, 0, body=b""),
    "MRD: a termination": lambda s: s.group(153, 0, body=b""),
    "MRD behind an authentication header": lambda s: s.group(151, 51, body=bytes(4)),
    "a redirect behind an authentication header": lambda s: s.group(137, 51, body=bytes(36)),
    "a redirect behind options": lambda s: s.group(137, 60, body=bytes(36)),
    "a router advertisement behind an authentication header": lambda s: s.group(134, 51, body=bytes(12)),
    "PIM for IPv6": lambda s: s.group(0, body=b"\x20\0\0\0", proto=103),
    "PIM for IPv6 behind options": lambda s: s.group(0, 0, body=b"\x20\0\0\0", proto=103),
    "IGMP: a query": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x11), GROUP_MAC),
    "IGMP: a query with router alert": lambda s: s.printed(
        f.IP, f.source_routed(f.igmp(s.liar.address, 0x11), "224.0.0.1"), GROUP_MAC
    ),
    "IGMP: a query behind an authentication header": lambda s: s.printed(
        f.IP, f.behind(f.igmp(s.liar.address, 0x11), 51), GROUP_MAC
    ),
    "IGMP: leaving": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x17), GROUP_MAC),
    "DVMRP": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x13), GROUP_MAC),
    "PIM of version 1": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x14), GROUP_MAC),
    "MRD for IPv4: an advertisement": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x30), GROUP_MAC),
    "MRD for IPv4: a solicitation": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x31), GROUP_MAC),
    "MRD for IPv4: a termination": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x32), GROUP_MAC),
    "PIM": lambda s: s.printed(f.IP, f.ipv4(s.liar.address, "224.0.0.13", 103, b"\x20\0\0\0"), GROUP_MAC),
    "an experiment": lambda s: s.printed(0x88B5, b"anything"),
}
"""How to send with another's address, or past every check. Each works on a bridge without anti-spoofing."""

PIECES: Final[Mapping[str, Made]] = {
    "MLD: a query in a fragment": lambda s: s.group(130, 44),
    "MLD: a query in a first fragment that does not show it": lambda s: s.printed(
        f.IPV6, f.first_fragment(f.discovery(s.own6, ALL_NODES, 130, bytes(20))), ALL_NODES_MAC
    ),
    "a redirect in a fragment": lambda s: s.group(137, 44, body=bytes(36)),
    "an answer of a DHCPv6 server in a fragment that does not show it": lambda s: s.printed(
        f.IPV6, f.first_fragment(f.udp(s.own6, s.hearer.address6, 546, 547))
    ),
}
"""The same in fragments. Without a guard they come in another shape where the host puts packets together
(br_netfilter)."""

RIGHTS: Final[Mapping[str, Made]] = {
    "IPv4": lambda s: s.printed(f.IP, f.udp(s.liar.address, s.hearer.address)),
    "IPv6": lambda s: s.printed(f.IPV6, f.udp(s.liar.address6, s.hearer.address6)),
    "IPv6 from its link-local address": lambda s: s.printed(f.IPV6, f.udp(s.own6, f.link_local(s.hearer.mac))),
    "an answer by ARP": lambda s: s.printed(f.ARP, f.arp(s.liar.mac, s.liar.address, s.hearer.address)),
    "an announcement by ARP": lambda s: s.printed(
        f.ARP, f.arp(s.liar.mac, s.liar.address, s.liar.address, f.REQUEST), f.BROADCAST
    ),
    "a probe of its own address": lambda s: s.printed(
        f.ARP, f.arp(s.liar.mac, f.NOBODY, s.liar.address, f.REQUEST), f.BROADCAST
    ),
    "an advertisement": lambda s: s.advertise(s.liar.address6, f.mac_option(f.TARGET_MAC, s.liar.mac)),
    "an advertisement without option": lambda s: s.advertise(s.own6),
    "a solicitation": lambda s: s.solicit(s.own6, s.hearer.address6, f.mac_option(f.SOURCE_MAC, s.liar.mac)),
    "a detection of duplicates": lambda s: s.solicit(f.NOBODY6, s.liar.address6),
    "one with a nonce": lambda s: s.solicit(f.NOBODY6, s.own6, f.mac_option(f.NONCE, s.victim.mac)),
    "a report of MLD": lambda s: s.group(143, 0),
    "a report of MLD of version 1": lambda s: s.group(131, 0),
    "a report of IGMP": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x22), GROUP_MAC),
    "a report of IGMP of version 2": lambda s: s.printed(f.IP, f.igmp(s.liar.address, 0x16), GROUP_MAC),
    "a ping": lambda s: s.group(128),
    "UDP behind an authentication header": lambda s: s.printed(
        f.IPV6, f.behind(f.udp(s.liar.address6, s.hearer.address6), 51)
    ),
    "a router solicitation": lambda s: s.router(f.SOLICIT_ROUTER, bytes(4) + f.mac_option(f.SOURCE_MAC, s.liar.mac)),
}
"""What a sandbox reports of itself."""


def gateway(scene: Scene) -> str:
    return scene.liar.address.rpartition(".")[0] + ".1"


def staged(daemon: RunningDaemon, **options: JSON) -> Scene:
    daemon.api.network("foo", ipv6=True, **options)
    return Scene(daemon, *(daemon.sandbox("foo", name) for name in ("liar", "victim", "hearer")))


def failing(tried: Callable[[bytes], bool], scene: Scene, frames: Mapping[str, Made]) -> list[str]:
    """The names of those for which it is not so. All in one scene: a scene each would take minutes."""
    return [name for name, made in frames.items() if not tried(made(scene))]


def test_spoofed_frames_are_dropped(daemon: RunningDaemon) -> None:
    scene = staged(daemon)
    assert failing(scene.is_refused, scene, {**TRICKS, **PIECES}) == []


def test_spoofed_frames_pass_without_anti_spoofing(daemon: RunningDaemon) -> None:
    scene = staged(daemon, anti_spoofing=False)
    # where br_netfilter is on, the host looks for a way back to the sender
    tricks = {name: made for name, made in TRICKS.items() if name != "an IPv4 address of nobody"}
    assert failing(scene.passes, scene, tricks) == []


def test_queries_are_dropped_on_an_adopted_bridge(daemon: RunningDaemon) -> None:
    """A bridge of the user's may snoop multicast, and would follow a sandbox that plays querier or router."""
    sh = daemon.host.sh
    sh("ip", "link", "add", "theirs", "type", "bridge", "mcast_snooping", "1")
    try:
        scene = staged(daemon, bridge_name="theirs", anti_spoofing=False)
        kinds = ("MLD", "MRD", "PIM", "IGMP", "DVMRP")
        queries = {name: made for name, made in TRICKS.items() if name.startswith(kinds)}
        assert len(queries) > 15
        assert failing(scene.is_refused, scene, queries) == []
        assert failing(scene.passes, scene, {name: RIGHTS[name] for name in ("IPv4", "IPv6", "a ping")}) == []
        spoofed = {name: TRICKS[name] for name in ("the victim's MAC", "a redirect")}
        assert failing(scene.passes, scene, spoofed) == []
    finally:
        daemon.api.delete("/networks/foo?force=true")
        sh("ip", "link", "del", "theirs")


def test_frames_with_the_own_address_pass(daemon: RunningDaemon) -> None:
    scene = staged(daemon)
    assert failing(scene.passes, scene, RIGHTS) == []


def test_bridge_control_frames_do_not_move_a_mac(daemon: RunningDaemon) -> None:
    """They pass the bridge's hook by, and a bridge believes their sender unless configured not to."""
    scene = staged(daemon)
    before = learned(daemon, scene.victim.mac)
    bridge = bridge_of(daemon)
    right = scene.printed(f.ARP, f.arp(scene.liar.mac, scene.liar.address, gateway(scene)), f.BROADCAST)
    with f.raw(daemon.host, scene.liar) as mouth, f.raw(daemon.host, daemon.here, bridge) as listener:
        for last in range(16):
            mouth.send(f.ether(f"01:80:c2:00:00:{last:02x}", scene.victim.mac, f.SLOW, b"\x01\x01"))
        mouth.send(f.ether(scene.hearer.mac, scene.victim.mac, f.IP, f.udp(scene.liar.address, scene.hearer.address)))
        mouth.send(right)
        assert f.received(listener, right)
    assert learned(daemon, scene.victim.mac) == before


@pytest.mark.parametrize("family", [4, 6])
def test_ip_packet_in_a_bridge_control_frame_is_dropped(daemon: RunningDaemon, family: int) -> None:
    """It comes up at the port's own device, where no rule that names the bridge sees it."""
    scene = staged(daemon, host_access=True)
    own, there, kind, wildcard = (
        (scene.liar.address, HOST_ADDRESS, f.IP, "0.0.0.0")
        if family == 4
        else (scene.liar.address6, HOST_ADDRESS6, f.IPV6, "::")
    )
    link_mac = json.loads(daemon.host.sh("ip", "-j", "link", "show", bridge_of(daemon)))[0]["address"]
    with f.raw(daemon.host, scene.liar) as mouth:
        server = daemon.here.bound(wildcard, UDP, 9)
        mouth.send(scene.printed(kind, f.udp(own, there, 9, 1), LACP_MAC))
        mouth.send(scene.printed(kind, f.udp(own, there, 9, 2), link_mac))
        assert server.recvfrom(99)[1][:2] == (own, 2)


def test_arp_in_a_bridge_control_frame_is_ignored(
    daemon: RunningDaemon,
) -> None:
    scene = staged(daemon)
    question = f.arp(scene.liar.mac, scene.liar.address, gateway(scene), f.REQUEST)
    link_mac = json.loads(daemon.host.sh("ip", "-j", "link", "show", bridge_of(daemon)))[0]["address"]
    answer = f.ether(
        scene.liar.mac,
        link_mac,
        f.ARP,
        f.arp(link_mac, gateway(scene), scene.liar.address, f.REPLY, scene.liar.mac),
    )
    with f.raw(daemon.host, scene.liar) as mouth:
        for last in range(16):
            mouth.send(scene.printed(f.ARP, question, f"01:80:c2:00:00:{last:02x}"))
        mouth.send(scene.printed(f.ARP, question, f.BROADCAST))
        assert f.received(mouth, answer)
    neighbours = json.loads(daemon.host.sh("ip", "-j", "-4", "neigh", "show"))
    assert [each["dev"] for each in neighbours if each["dev"].startswith("snv")] == []


def test_multicast_snooping_stays_off_on_the_bridge(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    assert not snoops(daemon)
    daemon.host.sh("ip", "link", "set", bridge_of(daemon), "type", "bridge", "mcast_snooping", "1")
    assert snoops(daemon)
    daemon.api.post("/reconcile", fix=True)
    assert not snoops(daemon)


def test_backends_use_service_address_and_only_holder_claims_it(
    daemon: RunningDaemon,
) -> None:
    service = published(daemon)
    keys = {name: service.attach(name) for name in NAMES}
    hearer = daemon.sandbox("foo", "hearer")
    sandboxes = {name: backend(daemon, service, key, name) for name, key in keys.items()}
    assert service.holder() == "b1"
    for name, sandbox in sandboxes.items():
        scene = Scene(daemon, sandbox, hearer, hearer)
        assert failing(scene.passes, scene, answers(service)) == []
        reported = scene.passes if name == "b1" else scene.is_refused
        assert failing(reported, scene, claims(service)) == []
        assert scene.is_refused(scene.printed(f.IP, f.udp(hearer.address, hearer.address)))
    service.detach("b1")
    heir = Scene(daemon, sandboxes[service.holder()], hearer, hearer)
    assert failing(heir.passes, heir, claims(service)) == []
    assert failing(heir.passes, heir, answers(service)) == []


def test_anti_spoofing_is_unchanged_after_a_restart(daemon: RunningDaemon) -> None:
    scene = staged(daemon)
    names = ("the victim's MAC", "ARP: the victim is at the liar's MAC", "ND: the victim is at the liar's MAC")
    tricks = {name: TRICKS[name] for name in names}
    daemon.kill()
    assert failing(scene.is_refused, scene, tricks) == []
    daemon.start()
    assert failing(scene.is_refused, scene, tricks) == []
    assert failing(scene.passes, scene, RIGHTS) == []


def test_anti_spoofing_elements_are_removed_after_the_leave(daemon: RunningDaemon) -> None:
    service = published(daemon)
    before = guard_elements(daemon)
    for name in NAMES:
        service.attach_idle(name)
    assert guard_elements(daemon) != before
    for name in NAMES:
        service.detach(name)
    assert guard_elements(daemon) == before


def answers(service: Service) -> dict[str, Made]:
    """What any backend may send in the service's name."""
    return {
        "IPv4": lambda s: s.printed(f.IP, f.udp(service.address, s.hearer.address)),
        "IPv6": lambda s: s.printed(f.IPV6, f.udp(service.address6, s.hearer.address6)),
    }


def claims(service: Service) -> dict[str, Made]:
    """What only the holder may say of the service's address."""
    return {
        "ARP": lambda s: s.printed(f.ARP, f.arp(s.liar.mac, service.address, service.address, f.REQUEST), f.BROADCAST),
        "ARP, asking": lambda s: s.printed(f.ARP, f.arp(s.liar.mac, service.address, s.hearer.address, f.REQUEST)),
        "ARP, answering": lambda s: s.printed(f.ARP, f.arp(s.liar.mac, service.address, s.hearer.address)),
        "ARP, probing": lambda s: s.printed(
            f.ARP, f.arp(s.liar.mac, f.NOBODY, service.address, f.REQUEST), f.BROADCAST
        ),
        "ND": lambda s: s.advertise(service.address6, f.mac_option(f.TARGET_MAC, s.liar.mac), source=service.address6),
        "ND, of it": lambda s: s.advertise(service.address6, f.mac_option(f.TARGET_MAC, s.liar.mac)),
        "ND, in its name": lambda s: s.advertise(s.own6, source=service.address6),
        "ND, asking": lambda s: s.solicit(service.address6, s.hearer.address6, f.mac_option(f.SOURCE_MAC, s.liar.mac)),
        "ND, asking without its MAC": lambda s: s.solicit(service.address6, s.hearer.address6),
        "ND, probing": lambda s: s.solicit(f.NOBODY6, service.address6),
        "ND, asking for routers": lambda s: s.router(
            f.SOLICIT_ROUTER, bytes(4) + f.mac_option(f.SOURCE_MAC, s.liar.mac), service.address6
        ),
    }


def backend(daemon: RunningDaemon, service: Service, place: Place, name: str) -> Sandbox:
    """A backend as a sandbox: with an address and a MAC of its own."""
    sandbox = Sandbox(daemon.host, daemon.stack, place.namespace)
    sandbox.address = service.reported()[name]["address"].partition("/")[0]
    sandbox.mac = json.loads(place.sh("ip", "-j", "link", "show", "eth0"))[0]["address"]
    return sandbox


def bridge_of(daemon: RunningDaemon) -> str:
    return f"snb{daemon.api.reported('foo')['id'][:10]}"


def snoops(daemon: RunningDaemon) -> bool:
    """Whether the bridge learns from its ports who listens to which group."""
    (reported,) = json.loads(daemon.host.sh("ip", "-j", "-d", "link", "show", bridge_of(daemon)))
    return bool(reported["linkinfo"]["info_data"]["mcast_snooping"])


def learned(daemon: RunningDaemon, mac: str) -> set[str]:
    """The ports that the bridge believes a MAC to be at."""
    entries = json.loads(daemon.host.sh("bridge", "-j", "fdb", "show", "br", bridge_of(daemon)))
    return {entry["ifname"] for entry in entries if entry["mac"] == mac}


def guard_elements(daemon: RunningDaemon) -> list[str]:
    names = ("guarded", "sources4", "sources6", "unclaimed4", "macs6", "claims6")
    return [daemon.host.sh("nft", "list", "set", "bridge", "sandnet", name) for name in names]
