"""Bridge networks: addresses, options, and the way out."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from tests.e2e.test_events import stream
from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    RunningDaemon,
)
from tests.support.traffic import until


def test_two_sandboxes_ping_each_other_over_ipv4_and_ipv6(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    one, two = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "two")
    assert one.reaches(two.address)
    assert one.reaches(two.address6)
    assert two.reaches(one.address)


def test_outgoing_traffic_is_masqueraded_as_the_host(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    sandbox = daemon.sandbox("foo", "one")
    daemon.outside.serve("far", 7000)
    daemon.outside.serve("far", 7000, address="::")
    assert sandbox.ask(OUTSIDE_ADDRESS, 7000).address == HOST_ADDRESS
    assert sandbox.ask(OUTSIDE_ADDRESS6, 7000).address == HOST_ADDRESS6
    assert sandbox.reaches(OUTSIDE_ADDRESS)


def test_without_masquerading_the_sandbox_address_is_seen(daemon: RunningDaemon) -> None:
    daemon.api.post(
        "/networks", name="foo", options={"com.docker.network.generic": {"EnableIPMasquerade": "false"}, "ipv6": True}
    )
    sandbox = daemon.sandbox("foo", "one")
    daemon.outside.serve("far", 7000)
    daemon.outside.serve("far", 7000, address="::")
    assert sandbox.ask(OUTSIDE_ADDRESS, 7000).address == sandbox.address
    assert sandbox.ask(OUTSIDE_ADDRESS6, 7000).address == sandbox.address6


def test_internal_network_reaches_only_its_own_sandboxes(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", internal=True, ipv6=True)
    daemon.api.network("bar")
    one, two, other = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "two"), daemon.sandbox("bar", "other")
    assert one.reaches(two.address)
    assert one.reaches(two.address6)
    assert one.sh("ip", "route", "show", "default") == ""
    one.sh("ip", "route", "add", "default", "dev", "eth0")
    gateway = str(ip_network(daemon.api.reported("foo")["subnets"][0])[1])
    one.sh("ip", "route", "replace", "default", "via", gateway)
    assert not one.reaches(OUTSIDE_ADDRESS, 0.4)
    assert not one.reaches(other.address, 0.4)


def test_icc_disabled_blocks_traffic_between_sandboxes(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", icc=False, ipv6=True)
    one, two = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "two")
    two.serve("two", 7000)
    assert not one.reaches(two.address, 0.4)
    assert not one.reaches(two.address6, 0.4)
    assert one.is_refused(two.address, 7000)
    assert one.reaches(OUTSIDE_ADDRESS)


def test_mtu_is_set_on_both_ends_of_the_veth(daemon: RunningDaemon) -> None:
    network = daemon.api.network("foo", mtu=1380)
    sandbox = daemon.sandbox("foo", "one")
    assert json.loads(sandbox.sh("ip", "-j", "link", "show", "eth0"))[0]["mtu"] == 1380
    bridge = json.loads(daemon.host.sh("ip", "-j", "link", "show", f"snb{network[:10]}"))[0]
    assert bridge["mtu"] == 1380


def test_requested_subnet_range_and_gateway_are_used(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/16", ip_range="10.9.8.0/24", gateway="10.9.8.1")
    one, two = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "two")
    assert (one.address, two.address) == ("10.9.8.2", "10.9.8.3")
    assert one.mac == "02:42:0a:09:08:02"
    assert one.sh("ip", "route", "show", "default").split()[2] == "10.9.8.1"
    assert one.reaches("10.9.8.1")
    assert one.reaches(OUTSIDE_ADDRESS)
    assert "10.9.8.2/16" in one.sh("ip", "address", "show", "eth0")


def test_labels_of_2015_keep_their_meaning(daemon: RunningDaemon) -> None:
    generic = {
        "AddressIPv4": "10.8.0.9/24",
        "FixedCIDR": "10.8.0.64/26",
        "FixedCIDRv6": "fd08::/64",
        "DefaultGatewayIPv4": "10.8.0.70",
        "EnableIPv6": "true",
        "Mtu": "1400",
        "BridgeName": "br-mine",
    }
    daemon.api.post("/networks", name="foo", options={"com.docker.network.generic": generic})
    one = daemon.sandbox("foo", "one")
    assert one.address == "10.8.0.65"
    assert one.address6 == "fd08::242:a08:41"
    assert "10.8.0.9/24" in daemon.host.sh("ip", "address", "show", "br-mine")
    assert one.sh("ip", "route", "show", "default").split()[2] == "10.8.0.70"
    assert one.reaches("10.8.0.9")
    daemon.api.clear()
    until(lambda: "br-mine" not in daemon.links())


def test_adopted_bridge_reaches_its_members_and_is_restored(daemon: RunningDaemon) -> None:
    sh = daemon.host.sh
    sh("ip", "link", "add", "theirs", "type", "bridge")
    sh("ip", "address", "add", "10.7.0.1/24", "dev", "theirs")
    sh("ip", "link", "set", "theirs", "up")
    try:
        before = sh("ip", "-o", "address", "show", "theirs")
        with pytest.raises(RefusedError, match=r"10\.7\.0"):
            daemon.api.network("clash", bridge_name="theirs", subnet="10.6.0.0/24")
        daemon.api.network("foo", bridge_name="theirs")
        one, two = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "two")
        assert one.address.startswith("10.7.0.")
        assert one.reaches(two.address)
        assert one.reaches(OUTSIDE_ADDRESS)
        assert daemon.api.reported("foo")["subnets"] == ["10.7.0.0/24"]
        daemon.api.clear()
        assert "theirs" in daemon.links()
        assert sh("ip", "-o", "address", "show", "theirs") == before
        assert sh("sysctl", "-n", "net.ipv4.conf.theirs.route_localnet").strip() == "0"
    finally:
        sh("ip", "link", "delete", "theirs")


@pytest.mark.parametrize("adopted", [True, False], ids=["their bridge", "our bridge"])
def test_clients_on_foreign_bridge_ports_reach_services(daemon: RunningDaemon, *, adopted: bool) -> None:
    sh = daemon.host.sh

    def is_known() -> bool:
        return "theirs1" in sh("nft", "list", "map", "bridge", "sandnet", "ports")

    if adopted:
        sh("ip", "link", "add", "theirs", "type", "bridge")
        sh("ip", "address", "add", "10.7.0.1/24", "dev", "theirs")
        sh("ip", "link", "set", "theirs", "up")
    try:
        net = daemon.api.network("foo", **({"bridge_name": "theirs"} if adopted else {}))
        bridge = "theirs" if adopted else f"snb{net[:10]}"
        sh("ip", "link", "add", "theirs1", "type", "veth", "peer", "name", "theirs2")
        sh("ip", "link", "set", "theirs1", "master", bridge, "up")
        daemon.api.post("/reconcile", fix=True)
        assert is_known()
        assert daemon.api.post("/reconcile", fix=True)["drift"] == []
        sh("ip", "link", "delete", "theirs1")
        daemon.api.post("/reconcile", fix=True)
        assert not is_known()
        daemon.api.clear()
    finally:
        if adopted:
            sh("ip", "link", "delete", "theirs")


@pytest.mark.parametrize("name", ["lo", "uplink"])
def test_bridge_name_of_a_non_bridge_link_returns_409(daemon: RunningDaemon, name: str) -> None:
    with pytest.raises(RefusedError, match="not a bridge") as refused:
        daemon.api.network("foo", bridge_name=name)
    assert refused.value.status == 409


@pytest.mark.parametrize("name", ["lo", "uplink", "eth0", "a" * 63])
def test_network_may_be_named_like_a_link(daemon: RunningDaemon, name: str) -> None:
    links = daemon.links()
    daemon.api.network(name)
    assert set(links) < set(daemon.links())
    assert daemon.sandbox(name, "one").reaches(OUTSIDE_ADDRESS)


def test_chosen_subnets_do_not_overlap_host_routes(daemon: RunningDaemon) -> None:
    busy = ["172.16.0.0/13", "172.30.0.0/15"]
    for prefix in busy:
        daemon.host.sh("ip", "route", "add", prefix, "via", OUTSIDE_ADDRESS)
    try:
        chosen = []
        for i in range(8):
            daemon.api.network(f"n{i}")
            chosen.append(ip_network(daemon.api.reported(f"n{i}")["subnets"][0]))
        assert all(net.prefixlen == 24 for net in chosen)
        assert not [net for net in chosen for route in busy if net.overlaps(ip_network(route))]
        assert len(set(chosen)) == 8
    finally:
        for prefix in busy:
            daemon.host.sh("ip", "route", "delete", prefix)


def test_subnet_holding_a_nameserver_is_not_chosen(daemon: RunningDaemon) -> None:
    chosen = ip_network(daemon.api.reported(daemon.api.network("probe"))["subnets"][0])
    daemon.api.delete("/networks/probe")
    upcoming = [ip_network((int(chosen.network_address) + 256 * i, 24)) for i in range(3)]
    resolv_conf = daemon.folder / "host-resolv.conf"
    text = resolv_conf.read_text()
    resolv_conf.write_text("".join(f"nameserver {net[53]}\n" for net in upcoming))
    try:
        daemon.api.network("foo")
        assert ip_network(daemon.api.reported("foo")["subnets"][0]) not in upcoming
    finally:
        resolv_conf.write_text(text)


def test_subnet_used_by_the_host_returns_409_naming_it(daemon: RunningDaemon) -> None:
    for subnet in ("198.51.100.0/25", "198.51.0.0/16"):
        with pytest.raises(RefusedError, match=r"198\.51\.100\.0/24") as refused:
            daemon.api.network("foo", subnet=subnet)
        assert refused.value.status == 409


def test_host_route_overlapping_a_network_emits_a_warning(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/24")
    daemon.api.network("bar", subnet="10.9.1.0/24", allow_overlap=True)
    route = ("10.9.0.0/16", "via", OUTSIDE_ADDRESS)
    with stream(daemon) as reader:
        daemon.host.sh("ip", "route", "add", *route)
        try:
            with pytest.raises(RefusedError, match=r"10\.9\.0\.0/16"):
                daemon.api.network("late", subnet="10.9.2.0/24")
            daemon.cli("network", "create", "--subnet", "10.9.2.0/24", "--allow-overlap", "late")
            *_, reported = reader.until(lambda event: event["action"] == "warning")
        finally:
            daemon.host.sh("ip", "route", "delete", *route)
    assert (reported["type"], reported["name"]) == ("network", "foo")
    assert "10.9.0.0/16" in reported["problem"]


def test_subnet_of_another_network_returns_409_naming_it(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/16", subnet_ipv6="fd09::/64")
    with pytest.raises(RefusedError, match="network foo") as refused:
        daemon.api.network("bar", subnet="10.9.3.0/24")
    assert refused.value.status == 409
    with pytest.raises(RefusedError, match="network foo") as refused:
        daemon.api.network("bar", subnet="10.10.3.0/24", subnet_ipv6="fd09::/64")
    assert refused.value.status == 409


def test_full_subnet_returns_409_until_an_endpoint_is_deleted(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/29")
    names = [f"e{i}" for i in range(5)]
    for name in names:
        daemon.api.endpoint("foo", name)
    with pytest.raises(RefusedError) as refused:
        daemon.api.endpoint("foo", "more")
    assert refused.value.status == 409
    freed = daemon.api.reported("foo", "e2")["address"]
    daemon.api.delete("/networks/foo/endpoints/e2")
    daemon.api.endpoint("foo", "more")
    assert daemon.api.reported("foo", "more")["address"] == freed


def test_freed_addresses_are_reused_last(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/24")
    for i in range(3):
        daemon.api.endpoint("foo", f"e{i}")
        daemon.api.delete(f"/networks/foo/endpoints/e{i}")
    daemon.api.endpoint("foo", "next")
    assert daemon.api.reported("foo", "next")["address"] == "10.9.0.5/24"


def test_requested_address_and_mac_are_assigned(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/24", subnet_ipv6="fd09::/64")
    request = {"address": "10.9.0.77", "address_ipv6": "fd09::77", "mac": "02:00:00:00:00:77"}
    one = daemon.sandbox("foo", "one", **request)
    two = daemon.sandbox("foo", "two")
    assert (one.address, one.address6, one.mac) == ("10.9.0.77", "fd09::77", "02:00:00:00:00:77")
    assert two.reaches("10.9.0.77")
    assert two.reaches("fd09::77")
    assert "02:00:00:00:00:77" in one.sh("ip", "link", "show", "eth0")
    for field, value in request.items():
        with pytest.raises(RefusedError, match="one") as refused:
            daemon.api.endpoint("foo", "three", **{field: value})
        assert refused.value.status == 409


@pytest.mark.parametrize("address", ["10.9.1.1", "10.9.0.0", "10.9.0.255", "10.9.0.1"])
def test_unavailable_requested_address_is_refused(daemon: RunningDaemon, address: str) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/24")
    with pytest.raises(RefusedError) as refused:
        daemon.api.endpoint("foo", "one", address=address)
    assert refused.value.status in (400, 409)
    assert daemon.api.get("/networks/foo")["endpoints"] == []


@pytest.mark.timeout(120)
def test_join_to_a_full_bridge_of_1023_ports_returns_409(daemon: RunningDaemon) -> None:
    """Ports 1 to 1,023 are bare veths: the limit is the kernel's (BR_MAX_PORTS)."""
    network = daemon.api.network("foo", subnet="10.9.0.0/16")
    bridge = f"snb{network[:10]}"
    batch = daemon.folder / "batch"
    batch.write_text("".join(f"link add x{i} type veth peer name y{i}\nlink set x{i} master {bridge}\n"
                             f"link set x{i} group 7\n" for i in range(1022)))  # fmt: skip
    try:
        daemon.host.sh("ip", "-batch", str(batch))
        last = daemon.sandbox("foo", "last")
        daemon.api.endpoint("foo", "over")
        with pytest.raises(RefusedError, match=r"full|102[34]") as refused:
            daemon.api.join("foo", "over", "c1")
        assert refused.value.status == 409
        assert daemon.pinned() == [last.key]
        daemon.api.leave("foo", "last", last.container)
        daemon.attach("foo", "over", "c1")
    finally:
        daemon.host.sh("ip", "link", "delete", "group", "7")
