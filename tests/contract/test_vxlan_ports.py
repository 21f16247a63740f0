"""What every kernel promises about VXLAN links and the entries that lead to other hosts: in memory and for Linux."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.types import Bridge
from sandnet.kernel.vxlan.base import NO_ENTRIES, PeerEntries, VxlanPort
from tests.support.kernel_cases import KernelCase

BRIDGE = Bridge("snb0", 1450, (IPv4Interface("10.50.0.1/24"), IPv6Interface("fd50::1/64")))
PORT = VxlanPort("snvx0", "snb0", 4096, ip_address("192.0.2.1"), 4789, 1450, isolated=False)
MAC, OTHER_MAC = bytes.fromhex("02420a320002"), bytes.fromhex("02420a320003")
HOST, OTHER_HOST = ip_address("192.0.2.2").packed, ip_address("2001:db8::2").packed
ADDRESS, ADDRESS6 = ip_address("10.50.0.2").packed, ip_address("fd50::2").packed
PEER = PeerEntries(frozenset({(MAC, HOST)}), frozenset({MAC}), frozenset({(ADDRESS, MAC), (ADDRESS6, MAC)}))


@pytest.fixture
def case(kernel_case: KernelCase) -> KernelCase:
    kernel_case.add_link("up0", "192.0.2.1/24")
    kernel_case.kernel.links.ensure_bridge(BRIDGE)
    return kernel_case


def refused(kind: Kind, code: str = "") -> pytest.RaisesExc[Error]:
    return pytest.RaisesExc(Error, check=lambda error: error.kind is kind and code in ("", error.code))


def test_vxlan_link_is_found_as_it_was_made(case: KernelCase) -> None:
    for _ in range(2):
        case.kernel.vxlan.ensure(PORT)
    assert case.kernel.vxlan.find("snvx0") == PORT
    link = case.kernel.links.find("snvx0")
    assert link
    assert (link.kind, link.up) == ("vxlan", True)


@pytest.mark.parametrize(
    "port", [PORT._replace(isolated=True), PORT._replace(mtu=1400), PORT._replace(local=ip_address("2001:db8::1"))]
)
def test_changed_options_replace_the_former_ones(case: KernelCase, port: VxlanPort) -> None:
    case.kernel.vxlan.ensure(PORT)
    case.kernel.vxlan.ensure(port)
    assert case.kernel.vxlan.find("snvx0") == port


def test_link_with_another_vni_is_made_again(case: KernelCase) -> None:
    case.kernel.vxlan.ensure(PORT)
    case.kernel.vxlan.change("snvx0", "snb0", NO_ENTRIES, PEER)
    case.kernel.vxlan.ensure(PORT._replace(vni=4097))
    assert case.kernel.vxlan.find("snvx0") == PORT._replace(vni=4097)
    assert case.kernel.vxlan.entries("snvx0", "snb0").forwarding == frozenset()


def test_link_set_down_by_others_is_open_until_made_again(case: KernelCase) -> None:
    case.kernel.vxlan.ensure(PORT)
    case.kernel.links.retire(["snvx0"])
    if case.kernel.vxlan.find("snvx0"):
        assert case.kernel.vxlan.find("snvx0") == PORT._replace(closed=False)
        case.kernel.vxlan.ensure(PORT)
        assert case.kernel.vxlan.find("snvx0") == PORT


def test_vxlan_link_needs_a_bridge_and_a_free_name(case: KernelCase) -> None:
    with refused(Kind.NOT_FOUND):
        case.kernel.vxlan.ensure(PORT._replace(bridge="snb9"))
    case.add_link("snvx1")
    with refused(Kind.CONFLICT):
        case.kernel.vxlan.ensure(PORT._replace(name="snvx1"))
    assert case.kernel.vxlan.find("snvx1") is None


def test_second_link_with_a_vni_is_refused(case: KernelCase) -> None:
    case.kernel.vxlan.ensure(PORT)
    with refused(Kind.CONFLICT, "vni_taken"):
        case.kernel.vxlan.ensure(PORT._replace(name="snvx1"))


def test_entries_are_added_changed_and_removed(case: KernelCase) -> None:
    case.kernel.vxlan.ensure(PORT)
    assert case.kernel.vxlan.entries("snvx0", "snb0") == NO_ENTRIES
    for _ in range(2):
        case.kernel.vxlan.change("snvx0", "snb0", NO_ENTRIES, PEER)
    assert case.kernel.vxlan.entries("snvx0", "snb0") == PEER
    moved = PeerEntries(
        frozenset({(MAC, ip_address("192.0.2.3").packed)}), neighbours=frozenset({(ADDRESS, OTHER_MAC)})
    )
    case.kernel.vxlan.change("snvx0", "snb0", NO_ENTRIES, moved)
    expected = PeerEntries(moved.forwarding, PEER.ports, frozenset({(ADDRESS, OTHER_MAC), (ADDRESS6, MAC)}))
    assert case.kernel.vxlan.entries("snvx0", "snb0") == expected
    for _ in range(2):
        case.kernel.vxlan.change("snvx0", "snb0", expected, NO_ENTRIES)
    assert case.kernel.vxlan.entries("snvx0", "snb0") == NO_ENTRIES


def test_hosts_of_ipv6_are_possible(case: KernelCase) -> None:
    case.kernel.vxlan.ensure(PORT._replace(local=ip_address("2001:db8::1")))
    entries = PeerEntries(frozenset({(MAC, OTHER_HOST)}), frozenset({MAC}))
    case.kernel.vxlan.change("snvx0", "snb0", NO_ENTRIES, entries)
    assert case.kernel.vxlan.entries("snvx0", "snb0") == entries


def test_absent_links_have_no_entries_and_take_none(case: KernelCase) -> None:
    assert case.kernel.vxlan.entries("snvx0", "snb0") == NO_ENTRIES
    case.kernel.vxlan.change("snvx0", "snb0", PEER, NO_ENTRIES)
    with refused(Kind.NOT_FOUND):
        case.kernel.vxlan.change("snvx0", "snb0", NO_ENTRIES, PEER)


def test_10_000_entries_are_all_there(case: KernelCase) -> None:
    case.kernel.vxlan.ensure(PORT)
    macs = [bytes([2, 66, 10, 50, number >> 8, number & 255]) for number in range(1, 2501)]
    peers = PeerEntries(
        frozenset((mac, HOST) for mac in macs),
        frozenset(macs),
        frozenset((bytes([10, 50, mac[4], mac[5]]), mac) for mac in macs)
        | frozenset((ADDRESS6[:-2] + mac[4:], mac) for mac in macs),
    )
    assert peers.total == 10_000
    case.kernel.vxlan.change("snvx0", "snb0", NO_ENTRIES, peers)
    assert case.kernel.vxlan.entries("snvx0", "snb0") == peers


def test_changed_entries_are_reported_once(case: KernelCase) -> None:
    case.kernel.vxlan.ensure(PORT)
    assert case.kernel.vxlan.changed().missed
    case.kernel.vxlan.change("snvx0", "snb0", NO_ENTRIES, PEER)
    found = case.kernel.vxlan.changed()
    assert not found.missed
    assert found.present["snvx0"] == PEER._replace(neighbours=frozenset())
    assert found.present["snb0"].neighbours == PEER.neighbours
    case.kernel.vxlan.change("snvx0", "snb0", PEER, NO_ENTRIES)
    found = case.kernel.vxlan.changed()
    assert found.deleted["snvx0"].forwarding == PEER.forwarding
    assert found.deleted["snvx0"].ports == PEER.ports
    assert {address for address, _ in found.deleted["snb0"].neighbours} == {ADDRESS, ADDRESS6}
    assert "snvx0" not in case.kernel.vxlan.changed().deleted


def test_underlay_of_an_address_is_its_link(case: KernelCase) -> None:
    found = case.kernel.vxlan.underlay(ip_address("192.0.2.1"))
    assert (str(found.address), found.link, found.mtu) == ("192.0.2.1", "up0", 1500)


def test_address_of_another_host_is_no_underlay(case: KernelCase) -> None:
    with refused(Kind.UNAVAILABLE, "no_underlay"):
        case.kernel.vxlan.underlay(ip_address("192.0.2.99"))
