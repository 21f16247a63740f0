"""Bridge networks: addresses, options, and the way out."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from tests.e2e.test_events import stream
from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, RefusedError, World
from tests.support.traffic import until


def test_given_two_boxes_on_a_network_when_pinged_then_both_families_answer(world: World) -> None:
    world.api.network("foo", ipv6=True)
    one, two = world.box("foo", "one"), world.box("foo", "two")
    assert one.reaches(two.address)
    assert one.reaches(two.address6)
    assert two.reaches(one.address)


def test_given_a_box_when_it_calls_outside_then_the_host_stands_in_for_it(world: World) -> None:
    world.api.network("foo", ipv6=True)
    box = world.box("foo", "one")
    world.outside.serve("far", 7000)
    world.outside.serve("far", 7000, address="::")
    assert box.ask(OUTSIDE_ADDRESS, 7000).address == HOST_ADDRESS
    assert box.ask(OUTSIDE_ADDRESS6, 7000).address == HOST_ADDRESS6
    assert box.reaches(OUTSIDE_ADDRESS)


def test_given_no_masquerading_when_a_box_calls_outside_then_its_own_address_is_seen(world: World) -> None:
    world.api.post(
        "/networks", name="foo", options={"com.docker.network.generic": {"EnableIPMasquerade": "false"}, "ipv6": True}
    )
    box = world.box("foo", "one")
    world.outside.serve("far", 7000)
    world.outside.serve("far", 7000, address="::")
    assert box.ask(OUTSIDE_ADDRESS, 7000).address == box.address
    assert box.ask(OUTSIDE_ADDRESS6, 7000).address == box.address6


def test_given_an_internal_network_when_used_then_only_its_own_boxes_are_reached(world: World) -> None:
    world.api.network("foo", internal=True, ipv6=True)
    world.api.network("bar")
    one, two, other = world.box("foo", "one"), world.box("foo", "two"), world.box("bar", "other")
    assert one.reaches(two.address)
    assert one.reaches(two.address6)
    assert one.sh("ip", "route", "show", "default") == ""
    one.sh("ip", "route", "add", "default", "dev", "eth0")
    gateway = str(ip_network(world.api.told("foo")["subnets"][0])[1])
    one.sh("ip", "route", "replace", "default", "via", gateway)
    assert not one.reaches(OUTSIDE_ADDRESS, 0.4)
    assert not one.reaches(other.address, 0.4)


def test_given_no_inter_container_traffic_when_boxes_call_each_other_then_nothing_passes(world: World) -> None:
    world.api.network("foo", icc=False, ipv6=True)
    one, two = world.box("foo", "one"), world.box("foo", "two")
    two.serve("two", 7000)
    assert not one.reaches(two.address, 0.4)
    assert not one.reaches(two.address6, 0.4)
    assert one.is_refused(two.address, 7000)
    assert one.reaches(OUTSIDE_ADDRESS)


def test_given_an_mtu_when_joined_then_both_ends_have_it(world: World) -> None:
    network = world.api.network("foo", mtu=1380)
    box = world.box("foo", "one")
    assert json.loads(box.sh("ip", "-j", "link", "show", "eth0"))[0]["mtu"] == 1380
    bridge = json.loads(world.host.sh("ip", "-j", "link", "show", f"snb{network[:10]}"))[0]
    assert bridge["mtu"] == 1380


def test_given_a_subnet_range_and_gateway_when_joined_then_they_are_used(world: World) -> None:
    world.api.network("foo", subnet="10.9.0.0/16", ip_range="10.9.8.0/24", gateway="10.9.8.1")
    one, two = world.box("foo", "one"), world.box("foo", "two")
    assert (one.address, two.address) == ("10.9.8.2", "10.9.8.3")
    assert one.mac == "02:42:0a:09:08:02"
    assert one.sh("ip", "route", "show", "default").split()[2] == "10.9.8.1"
    assert one.reaches("10.9.8.1")
    assert one.reaches(OUTSIDE_ADDRESS)
    assert "10.9.8.2/16" in one.sh("ip", "address", "show", "eth0")


def test_given_labels_of_2015_when_created_then_they_mean_the_same(world: World) -> None:
    generic = {
        "AddressIPv4": "10.8.0.9/24",
        "FixedCIDR": "10.8.0.64/26",
        "FixedCIDRv6": "fd08::/64",
        "DefaultGatewayIPv4": "10.8.0.70",
        "EnableIPv6": "true",
        "Mtu": "1400",
        "BridgeName": "br-mine",
    }
    world.api.post("/networks", name="foo", options={"com.docker.network.generic": generic})
    one = world.box("foo", "one")
    assert one.address == "10.8.0.65"
    assert one.address6 == "fd08::242:a08:41"
    assert "10.8.0.9/24" in world.host.sh("ip", "address", "show", "br-mine")
    assert one.sh("ip", "route", "show", "default").split()[2] == "10.8.0.70"
    assert one.reaches("10.8.0.9")
    world.api.clear()
    until(lambda: "br-mine" not in world.links())


def test_given_an_existing_bridge_when_adopted_then_its_members_are_reached_and_it_is_given_back(world: World) -> None:
    sh = world.host.sh
    sh("ip", "link", "add", "theirs", "type", "bridge")
    sh("ip", "address", "add", "10.7.0.1/24", "dev", "theirs")
    sh("ip", "link", "set", "theirs", "up")
    try:
        before = sh("ip", "-o", "address", "show", "theirs")
        with pytest.raises(RefusedError, match=r"10\.7\.0"):
            world.api.network("clash", bridge_name="theirs", subnet="10.6.0.0/24")
        world.api.network("foo", bridge_name="theirs")
        one, two = world.box("foo", "one"), world.box("foo", "two")
        assert one.address.startswith("10.7.0.")
        assert one.reaches(two.address)
        assert one.reaches(OUTSIDE_ADDRESS)
        assert world.api.told("foo")["subnets"] == ["10.7.0.0/24"]
        world.api.clear()
        assert "theirs" in world.links()
        assert sh("ip", "-o", "address", "show", "theirs") == before
        assert sh("sysctl", "-n", "net.ipv4.conf.theirs.route_localnet").strip() == "0"
    finally:
        sh("ip", "link", "delete", "theirs")


@pytest.mark.parametrize("adopted", [True, False], ids=["their bridge", "our bridge"])
def test_given_a_port_that_others_add_when_compared_then_its_clients_reach_services_as_all_do(
    world: World, *, adopted: bool
) -> None:
    sh = world.host.sh

    def is_known() -> bool:
        return "theirs1" in sh("nft", "list", "map", "bridge", "sandnet", "ports")

    if adopted:
        sh("ip", "link", "add", "theirs", "type", "bridge")
        sh("ip", "address", "add", "10.7.0.1/24", "dev", "theirs")
        sh("ip", "link", "set", "theirs", "up")
    try:
        net = world.api.network("foo", **({"bridge_name": "theirs"} if adopted else {}))
        bridge = "theirs" if adopted else f"snb{net[:10]}"
        sh("ip", "link", "add", "theirs1", "type", "veth", "peer", "name", "theirs2")
        sh("ip", "link", "set", "theirs1", "master", bridge, "up")
        assert not is_known()
        world.api.post("/reconcile", fix=True)
        assert is_known()
        assert world.api.post("/reconcile", fix=True)["drift"] == []
        sh("ip", "link", "delete", "theirs1")
        world.api.post("/reconcile", fix=True)
        assert not is_known()
        world.api.clear()
    finally:
        if adopted:
            sh("ip", "link", "delete", "theirs")


@pytest.mark.parametrize("name", ["lo", "uplink"])
def test_given_a_link_that_is_no_bridge_when_asked_for_then_409_and_it_is_untouched(world: World, name: str) -> None:
    with pytest.raises(RefusedError, match="not a bridge") as refused:
        world.api.network("foo", bridge_name=name)
    assert refused.value.status == 409


@pytest.mark.parametrize("name", ["lo", "uplink", "eth0", "a" * 63])
def test_given_a_network_with_the_name_of_a_link_when_created_then_it_is_just_a_name(world: World, name: str) -> None:
    links = world.links()
    world.api.network(name)
    assert set(links) < set(world.links())
    assert world.box(name, "one").reaches(OUTSIDE_ADDRESS)


def test_given_host_routes_when_subnets_are_chosen_then_none_overlaps_them(world: World) -> None:
    busy = ["172.16.0.0/13", "172.30.0.0/15"]
    for prefix in busy:
        world.host.sh("ip", "route", "add", prefix, "via", OUTSIDE_ADDRESS)
    try:
        chosen = []
        for i in range(8):
            world.api.network(f"n{i}")
            chosen.append(ip_network(world.api.told(f"n{i}")["subnets"][0]))
        assert all(net.prefixlen == 24 for net in chosen)
        assert not [net for net in chosen for route in busy if net.overlaps(ip_network(route))]
        assert len(set(chosen)) == 8
    finally:
        for prefix in busy:
            world.host.sh("ip", "route", "delete", prefix)


def test_given_a_nameserver_in_a_pool_when_a_subnet_is_chosen_then_it_is_left_out(world: World) -> None:
    chosen = ip_network(world.api.told(world.api.network("probe"))["subnets"][0])
    world.api.delete("/networks/probe")
    upcoming = [ip_network((int(chosen.network_address) + 256 * i, 24)) for i in range(3)]
    resolv_conf = world.folder / "host-resolv.conf"
    text = resolv_conf.read_text()
    resolv_conf.write_text("".join(f"nameserver {net[53]}\n" for net in upcoming))
    try:
        world.api.network("foo")
        assert ip_network(world.api.told("foo")["subnets"][0]) not in upcoming
    finally:
        resolv_conf.write_text(text)


def test_given_a_subnet_the_host_uses_when_asked_for_then_409_naming_it(world: World) -> None:
    for subnet in ("198.51.100.0/25", "198.51.0.0/16"):
        with pytest.raises(RefusedError, match=r"198\.51\.100\.0/24") as refused:
            world.api.network("foo", subnet=subnet)
        assert refused.value.status == 409


def test_given_a_network_when_the_host_gets_a_route_that_overlaps_it_then_an_event_warns(world: World) -> None:
    world.api.network("foo", subnet="10.9.0.0/24")
    world.api.network("bar", subnet="10.9.1.0/24", allow_overlap=True)
    route = ("10.9.0.0/16", "via", OUTSIDE_ADDRESS)
    with stream(world) as reader:
        world.host.sh("ip", "route", "add", *route)
        try:
            with pytest.raises(RefusedError, match=r"10\.9\.0\.0/16"):
                world.api.network("late", subnet="10.9.2.0/24")
            world.cli("network", "create", "--subnet", "10.9.2.0/24", "--allow-overlap", "late")
            *_, told = reader.until(lambda event: event["action"] == "warning")
        finally:
            world.host.sh("ip", "route", "delete", *route)
    assert (told["type"], told["name"]) == ("network", "foo")
    assert "10.9.0.0/16" in told["problem"]


def test_given_a_subnet_of_another_network_when_asked_for_then_409_naming_it(world: World) -> None:
    world.api.network("foo", subnet="10.9.0.0/16", subnet_ipv6="fd09::/64")
    with pytest.raises(RefusedError, match="network foo") as refused:
        world.api.network("bar", subnet="10.9.3.0/24")
    assert refused.value.status == 409
    with pytest.raises(RefusedError, match="network foo") as refused:
        world.api.network("bar", subnet="10.10.3.0/24", subnet_ipv6="fd09::/64")
    assert refused.value.status == 409


def test_given_a_full_subnet_when_an_endpoint_is_created_then_409_until_one_is_deleted(world: World) -> None:
    world.api.network("foo", subnet="10.9.0.0/29")
    names = [f"e{i}" for i in range(5)]
    for name in names:
        world.api.endpoint("foo", name)
    with pytest.raises(RefusedError) as refused:
        world.api.endpoint("foo", "more")
    assert refused.value.status == 409
    freed = world.api.told("foo", "e2")["address"]
    world.api.delete("/networks/foo/endpoints/e2")
    world.api.endpoint("foo", "more")
    assert world.api.told("foo", "more")["address"] == freed


def test_given_addresses_when_freed_then_they_come_back_last(world: World) -> None:
    world.api.network("foo", subnet="10.9.0.0/24")
    for i in range(3):
        world.api.endpoint("foo", f"e{i}")
        world.api.delete(f"/networks/foo/endpoints/e{i}")
    world.api.endpoint("foo", "next")
    assert world.api.told("foo", "next")["address"] == "10.9.0.5/24"


def test_given_an_address_and_mac_when_asked_for_then_they_are_given(world: World) -> None:
    world.api.network("foo", subnet="10.9.0.0/24", subnet_ipv6="fd09::/64")
    wish = {"address": "10.9.0.77", "address_ipv6": "fd09::77", "mac": "02:00:00:00:00:77"}
    one = world.box("foo", "one", **wish)
    two = world.box("foo", "two")
    assert (one.address, one.address6, one.mac) == ("10.9.0.77", "fd09::77", "02:00:00:00:00:77")
    assert two.reaches("10.9.0.77")
    assert two.reaches("fd09::77")
    assert "02:00:00:00:00:77" in one.sh("ip", "link", "show", "eth0")
    for field, value in wish.items():
        with pytest.raises(RefusedError, match="one") as refused:
            world.api.endpoint("foo", "three", **{field: value})
        assert refused.value.status == 409


@pytest.mark.parametrize("address", ["10.9.1.1", "10.9.0.0", "10.9.0.255", "10.9.0.1"])
def test_given_an_address_that_is_not_to_be_had_when_asked_for_then_refused(world: World, address: str) -> None:
    world.api.network("foo", subnet="10.9.0.0/24")
    with pytest.raises(RefusedError) as refused:
        world.api.endpoint("foo", "one", address=address)
    assert refused.value.status in (400, 409)
    assert world.api.get("/networks/foo")["endpoints"] == []


@pytest.mark.timeout(120)
def test_given_a_bridge_with_1023_ports_when_two_join_then_the_second_is_told_that_it_is_full(world: World) -> None:
    """Ports 1 to 1,023 are bare veths: the limit is the kernel's (BR_MAX_PORTS)."""
    network = world.api.network("foo", subnet="10.9.0.0/16")
    bridge = f"snb{network[:10]}"
    batch = world.folder / "batch"
    batch.write_text("".join(f"link add x{i} type veth peer name y{i}\nlink set x{i} master {bridge}\n"
                             f"link set x{i} group 7\n" for i in range(1022)))  # fmt: skip
    try:
        world.host.sh("ip", "-batch", str(batch))
        last = world.box("foo", "last")
        world.api.endpoint("foo", "over")
        with pytest.raises(RefusedError, match=r"full|102[34]") as refused:
            world.api.join("foo", "over", "c1")
        assert refused.value.status == 409
        assert world.pinned() == [last.key]
        world.api.leave("foo", "last", last.container)
        world.attach("foo", "over", "c1")
    finally:
        world.host.sh("ip", "link", "delete", "group", "7")
