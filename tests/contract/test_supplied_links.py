"""What every kernel promises about links of other programs: the same suite in memory and for Linux."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.types import Bridge, Macvlan, MovedLink, Veth
from tests.support.kernel_cases import SANDBOXES, KernelCase

KEY = f"{SANDBOXES}/0123456789ab"
MAC = "02:42:0a:63:00:05"
LINK = MovedLink(
    source="plug0",
    interface="web0",
    mac=MAC,
    addresses=(ip_interface("10.99.0.5/24"), ip_interface("fd00:99::5/64")),
    routes=((IPv4Network("10.98.0.0/24"), IPv4Address("10.99.0.9")), (IPv4Network("10.97.0.0/24"), None)),
    alias="sandnet-supplied one",
)


@pytest.fixture
def case(kernel_case: KernelCase) -> KernelCase:
    kernel_case.kernel.namespaces.make(KEY)
    return kernel_case


def refused(kind: Kind, code: str = "") -> pytest.RaisesExc[Error]:
    return pytest.RaisesExc(Error, check=lambda error: error.kind is kind and code in ("", error.code))


def test_placed_link_has_its_name_mac_and_addresses(case: KernelCase) -> None:
    case.add_link("plug0")
    for _ in range(2):
        case.kernel.supplied_links.place(KEY, LINK)
    assert case.kernel.links.find("plug0") is None
    assert set(case.kernel.namespaces.interfaces(KEY)) == {"lo", "web0"}
    assert case.inner_addresses(KEY, "web0") == {"10.99.0.5/24", "fd00:99::5/64"}
    (inside,) = case.kernel.state_reader.inside([KEY])
    assert inside
    port = inside.state.links["web0"]
    assert (port.link.mac, port.link.up) == (MAC, True)
    assert case.kernel.supplied_links.is_placed(KEY, LINK.alias)
    assert not case.kernel.supplied_links.is_placed(KEY, "sandnet-supplied other")


def test_withdrawn_link_is_on_the_host_again(case: KernelCase) -> None:
    case.add_link("plug0")
    case.kernel.supplied_links.place(KEY, LINK)
    for _ in range(2):
        case.kernel.supplied_links.withdraw(KEY, "plug0", LINK.alias)
    found = case.kernel.links.find("plug0")
    assert found
    assert (found.up, found.alias) == (False, "")
    assert set(case.kernel.namespaces.interfaces(KEY)) == {"lo"}
    case.kernel.supplied_links.place(KEY, LINK)
    assert case.kernel.supplied_links.is_placed(KEY, LINK.alias)


def test_withdrawn_link_gives_way_to_another_of_its_name(case: KernelCase) -> None:
    case.add_link("plug0")
    case.kernel.supplied_links.place(KEY, LINK)
    case.kernel.links.ensure_bridge(Bridge("plug0", 0, ()))
    other = case.kernel.links.find("plug0")
    case.kernel.supplied_links.withdraw(KEY, "plug0", LINK.alias)
    assert case.kernel.links.find("plug0") == other
    assert set(case.kernel.namespaces.interfaces(KEY)) == {"lo"}


def test_name_inside_may_be_that_of_a_link_of_the_host(case: KernelCase) -> None:
    for name in ("plug0", "web0"):
        case.add_link(name)
    own = case.kernel.links.find("web0")
    case.kernel.supplied_links.place(KEY, LINK)
    case.kernel.supplied_links.withdraw(KEY, "plug0", LINK.alias)
    assert case.kernel.links.find("web0") == own
    assert case.kernel.links.find("plug0")


def test_withdrawal_leaves_links_of_others_inside(case: KernelCase) -> None:
    case.add_link("plug0")
    case.kernel.supplied_links.place(KEY, LINK)
    case.kernel.supplied_links.withdraw(KEY, "plug0", "sandnet-supplied other")
    assert case.kernel.supplied_links.is_placed(KEY, LINK.alias)
    case.kernel.supplied_links.withdraw(f"{SANDBOXES}/absent", "plug0", LINK.alias)
    assert case.kernel.supplied_links.is_placed(KEY, LINK.alias)


def test_link_that_the_host_uses_is_not_moved(case: KernelCase) -> None:
    case.add_link("uplink9", "10.77.0.1/24")
    case.kernel.links.ensure_bridge(Bridge("snb0123456789", 0, ()))
    veth = Veth(
        host_link="snv0123456789", master="snb0123456789", interface="eth0", mac=MAC, mtu=0,
        address=None, address_ipv6=None, isolated=False, hairpin=False,
    )  # fmt: skip
    case.kernel.links.plug(KEY, veth)
    for name in ("lo", "uplink9", "snb0123456789", "snv0123456789"):
        with refused(Kind.CONFLICT, "link_in_use"):
            case.kernel.supplied_links.place(KEY, LINK._replace(source=name))
        assert case.kernel.links.find(name)
    with refused(Kind.CONFLICT, "link_missing"):
        case.kernel.supplied_links.place(KEY, LINK._replace(source="absent0"))


def test_taken_name_and_absent_namespace_leave_the_link(case: KernelCase) -> None:
    for name in ("plug0", "plug1"):
        case.add_link(name)
    case.kernel.supplied_links.place(KEY, LINK)
    with refused(Kind.CONFLICT, "interface_taken"):
        case.kernel.supplied_links.place(KEY, LINK._replace(source="plug1", alias="sandnet-supplied two"))
    with refused(Kind.NOT_FOUND):
        case.kernel.supplied_links.place(f"{SANDBOXES}/absent", LINK._replace(source="plug1", alias="x"))
    assert case.kernel.links.find("plug1")


# Macvlan interfaces.

STACKED = Macvlan("snm0123456789", "parent0", "bridge", MAC, 0)


def test_macvlan_is_made_once_and_moves_in_and_out(case: KernelCase) -> None:
    assert case.kernel.supplied_links.stacking_problem("macvlan") == ""
    case.add_link("parent0")
    for _ in range(2):
        case.kernel.supplied_links.make_macvlan(STACKED)
    found = case.kernel.links.find(STACKED.name)
    assert found
    assert (found.kind, found.up, found.mac) == ("macvlan", False, MAC)
    case.kernel.supplied_links.place(KEY, LINK._replace(source=STACKED.name, routes=()))
    assert case.inner_addresses(KEY, "web0") == {"10.99.0.5/24", "fd00:99::5/64"}
    more = LINK._replace(source=STACKED.name, routes=(), additional_addresses=(ip_address("10.99.0.50"),))
    case.kernel.supplied_links.place(KEY, more)
    assert case.inner_addresses(KEY, "web0") == {"10.99.0.5/24", "fd00:99::5/64", "10.99.0.50/32"}
    case.kernel.supplied_links.withdraw(KEY, STACKED.name, LINK.alias)
    case.kernel.links.delete([STACKED.name])
    assert case.kernel.links.find(STACKED.name) is None
    assert case.kernel.links.find("parent0")


def test_kind_that_the_kernel_lacks_is_named(case: KernelCase) -> None:
    before = case.kernel.links.list()
    assert "this kernel has no sandnetvlan" in case.kernel.supplied_links.stacking_problem("sandnetvlan")
    assert case.kernel.links.list() == before


def test_macvlan_needs_a_parent_and_a_free_name(case: KernelCase) -> None:
    with refused(Kind.NOT_FOUND):
        case.kernel.supplied_links.make_macvlan(STACKED)
    case.add_link("parent0")
    case.add_link(STACKED.name)
    with refused(Kind.CONFLICT):
        case.kernel.supplied_links.make_macvlan(STACKED)
