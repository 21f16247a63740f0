"""What every kernel promises: the same suite for the in-memory one and for Linux."""

from __future__ import annotations

import select
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface, ip_network
from typing import Any

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.namespace_protocols import KEY_TAKEN
from sandnet.kernel.observation import ProcessHandle
from sandnet.kernel.types import (
    NO_LIMITS,
    Bridge,
    DefaultRoute,
    Elements,
    ElementSet,
    InnerTap,
    InspectedNamespace,
    NamespaceState,
    PortLimits,
    PreparedSandbox,
    Rate,
    Veth,
    packed_prefix,
)
from sandnet.model.link_names import link_mac
from sandnet.model.tap import TapOptions
from tests.support.kernel_cases import SANDBOXES, KernelCase, LinuxKernelCase
from tests.support.network_host import eventually
from tests.support.privileges import TAPS_NEED

KEY = f"{SANDBOXES}/0123456789ab"
OTHER_KEY = f"{SANDBOXES}/ba9876543210"
BRIDGE = Bridge("snb0", 0, (IPv4Interface("172.20.0.1/16"), IPv6Interface("fd00:20::1/64")))
VETH = Veth(
    host_link="snv0",
    master="snb0",
    interface="eth0",
    mac="02:42:ac:14:00:02",
    mtu=0,
    address=IPv4Interface("172.20.0.2/16"),
    address_ipv6=IPv6Interface("fd00:20::2/64"),
    isolated=False,
    hairpin=False,
)
ANY = IPv4Address("0.0.0.0")
TCP, UDP, SCTP = 6, 17, 132


@pytest.fixture
def case(kernel_case: KernelCase) -> KernelCase:
    return kernel_case


def ports(case: KernelCase, bridge: str) -> int:
    """How many links are ports of the bridge."""
    found = case.kernel.links.find(bridge)
    return sum(link.master == found.ifindex for link in case.kernel.links.list()) if found else 0


def plugged(case: KernelCase, veth: Veth = VETH) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    case.kernel.namespaces.make(KEY)
    case.kernel.links.plug(KEY, veth)


def test_a_tap_is_made_once_kept_and_retired(case: KernelCase) -> None:
    if TAPS_NEED and isinstance(case, LinuxKernelCase):
        pytest.skip(TAPS_NEED)
    case.kernel.links.ensure_bridge(BRIDGE)
    tap = VETH._replace(tap=TapOptions(), alias="sandnet1 end")
    for _ in range(2):
        case.kernel.links.plug_tap(tap)
    found = case.kernel.links.find("snv0")
    assert found
    assert (found.kind, found.up, found.mac, found.alias) == ("tun", True, link_mac("snv0"), "sandnet1 end")
    assert ports(case, "snb0") == 1
    case.kernel.links.retire(["snv0"])
    case.kernel.links.reap()
    assert case.kernel.links.find("snv0") is None


def test_a_tap_needs_a_bridge_and_a_free_name(case: KernelCase) -> None:
    tap = VETH._replace(tap=TapOptions())
    with refused(Kind.NOT_FOUND):
        case.kernel.links.plug_tap(tap)
    case.kernel.links.ensure_bridge(BRIDGE)
    case.add_link("snv0")
    with refused(Kind.CONFLICT):
        case.kernel.links.plug_tap(tap)


# Routes and parameters of interfaces.

FAR, NEAR = ip_network("10.77.0.0/16"), ip_network("10.78.0.0/16")
CONFIGURED = VETH._replace(
    routes=((FAR, IPv4Address("172.20.0.7")), (NEAR, None), (ip_network("fd00:77::/64"), IPv6Address("fd00:20::7"))),
    parameters=(("net/ipv4/conf/eth0/rp_filter", "2"),),
)


def test_routes_and_parameters_of_an_interface_are_set(case: KernelCase) -> None:
    plugged(case, CONFIGURED)
    for _ in range(2):
        case.kernel.interface_settings.ensure(KEY, CONFIGURED)
    [inside] = case.kernel.state_reader.inside([KEY])
    assert inside
    index = inside.state.links["eth0"].link.ifindex
    assert {gateway for _, gateway in inside.state.via[index]} == {
        bytes([172, 20, 0, 7]),
        IPv6Address("fd00:20::7").packed,
    }
    assert packed_prefix(NEAR) in inside.state.connected[index]
    names = ["net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/eth7/rp_filter"]
    assert case.kernel.interface_settings.parameters(KEY, names) == {names[0]: "2"}
    assert case.kernel.interface_settings.parameters(OTHER_KEY, names) == {}


def test_route_of_another_interface_is_a_conflict(case: KernelCase) -> None:
    plugged(case, CONFIGURED)
    other = CONFIGURED._replace(
        host_link="snv1", interface="eth1", mac="02:42:ac:14:00:03", address=IPv4Interface("172.20.0.3/16"),
        address_ipv6=IPv6Interface("fd00:20::3/64"), parameters=(),
    )  # fmt: skip
    case.kernel.links.plug(KEY, other)
    case.kernel.interface_settings.ensure(KEY, CONFIGURED)
    with refused(Kind.CONFLICT, "route_taken"):
        case.kernel.interface_settings.ensure(KEY, other._replace(routes=CONFIGURED.routes[:1]))


def test_absent_interface_cannot_be_configured(case: KernelCase) -> None:
    with refused(Kind.NOT_FOUND):
        case.kernel.interface_settings.ensure(KEY, CONFIGURED)
    plugged(case)
    with refused(Kind.NOT_FOUND):
        case.kernel.interface_settings.ensure(KEY, CONFIGURED._replace(interface="eth7"))


# Limits of traffic.

SLOW, FAST = Rate(125_000, 4000), Rate(1_250_000_000, 40_000_000)


@pytest.mark.parametrize("limits", [PortLimits(SLOW), PortLimits(None, SLOW), PortLimits(FAST, SLOW)])
def test_limits_of_a_port_are_set_changed_and_lifted(case: KernelCase, limits: PortLimits) -> None:
    plugged(case)
    for wanted in (limits, PortLimits(SLOW, FAST), limits, limits):
        case.kernel.limits.ensure("snv0", wanted)
        assert case.kernel.limits.list() == {"snv0": wanted}
    for _ in range(2):
        case.kernel.limits.ensure("snv0", NO_LIMITS)
        assert case.kernel.limits.list() == {}
    assert "sni0" not in {link.name for link in case.kernel.links.list()}


@pytest.mark.parametrize("end", ["retire", "delete"])
def test_limits_end_with_the_port(case: KernelCase, end: str) -> None:
    plugged(case)
    case.kernel.limits.ensure("snv0", PortLimits(SLOW, SLOW))
    if end == "delete":
        case.kernel.links.delete(["snv0"])
    else:
        case.kernel.links.retire(["snv0"])
        case.kernel.links.reap()
    assert {link.name for link in case.kernel.links.list()} == {"lo", "snb0"}
    assert case.kernel.limits.list() == {}


def test_absent_port_cannot_be_limited(case: KernelCase) -> None:
    with refused(Kind.NOT_FOUND):
        case.kernel.limits.ensure("snv0", PortLimits(SLOW))


def test_limits_without_their_device_are_not_listed(case: KernelCase) -> None:
    plugged(case)
    case.kernel.limits.ensure("snv0", PortLimits(SLOW, SLOW))
    case.kernel.links.delete(["sni0"])
    assert case.kernel.limits.list() == {"snv0": PortLimits(SLOW)}
    case.kernel.limits.ensure("snv0", PortLimits(SLOW, SLOW))
    assert case.kernel.limits.list() == {"snv0": PortLimits(SLOW, SLOW)}


def test_forgetting_absent_bridges_and_addresses_is_success(case: KernelCase) -> None:
    case.kernel.links.forget_neighbours("snb7", [IPv4Address("172.20.0.2")])
    plugged(case, VETH._replace(bridge_addresses=(IPv4Address("172.20.0.1"), IPv6Address("fd00:20::1"))))
    for _ in range(2):
        case.kernel.links.forget_neighbours("snb0", [IPv4Address("172.20.0.2"), IPv6Address("fd00:20::2")])


def test_neighbours_of_an_interface_are_given_and_removed(case: KernelCase) -> None:
    plugged(case)
    one, two, six = IPv4Address("172.20.0.3"), IPv4Address("172.20.0.4"), IPv6Address("fd00:20::3")
    change = case.kernel.links.change_neighbours
    for _ in range(2):
        change(KEY, "eth0", {one: "02:00:00:00:00:01", six: "02:00:00:00:00:01"}, [two])
    assert case.neighbours(KEY, "eth0") == {str(one): "02:00:00:00:00:01", str(six): "02:00:00:00:00:01"}
    change(KEY, "eth0", {one: "02:00:00:00:00:02", two: "02:00:00:00:00:03"}, [six])
    assert case.neighbours(KEY, "eth0") == {str(one): "02:00:00:00:00:02", str(two): "02:00:00:00:00:03"}


def test_neighbours_of_an_absent_interface_are_ignored(case: KernelCase) -> None:
    plugged(case)
    case.kernel.links.change_neighbours(KEY, "eth7", {IPv4Address("172.20.0.3"): "02:00:00:00:00:01"}, [])
    with refused(Kind.NOT_FOUND):
        case.kernel.links.change_neighbours(f"{KEY}-absent", "eth0", {}, [])


def refused(kind: Kind, code: str = "") -> pytest.RaisesExc[Error]:
    return pytest.RaisesExc(Error, check=lambda error: error.kind is kind and code in ("", error.code))


# Prepared sandboxes.


def prepared_veth(prepared: PreparedSandbox, **options: Any) -> Veth:
    """The link of a prepared sandbox."""
    return VETH._replace(host_link=prepared.host_link, interface=prepared.interface, **options)


FURTHER = (ip_address("172.20.0.50"), ip_address("fd00:20::50"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mtu": 1400},
        {"hairpin": True},
        {"isolated": True},
        {"address_ipv6": None},
        {"additional_addresses": FURTHER},
        {"additional_addresses": FURTHER, "hairpin": True},
    ],
)
def test_plugged_prepared_link_is_as_any_other(case: KernelCase, options: dict[str, Any]) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    prepared = case.kernel.pool.prepare()
    veth = prepared_veth(prepared, **options)
    routes = [DefaultRoute(veth.interface, address.ip) for address in BRIDGE.addresses]
    routes = [route for route in routes if route.gateway.version == 4 or veth.address_ipv6]
    case.kernel.namespaces.pin_prepared(KEY, prepared)
    assert case.kernel.links.plug_prepared(KEY, prepared, veth, routes)
    case.kernel.pool.discard(prepared)

    def state() -> list[object]:
        [inside] = case.kernel.state_reader.inside([KEY])
        assert inside
        return [comparable(case.kernel.state_reader.host()), comparable(inside.state)]

    before = state()
    case.kernel.links.plug(KEY, veth)
    case.kernel.namespaces.default_routes(KEY, routes)
    assert state() == before
    further = map(ip_interface, veth.additional_addresses)
    assert case.inner_addresses(KEY, "eth0") == {
        str(each) for each in (veth.address, veth.address_ipv6, *further) if each
    }
    assert case.gateways(KEY) == {str(route.gateway) for route in routes}


def comparable(state: NamespaceState) -> object:
    """A namespace's state, without the routes that the kernel adds a moment later."""
    return state.links, state.addresses, state.defaults


def test_prepared_namespace_is_pinned_under_its_identity(case: KernelCase) -> None:
    prepared = case.kernel.pool.prepare()
    for _ in range(2):
        case.kernel.namespaces.pin_prepared(KEY, prepared)
    case.kernel.pool.discard(prepared)
    found = case.kernel.namespaces.find(KEY)
    assert found
    assert (found.inode, found.loopback_was_up) == (prepared.inode, True)


def test_prepared_namespace_does_not_displace_another(case: KernelCase) -> None:
    taken, prepared = case.kernel.namespaces.make(KEY), case.kernel.pool.prepare()
    with refused(Kind.CONFLICT, KEY_TAKEN):
        case.kernel.namespaces.pin_prepared(KEY, prepared)
    case.kernel.namespaces.release(KEY, inode=prepared.inode)
    case.kernel.pool.discard(prepared)
    assert case.kernel.namespaces.find(KEY) == taken._replace(loopback_was_up=True)


def test_object_of_another_program_at_the_key_stays(case: KernelCase) -> None:
    case.obstruct(KEY)
    prepared = case.kernel.pool.prepare()
    with refused(Kind.CONFLICT):
        case.kernel.namespaces.pin_prepared(KEY, prepared)
    case.kernel.namespaces.release(KEY, inode=prepared.inode)
    case.kernel.pool.discard(prepared)
    with refused(Kind.CONFLICT):
        case.kernel.namespaces.find(KEY)


def test_discarded_sandbox_leaves_no_link(case: KernelCase) -> None:
    prepared = case.kernel.pool.prepare()
    case.kernel.pool.discard(prepared)
    eventually(lambda: case.kernel.links.find(prepared.host_link) is None)


def test_deleted_prepared_link_is_made_again_by_plug(case: KernelCase) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    prepared = case.kernel.pool.prepare()
    veth = prepared_veth(prepared)
    case.kernel.namespaces.pin_prepared(KEY, prepared)
    case.kernel.links.delete([prepared.host_link])
    assert not case.kernel.links.plug_prepared(KEY, prepared, veth, [])
    case.kernel.pool.discard(prepared)
    case.kernel.links.plug(KEY, veth)
    assert set(case.kernel.namespaces.interfaces(KEY)) == {"lo", "eth0"}


def test_prepared_link_needs_a_bridge(case: KernelCase) -> None:
    prepared = case.kernel.pool.prepare()
    case.kernel.namespaces.pin_prepared(KEY, prepared)
    with refused(Kind.NOT_FOUND):
        case.kernel.links.plug_prepared(KEY, prepared, prepared_veth(prepared), [])
    case.kernel.pool.discard(prepared)


# Links.


def test_ensure_bridge_twice_makes_one_bridge_that_is_up(case: KernelCase) -> None:
    links = case.kernel.links
    links.ensure_bridge(BRIDGE)
    links.ensure_bridge(BRIDGE)
    found = links.find("snb0")
    assert found
    assert (found.kind, found.up, found.mtu) == ("bridge", True, 1500)
    assert [link.name for link in links.list() if link.kind == "bridge"] == ["snb0"]
    assert set(BRIDGE.addresses) <= set(links.addresses("snb0"))


def test_ensure_bridge_changes_the_mtu(case: KernelCase) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    case.kernel.links.ensure_bridge(BRIDGE._replace(mtu=1400))
    found = case.kernel.links.find("snb0")
    assert found
    assert found.mtu == 1400


def test_link_that_is_not_a_bridge_raises_conflict(case: KernelCase) -> None:
    case.add_link("other0")
    with refused(Kind.CONFLICT):
        case.kernel.links.ensure_bridge(BRIDGE._replace(name="other0"))
    with refused(Kind.CONFLICT):
        case.kernel.links.adopt_bridge(BRIDGE._replace(name="other0"))


def test_adopting_a_bridge_twice_adds_its_missing_addresses(case: KernelCase) -> None:
    links = case.kernel.links
    links.ensure_bridge(BRIDGE._replace(addresses=BRIDGE.addresses[:1]))
    links.adopt_bridge(BRIDGE)
    links.adopt_bridge(BRIDGE)
    assert set(BRIDGE.addresses) <= set(links.addresses("snb0"))


def test_adopting_a_missing_link_raises_not_found(case: KernelCase) -> None:
    with refused(Kind.NOT_FOUND):
        case.kernel.links.adopt_bridge(BRIDGE)


def test_removing_addresses_twice_keeps_the_others(case: KernelCase) -> None:
    links = case.kernel.links
    links.ensure_bridge(BRIDGE)
    for _ in range(2):
        links.remove_addresses("snb0", BRIDGE.addresses[:1])
    assert BRIDGE.addresses[0] not in links.addresses("snb0")
    assert BRIDGE.addresses[1] in links.addresses("snb0")
    links.remove_addresses("absent", BRIDGE.addresses)
    assert not links.addresses("absent")


def test_deleting_links_ignores_absent_ones(case: KernelCase) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    case.kernel.links.delete(["snb0", "absent"])
    case.kernel.links.delete(["snb0"])
    assert case.kernel.links.find("snb0") is None


def test_deleting_loopback_raises_conflict(case: KernelCase) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    with refused(Kind.CONFLICT):
        case.kernel.links.delete(["snb0", "lo"])
    assert case.kernel.links.find("snb0")


def test_plugging_twice_makes_one_veth_pair_with_addresses(case: KernelCase) -> None:
    plugged(case)
    plugged(case)
    host = case.kernel.links.find("snv0")
    bridge = case.kernel.links.find("snb0")
    assert host
    assert bridge
    assert (host.kind, host.master, host.up) == ("veth", bridge.ifindex, True)
    assert ports(case, "snb0") == 1
    assert sorted(case.kernel.namespaces.interfaces(KEY)) == ["eth0", "lo"]
    assert case.inner_addresses(KEY, "eth0") == {"172.20.0.2/16", "fd00:20::2/64"}


def test_plugging_without_namespace_or_bridge_raises_not_found(case: KernelCase) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    with refused(Kind.NOT_FOUND):
        case.kernel.links.plug(KEY, VETH)
    case.kernel.namespaces.make(KEY)
    with refused(Kind.NOT_FOUND):
        case.kernel.links.plug(KEY, VETH._replace(master="absent"))


def test_interface_name_taken_by_another_pair_raises_conflict(case: KernelCase) -> None:
    plugged(case)
    with refused(Kind.CONFLICT, "interface_taken"):
        case.kernel.links.plug(KEY, VETH._replace(host_link="snv1"))
    assert case.kernel.links.find("snv1") is None


def test_plugging_a_retired_pair_makes_a_new_one_that_is_up(case: KernelCase) -> None:
    plugged(case)
    case.kernel.links.retire(["snv0", "absent"])
    retired = case.kernel.links.find("snv0")
    assert retired
    assert not retired.up
    plugged(case)
    again = case.kernel.links.find("snv0")
    assert again
    assert again.up
    case.kernel.links.reap()
    assert case.kernel.links.find("snv0") == again


def test_reaping_deletes_retired_links(case: KernelCase) -> None:
    plugged(case)
    case.kernel.links.retire(["snv0"])
    case.kernel.links.retire(["snv0"])
    case.kernel.links.reap()
    case.kernel.links.reap()
    assert case.kernel.links.find("snv0") is None
    assert case.kernel.namespaces.interfaces(KEY) == ["lo"]
    assert ports(case, "snb0") == 0


# Addresses that several sandboxes share.

SHARING = VETH._replace(service=IPv4Interface("172.20.0.99/16"), service_ipv6=IPv6Interface("fd00:20::99/64"))
OWN = {"172.20.0.2/16", "fd00:20::2/64"}
SHARED = {"172.20.0.99/32", "fd00:20::99/128"}


def loopback(case: KernelCase) -> set[str]:
    """What is on ``lo`` beside its own addresses."""
    return case.inner_addresses(KEY, "lo") - {"127.0.0.1/8", "::1/128"}


def test_link_aliases_are_kept_until_the_link_is_retired(case: KernelCase) -> None:
    links, mark = case.kernel.links, "sandnet1 net " + "x" * 242
    case.kernel.links.ensure_bridge(BRIDGE._replace(alias=mark))
    plugged(case, VETH._replace(alias="sandnet1 end y"))
    plugged(case)
    assert [link.alias for link in links.list() if link.name in ("snb0", "snv0")] == [mark, "sandnet1 end y"]
    plugged(case, VETH._replace(alias="another"))
    found = links.find("snv0")
    assert found
    assert found.alias == "another"
    links.retire(["snv0"])
    assert [link.alias for link in links.list() if link.name == "snv0"] in ([""], [])


def test_plugging_twice_puts_the_shared_address_on_lo(case: KernelCase) -> None:
    plugged(case, SHARING)
    plugged(case, SHARING)
    assert case.inner_addresses(KEY, "eth0") == OWN
    assert loopback(case) == SHARED


def test_shared_address_moves_to_the_holder_and_back(case: KernelCase) -> None:
    plugged(case, SHARING)
    for _ in range(2):
        plugged(case, SHARING._replace(holder=True))
    assert case.inner_addresses(KEY, "eth0") == OWN | SHARED
    assert not loopback(case)
    plugged(case, SHARING)
    assert case.inner_addresses(KEY, "eth0") == OWN
    assert loopback(case) == SHARED


def test_plugging_without_a_shared_address_keeps_it(case: KernelCase) -> None:
    plugged(case, SHARING._replace(holder=True))
    plugged(case)
    assert case.inner_addresses(KEY, "eth0") == OWN | SHARED


def test_withdrawing_a_shared_address_twice_removes_it(case: KernelCase) -> None:
    plugged(case, SHARING)
    case.kernel.links.retire(["snv0"])
    for _ in range(2):
        case.kernel.links.remove_service_addresses(
            KEY, [ip_interface("172.20.0.99/16"), ip_interface("fd00:20::99/64")]
        )
    assert not loopback(case)
    case.kernel.links.remove_service_addresses(OTHER_KEY, [ip_interface("172.20.0.99/16")])


# Namespaces.


def test_making_a_namespace_twice_returns_the_same_one(case: KernelCase) -> None:
    first = case.kernel.namespaces.make(KEY)
    second = case.kernel.namespaces.make(KEY)
    assert first.inode == second.inode
    assert (first.loopback_was_up, second.loopback_was_up) == (False, True)
    found = case.kernel.namespaces.find(KEY)
    assert found
    assert found.inode == first.inode
    assert case.kernel.namespaces.make(OTHER_KEY).inode != first.inode


def test_find_without_a_pinned_namespace_returns_none(case: KernelCase) -> None:
    assert case.kernel.namespaces.find(KEY) is None
    assert not case.kernel.namespaces.interfaces(KEY)
    case.kernel.namespaces.release(KEY)
    case.kernel.namespaces.default_routes(KEY, [])


def test_pinned_keys_are_listed_until_they_are_released(case: KernelCase) -> None:
    case.kernel.namespaces.make(KEY)
    case.kernel.namespaces.make(OTHER_KEY)
    assert case.kernel.state_reader.pinned() == {KEY, OTHER_KEY}
    case.kernel.namespaces.release(KEY)
    assert case.kernel.state_reader.pinned() == {OTHER_KEY}


def test_making_a_namespace_over_a_file_raises_conflict(case: KernelCase) -> None:
    case.obstruct(KEY)
    with refused(Kind.CONFLICT):
        case.kernel.namespaces.make(KEY)


@pytest.mark.parametrize("key", ["/run/elsewhere/abc", f"{SANDBOXES}/../abc"])
def test_namespace_key_outside_the_sandbox_directory_is_invalid(case: KernelCase, key: str) -> None:
    with refused(Kind.INVALID):
        case.kernel.namespaces.make(key)


def test_releasing_a_foreign_namespace_restores_its_state(case: KernelCase) -> None:
    namespaces = case.kernel.namespaces
    path = case.foreign_namespace()
    found = namespaces.identify(path=path)
    pinned = namespaces.pin(KEY, path=path, inode=found.inode)
    assert not pinned.loopback_was_up
    assert found == pinned._replace(key="")
    assert namespaces.identify(path=path) == found._replace(loopback_was_up=True)
    assert namespaces.pin(KEY, path=path).loopback_was_up
    namespaces.release(KEY, loopback_down=True)
    assert namespaces.find(KEY) is None
    assert namespaces.pin(KEY, path=path) == pinned


def test_inspection_names_the_links_inside_and_changes_nothing(case: KernelCase) -> None:
    namespaces = case.kernel.namespaces
    path = case.foreign_namespace()
    found = namespaces.inspect(path=path)
    inode = namespaces.identify(path=path).inode
    assert found == InspectedNamespace(inode, is_own=False, loopback_up=False, interfaces=("lo",))
    namespaces.pin(KEY, path=path, inode=inode)
    case.kernel.links.ensure_bridge(BRIDGE)
    case.kernel.links.plug(KEY, VETH)
    assert namespaces.inspect(path=path) == found._replace(loopback_up=True, interfaces=("lo", "eth0"))


def test_inspection_tells_the_hosts_own_namespace(case: KernelCase) -> None:
    found = case.kernel.namespaces.inspect()
    assert (found.inode, found.is_own, found.interfaces) == (case.kernel.namespaces.identify().inode, True, ())


def test_inspection_of_a_missing_path_raises_not_found(case: KernelCase) -> None:
    with refused(Kind.NOT_FOUND):
        case.kernel.namespaces.inspect(path="/run/absent")


def test_pinning_over_another_namespace_raises_conflict(case: KernelCase) -> None:
    case.kernel.namespaces.make(KEY)
    with refused(Kind.CONFLICT):
        case.kernel.namespaces.pin(KEY, path=case.foreign_namespace())


def test_pinning_a_path_whose_namespace_changed_raises_conflict(case: KernelCase) -> None:
    path = case.foreign_namespace()
    found = case.kernel.namespaces.identify(path=path)
    with refused(Kind.CONFLICT):
        case.kernel.namespaces.pin(KEY, path=path, inode=found.inode + 1)
    assert case.kernel.namespaces.find(KEY) is None
    assert case.kernel.namespaces.identify(path=path) == found


def test_pinning_without_path_or_process_pins_the_host_namespace(case: KernelCase) -> None:
    pinned = case.kernel.namespaces.pin(KEY)
    assert pinned.loopback_was_up
    assert pinned.inode == case.kernel.namespaces.identify().inode
    case.kernel.namespaces.release(KEY)
    assert case.kernel.namespaces.identify().inode == pinned.inode


def test_pinning_a_missing_path_raises_not_found(case: KernelCase) -> None:
    with refused(Kind.NOT_FOUND):
        case.kernel.namespaces.pin(KEY, path="/run/absent")


def test_release_with_another_identity_keeps_the_namespace(case: KernelCase) -> None:
    made = case.kernel.namespaces.make(KEY)
    case.kernel.namespaces.release(KEY, inode=made.inode + 1)
    assert case.kernel.namespaces.find(KEY)
    case.kernel.namespaces.release(KEY, inode=made.inode)
    assert case.kernel.namespaces.find(KEY) is None


def test_setting_default_routes_replaces_the_previous_ones(case: KernelCase) -> None:
    plugged(case)
    ipv4 = DefaultRoute("eth0", IPv4Address("172.20.0.1"))
    ipv6 = DefaultRoute("eth0", IPv6Address("fd00:20::1"))
    case.kernel.namespaces.default_routes(KEY, [ipv4])
    case.kernel.namespaces.default_routes(KEY, [ipv4._replace(gateway=IPv4Address("172.20.0.9")), ipv6])
    assert case.gateways(KEY) == {"172.20.0.9", "fd00:20::1"}
    case.kernel.namespaces.default_routes(KEY, [])
    assert not case.gateways(KEY)


def test_routes_without_interface_or_namespace_raise_not_found(case: KernelCase) -> None:
    routes = [DefaultRoute("eth7", IPv4Address("172.20.0.1"))]
    with refused(Kind.NOT_FOUND):
        case.kernel.namespaces.default_routes(KEY, routes)
    case.kernel.namespaces.make(KEY)
    with refused(Kind.NOT_FOUND):
        case.kernel.namespaces.default_routes(KEY, routes)


# Firewall and parameters.


def test_reapplying_an_nft_script_converges(case: KernelCase) -> None:
    script = "table inet t\ndelete table inet t\ntable inet t {\n set s { type ifname; }\n}\n"
    case.kernel.firewall.apply(script)
    case.kernel.firewall.apply(script)


def test_nft_script_with_a_nul_is_refused_entirely(case: KernelCase) -> None:
    with refused(Kind.INTERNAL):
        case.kernel.firewall.apply("table inet sandnet { }\n\0flush ruleset")


HOSTS = ElementSet("inet t", "s")


def hosts(*addresses: str) -> Elements:
    return {HOSTS: {ip_address(address).packed: b"" for address in addresses}}


def test_nft_set_holds_the_remaining_elements(case: KernelCase) -> None:
    case.kernel.firewall.apply("add table inet t\nadd set inet t s { type ipv4_addr; }\n", hosts("10.0.0.1"))
    case.kernel.firewall.change({}, hosts("10.0.0.1", "10.0.0.2"))
    case.kernel.firewall.change(hosts("10.0.0.1"), hosts("10.0.0.2", "10.0.0.3"))
    case.kernel.firewall.change(hosts("10.0.0.3", "10.0.0.4"), {}, absent=True)
    case.kernel.firewall.change({}, {})
    found = case.kernel.firewall.listing("inet t")
    assert found
    assert found.elements == {"s": {bytes([10, 0, 0, 2]): b""}}
    assert found.structure == case.kernel.firewall.structure("inet t")
    assert case.kernel.firewall.structure("inet absent") is None
    assert case.kernel.firewall.members("inet t", "s") == {bytes([10, 0, 0, 2])}


@pytest.mark.parametrize("there", [True, False])
def test_removing_a_missing_element_rolls_back_the_change(case: KernelCase, there: bool) -> None:
    if there:
        case.kernel.firewall.apply("add table inet t\nadd set inet t s { type ipv4_addr; }\n")
    with refused(Kind.UNAVAILABLE):
        case.kernel.firewall.change(hosts("10.0.0.2"), hosts("10.0.0.1"))
    found = case.kernel.firewall.listing("inet t")
    assert found is None or not found.elements.get("s")


def test_forgetting_flows_without_any_succeeds(case: KernelCase) -> None:
    case.kernel.firewall.forget_flows()
    case.kernel.firewall.forget_flows(addresses=[ip_address("10.0.0.2"), ip_address("fd00::2")], bound=[(UDP, 53)])


def test_setting_a_parameter_changes_its_value(case: KernelCase) -> None:
    case.kernel.sysctl.set("net/ipv4/ip_forward", "1")
    assert case.kernel.sysctl.get("net/ipv4/ip_forward") == "1"


def test_bridge_parameter_is_kept_until_the_bridge_is_gone(case: KernelCase) -> None:
    name = "net/ipv4/conf/snb0/route_localnet"
    assert case.kernel.sysctl.get(name) is None
    case.kernel.links.ensure_bridge(BRIDGE)
    case.kernel.sysctl.set(name, "1")
    assert case.kernel.sysctl.get(name) == "1"
    case.kernel.links.delete(["snb0"])
    assert case.kernel.sysctl.get(name) is None


def test_unknown_parameter_is_unavailable(case: KernelCase) -> None:
    assert case.kernel.sysctl.get("net/ipv4/absent") is None
    with refused(Kind.UNAVAILABLE):
        case.kernel.sysctl.set("net/ipv4/absent", "1")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "net/../kernel/hostname", "net//ipv4/ip_forward", "./net", "a\0b"])
def test_parameter_name_that_leads_elsewhere_is_invalid(case: KernelCase, name: str) -> None:
    with refused(Kind.INVALID):
        case.kernel.sysctl.get(name)
    with refused(Kind.INVALID):
        case.kernel.sysctl.set(name, "1")


# Host.


@pytest.mark.skipif(bool(TAPS_NEED), reason=TAPS_NEED)
def test_inner_tap_is_made_once_and_removed(case: KernelCase) -> None:
    settings, tap = case.kernel.interface_settings, InnerTap("tap0", TapOptions())
    case.kernel.links.ensure_bridge(BRIDGE)
    case.kernel.namespaces.make(KEY)
    with refused(Kind.NOT_FOUND):
        settings.ensure_tap(KEY, VETH, tap)
    case.kernel.links.plug(KEY, VETH)
    assert settings.tap_problem(KEY, VETH, tap) == "there is no tap tap0"
    for _ in range(2):
        settings.ensure_tap(KEY, VETH, tap)
        assert settings.tap_problem(KEY, VETH, tap) == ""
    with refused(Kind.CONFLICT):
        settings.ensure_tap(KEY, VETH, InnerTap("eth0", TapOptions()))
    for _ in range(2):
        settings.remove_tap(KEY, "tap0")
        assert settings.tap_problem(KEY, VETH, tap)
    settings.remove_tap(OTHER_KEY, "tap0")


@pytest.mark.parametrize("text", ["fd00:77::/64", "10.77.0.0/16"])
def test_local_prefix_is_added_once_and_removed(case: KernelCase, text: str) -> None:
    host, prefix = case.kernel.host, ip_network(text)
    assert not host.is_local_prefix(prefix)
    for _ in range(2):
        host.add_local_prefix(prefix)
        assert host.is_local_prefix(prefix)
    for _ in range(2):
        host.remove_local_prefix(prefix)
        assert not host.is_local_prefix(prefix)


def test_occupied_has_addresses_and_routes_except_ignored_links(case: KernelCase) -> None:
    case.add_link("other0", "10.5.0.1/24")
    case.add_route("10.6.0.0/16", "other0")
    case.kernel.links.ensure_bridge(BRIDGE)
    everything = set(case.kernel.host.occupied())
    theirs = {ip_network("10.5.0.0/24"), ip_network("10.6.0.0/16")}
    assert everything >= theirs | {address.network for address in BRIDGE.addresses}
    left = set(case.kernel.host.occupied({"snb0"}))
    assert left >= theirs
    assert not left & {address.network for address in BRIDGE.addresses}


def test_local_port_range_is_plausible(case: KernelCase) -> None:
    low, high = case.kernel.host.local_port_range()
    assert 0 < low < high <= 65535


@pytest.mark.parametrize("proto", [TCP, UDP, SCTP])
def test_held_port_is_taken_until_closed(case: KernelCase, proto: int) -> None:
    hold = case.kernel.host.hold
    held = hold(proto, ANY, 7001)
    assert held.port == 7001
    with refused(Kind.CONFLICT, "port_taken"):
        hold(proto, ip_address("127.0.0.1"), 7001)
    other_family = hold(proto, ip_address("::"), 7001)
    held.close()
    held.close()
    again = hold(proto, ANY, 7001)
    again.close()
    other_family.close()


def test_port_held_on_one_address_is_free_on_another(case: KernelCase) -> None:
    case.kernel.links.ensure_bridge(BRIDGE)
    one = case.kernel.host.hold(TCP, ip_interface("172.20.0.1/16").ip, 7002)
    other = case.kernel.host.hold(TCP, ip_address("127.0.0.1"), 7002)
    one.close()
    other.close()


def test_holding_port_zero_picks_a_local_port(case: KernelCase) -> None:
    first = case.kernel.host.hold(TCP, ANY, 0)
    second = case.kernel.host.hold(TCP, ANY, 0)
    low, high = case.kernel.host.local_port_range()
    assert first.port != second.port
    assert all(low <= port <= high for port in (first.port, second.port))
    first.close()
    second.close()


def test_holding_a_port_of_another_program_raises_taken(case: KernelCase) -> None:
    port = case.take_port("127.0.0.1")
    with refused(Kind.CONFLICT, "port_taken"):
        case.kernel.host.hold(TCP, ANY, port)
    case.kernel.host.hold(UDP, ANY, port).close()


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7"])
def test_holding_a_port_on_a_foreign_address_raises_not_local(case: KernelCase, address: str) -> None:
    with refused(Kind.CONFLICT, "address_not_local"):
        case.kernel.host.hold(TCP, ip_address(address), 7003)


@pytest.mark.parametrize(("proto", "port"), [(1, 80), (TCP, 65536), (TCP, -1)])
def test_holding_a_port_out_of_range_is_invalid(case: KernelCase, proto: int, port: int) -> None:
    with refused(Kind.INVALID):
        case.kernel.host.hold(proto, ANY, port)


def test_missing_host_requirements_are_all_reported(case: KernelCase) -> None:
    missing = case.kernel.host.missing_features()
    assert set(missing) <= {"bridge", "veth", "vxlan", "wireguard", "nftables", "namespaces", "ipv6", "sctp"}
    assert all(missing.values())


def is_readable(watched: ProcessHandle, seconds: float) -> bool:
    """Whether the descriptor reports so in time."""
    waiting = select.poll()
    waiting.register(watched.fileno(), select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def test_process_watch_reports_only_the_exit(case: KernelCase) -> None:
    processes = case.kernel.processes
    one, other = case.begin_process(), case.begin_process()
    started = processes.started(one)
    assert started is not None
    watched = processes.watch(one, started)
    assert watched is not None
    case.end_process(other)
    assert not is_readable(watched, 0.05)
    case.end_process(one)
    assert is_readable(watched, 5)
    watched.close()
    watched.close()


def test_exited_but_unreaped_process_is_not_found(case: KernelCase) -> None:
    processes = case.kernel.processes
    pid = case.begin_process()
    started = processes.started(pid)
    assert started is not None
    case.end_process(pid)
    eventually(lambda: processes.started(pid) is None)
    assert processes.watch(pid, started) is None


def test_reused_pid_is_a_different_process(case: KernelCase) -> None:
    processes = case.kernel.processes
    pid = case.begin_process()
    started = processes.started(pid)
    assert started is not None
    assert processes.watch(pid, started - 1) is None
    assert processes.started(4194304) is None
    assert processes.watch(4194304, 1) is None


def test_container_that_does_not_run_is_not_found(case: KernelCase) -> None:
    with pytest.raises(Error) as caught:
        case.kernel.processes.of_container("f" * 64)
    assert (caught.value.kind, caught.value.code) == (Kind.NOT_FOUND, "container_not_running")


def test_namespace_is_listed_until_its_last_process_exits(case: KernelCase) -> None:
    kernel = case.kernel
    made = kernel.namespaces.make(KEY)
    assert made.inode not in kernel.processes.namespaces()
    pids = [case.begin_process(KEY) for _ in range(2)]
    eventually(lambda: made.inode in kernel.processes.namespaces())
    case.end_process(pids[0])
    assert made.inode in kernel.processes.namespaces()
    case.end_process(pids[1])
    eventually(lambda: made.inode not in kernel.processes.namespaces())
