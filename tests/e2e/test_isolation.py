"""Networks are apart, and no sandbox sends with another's address."""

from __future__ import annotations

import socket

import pytest

from tests.support.daemon import HOST_ADDRESS, OUTSIDE_ADDRESS, RefusedError, RunningDaemon, Sandbox, mapping
from tests.support.traffic import DOUBT, UDP, ask_again


@pytest.fixture
def apart(daemon: RunningDaemon) -> tuple[Sandbox, Sandbox]:
    """Two sandboxes on two networks, each serving at port 80."""
    sandboxes = []
    for name in ("foo", "bar"):
        daemon.api.network(name, ipv6=True)
        sandbox = daemon.sandbox(name, name)
        sandbox.serve(name, 80)
        sandbox.serve(name, 80, UDP)
        sandbox.serve(name, 80, address="::")
        sandboxes.append(sandbox)
    return sandboxes[0], sandboxes[1]


def test_networks_are_isolated_from_each_other(apart: tuple[Sandbox, Sandbox]) -> None:
    one, two = apart
    for caller, called in ((one, two), (two, one)):
        assert not caller.reaches(called.address, DOUBT)
        assert not caller.reaches(called.address6, DOUBT)
        assert caller.is_refused(called.address, 80)
        assert caller.is_refused(called.address, 80, UDP)
        assert caller.is_refused(called.address6, 80)


def test_predefined_bridge_is_isolated_from_other_networks(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    one, two = daemon.sandbox("bridge", "one"), daemon.sandbox("foo", "two")
    two.serve("two", 80)
    assert one.is_refused(two.address, 80)
    assert one.reaches(OUTSIDE_ADDRESS)


def test_published_port_is_closed_on_the_sandbox_address(daemon: RunningDaemon, apart: tuple[Sandbox, Sandbox]) -> None:
    one, _ = apart
    web = daemon.sandbox("bar", "web", mapping(81, 8080))
    web.serve("web", 81)
    assert one.is_refused(web.address, 81)
    assert one.ask(HOST_ADDRESS, 8080).server == "web"


def test_internal_sandbox_cannot_reach_a_published_port(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", internal=True)
    daemon.api.network("bar")
    web = daemon.sandbox("bar", "web", mapping(80, 8080))
    web.serve("web", 80)
    sandbox = daemon.sandbox("foo", "one")
    sandbox.sh("ip", "route", "add", "default", "dev", "eth0")
    assert sandbox.is_refused(HOST_ADDRESS, 8080)
    assert daemon.outside.is_refused(sandbox.address, 80)


def test_icc_disabled_keeps_published_ports_open_to_outside(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo", icc=False)
    web, other = daemon.sandbox("foo", "web", mapping(80, 8080)), daemon.sandbox("foo", "other")
    web.serve("web", 80)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).address == OUTSIDE_ADDRESS
    assert other.is_refused(web.address, 80)


def test_sandbox_on_two_networks_does_not_route_between_them(daemon: RunningDaemon) -> None:
    for name in ("foo", "bar"):
        daemon.api.network(name)
    middle = daemon.sandbox("foo", "middle")
    second = daemon.api.endpoint("bar", "middle")
    daemon.attach("bar", second, middle.container)
    one, two = daemon.sandbox("foo", "one"), daemon.sandbox("bar", "two")
    assert one.reaches(middle.address)
    assert two.reaches(daemon.api.reported("bar", "middle")["address"].partition("/")[0])
    assert not one.reaches(two.address, DOUBT)


def test_join_through_the_wrong_network_returns_404(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.network("bar")
    endpoint = daemon.api.endpoint("foo", "one")
    with pytest.raises(RefusedError) as refused:
        daemon.api.join("bar", endpoint, "c1")
    assert refused.value.status == 404


def test_flows_of_a_deleted_network_do_not_enter_its_successor(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/24")
    server = daemon.outside.serve("far", 7000, UDP)
    sandbox = daemon.sandbox("foo", "one", address="10.9.0.9")
    assert sandbox.ask(OUTSIDE_ADDRESS, 7000, UDP, source_port=5555).server == "far"
    daemon.api.clear()
    daemon.api.network("foo", subnet="10.9.0.0/24", internal=True)
    sandbox = daemon.sandbox("foo", "one", address="10.9.0.9")
    sandbox.sh("ip", "route", "add", "default", "via", "10.9.0.1")
    with sandbox.bound("0.0.0.0", UDP, 5555) as client:
        client.settimeout(DOUBT)
        client.connect((OUTSIDE_ADDRESS, 7000))
        with pytest.raises(TimeoutError):
            ask_again(client)
    server.close()


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("target", ["239.1.1.1", "255.255.255.255", "ff15::1"])
def test_broadcast_and_multicast_reach_the_neighbour(daemon: RunningDaemon, target: str, internal: bool) -> None:
    daemon.api.network("foo", ipv6=True, internal=internal)
    sender, hearer = daemon.sandbox("foo", "sender"), daemon.sandbox("foo", "hearer")
    family = socket.AF_INET6 if ":" in target else socket.AF_INET

    def listening() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(5)
        made.bind(("", 5353))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(family, target) + bytes(4))
        elif target.startswith("239"):
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(target) + bytes(4))
        return made

    def printed() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.sendto(b"all", (target, 5353))

    with daemon.host.inside(hearer.namespace, listening) as received:
        daemon.host.inside(sender.namespace, printed)
        assert received.recv(9) == b"all"


def test_multicast_follows_the_default_route_after_second_join(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("in", internal=True)
    daemon.api.network("out")
    sandbox = daemon.sandbox("in", "one")
    assert "224.0.0.0/4 dev eth0" in sandbox.sh("ip", "route")
    daemon.api.post("/services", name="two", network_name="out")
    daemon.api.post("/services/two/backend", container_id=sandbox.container)
    assert "224.0.0.0/4" not in sandbox.sh("ip", "route")
    daemon.api.delete(f"/services/two/backend/{sandbox.container}")
    assert "224.0.0.0/4 dev eth0" in sandbox.sh("ip", "route")
