"""The address that traffic of sandboxes bears outside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

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
)
from tests.support.network_host import eventually
from tests.support.traffic import TCP, UDP, until

PORTS = count(7100)
SECOND, SECOND6 = "198.51.100.50", "2001:db8:1::50"


@pytest.fixture
def uplink(daemon: RunningDaemon) -> Iterator[RunningDaemon]:
    """The host has second addresses."""
    for address in (f"{SECOND}/24", f"{SECOND6}/64"):
        daemon.host.sh("ip", "address", "add", address, "dev", "uplink", "nodad")
    yield daemon
    for address in (f"{SECOND}/24", f"{SECOND6}/64"):
        daemon.host.sh("ip", "address", "delete", address, "dev", "uplink")


def addresses(daemon: RunningDaemon, network: str) -> list[str]:
    """Whom a server outside sees, by IPv4 and IPv6, TCP and UDP each."""
    sandbox = daemon.sandbox(network, "one")
    seen = []
    for target, everywhere in (OUTSIDE_ADDRESS, "0.0.0.0"), (OUTSIDE_ADDRESS6, "::"):
        for proto in (TCP, UDP):
            port = next(PORTS)  # no connection that is closing has it
            daemon.outside.serve("far", port, proto, address=everywhere)
            seen.append(sandbox.ask(target, port, proto).address)
    return seen


@pytest.mark.parametrize("keys", [("egress_ipv4", "egress_ipv6"),
                                  ("com.docker.network.host_ipv4", "com.docker.network.host_ipv6")])  # fmt: skip
def test_egress_address_is_the_source_of_outgoing_traffic(uplink: RunningDaemon, keys: tuple[str, str]) -> None:
    uplink.api.network("foo", ipv6=True, **dict(zip(keys, (SECOND, SECOND6), strict=True)))
    assert addresses(uplink, "foo") == [SECOND, SECOND, SECOND6, SECOND6]
    uplink.kill()
    uplink.start()
    uplink.api.delete("/networks/foo/endpoints/one?force=true")
    assert addresses(uplink, "foo") == [SECOND, SECOND, SECOND6, SECOND6]
    assert uplink.api.post("/reconcile", fix=False)["drift"] == []


def test_egress_address_applies_on_an_adopted_bridge(uplink: RunningDaemon) -> None:
    uplink.host.sh("ip", "link", "add", "br0", "type", "bridge")
    try:
        uplink.api.network("foo", ipv6=True, bridge_name="br0", egress_ipv4=SECOND, egress_ipv6=SECOND6)
        assert addresses(uplink, "foo") == [SECOND, SECOND, SECOND6, SECOND6]
        uplink.api.clear()
    finally:
        uplink.host.sh("ip", "link", "delete", "br0")


FAR, FAR6 = "203.0.113.99", "2001:db8:9::99"
ELSEWHERE, ELSEWHERE6 = "203.0.113.98", "2001:db8:9::98"
UNNUMBERED, UNNUMBERED6 = "192.0.2.77", "2001:db8:7::77"


@pytest.fixture
def far(uplink: RunningDaemon) -> Iterator[RunningDaemon]:
    """Behind the machine outside are others, reached by two uplinks."""
    host, outside = uplink.host.sh, uplink.outside.sh
    for address in (FAR, FAR6, ELSEWHERE, ELSEWHERE6):
        outside("ip", "address", "add", address, "dev", "lo")
    host("ip", "link", "add", "uplink2", "type", "veth", "peer", "name", "eth1", "netns", uplink.outside.namespace)
    for address in ("192.0.2.1/30", "2001:db8:2::1/64"):
        host("ip", "address", "add", address, "dev", "uplink2", "nodad")
    for address in ("192.0.2.2/30", "2001:db8:2::2/64"):
        outside("ip", "address", "add", address, "dev", "eth1", "nodad")
    host("ip", "link", "set", "uplink2", "up")
    outside("ip", "link", "set", "eth1", "up")
    for address, gateway in (UNNUMBERED, "192.0.2.1"), (UNNUMBERED6, "2001:db8:2::1"):
        host("ip", "address", "add", address, "dev", "lo")
        outside("ip", "route", "add", address, "via", gateway)
    yield uplink
    for address in (FAR, FAR6, ELSEWHERE, ELSEWHERE6):
        outside("ip", "address", "delete", address, "dev", "lo")
    for address in (UNNUMBERED, UNNUMBERED6):
        host("ip", "address", "delete", address, "dev", "lo")
    host("ip", "link", "delete", "uplink2")


def route(daemon: RunningDaemon, verb: str, to: str, *how: str) -> None:
    family = "-6" if ":" in to else "-4"
    daemon.host.sh("ip", family, "route", verb, to, *how)


def seen_at(daemon: RunningDaemon, sandbox: Sandbox, *targets: str) -> list[str]:
    """Whom these see, by UDP of a new flow each."""
    found = []
    for target in targets:
        port = next(PORTS)
        daemon.outside.serve("far", port, UDP, address=target)
        found.append(sandbox.ask(target, port, UDP).address)
    return found


def test_preferred_source_of_a_route_is_the_egress_address(far: RunningDaemon) -> None:
    far.api.network("foo", ipv6=True)
    far.api.network("own", ipv6=True, egress_ipv4=HOST_ADDRESS, egress_ipv6=HOST_ADDRESS6)
    sandbox, fixed = far.sandbox("foo", "one"), far.sandbox("own", "two")
    targets = (FAR, FAR6, ELSEWHERE, ELSEWHERE6)
    route(far, "add", "default", "via", OUTSIDE_ADDRESS, "src", SECOND)
    route(far, "add", "::/0", "via", OUTSIDE_ADDRESS6, "src", SECOND6)
    route(far, "add", ELSEWHERE, "via", "192.0.2.2", "src", UNNUMBERED)
    route(far, "add", ELSEWHERE6, "via", "2001:db8:2::2", "src", UNNUMBERED6)
    try:
        wanted = [SECOND, SECOND6, UNNUMBERED, UNNUMBERED6]
        until(lambda: seen_at(far, sandbox, *targets) == wanted, 60)
        assert seen_at(far, sandbox, OUTSIDE_ADDRESS) == [HOST_ADDRESS]  # its route prefers another one
        assert seen_at(far, fixed, FAR, FAR6) == [HOST_ADDRESS, HOST_ADDRESS6]
        assert far.api.post("/reconcile", fix=False)["drift"] == []
        far.kill()
        far.start()
        until(lambda: seen_at(far, sandbox, *targets) == wanted, 60)
        far.host.sh("nft", "flush", "map", "inet", "sandnet", "preferred4")
        until(lambda: seen_at(far, sandbox, *targets) == wanted, 60)
        route(far, "delete", ELSEWHERE)  # the default route counts again, over the other link
        until(lambda: seen_at(far, sandbox, ELSEWHERE) == [SECOND], 60)
        route(far, "replace", "default", "via", OUTSIDE_ADDRESS)
        far.host.sh("ip", "link", "set", "uplink2", "down")  # its IPv6 route goes without a word
        until(lambda: seen_at(far, sandbox, FAR) == [HOST_ADDRESS], 60)
        eventually(lambda: elements_of(far, "preferred4") == "")
        eventually(lambda: "uplink2" not in elements_of(far, "preferred6"))
        assert far.api.post("/reconcile", fix=False)["drift"] == []
    finally:
        for to in ("default", "::/0"):
            route(far, "delete", to)


def elements_of(daemon: RunningDaemon, name: str) -> str:
    return daemon.host.sh("nft", "list", "map", "inet", "sandnet", name).partition("elements = ")[2]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"egress_ipv4": "192.0.2.77"}, 409),
        ({"egress_ipv4": "2001:db8::1"}, 400),
        ({"egress_ipv4": "127.0.0.1"}, 400),
        ({"egress_ipv4": 7}, 400),
        ({"egress_ipv6": SECOND6}, 400),
        ({"egress_ipv4": HOST_ADDRESS, "internal": True}, 400),
        ({"egress_ipv4": HOST_ADDRESS, "masquerade": False}, 400),
        ({"egress_ipv4": HOST_ADDRESS, "firewall": False}, 400),
        ({"egress_ipv6": "fe80::1", "ipv6": True}, 400),
    ],
    ids=str,
)
def test_invalid_egress_address_is_refused(uplink: RunningDaemon, options: JSON, status: int) -> None:
    with pytest.raises(RefusedError) as refused:
        uplink.api.network("foo", **options)
    assert refused.value.status == status
