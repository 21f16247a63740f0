"""Options of a join for its interface: a name, static routes, kernel parameters."""

from __future__ import annotations

import json

import pytest

from tests.support.daemon import JSON, RefusedError, RunningDaemon
from tests.support.network_host import eventually

WITHIN = 20.0
"""Seconds in which a repair is done even on a busy machine; the next comparison of everything takes longer to come."""
RP_FILTER, MLD = "net.ipv4.conf.IFNAME.rp_filter", "net.ipv6.conf.IFNAME.force_mld_version"


def test_interface_is_named_as_requested(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24")
    web = daemon.sandbox("foo", "web", join={"interface": "front.0"})
    assert "front.0" in web.sh("ip", "-br", "link")
    daemon.api.endpoint("foo", "more")
    second = daemon.attach("foo", "more", web.container)
    assert "eth0" in second.sh("ip", "-br", "link")
    daemon.api.endpoint("foo", "third")
    with pytest.raises(RefusedError, match="interface_taken"):
        daemon.api.join("foo", "third", web.container, interface="eth0")
    assert daemon.here.reaches(web.address)


def test_routes_lead_through_a_neighbour(daemon: RunningDaemon) -> None:
    """A neighbour that routes: a VPN gateway, or a router of virtual machines."""
    daemon.api.network("foo", subnet="10.9.1.0/24", ipv6=True, subnet_ipv6="fd00:9:1::/64", anti_spoofing=False)
    router = daemon.sandbox("foo", "router")
    router.sh("ip", "address", "add", "10.77.0.1/32", "dev", "lo")
    router.sh("ip", "-6", "address", "add", "fd00:77::1/128", "dev", "lo")
    for destination, gateway in (("10.77.0.0/16", router.address), ("fd00:77::/64", router.address6)):
        daemon.host.sh("ip", "route", "add", destination, "via", gateway)  # under br_netfilter the host must know it
    routes = [
        {"destination": "10.77.0.0/16", "gateway": router.address},
        {"destination": "fd00:77::/64", "gateway": router.address6},
    ]
    web = daemon.sandbox("foo", "web", join={"routes": routes})
    router.serve("far", 80, address="10.77.0.1")
    router.serve("far6", 80, address="fd00:77::1")
    assert web.ask("10.77.0.1", 80).server == "far"
    assert web.ask("fd00:77::1", 80).server == "far6"
    web.sh("ip", "route", "del", "10.77.0.0/16")
    eventually(lambda: "10.77.0.0/16" in web.sh("ip", "route"), WITHIN)
    daemon.kill()
    web.sh("ip", "-6", "route", "del", "fd00:77::/64")
    daemon.start()
    assert "fd00:77::/64" in web.sh("ip", "-6", "route")
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_network_gives_its_routes_to_all(daemon: RunningDaemon) -> None:
    daemon.cli("network", "create", "--subnet", "10.9.1.0/24", "-o", "routes=10.77.0.0/16=10.9.1.7,10.78.0.0/16", "foo")
    web, db = daemon.sandbox("foo", "web"), daemon.sandbox("foo", "db")
    for place in (web, db):
        found = place.sh("ip", "route")
        assert "10.77.0.0/16 via 10.9.1.7 dev eth0" in found
        assert "10.78.0.0/16 dev eth0" in found
    file = daemon.folder / "all.yaml"
    file.write_text(daemon.cli("export"))
    assert daemon.cli("apply", "-f", str(file), "--dry-run") == ""
    options = daemon.api.get("/v1.44/networks/foo")["Options"]
    assert options["routes"] == "10.77.0.0/16=10.9.1.7,10.78.0.0/16"


def test_parameters_are_set_and_kept(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    web = daemon.sandbox("foo", "web", join={"interface": "a.b", "sysctls": {RP_FILTER: 2, MLD: "1"}})

    def value(path: str) -> str:
        return web.sh("cat", f"/proc/sys/net/{path}").strip()

    assert (value("ipv4/conf/a.b/rp_filter"), value("ipv6/conf/a.b/force_mld_version")) == ("2", "1")

    def reported() -> str:
        web.sh("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/a.b/rp_filter")
        return str(daemon.api.post("/reconcile", fix=True)["drift"])

    eventually(lambda: "rp_filter is 0, not 2" in reported())  # or the daemon repaired it first
    assert value("ipv4/conf/a.b/rp_filter") == "2"
    daemon.kill()
    web.sh("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/a.b/rp_filter")
    daemon.start()
    assert daemon.api.post("/reconcile", fix=True) is not None
    assert value("ipv4/conf/a.b/rp_filter") == "2"


def test_command_line_passes_the_options_on(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24")
    daemon.cli("service", "publish", "web.foo")
    words = ("--interface", "wan0", "--route", "10.77.0.0/16=10.9.1.7", "--sysctl", f"{RP_FILTER}=2")
    place = daemon.place(daemon.cli("service", "attach", *words, "web-1", "web.foo").strip())
    (route,) = json.loads(place.sh("ip", "-j", "route", "show", "10.77.0.0/16"))
    assert (route["gateway"], route["dev"]) == ("10.9.1.7", "wan0")
    assert place.sh("cat", "/proc/sys/net/ipv4/conf/wan0/rp_filter").strip() == "2"


def test_docker_connects_with_parameters(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.network("bar")
    web = daemon.sandbox("foo", "web")
    options = {"com.docker.network.endpoint.sysctls": f"{RP_FILTER}=2,net.ipv4.conf.IFNAME.log_martians=1"}
    daemon.api.post("/v1.44/networks/bar/connect", Container=web.container, EndpointConfig={"DriverOpts": options})
    assert web.sh("cat", "/proc/sys/net/ipv4/conf/eth1/rp_filter").strip() == "2"
    assert web.sh("cat", "/proc/sys/net/ipv4/conf/eth1/log_martians").strip() == "1"


WRONG: list[dict[str, JSON]] = [
    {"interface": "../lo"},
    {"interface": "lo"},
    {"interface": "all"},
    {"interface": "a" * 16},
    {"routes": [{"destination": "0.0.0.0/0", "gateway": "10.9.1.1"}]},
    {"routes": [{"destination": "::/0"}]},
    {"routes": [{"destination": "10.9.1.128/25"}]},
    {"routes": [{"destination": "10.0.0.0/8"}]},
    {"routes": [{"destination": "10.77.0.0/16", "gateway": "10.9.2.1"}]},
    {"routes": [{"destination": "10.77.0.0/16", "gateway": "fd00::1"}]},
    {"routes": [{"destination": "fd00:77::/64"}]},
    {"routes": [{"destination": "127.0.0.0/8"}]},
    {"routes": [{"destination": "127.0.0.11/32", "gateway": "10.9.1.7"}]},
    {"routes": [{"destination": "224.0.0.0/4"}]},
    {"routes": [{"destination": "nowhere"}]},
    {"routes": [{"destination": "10.77.0.0/16"}, {"destination": "10.77.0.0/16", "gateway": "10.9.1.7"}]},
    {"routes": [{"destination": f"10.77.{n}.0/24"} for n in range(65)]},
    {"sysctls": {"net.ipv4.ip_forward": "1"}},
    {"sysctls": {"net.ipv4.conf.all.forwarding": "1"}},
    {"sysctls": {"net.ipv4.conf.IFNAME.arp_ignore": "0"}},
    {"sysctls": {"net.ipv6.conf.IFNAME.disable_ipv6": "1"}},
    {"sysctls": {"net.ipv4.conf.IFNAME.../../kernel/panic": "1"}},
    {"sysctls": {"net/ipv4/conf/IFNAME/rp_filter": "1"}},
    {"sysctls": {"kernel.panic": "1"}},
    {"sysctls": {RP_FILTER: "1; reboot"}},
    {"sysctls": {RP_FILTER: True}},
    {"type": "tap", "sysctls": {RP_FILTER: "1"}},
]


def test_wrong_options_are_refused_and_nothing_is_left(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24")
    daemon.api.endpoint("foo", "web")
    for wrong in WRONG:
        with pytest.raises(RefusedError):
            daemon.api.join("foo", "web", "c1", **wrong)
    with pytest.raises(RefusedError):  # the kernel has no such value
        daemon.api.join("foo", "web", "c1", sysctls={"net.ipv6.conf.IFNAME.hop_limit": "4000"})
    assert daemon.api.get("/sandboxes") == []
    daemon.api.endpoint("none", "web")
    with pytest.raises(RefusedError, match="no_interface"):
        daemon.api.join("none", "web", "c2", sysctls={RP_FILTER: "1"})


@pytest.mark.parametrize(
    "routes",
    [
        [{"destination": "10.77.0.0/16", "gateway": "10.9.2.1"}],
        "10.77.0.0/16=10.9.2.1",
        "0.0.0.0/0",
        {"10.77.0.0/16": None},
    ],
)
def test_wrong_routes_of_networks_are_refused(daemon: RunningDaemon, routes: JSON) -> None:
    with pytest.raises(RefusedError):
        daemon.api.network("foo", subnet="10.9.1.0/24", routes=routes)
