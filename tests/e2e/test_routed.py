"""Networks whose subnets other hosts route to this one: nothing is translated, and published ports alone are open."""

from __future__ import annotations

import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    JSON,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    RunningDaemon,
    Sandbox,
    mapping,
)
from tests.support.traffic import TCP, UDP

SUBNETS = {"subnet": "10.9.1.0/24", "subnet_ipv6": "fd00:9:1::/64"}
ROUTED = {"routed_ipv4": True, "routed_ipv6": True}
LABEL = "com.docker.network.bridge.gateway_mode_ipv"


@pytest.fixture
def web(daemon: RunningDaemon) -> Sandbox:
    """A container of a routed network, with two published ports and a third that is not."""
    daemon.api.network("foo", "bridge", **SUBNETS, **ROUTED)
    made = daemon.sandbox("foo", "web", mapping(80, 8080), mapping(53, 8053, UDP))
    route_to(daemon)
    serve(made)
    return made


def route_to(daemon: RunningDaemon) -> None:
    """The machine outside knows the way to the subnets, as a router does."""
    daemon.outside.sh("ip", "route", "replace", SUBNETS["subnet"], "via", HOST_ADDRESS)
    daemon.outside.sh("ip", "-6", "route", "replace", SUBNETS["subnet_ipv6"], "via", HOST_ADDRESS6)


def serve(place: Sandbox) -> None:
    for address in (place.address, place.address6):
        place.serve("web", 80, address=address)
        place.serve("names", 53, UDP, address=address)
        place.serve("secret", 81, address=address)


def check_open(daemon: RunningDaemon, web: Sandbox) -> None:
    """Published ports and pings arrive at the container's own addresses, and nothing else does."""
    for address, client in ((web.address, OUTSIDE_ADDRESS), (web.address6, OUTSIDE_ADDRESS6)):
        assert daemon.outside.ask(address, 80)[:2] == ("web", client)
        assert daemon.outside.ask(address, 53, UDP).server == "names"
        assert daemon.outside.reaches(address)
        assert daemon.outside.is_refused(address, 81)


def test_published_ports_are_reached_at_the_container(daemon: RunningDaemon, web: Sandbox) -> None:
    check_open(daemon, web)
    assert daemon.outside.is_refused(HOST_ADDRESS, 8080)
    bound = daemon.here.bound("0.0.0.0", TCP, 8080)
    bound.listen()


def test_routed_containers_keep_their_addresses_outside(daemon: RunningDaemon, web: Sandbox) -> None:
    for own, far in ((web.address, OUTSIDE_ADDRESS), (web.address6, OUTSIDE_ADDRESS6)):
        daemon.outside.serve("far", 7000, address=far)
        assert web.ask(far, 7000).address == own


def test_other_networks_reach_published_ports_only(daemon: RunningDaemon, web: Sandbox) -> None:
    daemon.api.network("bar", subnet="10.9.2.0/24", subnet_ipv6="fd00:9:2::/64")
    daemon.api.network("inner", subnet="10.9.3.0/24", internal=True)
    other, inner = daemon.sandbox("bar", "other"), daemon.sandbox("inner", "inner")
    other.serve("other", 80)
    for address in (web.address, web.address6):
        assert other.ask(address, 80).server == "web"
        assert other.is_refused(address, 81)
    assert web.is_refused(other.address, 80)
    assert inner.is_refused(web.address, 80)


def test_neighbours_and_host_reach_every_port(daemon: RunningDaemon, web: Sandbox) -> None:
    db = daemon.sandbox("foo", "db")
    assert db.ask(web.address, 81).server == "secret"
    assert daemon.here.ask(web.address6, 81).server == "secret"


def test_ports_stay_open_over_a_kill_and_a_repair(daemon: RunningDaemon, web: Sandbox) -> None:
    daemon.kill()
    daemon.start()
    check_open(daemon, web)
    daemon.host.sh("nft", "flush", "set", "inet", "sandnet", "direct4")
    daemon.api.post("/reconcile", fix=True)
    check_open(daemon, web)


def test_ports_close_with_their_endpoint(daemon: RunningDaemon, web: Sandbox) -> None:
    daemon.api.leave("foo", "web", web.container)
    daemon.api.delete("/services/web")
    table = daemon.host.sh("nft", "list", "table", "inet", "sandnet")
    assert web.address not in table
    assert web.address6 not in table


def test_one_family_may_be_routed_alone(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", **SUBNETS, **{f"{LABEL}6": "routed", f"{LABEL}4": "nat"})
    web = daemon.sandbox("foo", "web", mapping(80, 8080))
    route_to(daemon)
    serve(web)
    assert daemon.outside.ask(web.address6, 80).server == "web"
    assert daemon.outside.is_refused(web.address, 80)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    reported = daemon.api.reported("foo", "web")
    assert [port["host_ip"] for port in reported["port_mapping"]] == ["0.0.0.0"]
    assert reported["direct_ports"] == [{"proto": TCP, "address": web.address6, "port": 80}]


def test_applied_and_exported_routed_service_does_not_change(daemon: RunningDaemon) -> None:
    daemon.cli("network", "create", "--subnet", "10.9.1.0/24", "--routed", "foo")
    daemon.cli("service", "publish", "-p", "8080:80", "web.foo")
    assert daemon.cli("service", "port", "web.foo").strip() == "10.9.1.2:80/tcp"
    file = daemon.folder / "all.yaml"
    file.write_text(daemon.cli("export"))
    assert "80:80/tcp" in file.read_text()
    assert daemon.cli("apply", "-f", str(file), "--dry-run") == ""


@pytest.mark.parametrize(
    "options",
    [
        {"internal": True, "routed_ipv4": True},
        {"firewall": False, "routed_ipv6": True},
        {"egress_ipv4": HOST_ADDRESS, "routed_ipv4": True},
        {f"{LABEL}4": "isolated"},
        {f"{LABEL}4": "routed", "routed_ipv4": False},
    ],
)
def test_contradictions_of_routed_networks_are_refused(daemon: RunningDaemon, options: JSON) -> None:
    with pytest.raises(RefusedError):
        daemon.api.network("foo", **options)


def test_docker_shows_the_gateway_mode(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24", routed_ipv4=True)
    options = daemon.api.get("/v1.44/networks/foo")["Options"]
    assert options == {f"{LABEL}4": "routed"}
