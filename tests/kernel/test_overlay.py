"""Networks over several hosts in real kernels: what reaches the sandboxes of other hosts, and what must not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace

from sandnet.errors import Error
from sandnet.model import Attachment, Endpoint, Network, Peer
from tests.support.ethernet import IP, ether, raw, received, udp
from tests.support.network_host import unavailable
from tests.support.overlay_hosts import OverlayHost, Switch, encapsulated, link_of, planned
from tests.support.traffic import DOUBT, TCP, UDP, Place

PORT = 8000
BRIDGE_NF = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")


@dataclass
class Two:
    """A network on two hosts, with a sandbox on each."""

    switch: Switch
    hosts: list[OverlayHost]
    net: Network
    places: list[Place]
    peers: list[Peer]
    stack: ExitStack

    def address(self, number: int, version: int = 4) -> str:
        return str(self.peers[number].addresses[version == 6])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if reason := unavailable():
        pytest.skip(reason)
    with ExitStack() as made:
        yield made


def joined(stack: ExitStack, *, ipv6: bool = False, mtu: int = 1500, **options: Any) -> Two:
    switch = Switch(stack)
    hosts = [OverlayHost(number, switch, stack, ipv6=ipv6, mtu=mtu) for number in (1, 2)]
    missing = hosts[0].host.run(hosts[0].kernel.host.missing_features)
    if "vxlan" in missing:
        pytest.skip(missing["vxlan"])
    net = planned(hosts[0], **options)
    for host in hosts:
        host.make(net)
    places, peers = zip(*(host.join(net, 10 + host.number) for host in hosts), strict=True)
    hosts[0].know(net, peers[1])
    hosts[1].know(net, peers[0])
    return Two(switch, hosts, net, [*places], [*peers], stack)


@pytest.fixture
def two(stack: ExitStack) -> Two:
    return joined(stack)


@pytest.mark.parametrize("underlay_ipv6", [False, True], ids=["underlay4", "underlay6"])
@pytest.mark.parametrize("br_netfilter", ["0", "1"], ids=["plain", "br_netfilter"])
def test_sandboxes_reach_each_other_over_both_families(
    stack: ExitStack, underlay_ipv6: bool, br_netfilter: str
) -> None:
    two = joined(stack, ipv6=underlay_ipv6)
    for host in two.hosts:
        for name in BRIDGE_NF:
            if host.host.run(host.kernel.sysctl.get, name) is not None:
                host.host.run(host.kernel.sysctl.set, name, br_netfilter)
    assert [host.faults(two.net) for host in two.hosts] == [[], []]
    for version in (4, 6):
        assert two.places[0].reaches(two.address(1, version))
        assert two.places[1].reaches(two.address(0, version))
        server = two.places[1].serve("there", PORT, TCP, two.address(1, version))
        seen = two.places[0].ask(two.address(1, version), PORT)
        assert (seen.server, seen.address) == ("there", two.address(0, version))
        server.close()


@pytest.mark.parametrize(("ipv6", "mtu"), [(False, 1450), (True, 1430)])
def test_largest_packet_passes_and_a_larger_one_does_not(stack: ExitStack, ipv6: bool, mtu: int) -> None:
    two = joined(stack, ipv6=ipv6)
    assert two.net.mtu == mtu
    target = two.address(1)
    assert two.places[0].reaches(target)
    with two.switch.capture() as frames:
        two.places[0].sh("ping", "-c", "1", "-W", "5", "-M", "do", "-s", str(mtu - 28), target)
    assert max(len(frame) for frame in frames) == 14 + 1500
    with pytest.raises(AssertionError, match=r"(?i)message too long|mtu"):
        two.places[0].sh("ping", "-c", "1", "-W", "5", "-M", "do", "-s", str(mtu - 27), target)


def test_larger_underlay_gives_a_larger_mtu(stack: ExitStack) -> None:
    two = joined(stack, mtu=9000)
    assert two.net.mtu == 8950
    assert two.places[0].reaches(two.address(1))
    two.places[0].sh("ping", "-c", "1", "-W", "5", "-M", "do", "-s", str(8950 - 28), two.address(1))


def test_nothing_is_flooded_to_other_hosts(two: Two) -> None:
    nobody = str(two.net.ipv4.prefix[99]) if two.net.ipv4 else ""
    nobody6 = str(two.net.ipv6.prefix[99]) if two.net.ipv6 else ""
    own, own_mac = two.address(0), two.peers[0].mac
    with two.switch.capture() as frames, raw(two.hosts[0].host, two.places[0]) as sender:
        assert not two.places[0].reaches(nobody, DOUBT)
        assert not two.places[0].reaches(nobody6, DOUBT)
        assert not two.hosts[0].place().reaches(nobody, DOUBT)
        for target in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "02:42:00:00:00:99"):
            sender.send(ether(target, own_mac, IP, udp(own, nobody)))
        time.sleep(DOUBT)
    assert frames == []
    with two.switch.capture() as frames:
        assert two.places[0].reaches(two.address(1))
    assert {frame[62:64] for frame in frames} == {b"\x08\x00"}, "only IP crosses, and no ARP"


def test_gateway_is_the_same_everywhere_and_stays_on_its_host(two: Two) -> None:
    assert two.net.ipv4
    gateway = str(two.net.ipv4.gateway)
    for place in two.places:
        assert place.reaches(gateway)
    macs = {place.sh("ip", "neighbour", "show", gateway).split(" lladdr ")[1].split()[0] for place in two.places}
    assert len(macs) == 1
    with two.switch.capture() as frames:
        assert two.places[0].reaches(gateway)
        assert not two.hosts[0].place().reaches(two.address(1), DOUBT)
        assert not two.places[0].reaches("192.0.2.99", DOUBT)
    assert frames == []


def test_sandboxes_reach_the_outside_by_their_own_host(two: Two) -> None:
    outsider = OverlayHost(3, two.switch, two.stack)
    outside = outsider.place().serve("outside", PORT, TCP)
    for number, place in enumerate(two.places, 1):
        assert place.ask("192.0.2.3", PORT).address == f"192.0.2.{number}"
    outside.close()


def test_internal_networks_reach_their_sandboxes_only(stack: ExitStack) -> None:
    two = joined(stack, internal=True)
    assert two.places[0].reaches(two.address(1))
    assert not two.places[0].reaches("192.0.2.2", DOUBT)


def test_networks_do_not_reach_each_other(two: Two) -> None:
    other = planned(two.hosts[0], [two.net], "other")
    assert other.vni == two.net.vni + 1
    for host in two.hosts:
        host.make(other)
    place, peer = two.hosts[1].join(other, 12)
    two.hosts[0].know(other, peer)
    assert not two.places[0].reaches(str(peer.addresses[0]), DOUBT)
    assert not place.reaches(two.address(0), DOUBT)
    assert two.places[0].reaches(two.address(1))


def test_without_icc_no_sandbox_of_another_host_is_reached(stack: ExitStack) -> None:
    two = joined(stack, icc=False)
    assert not two.places[0].reaches(two.address(1), DOUBT)
    assert [host.faults(two.net) for host in two.hosts] == [[], []]


@pytest.mark.parametrize(
    ("source", "vni", "mac", "inner", "passes"),
    [
        ("192.0.2.1", 0, 0, 0, True),
        ("192.0.2.3", 0, 0, 0, False),
        ("192.0.2.1", 1, 0, 0, False),
        ("192.0.2.1", 0, 1, 0, False),
        ("192.0.2.1", 0, 0, 1, False),
    ],
    ids=["as its peer", "of another host", "with another VNI", "of another MAC", "of another address"],
)
@pytest.mark.parametrize("anti_spoofing", [True, False])
def test_encapsulated_packets_pass_from_their_peer_only(
    stack: ExitStack, source: str, vni: int, mac: int, inner: int, passes: bool, anti_spoofing: bool
) -> None:
    two = joined(stack, anti_spoofing=anti_spoofing)
    other = planned(two.hosts[0], [two.net], "other")
    for host in two.hosts:
        host.make(other)
    sender = two.hosts[0] if source == "192.0.2.1" else OverlayHost(3, two.switch, stack)
    forged_mac = "02:42:00:00:00:99" if mac else two.peers[0].mac
    address = str(ip_address(two.address(0)) + 50 * inner)
    frame = ether(two.peers[1].mac, forged_mac, IP, udp(address, two.address(1)))
    last = ether(two.peers[1].mac, two.peers[0].mac, IP, udp(two.address(0), two.address(1), sender_port=10))
    with raw(two.hosts[1].host, two.places[1]) as listener:
        send(sender, source, encapsulated(two.net.vni + vni, frame))
        send(two.hosts[0], "192.0.2.1", encapsulated(two.net.vni, last))
        assert received(listener, frame, before=last) is (passes or (bool(inner) and not anti_spoofing))


def send(host: OverlayHost, source: str, packet: bytes, target: str = "192.0.2.2") -> None:
    host.place().bound(source, UDP).sendto(packet, (target, 4789))


def test_other_programs_vxlan_is_left_alone(two: Two) -> None:
    """Its VNI is none of ours."""
    for number, host in enumerate(two.hosts, 1):
        place = host.place()
        place.sh(
            "ip", "link", "add", "vx9", "type", "vxlan", "id", "9", "local", f"192.0.2.{number}", "dstport", "4789"
        )
        place.sh("bridge", "fdb", "add", "00:00:00:00:00:00", "dev", "vx9", "dst", f"192.0.2.{3 - number}")
        place.sh("ip", "address", "add", f"10.99.0.{number}/24", "dev", "vx9")
        place.sh("ip", "link", "set", "vx9", "up")
    assert two.hosts[0].place().reaches("10.99.0.2")
    assert two.places[0].reaches(two.address(1))


@pytest.mark.parametrize("masquerade", [True, False])
def test_sandbox_cannot_send_encapsulated_packets(stack: ExitStack, masquerade: bool) -> None:
    two = joined(stack, masquerade=masquerade)
    for host in two.hosts:  # so that answers of hosts without masquerading come back
        host.place().sh("ip", "route", "add", "default", "dev", "up0")
    frame = ether(two.peers[1].mac, two.peers[0].mac, IP, udp(two.address(0), two.address(1)))
    last = ether(two.peers[1].mac, two.peers[0].mac, IP, udp(two.address(0), two.address(1), sender_port=10))
    client = two.places[0].bound(two.address(0), UDP)
    assert two.net.ipv4
    targets = ("192.0.2.2", "192.0.2.1", str(two.net.ipv4.gateway))
    with raw(two.hosts[1].host, two.places[1]) as listener, two.switch.capture() as frames:
        for target in targets:
            client.sendto(encapsulated(two.net.vni, frame), (target, 4789))
        send(two.hosts[0], "192.0.2.1", encapsulated(two.net.vni, last))
        assert not received(listener, frame, before=last)
    seen = [bytes(each[26:30]) for each in frames]
    assert seen.count(ip_address("192.0.2.1").packed) == 1


def test_other_containers_cannot_send_as_this_host(two: Two) -> None:
    """Another engine's bridge, which masquerades."""
    host = two.hosts[0].host
    container = host.container()
    host.sh("ip", "link", "add", "docker0", "type", "bridge")
    host.sh("ip", "address", "add", "10.77.0.1/24", "dev", "docker0")
    host.sh("ip", "link", "set", "docker0", "up")
    host.sh("ip", "link", "add", "veth0", "master", "docker0", "type", "veth", "peer", "name", "inner")
    host.sh("ip", "link", "set", "veth0", "up")
    pid = container.popen("sleep", "100").pid
    host.sh("ip", "link", "set", "inner", "netns", str(pid))
    place = Place(host, two.stack, container.path)
    place.sh("ip", "address", "add", "10.77.0.2/24", "dev", "inner")
    place.sh("ip", "link", "set", "inner", "up")
    place.sh("ip", "route", "add", "default", "via", "10.77.0.1")
    host.sh("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }")
    host.sh("nft", "add rule ip nat post ip saddr 10.77.0.0/24 masquerade")
    host.sh("nft", "add element inet sandnet open_links { ipv4 . docker0 }")
    host.sh("nft", "add element inet sandnet open_links { ipv4 . up0 }")
    assert place.reaches("192.0.2.2")
    client = place.bound("10.77.0.2", UDP)
    with two.switch.capture() as frames:
        client.sendto(encapsulated(two.net.vni, b"x" * 64), ("192.0.2.2", 4789))
        assert place.reaches("192.0.2.2")
    assert frames == []


def test_only_root_of_the_host_sends_to_the_vxlan_port(two: Two) -> None:
    program = "import os,socket; os.setuid(65534); socket.socket(2,2).sendto(b'x'*64,('192.0.2.2',4789))"
    with two.switch.capture() as frames:
        process = two.hosts[0].host.popen("/usr/bin/env", "python3", "-c", program)
        process.communicate(timeout=20)
    assert frames == []
    with two.switch.capture() as frames:
        send(two.hosts[0], "192.0.2.1", b"x" * 64)
        assert two.hosts[0].place().reaches("192.0.2.2")  # goes the same way, behind it
    assert len(frames) == 1


def test_peer_that_moves_is_reached_at_its_new_host(two: Two) -> None:
    host, other = two.hosts
    assert two.places[0].reaches(two.address(1))
    other.leave(two.net, 12)
    third = OverlayHost(3, two.switch, two.stack)
    third.make(two.net)
    _, moved = third.join(two.net, 12)
    third.know(two.net, two.peers[0])
    host.done(host.driver.change_peers(two.net, [moved], []))
    assert two.places[0].reaches(two.address(1))
    host.done(host.driver.change_peers(two.net, [], [moved.mac]))
    assert not two.places[0].reaches(two.address(1), DOUBT)
    assert host.faults(two.net) == []


def test_sandbox_that_moves_here_is_no_peer_any_more(two: Two) -> None:
    """The join comes before the news that it left its former host."""
    host = two.hosts[0]
    two.hosts[1].leave(two.net, 12)
    place, _ = host.join(two.net, 12)
    assert two.places[0].reaches(two.address(1))
    assert place.reaches(two.address(0))
    host.done(host.driver.change_peers(two.net, [], [two.peers[1].mac]))
    assert two.places[0].reaches(two.address(1))
    assert host.faults(two.net) == []


@pytest.mark.parametrize(
    "damage",
    [
        "bridge fdb del {mac} dev {vxlan} self",
        "bridge fdb del {mac} dev {vxlan} master",
        "ip neigh del {address} dev {bridge}",
        "bridge fdb replace {mac} dev {vxlan} self dst 192.0.2.77 static",
        "ip neigh replace {address} lladdr 02:00:00:00:00:01 nud permanent dev {bridge}",
        "bridge fdb add 02:00:00:00:00:02 dev {vxlan} master static",
        "bridge link set dev {vxlan} flood on",
        "ip link set {vxlan} down",
        "ip link set {vxlan} nomaster",
        "ip link del {vxlan}",
        "ip link set {vxlan} mtu 1400",
    ],
)
def test_what_others_change_is_found_and_repaired(two: Two, damage: str) -> None:
    host = two.hosts[0]
    assert host.done(host.driver.changed_networks([two.net])) == [two.net.id]  # the first time nothing is known
    assert host.done(host.driver.changed_networks([two.net])) == []
    names = {"mac": two.peers[1].mac, "vxlan": link_of(two.net), "bridge": two.net.link, "address": two.address(1)}
    host.host.sh(*damage.format(**names).split())
    assert host.faults(two.net)
    if damage.startswith(("bridge fdb", "ip neigh")):
        assert host.done(host.driver.changed_networks([two.net])) == [two.net.id]
    else:
        port = host.host.run(host.kernel.state_reader.host).links.get(link_of(two.net))
        assert port is None or "flood" in damage or host.driver.may_differ(two.net, port)
    host.done(host.driver.create_network(two.net))
    assert host.faults(two.net) == []
    assert two.places[0].reaches(two.address(1))
    host.done(host.driver.changed_networks([two.net]))
    assert host.done(host.driver.changed_networks([two.net])) == []


def with_second_backend(two: Two) -> tuple[Place, Endpoint, list[Attachment]]:
    """A further backend of the service of host 2, beside the holder; the new one, the service, and both."""
    here, there = two.hosts
    service = there.states[two.net.id][1][0].endpoint
    place, peer = there.join(two.net, 13, service)
    here.know(two.net, two.peers[1], peer)
    return place, service, [*there.states[two.net.id][1][0].backends]


@pytest.mark.parametrize("version", [4, 6])
def test_udp_answer_from_another_host_has_the_services_address(two: Two, version: int) -> None:
    """The server listens on every address, so it answers from its interface's own."""
    place, service, (holder, backend) = with_second_backend(two)
    for host in two.hosts:
        host.balance(two.net, service, [replace(holder, drained=True), backend])
    server = place.serve("second", PORT, UDP, "::" if version == 6 else "0.0.0.0")
    answered = two.places[0].ask(two.address(1, version), PORT, UDP)
    assert (answered.server, answered.address) == ("second", two.address(0, version))
    assert two.hosts[0].faults(two.net) == []
    server.close()


def test_other_udp_from_another_host_keeps_its_address(two: Two) -> None:
    place, service, (holder, backend) = with_second_backend(two)
    for host in two.hosts:
        host.balance(two.net, service, [replace(holder, drained=True), backend])
    assert backend.address
    own = str(backend.address.ip)
    server = place.serve("second", PORT, UDP)
    assert two.places[0].ask(own, PORT, UDP).server == "second"
    mine = two.places[0].serve("mine", PORT, UDP)
    assert place.ask(two.address(0), PORT, UDP, source=own).address == own
    mine.close()
    server.close()


def test_udp_answer_to_a_service_that_asks_reaches_the_asker(two: Two) -> None:
    """The holder of a service is a client here: its answers are no new flows, to be spread over the backends."""
    _, service, (holder, backend) = with_second_backend(two)
    for host in two.hosts:
        host.balance(two.net, service, [replace(holder, drained=True), backend])
    mine = two.places[0].serve("mine", 53, UDP)
    for port in range(40000, 40020):
        answered = two.places[1].ask(two.address(0), 53, UDP, source=two.address(1), source_port=port)
        assert answered.address == two.address(1)
    mine.close()


def test_known_peers_that_differ_are_repaired_and_counted(two: Two) -> None:
    host = two.hosts[0]
    host.host.sh("ip", "neigh", "del", two.address(1), "dev", two.net.link)
    (fault,) = host.know(two.net, two.peers[1])
    assert fault.problem == f"the neighbour {two.address(1)} with {two.peers[1].mac} is missing"
    assert host.know(two.net, two.peers[1]) == []
    assert two.places[0].reaches(two.address(1))


def test_foreign_entry_of_a_network_without_peers_is_a_fault(two: Two) -> None:
    host = two.hosts[0]
    host.know(two.net)
    assert host.faults(two.net) == []
    host.host.sh("bridge", "fdb", "add", "02:00:00:00:00:02", "dev", link_of(two.net), "master", "static")
    assert host.faults(two.net)


def test_peers_of_a_network_deleted_at_that_instant_are_refused(two: Two) -> None:
    host = two.hosts[1]
    host.leave(two.net, 12)
    host.done(host.driver.delete_network(two.net))
    with pytest.raises(Error, match="no such network: net"):
        host.done(host.driver.change_peers(two.net, [two.peers[0]], []))


def test_own_changes_are_not_taken_for_those_of_others(two: Two) -> None:
    host = two.hosts[0]
    host.done(host.driver.changed_networks([two.net]))
    peer = Peer("02:42:0a:3c:00:63", two.hosts[1].address, (ip_address(two.address(0)) + 40,))
    host.done(host.driver.change_peers(two.net, [peer], []))
    assert host.done(host.driver.changed_networks([two.net])) == []
    host.done(host.driver.change_peers(two.net, [], [peer.mac]))
    assert host.done(host.driver.changed_networks([two.net])) == []


def test_restart_leaves_traffic_alone_until_peers_are_set(two: Two) -> None:
    host = two.hosts[0]
    server = two.places[1].serve("there", PORT, TCP)
    before = host.host.sh("nft", "list", "set", "inet", "sandnet", "peers4")
    host.start()
    assert host.host.sh("nft", "list", "set", "inet", "sandnet", "peers4") == before
    assert two.places[0].ask(two.address(1), PORT).server == "there"
    assert host.faults(two.net) == []
    host.know(two.net)
    assert not two.places[0].reaches(two.address(1), DOUBT)
    host.know(two.net, two.peers[1])
    assert two.places[0].reaches(two.address(1))
    server.close()


def test_flushed_rules_are_made_again_with_all_peers(two: Two) -> None:
    host = two.hosts[0]
    host.host.sh("nft", "flush", "ruleset")
    assert host.faults(two.net)
    host.done(host.host_network.packet_filter.repair())
    assert host.faults(two.net) == []
    assert two.places[0].reaches(two.address(1))


def test_peers_change_while_the_rules_are_lost(two: Two) -> None:
    host = two.hosts[0]
    host.done(host.driver.change_peers(two.net, [], [two.peers[1].mac]))
    host.host.sh("nft", "flush", "ruleset")
    host.done(host.driver.change_peers(two.net, [two.peers[1]], []))
    assert host.faults(two.net) == []
    assert two.places[0].reaches(two.address(1))


def test_deleted_network_leaves_no_link_and_no_element(two: Two) -> None:
    host = two.hosts[0]
    host.leave(two.net, 11)
    host.states.clear()
    for _ in range(2):
        host.done(host.driver.delete_network(two.net))
    assert host.host.run(host.kernel.links.find, link_of(two.net)) is None
    assert host.done(host.host_network.packet_filter.faults()) == []
    assert "elements" not in host.host.sh("nft", "list", "set", "inet", "sandnet", "peers4")


def test_10_000_entries_are_programmed_in_under_a_second(two: Two) -> None:
    host = two.hosts[0]
    base = ip_address("10.60.128.0")
    peers = [
        Peer(
            f"02:42:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}:01",
            two.hosts[1].address,
            (base + number,),
        )
        for number in range(3334)
    ]
    began = time.process_time()
    host.know(two.net, *peers)
    taken = time.process_time() - began
    found = host.host.run(host.kernel.vxlan.entries, link_of(two.net), two.net.link)
    assert found.total >= 10_000
    assert taken < 1.5, taken  # of processor time; a busy machine makes each second of it longer
    assert host.faults(two.net) == []


def test_requested_vni_of_another_network_is_refused(two: Two) -> None:
    with pytest.raises(Error, match="VNI 4096 belongs to network net"):
        planned(two.hosts[0], [two.net], "other", vni=4096)
    assert planned(two.hosts[0], [two.net], "other", vni=77).vni == 77
