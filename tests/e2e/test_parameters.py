"""Kernel parameters that others set: put right where they are ours, reported where they are not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, RunningDaemon, mapping
from tests.support.daemon_pair import DaemonPair
from tests.support.network_host import eventually
from tests.support.traffic import Place, until

pytestmark = pytest.mark.timeout(120)

PORT = 8080
TWICE = 2
"""Harms one after the other: one may meet the comparison of everything, the next of which is a minute later."""


def value(place: Place, name: str) -> str:
    return place.sh("sysctl", "-n", name).strip()


def bridge_of(daemon: RunningDaemon, network: str) -> str:
    return f"snb{daemon.api.reported(network)['id'][:10]}"


def answers(daemon: RunningDaemon) -> bool:
    outside = all(daemon.outside.ask(host, PORT).server == "web" for host in (HOST_ADDRESS, HOST_ADDRESS6))
    return outside and not daemon.here.is_refused("127.0.0.1", PORT)


@pytest.fixture(scope="module", autouse=True)
def own_daemon(daemons: DaemonPair) -> Iterator[None]:
    """Give the tests after these another daemon: this one remembers for a minute how often it repaired a network."""
    yield
    daemons.end()


@pytest.fixture
def parameters(daemon: RunningDaemon) -> Iterator[RunningDaemon]:
    """A host whose parameters of new links are as they were afterwards."""
    names = ("net.ipv4.conf.default.forwarding", "net.ipv6.conf.default.disable_ipv6", "net.ipv6.conf.all.disable_ipv6")
    before = {name: value(daemon.here, name) for name in names}
    yield daemon
    for name, was in before.items():
        daemon.host.sh("sysctl", "-qw", f"{name}={was}")
    daemon.host.sh("sysctl", "-qw", "net.ipv6.conf.uplink.disable_ipv6=0", "net.ipv6.conf.lo.disable_ipv6=0")
    if HOST_ADDRESS6 not in daemon.host.sh("ip", "address", "show", "uplink"):
        daemon.host.sh("ip", "address", "add", f"{HOST_ADDRESS6}/64", "dev", "uplink", "nodad")
    if "::1/128" not in daemon.host.sh("ip", "address", "show", "lo"):
        daemon.host.sh("ip", "address", "add", "::1/128", "dev", "lo")
    daemon.api.post("/reconcile", fix=True)  # what these have done to the links


def serving(daemon: RunningDaemon) -> Place:
    daemon.api.network("foo", ipv6=True)
    sandbox = daemon.sandbox("foo", "web", mapping(80, PORT))
    for address in ("0.0.0.0", "::"):
        sandbox.serve("web", 80, address=address)
    return sandbox


@pytest.mark.parametrize(
    "parameter",
    [
        "ipv4.conf.{}.forwarding=0",
        "ipv6.conf.{}.disable_ipv6=1",
        "ipv4.conf.{}.route_localnet=0",
        "ipv6.conf.{}.accept_ra=1",
    ],
)
def test_changed_bridge_parameter_is_repaired(parameters: RunningDaemon, parameter: str) -> None:
    serving(parameters)
    eventually(lambda: answers(parameters))
    name, _, harm = f"net.{parameter}".format(bridge_of(parameters, "foo")).partition("=")
    for _ in range(TWICE):
        parameters.host.sh("sysctl", "-qw", f"{name}={harm}")
        until(lambda: value(parameters.here, name) != harm and answers(parameters))


def test_ipv6_enabled_on_a_bridge_without_ipv6_is_disabled_again(parameters: RunningDaemon) -> None:
    """Else its sandboxes reach the host by a link-local address that no network has."""
    parameters.api.network("foo")
    name = f"net.ipv6.conf.{bridge_of(parameters, 'foo')}.disable_ipv6"
    for _ in range(TWICE):
        parameters.host.sh("sysctl", "-qw", f"{name}=0")
        until(lambda: value(parameters.here, name) == "1")


@pytest.mark.parametrize("harm", ["type bridge mcast_snooping 1", "address 02:00:00:00:00:99"])
def test_changed_bridge_link_is_repaired(parameters: RunningDaemon, harm: str) -> None:
    serving(parameters)
    link = bridge_of(parameters, "foo")

    def look() -> tuple[str, str]:
        found = json.loads(parameters.host.sh("ip", "-d", "-j", "link", "show", link))[0]
        return found["address"], found["linkinfo"]["info_data"]["mcast_snooping"]

    before = look()
    for _ in range(TWICE):
        parameters.host.sh("ip", "link", "set", link, *harm.split())
        until(lambda: look() == before and answers(parameters))


def test_ipv6_disabled_on_all_links_is_restored_on_our_bridges(
    parameters: RunningDaemon,
) -> None:
    sandbox = serving(parameters)
    parameters.host.sh("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    gateway = parameters.api.reported("foo")["gateways"][1]
    until(lambda: sandbox.reaches(gateway), 20)
    assert value(parameters.here, "net.ipv6.conf.uplink.disable_ipv6") == "1", "the uplink is not ours"


def test_network_is_made_where_ipv6_is_disabled_on_all_links(parameters: RunningDaemon) -> None:
    """The kernel refuses the route for questions at gateways until the loopback interface has IPv6."""
    parameters.host.sh("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    sandbox = serving(parameters)
    assert sandbox.reaches(parameters.api.reported("foo")["gateways"][1])
    local = ("ip", "-6", "route", "show", "table", "local", "fd03:6e7a:5ec3::/64")
    assert not parameters.host.sh(*local)
    parameters.host.sh("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")
    until(lambda: bool(parameters.host.sh(*local)), 20)


def test_unfit_default_link_parameters_do_not_break_a_network(
    parameters: RunningDaemon,
) -> None:
    for harm in ("net.ipv4.conf.default.forwarding=0", "net.ipv6.conf.default.disable_ipv6=1"):
        parameters.host.sh("sysctl", "-qw", harm)
    serving(parameters)
    eventually(lambda: answers(parameters))


def test_ipv6_disabled_inside_a_sandbox_is_restored(
    parameters: RunningDaemon,
) -> None:
    sandbox = serving(parameters)
    sandbox.sh("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    until(lambda: value(sandbox, "net.ipv6.conf.eth0.disable_ipv6") == "0" and answers(parameters), 20)


def test_adopted_bridge_gets_its_forwarding_parameter_back(
    parameters: RunningDaemon,
) -> None:
    sh = parameters.host.sh
    sh("sysctl", "-qw", "net.ipv4.ip_forward=1")
    sh("ip", "link", "add", "theirs0", "type", "bridge")
    try:
        sh("ip", "address", "add", "10.9.9.1/24", "dev", "theirs0")
        sh("sysctl", "-qw", "net.ipv4.conf.theirs0.forwarding=0")
        parameters.api.network("foo", bridge_name="theirs0")
        parameters.sandbox("foo", "web", mapping(80, PORT)).serve("web", 80)
        assert parameters.outside.ask(HOST_ADDRESS, PORT).server == "web"
        parameters.api.clear()
        assert value(parameters.here, "net.ipv4.conf.theirs0.forwarding") == "0"
    finally:
        sh("ip", "link", "delete", "theirs0")


def test_correct_read_only_parameters_are_not_written(
    fresh_daemon: RunningDaemon,
) -> None:
    sh = fresh_daemon.host.sh
    for right in (
        "ipv4.ip_forward=1", "ipv4.conf.all.route_localnet=1", "ipv4.conf.default.route_localnet=1",
        "ipv6.conf.default.accept_ra=0", "ipv6.conf.default.disable_ipv6=1",
    ):  # fmt: skip
        sh("sysctl", "-qw", f"net.{right}")
    sh("mount", "--bind", "/proc/sys", "/proc/sys")
    sh("mount", "-o", "remount,bind,ro", "/proc/sys")
    fresh_daemon.start()
    fresh_daemon.api.network("foo")
    fresh_daemon.sandbox("foo", "web", mapping(80, PORT)).serve("web", 80)
    assert fresh_daemon.outside.ask(HOST_ADDRESS, PORT).server == "web"
    eventually(lambda: fresh_daemon.api.get("/healthz")["problems"] == [])
    fresh_daemon.down()


def test_health_names_wrong_read_only_parameters(fresh_daemon: RunningDaemon) -> None:
    fresh_daemon.host.sh("mount", "--bind", "/proc/sys", "/proc/sys")
    fresh_daemon.host.sh("mount", "-o", "remount,bind,ro", "/proc/sys")
    fresh_daemon.start()
    assert any("net/ipv4/ip_forward is 0, not 1" in each for each in fresh_daemon.api.get("/healthz")["problems"])
    reported = {each["object"]: each["problem"] for each in fresh_daemon.api.post("/reconcile", fix=True)["drift"]}
    assert reported["net/ipv4/ip_forward"] == "is 0, not 1"


def test_health_names_what_ipv6_lacks_in_read_only_parameters(
    fresh_daemon: RunningDaemon,
) -> None:
    """A part of the tree may be read-only."""
    sh = fresh_daemon.host.sh
    sh("sysctl", "-qw", "net.ipv6.conf.default.accept_ra=0", "net.ipv6.conf.default.disable_ipv6=1")
    sh("mount", "--bind", "/proc/sys/net/ipv6", "/proc/sys/net/ipv6")
    sh("mount", "-o", "remount,bind,ro", "/proc/sys/net/ipv6")
    fresh_daemon.start()
    eventually(lambda: fresh_daemon.api.get("/healthz")["problems"] == [], 20)  # once the resolver has started
    (bridge,) = [each for each in fresh_daemon.api.get("/healthz")["drivers"] if each["name"] == "bridge"]
    assert bridge["available"]
    assert "net/ipv6/conf/all/forwarding is 0, not 1" in bridge["reason"]
    assert "net/ipv6/conf/default/disable_ipv6 is 1, not 0" in bridge["reason"]
    fresh_daemon.api.network("foo")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_non_forwarding_uplink_is_reported_and_left_alone(daemon: RunningDaemon, family: str) -> None:
    daemon.api.network("foo", ipv6=True)
    name, sh = f"net/{family}/conf/uplink/forwarding", daemon.host.sh
    version, gateway = ("-4", OUTSIDE_ADDRESS) if family == "ipv4" else ("-6", OUTSIDE_ADDRESS6)

    def is_reported() -> bool:
        return any(name in each for each in daemon.api.get("/healthz")["problems"])

    sh("ip", version, "route", "add", "default", "via", gateway, "metric", "4711")
    sh("sysctl", "-qw", f"{name}=0")
    try:
        assert name in [each["object"] for each in daemon.api.post("/reconcile", fix=True)["drift"]]
        assert is_reported(), "health knows what the comparison found"
        assert value(daemon.here, name) == "0"
    finally:
        sh("sysctl", "-qw", f"{name}=1")
        sh("ip", version, "route", "del", "default", "metric", "4711")
    until(lambda: not is_reported())


WAYS = {
    "of several ways": ("4", "default metric 4712 nexthop via {gateway} dev uplink nexthop dev spare"),
    "without a gateway": ("4", "default dev uplink metric 4712"),
    "in a table of its own": ("4", "default via {gateway} table 4712"),
    "of two halves": ("4", "128.0.0.0/1 via {gateway} metric 4712"),
    "by a nexthop object": ("4", "default nhid 4712 metric 4712"),
    "of IPv6, of several ways": (
        "6",
        "default metric 4712 nexthop via {gateway} dev uplink nexthop via fe80::9 dev spare",
    ),
    "of IPv6, without a gateway": ("6", "default dev uplink metric 4712"),
}


@pytest.mark.parametrize("way", WAYS)
def test_doctor_reports_a_non_forwarding_default_route_link(daemon: RunningDaemon, way: str) -> None:
    version, route = WAYS[way]
    gateway = OUTSIDE_ADDRESS if version == "4" else OUTSIDE_ADDRESS6
    name, sh = f"net/ipv{version}/conf/uplink/forwarding", daemon.host.sh
    words = route.format(gateway=gateway).split()
    daemon.api.network("foo", ipv6=True)
    sh("ip", "link", "add", "spare", "up", "type", "veth", "peer", "name", "spare-end")
    sh("ip", "link", "set", "spare-end", "up")
    sh("ip", "nexthop", "add", "id", "4712", "via", OUTSIDE_ADDRESS, "dev", "uplink")
    sh("ip", f"-{version}", "route", "add", *words)
    sh("sysctl", "-qw", f"{name}=0")
    try:
        reported = {each["object"]: each["reason"] for each in daemon.api.post("/reconcile", fix=False)["drift"]}
        assert ("no router" if version == "6" else "drops") in reported[name]
    finally:
        sh("sysctl", "-qw", f"{name}=1")
        sh("ip", f"-{version}", "route", "del", *words)
        sh("ip", "nexthop", "del", "id", "4712")
        sh("ip", "link", "del", "spare")
