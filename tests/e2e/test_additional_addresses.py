"""Endpoints with several addresses of one family: who reaches them, who may use them, and how long they last."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.e2e.test_macvlan import SEGMENT
from tests.support import ethernet as f
from tests.support.daemon import JSON, RefusedError, RunningDaemon, Sandbox, mapping
from tests.support.name_cases import dig, found
from tests.support.network_host import eventually
from tests.support.other_stack import OtherStack
from tests.support.privileges import needs_taps
from tests.support.taps import open_tap
from tests.support.traffic import Place

WITHIN = 20.0
"""Seconds in which a repair is done even on a busy machine; the next comparison of everything takes longer to come."""
FOO: dict[str, JSON] = {"subnet": "10.9.1.0/24", "ipv6": True, "subnet_ipv6": "fd00:9:1::/64"}
MORE = ["10.9.1.50", "10.9.1.51", "fd00:9:1::50"]
ON_INTERFACE = {"10.9.1.50/32", "10.9.1.51/32", "fd00:9:1::50/128"}


def addresses(place: Place, interface: str = "eth0") -> set[str]:
    """The addresses of an interface, as ``ip`` reports them."""
    found = json.loads(place.sh("ip", "-j", "address", "show", "dev", interface))
    return {f"{each['local']}/{each['prefixlen']}" for each in found[0]["addr_info"] if each["scope"] != "link"}


@pytest.fixture
def web(daemon: RunningDaemon) -> Sandbox:
    daemon.api.network("foo", **FOO)
    return daemon.sandbox("foo", "web", additional_addresses=MORE)


def every(web: Sandbox) -> list[str]:
    return [web.address, web.address6, *MORE]


def test_neighbours_and_host_reach_every_address(daemon: RunningDaemon, web: Sandbox) -> None:
    client = daemon.sandbox("foo", "client")
    for address in every(web):
        web.serve(address, 80, address=address)
        assert client.ask(address, 80).server == address
        assert daemon.here.reaches(address)
    assert addresses(web) > ON_INTERFACE
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_connections_come_from_the_primary_address(daemon: RunningDaemon, web: Sandbox) -> None:
    server = daemon.sandbox("foo", "server")
    for address, primary in ((server.address, web.address), (server.address6, web.address6)):
        server.serve("server", 80, address=address)
        assert web.ask(address, 80).address == primary


def test_objects_show_the_addresses(daemon: RunningDaemon, web: Sandbox) -> None:
    written = ["10.9.1.50/24", "10.9.1.51/24", "fd00:9:1::50/64"]
    assert daemon.api.reported("foo", "web")["additional_addresses"] == written
    (sandbox,) = daemon.api.get("/sandboxes", verbose="true")
    assert sandbox["interfaces"][0]["additional_addresses"] == written
    assert all(address in daemon.cli("endpoint", "info", "web.foo") for address in written)
    assert all(address in daemon.cli("sandbox", "info", web.container) for address in written)
    assert all(address in daemon.cli("service", "ls") for address in written)


@pytest.mark.parametrize("lost", [*MORE, "primary"])
def test_removed_addresses_are_restored(daemon: RunningDaemon, web: Sandbox, lost: str) -> None:
    address = f"{web.address}/24" if lost == "primary" else next(each for each in ON_INTERFACE if lost in each)
    web.sh("ip", "address", "del", address, "dev", "eth0")
    eventually(lambda: {address, *ON_INTERFACE} < addresses(web), WITHIN)
    client = daemon.sandbox("foo", "client")
    assert all(client.reaches(each) for each in every(web))


def test_kill_and_restart_keep_the_addresses(daemon: RunningDaemon, web: Sandbox) -> None:
    client = daemon.sandbox("foo", "client")
    daemon.kill()
    assert all(client.reaches(each) for each in every(web))
    web.sh("ip", "address", "del", "10.9.1.51/32", "dev", "eth0")
    daemon.start()
    assert addresses(web) > ON_INTERFACE
    assert all(client.reaches(each) for each in every(web))
    daemon.stop()
    daemon.start()
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []
    assert daemon.api.reported("foo", "web")["additional_addresses"][0] == "10.9.1.50/24"


def test_lost_state_keeps_the_addresses(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo", **FOO)
    web = daemon.sandbox("foo", "web", additional_addresses=MORE)
    before = daemon.api.reported("foo", "web")
    daemon.kill()
    shutil.rmtree(daemon.state)
    daemon.start()
    after = daemon.api.reported("foo", "web")
    assert (after["address"], after["additional_addresses"]) == (before["address"], before["additional_addresses"])
    assert addresses(web) > ON_INTERFACE
    with pytest.raises(RefusedError, match="address_taken"):
        daemon.api.endpoint("foo", "other", address="10.9.1.51")


def test_other_addresses_stay_forbidden(daemon: RunningDaemon, web: Sandbox) -> None:
    hearer = daemon.sandbox("foo", "hearer")

    def passes(payload: bytes, kind: int = f.IP) -> bool:
        frame = f.ether(hearer.mac, web.mac, kind, payload)
        right = f.ether(hearer.mac, web.mac, f.IP, f.udp(web.address, hearer.address, sender_port=7))
        with f.raw(daemon.host, hearer) as listener, f.raw(daemon.host, web) as mouth:
            mouth.send(frame)
            mouth.send(right)
            return f.received(listener, frame, before=right)

    option = f.mac_option(f.TARGET_MAC, web.mac)
    for own, other in (("10.9.1.50", "10.9.1.52"), ("10.9.1.51", "10.9.1.1")):
        assert passes(f.udp(own, hearer.address))
        assert passes(f.arp(web.mac, own, hearer.address), f.ARP)
        assert not passes(f.udp(other, hearer.address))
        assert not passes(f.arp(web.mac, other, hearer.address), f.ARP)
    for own, allowed in (("fd00:9:1::50", True), ("fd00:9:1::51", False)):
        advertisement = f.discovery(web.address6, "ff02::1", f.ADVERTISE, f.neighbour(own, option))
        assert passes(f.udp(own, hearer.address6), f.IPV6) is allowed
        assert passes(advertisement, f.IPV6) is allowed


def test_additional_addresses_end_with_the_endpoint(daemon: RunningDaemon, web: Sandbox) -> None:
    for address in MORE:
        with pytest.raises(RefusedError, match="address_taken"):
            daemon.api.endpoint("foo", "other", **{"address_ipv6" if ":" in address else "address": address})
    assert all(daemon.here.reaches(address) for address in MORE)
    daemon.api.leave("foo", "web", web.container)
    known = daemon.host.sh("ip", "neigh") + daemon.host.sh("ip", "-6", "neigh")
    assert not [address for address in MORE if f"{address} " in known]
    with pytest.raises(RefusedError, match="address_taken"):
        daemon.api.endpoint("foo", "other", additional_addresses=[MORE[2]])
    daemon.api.delete("/networks/foo/endpoints/web")
    other = daemon.sandbox("foo", "other", additional_addresses=MORE)
    client = daemon.sandbox("foo", "client")
    assert all(client.reaches(address) for address in every(other))


def test_next_holder_of_an_address_is_reached_at_once(daemon: RunningDaemon, web: Sandbox) -> None:
    client = daemon.sandbox("foo", "client")
    assert all(client.reaches(address) and daemon.here.reaches(address) for address in MORE)
    daemon.api.leave("foo", "web", web.container)
    daemon.api.delete("/networks/foo/endpoints/web")
    other = daemon.sandbox("foo", "other", additional_addresses=MORE)
    for address in MORE:
        other.serve(address, 80, address=address)
        assert client.ask(address, 80).server == address
        assert daemon.here.ask(address, 80).server == address


def test_use_of_the_subnet_counts_every_address(daemon: RunningDaemon) -> None:
    def used() -> JSON:
        found = daemon.api.get("/v1.55/networks/foo")["Status"]["IPAM"]["Subnets"]
        return {subnet: each["IPsInUse"] for subnet, each in found.items()}

    daemon.api.network("foo", **FOO)
    before = used()
    daemon.api.endpoint("foo", "web", additional_addresses=MORE)
    assert {subnet: used()[subnet] - count for subnet, count in before.items()} == {
        FOO["subnet"]: 3,
        FOO["subnet_ipv6"]: 2,
    }
    daemon.api.delete("/networks/foo/endpoints/web")
    assert used() == before


def test_change_of_the_network_keeps_the_addresses(daemon: RunningDaemon, web: Sandbox) -> None:
    daemon.api.patch("/networks/foo", options={"mtu": 1400, "ip_range": "10.9.1.128/25"})
    daemon.api.patch("/services/web", bandwidth={"ingress_rate": 10_000_000})
    assert addresses(web) > ON_INTERFACE
    with pytest.raises(RefusedError, match="address_taken"):
        daemon.api.endpoint("foo", "other", address=MORE[0])
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_failed_creation_leaves_every_address_free(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", **FOO)
    daemon.api.endpoint("foo", "db", address="10.9.1.60")
    for more in ({"address": "10.9.1.60"}, {"address_ipv6": "fd00:9:2::1"}):
        with pytest.raises(RefusedError):
            daemon.api.endpoint("foo", "web", additional_addresses=MORE, **more)
    with pytest.raises(RefusedError, match="address_taken"):
        daemon.api.endpoint("foo", "web", additional_addresses=[*MORE, "10.9.1.60"])
    daemon.api.endpoint("foo", "web", additional_addresses=MORE)


def test_automatic_address_is_none_of_the_additional_ones(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/29")
    daemon.api.endpoint("foo", "web", additional_addresses=["10.9.1.2", "10.9.1.3"])
    assert daemon.api.reported("foo", "web")["address"] == "10.9.1.4/29"
    daemon.api.endpoint("foo", "db")
    daemon.api.endpoint("foo", "cache")
    with pytest.raises(RefusedError, match="pool_exhausted"):
        daemon.api.endpoint("foo", "full")


WRONG: list[tuple[dict[str, JSON], int, str]] = [
    ({"additional_addresses": ["10.9.2.5"]}, 400, "outside 10.9.1.0/24"),
    ({"additional_addresses": ["10.9.1.1"]}, 409, "reserved"),
    ({"additional_addresses": ["10.9.1.255"]}, 400, "stands for"),
    ({"additional_addresses": ["fd00:9:1::5"]}, 400, "no IPv6 subnet"),
    ({"additional_addresses": ["10.9.1.7", "10.9.1.7"]}, 400, "given twice"),
    ({"additional_addresses": ["10.9.1.7"], "address": "10.9.1.7"}, 400, "given twice"),
    ({"additional_addresses": [f"10.9.1.{n}" for n in range(100, 117)]}, 400, "too many"),
    ({"additional_addresses": ["10.9.1.7/24"]}, 400, "not an IP address"),
]


@pytest.mark.parametrize(("request_", "status", "reason"), WRONG)
def test_impossible_addresses_are_refused(
    daemon: RunningDaemon, request_: dict[str, JSON], status: int, reason: str
) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24")
    with pytest.raises(RefusedError, match=reason) as refused:
        daemon.api.endpoint("foo", "web", **request_)
    assert refused.value.status == status


def test_network_without_subnets_refuses_them(daemon: RunningDaemon) -> None:
    with pytest.raises(RefusedError, match="no_such_family"):
        daemon.api.endpoint("host", "web", additional_addresses=["10.9.1.7"])


def test_network_with_leased_addresses_refuses_them(daemon: RunningDaemon) -> None:
    daemon.api.network("lan", "macvlan", parent="uplink", ipam_driver="dhcp")
    with pytest.raises(RefusedError, match=r"no IPv4 subnet for 198\.51\.100\.77"):
        daemon.api.endpoint("lan", "web", additional_addresses=["198.51.100.77"])


def test_endpoint_with_them_has_one_container(daemon: RunningDaemon, web: Sandbox) -> None:
    with pytest.raises(RefusedError, match="already_joined"):
        daemon.api.post("/services/web/backend", container_id="second")
    assert len(daemon.api.reported("foo", "web")["backends"]) == 1


def test_published_ports_lead_to_the_primary_address(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", **FOO)
    web = daemon.sandbox("foo", "web", mapping(80, 8080), additional_addresses=MORE)
    web.serve("primary", 80, address=web.address)
    web.serve("additional", 80, address=MORE[0])
    assert daemon.outside.ask("198.51.100.1", 8080).server == "primary"
    client = daemon.sandbox("foo", "client")
    assert client.ask(MORE[0], 80).server == "additional"


def test_answers_leave_by_the_network_of_the_address(daemon: RunningDaemon, web: Sandbox) -> None:
    """A sandbox on two networks, the other of which has the default route."""
    daemon.api.network("bar", subnet="10.9.2.0/24")
    daemon.api.endpoint("bar", "web")
    daemon.api.join("bar", "web", web.container, gateway_priority=1)
    web.serve("web", 80, address=MORE[0])
    assert daemon.here.ask(MORE[0], 80).server == "web"
    assert "10.9.1.50" in web.sh("ip", "rule")
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_joined_namespace_is_given_back_without_them(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", **FOO)
    container = daemon.host.container()
    daemon.api.endpoint("foo", "web", additional_addresses=MORE)
    web = daemon.attach("foo", "web", "mine", netns=container.path)
    client = daemon.sandbox("foo", "client")
    assert all(client.reaches(address) for address in every(web))
    daemon.api.leave("foo", "web", "mine")
    assert "10.9.1" not in daemon.host.sh("ip", "address", namespace=container.path)


def test_macvlan_interface_has_them(daemon: RunningDaemon) -> None:
    daemon.api.network("lan", "macvlan", **SEGMENT)
    web = daemon.sandbox("lan", "web", additional_addresses=["198.51.100.77"])
    assert daemon.outside.reaches("198.51.100.77")

    def reported() -> str:
        web.sh("ip", "address", "flush", "dev", "eth0", "to", "198.51.100.77/32")
        return str(daemon.api.post("/reconcile", fix=True)["drift"])

    eventually(lambda: "198.51.100.77 is not on eth0" in reported())  # or the daemon repaired it first
    assert daemon.outside.reaches("198.51.100.77")
    daemon.kill()
    web.sh("ip", "address", "del", "198.51.100.77/32", "dev", "eth0")
    daemon.start()
    assert "198.51.100.77/32" in addresses(web)


def test_names_lead_to_primary_addresses_and_all_lead_back(daemon: RunningDaemon, web: Sandbox) -> None:
    client = daemon.sandbox("foo", "client")
    assert dig(client, "web") == found(web.address)
    for address in every(web):
        assert client.sh("dig", "+short", "-x", address, "@127.0.0.11").strip() == "web.foo."
    assert "web.foo" in daemon.cli("dns", "--from", client.container, MORE[0])
    daemon.kill_resolvers()
    command = f"dig +short -x {MORE[0]} @127.0.0.11 || true"
    eventually(lambda: client.sh("sh", "-c", command).strip() == "web.foo.", WITHIN)


@needs_taps
def test_machine_uses_its_additional_addresses(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", **FOO)
    client = daemon.sandbox("foo", "client")
    daemon.api.endpoint("foo", "vm", additional_addresses=MORE)
    tap = daemon.api.post("/networks/foo/endpoints/vm/containers", container_id="vm-1", type="tap")
    assert tap["additional_addresses"] == ["10.9.1.50/24", "10.9.1.51/24", "fd00:9:1::50/64"]
    descriptor = daemon.host.run(open_tap, tap["device"])
    guest = OtherStack(daemon.host, descriptor, tap["mac"], tap["address"], tap["address_ipv6"], *ON_INTERFACE)
    daemon.stack.callback(guest.close)
    eventually(lambda: all(client.reaches(address) for address in MORE), WITHIN)
    for own, gateway in ((MORE[1], "10.9.1.1"), (MORE[2], "fd00:9:1::1")):
        assert guest.sh("dig", f"@{gateway}", "-b", own, "+short", "client").strip() == client.address


def test_command_line_takes_several_addresses(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", **FOO)
    words = [f"--ip{'6' if ':' in each else ''}={each}" for each in ("10.9.1.9", "fd00:9:1::9", *MORE)]
    daemon.cli("service", "publish", *words, "web.foo")
    reported = daemon.api.reported("foo", "web")
    assert (reported["address"], reported["address_ipv6"]) == ("10.9.1.9/24", "fd00:9:1::9/64")
    assert reported["additional_addresses"] == ["10.9.1.50/24", "10.9.1.51/24", "fd00:9:1::50/64"]
    daemon.api.delete("/networks/foo/endpoints/web")
    found = daemon.cli("run", "--net", "foo", *words, "--", "ip", "-br", "address", "show", "dev", "eth0")
    assert all(address in found for address in ("10.9.1.9/24", "fd00:9:1::9/64", *ON_INTERFACE))
