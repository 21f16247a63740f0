"""What every kernel promises: the same suite for the in-memory one and for Linux."""

from __future__ import annotations

import select
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface, ip_network

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.observation import ProcessHandle
from sandnet.kernel.types import Bridge, DefaultRoute, ElementChange, Veth
from tests.support.kernel_cases import SANDBOXES, FakeWorld, LinuxWorld, World
from tests.support.network_host import Host, eventually, unavailable

KEY = f"{SANDBOXES}/0123456789ab"
OTHER_KEY = f"{SANDBOXES}/ba9876543210"
BRIDGE = Bridge("snb0", 0, (IPv4Interface("172.20.0.1/16"), IPv6Interface("fd00:20::1/64")))
VETH = Veth(
    host_link="snv0",
    bridge="snb0",
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
_reason = cache(unavailable)


@pytest.fixture(params=["fake", "linux"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    if reason := _reason():
        pytest.skip(reason)
    with Host() as host:
        linux = LinuxWorld(host)
        yield linux
        linux.close()


def ports(world: World, bridge: str) -> int:
    """How many links are ports of the bridge."""
    found = world.kernel.links.find(bridge)
    return sum(link.master == found.ifindex for link in world.kernel.links.list()) if found else 0


def plugged(world: World, veth: Veth = VETH) -> None:
    world.kernel.links.ensure_bridge(BRIDGE)
    world.kernel.namespaces.make(KEY)
    world.kernel.links.plug(KEY, veth)


def refused(kind: Kind, code: str = "") -> pytest.RaisesExc[Error]:
    return pytest.RaisesExc(Error, check=lambda error: error.kind is kind and code in ("", error.code))


# Links.


def test_given_no_bridge_when_ensured_twice_then_it_is_there_once_and_up(world: World) -> None:
    links = world.kernel.links
    links.ensure_bridge(BRIDGE)
    links.ensure_bridge(BRIDGE)
    found = links.find("snb0")
    assert found
    assert (found.kind, found.up, found.mtu) == ("bridge", True, 1500)
    assert [link.name for link in links.list() if link.kind == "bridge"] == ["snb0"]
    assert set(BRIDGE.addresses) <= set(links.addresses("snb0"))


def test_given_a_bridge_when_ensured_with_another_mtu_then_it_has_that(world: World) -> None:
    world.kernel.links.ensure_bridge(BRIDGE)
    world.kernel.links.ensure_bridge(BRIDGE._replace(mtu=1400))
    found = world.kernel.links.find("snb0")
    assert found
    assert found.mtu == 1400


def test_given_a_link_that_is_no_bridge_when_it_is_used_as_one_then_conflict(world: World) -> None:
    world.add_link("other0")
    with refused(Kind.CONFLICT):
        world.kernel.links.ensure_bridge(BRIDGE._replace(name="other0"))
    with refused(Kind.CONFLICT):
        world.kernel.links.adopt_bridge(BRIDGE._replace(name="other0"))


def test_given_a_bridge_when_adopted_twice_then_it_has_the_addresses_it_lacked(world: World) -> None:
    links = world.kernel.links
    links.ensure_bridge(BRIDGE._replace(addresses=BRIDGE.addresses[:1]))
    links.adopt_bridge(BRIDGE)
    links.adopt_bridge(BRIDGE)
    assert set(BRIDGE.addresses) <= set(links.addresses("snb0"))


def test_given_no_link_when_adopted_then_not_found(world: World) -> None:
    with refused(Kind.NOT_FOUND):
        world.kernel.links.adopt_bridge(BRIDGE)


def test_given_addresses_when_some_are_removed_twice_then_the_others_stay(world: World) -> None:
    links = world.kernel.links
    links.ensure_bridge(BRIDGE)
    for _ in range(2):
        links.remove_addresses("snb0", BRIDGE.addresses[:1])
    assert BRIDGE.addresses[0] not in links.addresses("snb0")
    assert BRIDGE.addresses[1] in links.addresses("snb0")
    links.remove_addresses("absent", BRIDGE.addresses)
    assert not links.addresses("absent")


def test_given_links_when_deleted_with_absent_ones_then_they_are_gone(world: World) -> None:
    world.kernel.links.ensure_bridge(BRIDGE)
    world.kernel.links.delete(["snb0", "absent"])
    world.kernel.links.delete(["snb0"])
    assert world.kernel.links.find("snb0") is None


def test_given_the_loopback_device_when_deleted_then_conflict_and_it_stays(world: World) -> None:
    world.kernel.links.ensure_bridge(BRIDGE)
    with refused(Kind.CONFLICT):
        world.kernel.links.delete(["snb0", "lo"])
    assert world.kernel.links.find("snb0")


def test_given_a_namespace_when_plugged_twice_then_one_pair_is_up_with_its_addresses(world: World) -> None:
    plugged(world)
    plugged(world)
    host = world.kernel.links.find("snv0")
    bridge = world.kernel.links.find("snb0")
    assert host
    assert bridge
    assert (host.kind, host.master, host.up) == ("veth", bridge.ifindex, True)
    assert ports(world, "snb0") == 1
    assert sorted(world.kernel.namespaces.interfaces(KEY)) == ["eth0", "lo"]
    assert world.inner_addresses(KEY, "eth0") == {"172.20.0.2/16", "fd00:20::2/64"}


def test_given_no_namespace_or_no_bridge_when_plugged_then_not_found(world: World) -> None:
    world.kernel.links.ensure_bridge(BRIDGE)
    with refused(Kind.NOT_FOUND):
        world.kernel.links.plug(KEY, VETH)
    world.kernel.namespaces.make(KEY)
    with refused(Kind.NOT_FOUND):
        world.kernel.links.plug(KEY, VETH._replace(bridge="absent"))


def test_given_an_interface_when_another_pair_wants_its_name_then_conflict(world: World) -> None:
    plugged(world)
    with refused(Kind.CONFLICT, "interface_taken"):
        world.kernel.links.plug(KEY, VETH._replace(host_link="snv1"))
    assert world.kernel.links.find("snv1") is None


def test_given_a_retired_pair_when_plugged_again_then_it_is_new_and_up(world: World) -> None:
    plugged(world)
    world.kernel.links.retire(["snv0", "absent"])
    retired = world.kernel.links.find("snv0")
    assert retired
    assert not retired.up
    plugged(world)
    again = world.kernel.links.find("snv0")
    assert again
    assert again.up
    world.kernel.links.reap()
    assert world.kernel.links.find("snv0") == again


def test_given_retired_links_when_reaped_then_they_are_gone(world: World) -> None:
    plugged(world)
    world.kernel.links.retire(["snv0"])
    world.kernel.links.retire(["snv0"])
    world.kernel.links.reap()
    world.kernel.links.reap()
    assert world.kernel.links.find("snv0") is None
    assert world.kernel.namespaces.interfaces(KEY) == ["lo"]
    assert ports(world, "snb0") == 0


# Addresses that several sandboxes share.

SHARING = VETH._replace(service=IPv4Interface("172.20.0.99/16"), service_ipv6=IPv6Interface("fd00:20::99/64"))
OWN = {"172.20.0.2/16", "fd00:20::2/64"}
SHARED = {"172.20.0.99/32", "fd00:20::99/128"}


def loopback(world: World) -> set[str]:
    """What is on ``lo`` beside its own addresses."""
    return world.inner_addresses(KEY, "lo") - {"127.0.0.1/8", "::1/128"}


def test_given_marks_when_links_are_made_again_without_then_they_stay_until_they_are_retired(world: World) -> None:
    links, mark = world.kernel.links, "sandnet1 net " + "x" * 242
    world.kernel.links.ensure_bridge(BRIDGE._replace(alias=mark))
    plugged(world, VETH._replace(alias="sandnet1 end y"))
    plugged(world)
    assert [link.alias for link in links.list() if link.name in ("snb0", "snv0")] == [mark, "sandnet1 end y"]
    plugged(world, VETH._replace(alias="another"))
    found = links.find("snv0")
    assert found
    assert found.alias == "another"
    links.retire(["snv0"])
    assert [link.alias for link in links.list() if link.name == "snv0"] in ([""], [])


def test_given_a_shared_address_when_plugged_twice_then_it_is_on_lo(world: World) -> None:
    plugged(world, SHARING)
    plugged(world, SHARING)
    assert world.inner_addresses(KEY, "eth0") == OWN
    assert loopback(world) == SHARED


def test_given_a_shared_address_when_its_holder_changes_then_it_moves_there_and_back(world: World) -> None:
    plugged(world, SHARING)
    for _ in range(2):
        plugged(world, SHARING._replace(holder=True))
    assert world.inner_addresses(KEY, "eth0") == OWN | SHARED
    assert not loopback(world)
    plugged(world, SHARING)
    assert world.inner_addresses(KEY, "eth0") == OWN
    assert loopback(world) == SHARED


def test_given_a_shared_address_when_plugged_without_one_then_it_stays(world: World) -> None:
    plugged(world, SHARING._replace(holder=True))
    plugged(world)
    assert world.inner_addresses(KEY, "eth0") == OWN | SHARED


def test_given_a_shared_address_when_withdrawn_twice_then_it_is_gone(world: World) -> None:
    plugged(world, SHARING)
    world.kernel.links.retire(["snv0"])
    for _ in range(2):
        world.kernel.links.remove_service_addresses(
            KEY, [ip_interface("172.20.0.99/16"), ip_interface("fd00:20::99/64")]
        )
    assert not loopback(world)
    world.kernel.links.remove_service_addresses(OTHER_KEY, [ip_interface("172.20.0.99/16")])


# Namespaces.


def test_given_no_namespace_when_made_twice_then_it_is_the_same_one(world: World) -> None:
    first = world.kernel.namespaces.make(KEY)
    second = world.kernel.namespaces.make(KEY)
    assert first.inode == second.inode
    assert (first.loopback_was_up, second.loopback_was_up) == (False, True)
    found = world.kernel.namespaces.find(KEY)
    assert found
    assert found.inode == first.inode
    assert world.kernel.namespaces.make(OTHER_KEY).inode != first.inode


def test_given_nothing_pinned_when_asked_then_there_is_nothing(world: World) -> None:
    assert world.kernel.namespaces.find(KEY) is None
    assert not world.kernel.namespaces.interfaces(KEY)
    world.kernel.namespaces.release(KEY)
    world.kernel.namespaces.default_routes(KEY, [])


def test_given_a_file_at_the_key_when_made_then_conflict(world: World) -> None:
    world.obstruct(KEY)
    with refused(Kind.CONFLICT):
        world.kernel.namespaces.make(KEY)


@pytest.mark.parametrize("key", ["/run/elsewhere/abc", f"{SANDBOXES}/../abc"])
def test_given_a_key_outside_the_sandbox_directory_when_made_then_invalid(world: World, key: str) -> None:
    with refused(Kind.INVALID):
        world.kernel.namespaces.make(key)


def test_given_a_foreign_namespace_when_pinned_and_released_then_it_is_as_it_was(world: World) -> None:
    namespaces = world.kernel.namespaces
    path = world.foreign_namespace()
    found = namespaces.identify(path=path)
    pinned = namespaces.pin(KEY, path=path, inode=found.inode)
    assert not pinned.loopback_was_up
    assert found == pinned._replace(key="")
    assert namespaces.identify(path=path) == found._replace(loopback_was_up=True)
    assert namespaces.pin(KEY, path=path).loopback_was_up
    namespaces.release(KEY, loopback_down=True)
    assert namespaces.find(KEY) is None
    assert namespaces.pin(KEY, path=path) == pinned


def test_given_another_namespace_at_the_key_when_pinned_then_conflict(world: World) -> None:
    world.kernel.namespaces.make(KEY)
    with refused(Kind.CONFLICT):
        world.kernel.namespaces.pin(KEY, path=world.foreign_namespace())


def test_given_a_path_where_another_namespace_is_by_now_when_pinned_then_conflict(world: World) -> None:
    path = world.foreign_namespace()
    found = world.kernel.namespaces.identify(path=path)
    with refused(Kind.CONFLICT):
        world.kernel.namespaces.pin(KEY, path=path, inode=found.inode + 1)
    assert world.kernel.namespaces.find(KEY) is None
    assert world.kernel.namespaces.identify(path=path) == found


def test_given_neither_path_nor_process_when_pinned_then_it_is_the_hosts_own(world: World) -> None:
    pinned = world.kernel.namespaces.pin(KEY)
    assert pinned.loopback_was_up
    assert pinned.inode == world.kernel.namespaces.identify().inode
    world.kernel.namespaces.release(KEY)
    assert world.kernel.namespaces.identify().inode == pinned.inode


def test_given_no_such_path_when_pinned_then_not_found(world: World) -> None:
    with refused(Kind.NOT_FOUND):
        world.kernel.namespaces.pin(KEY, path="/run/absent")


def test_given_another_identity_when_released_then_it_stays(world: World) -> None:
    made = world.kernel.namespaces.make(KEY)
    world.kernel.namespaces.release(KEY, inode=made.inode + 1)
    assert world.kernel.namespaces.find(KEY)
    world.kernel.namespaces.release(KEY, inode=made.inode)
    assert world.kernel.namespaces.find(KEY) is None


def test_given_an_interface_when_default_routes_are_set_again_then_only_the_last_ones_hold(world: World) -> None:
    plugged(world)
    ipv4 = DefaultRoute("eth0", IPv4Address("172.20.0.1"))
    ipv6 = DefaultRoute("eth0", IPv6Address("fd00:20::1"))
    world.kernel.namespaces.default_routes(KEY, [ipv4])
    world.kernel.namespaces.default_routes(KEY, [ipv4._replace(gateway=IPv4Address("172.20.0.9")), ipv6])
    assert world.gateways(KEY) == {"172.20.0.9", "fd00:20::1"}
    world.kernel.namespaces.default_routes(KEY, [])
    assert not world.gateways(KEY)


def test_given_no_interface_or_namespace_when_routes_are_set_then_not_found(world: World) -> None:
    routes = [DefaultRoute("eth7", IPv4Address("172.20.0.1"))]
    with refused(Kind.NOT_FOUND):
        world.kernel.namespaces.default_routes(KEY, routes)
    world.kernel.namespaces.make(KEY)
    with refused(Kind.NOT_FOUND):
        world.kernel.namespaces.default_routes(KEY, routes)


# Firewall and parameters.


def test_given_a_script_when_applied_again_then_it_converges(world: World) -> None:
    script = "table inet t\ndelete table inet t\ntable inet t {\n set s { type ifname; }\n}\n"
    world.kernel.firewall.apply(script)
    world.kernel.firewall.apply(script)


def test_given_a_script_with_a_nul_when_applied_then_it_is_refused_whole(world: World) -> None:
    with refused(Kind.INTERNAL):
        world.kernel.firewall.apply("table inet sandnet { }\n\0flush ruleset")


def changed(address: str, *, comes: bool) -> ElementChange:
    return ElementChange("inet t", "s", address, ip_address(address).packed, comes)


def test_given_a_set_when_elements_come_and_go_then_it_holds_what_is_left(world: World) -> None:
    world.kernel.firewall.apply("add table inet t\nadd set inet t s { type ipv4_addr; }\n")
    world.kernel.firewall.change([changed("10.0.0.1", comes=True), changed("10.0.0.2", comes=True)])
    world.kernel.firewall.change([changed("10.0.0.1", comes=False), changed("10.0.0.2", comes=True)])
    world.kernel.firewall.change([])
    found = world.kernel.firewall.listing("inet t")
    assert found
    assert found.elements == {"s": {"10.0.0.2"}}


@pytest.mark.parametrize("there", [True, False])
def test_given_what_is_not_there_when_it_goes_then_nothing_of_the_change_happens(world: World, there: bool) -> None:
    if there:
        world.kernel.firewall.apply("add table inet t\nadd set inet t s { type ipv4_addr; }\n")
    with refused(Kind.UNAVAILABLE):
        world.kernel.firewall.change([changed("10.0.0.1", comes=True), changed("10.0.0.2", comes=False)])
    found = world.kernel.firewall.listing("inet t")
    assert found is None or not found.elements.get("s")


def test_given_no_flows_when_forgotten_then_success(world: World) -> None:
    world.kernel.firewall.forget_flows()
    world.kernel.firewall.forget_flows(addresses=[ip_address("10.0.0.2"), ip_address("fd00::2")], bound=[(UDP, 53)])


def test_given_a_parameter_when_set_then_it_has_the_value(world: World) -> None:
    world.kernel.sysctl.set("net/ipv4/ip_forward", "1")
    assert world.kernel.sysctl.get("net/ipv4/ip_forward") == "1"


def test_given_a_bridge_when_its_parameter_is_set_then_it_has_it_until_it_is_gone(world: World) -> None:
    name = "net/ipv4/conf/snb0/route_localnet"
    assert world.kernel.sysctl.get(name) is None
    world.kernel.links.ensure_bridge(BRIDGE)
    world.kernel.sysctl.set(name, "1")
    assert world.kernel.sysctl.get(name) == "1"
    world.kernel.links.delete(["snb0"])
    assert world.kernel.sysctl.get(name) is None


def test_given_no_such_parameter_when_set_then_unavailable(world: World) -> None:
    assert world.kernel.sysctl.get("net/ipv4/absent") is None
    with refused(Kind.UNAVAILABLE):
        world.kernel.sysctl.set("net/ipv4/absent", "1")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "net/../kernel/hostname", "net//ipv4/ip_forward", "./net", "a\0b"])
def test_given_a_name_that_leads_elsewhere_when_used_then_invalid(world: World, name: str) -> None:
    with refused(Kind.INVALID):
        world.kernel.sysctl.get(name)
    with refused(Kind.INVALID):
        world.kernel.sysctl.set(name, "1")


# Host.


def test_given_addresses_and_routes_when_asked_then_they_are_occupied_except_on_ignored_links(world: World) -> None:
    world.add_link("other0", "10.5.0.1/24")
    world.add_route("10.6.0.0/16", "other0")
    world.kernel.links.ensure_bridge(BRIDGE)
    everything = set(world.kernel.host.occupied())
    theirs = {ip_network("10.5.0.0/24"), ip_network("10.6.0.0/16")}
    assert everything >= theirs | {address.network for address in BRIDGE.addresses}
    left = set(world.kernel.host.occupied({"snb0"}))
    assert left >= theirs
    assert not left & {address.network for address in BRIDGE.addresses}


def test_given_a_host_when_asked_for_local_ports_then_the_range_makes_sense(world: World) -> None:
    low, high = world.kernel.host.local_port_range()
    assert 0 < low < high <= 65535


@pytest.mark.parametrize("proto", [TCP, UDP, SCTP])
def test_given_a_held_port_when_held_again_then_taken_until_closed(world: World, proto: int) -> None:
    hold = world.kernel.host.hold
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


def test_given_one_address_when_its_port_is_held_then_another_address_has_it_free(world: World) -> None:
    world.kernel.links.ensure_bridge(BRIDGE)
    one = world.kernel.host.hold(TCP, ip_interface("172.20.0.1/16").ip, 7002)
    other = world.kernel.host.hold(TCP, ip_address("127.0.0.1"), 7002)
    one.close()
    other.close()


def test_given_port_zero_when_held_then_the_kernel_chooses_a_local_port(world: World) -> None:
    first = world.kernel.host.hold(TCP, ANY, 0)
    second = world.kernel.host.hold(TCP, ANY, 0)
    low, high = world.kernel.host.local_port_range()
    assert first.port != second.port
    assert all(low <= port <= high for port in (first.port, second.port))
    first.close()
    second.close()


def test_given_a_port_of_another_program_when_held_then_taken(world: World) -> None:
    port = world.take_port("127.0.0.1")
    with refused(Kind.CONFLICT, "port_taken"):
        world.kernel.host.hold(TCP, ANY, port)
    world.kernel.host.hold(UDP, ANY, port).close()


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7"])
def test_given_an_address_of_another_host_when_held_then_not_local(world: World, address: str) -> None:
    with refused(Kind.CONFLICT, "address_not_local"):
        world.kernel.host.hold(TCP, ip_address(address), 7003)


@pytest.mark.parametrize(("proto", "port"), [(1, 80), (TCP, 65536), (TCP, -1)])
def test_given_no_port_at_all_when_held_then_invalid(world: World, proto: int, port: int) -> None:
    with refused(Kind.INVALID):
        world.kernel.host.hold(proto, ANY, port)


def test_given_a_host_when_asked_what_is_missing_then_every_reason_is_told(world: World) -> None:
    missing = world.kernel.host.missing_features()
    assert set(missing) <= {"bridge", "veth", "nftables", "namespaces", "ipv6", "sctp"}
    assert all(missing.values())


def is_readable(watched: ProcessHandle, seconds: float) -> bool:
    """Whether the descriptor says so in time."""
    waiting = select.poll()
    waiting.register(watched.fileno(), select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def test_given_a_process_when_watched_then_its_end_is_told_and_nothing_else(world: World) -> None:
    processes = world.kernel.processes
    one, other = world.begin_process(), world.begin_process()
    started = processes.started(one)
    assert started is not None
    watched = processes.watch(one, started)
    assert watched is not None
    world.end_process(other)
    assert not is_readable(watched, 0.05)
    world.end_process(one)
    assert is_readable(watched, 5)
    watched.close()
    watched.close()


def test_given_a_process_that_ended_when_looked_up_then_there_is_none_though_nobody_reaped_it(world: World) -> None:
    processes = world.kernel.processes
    pid = world.begin_process()
    started = processes.started(pid)
    assert started is not None
    world.end_process(pid)
    eventually(lambda: processes.started(pid) is None)
    assert processes.watch(pid, started) is None


def test_given_a_number_used_again_when_watched_then_it_is_another_process(world: World) -> None:
    processes = world.kernel.processes
    pid = world.begin_process()
    started = processes.started(pid)
    assert started is not None
    assert processes.watch(pid, started - 1) is None
    assert processes.started(4194304) is None
    assert processes.watch(4194304, 1) is None


def test_given_processes_in_namespaces_when_listed_then_each_namespace_is_told_until_it_is_empty(world: World) -> None:
    kernel = world.kernel
    made = kernel.namespaces.make(KEY)
    assert made.inode not in kernel.processes.namespaces()
    pids = [world.begin_process(KEY) for _ in range(2)]
    eventually(lambda: made.inode in kernel.processes.namespaces())
    world.end_process(pids[0])
    assert made.inode in kernel.processes.namespaces()
    world.end_process(pids[1])
    eventually(lambda: made.inode not in kernel.processes.namespaces())
