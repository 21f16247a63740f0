"""The address that traffic of sandboxes bears outside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.e2e.traffic import TCP, UDP
from tests.e2e.world import HOST_ADDRESS, JSON, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, RefusedError, World

PORTS = count(7100)
SECOND, SECOND6 = "198.51.100.50", "2001:db8:1::50"


@pytest.fixture
def uplink(world: World) -> Iterator[World]:
    """The host has second addresses."""
    for address in (f"{SECOND}/24", f"{SECOND6}/64"):
        world.host.sh("ip", "address", "add", address, "dev", "uplink", "nodad")
    yield world
    for address in (f"{SECOND}/24", f"{SECOND6}/64"):
        world.host.sh("ip", "address", "delete", address, "dev", "uplink")


def addresses(world: World, network: str) -> list[str]:
    """Whom a server outside sees, by IPv4 and IPv6, TCP and UDP each."""
    box = world.box(network, "one")
    seen = []
    for target, everywhere in (OUTSIDE_ADDRESS, "0.0.0.0"), (OUTSIDE_ADDRESS6, "::"):
        for proto in (TCP, UDP):
            port = next(PORTS)  # no connection that is closing has it
            world.outside.serve("far", port, proto, address=everywhere)
            seen.append(box.ask(target, port, proto).address)
    return seen


@pytest.mark.parametrize("keys", [("egress_ipv4", "egress_ipv6"),
                                  ("com.docker.network.host_ipv4", "com.docker.network.host_ipv6")])  # fmt: skip
def test_given_egress_addresses_when_a_sandbox_calls_then_the_world_sees_them(
    uplink: World, keys: tuple[str, str]
) -> None:
    uplink.api.network("foo", ipv6=True, **dict(zip(keys, (SECOND, SECOND6), strict=True)))
    assert addresses(uplink, "foo") == [SECOND, SECOND, SECOND6, SECOND6]
    uplink.kill()
    uplink.start()
    uplink.api.delete("/networks/foo/endpoints/one?force=true")
    assert addresses(uplink, "foo") == [SECOND, SECOND, SECOND6, SECOND6]
    assert uplink.api.post("/reconcile", fix=False)["drift"] == []


def test_given_an_egress_address_when_the_network_is_on_somebodys_bridge_then_the_world_sees_it(uplink: World) -> None:
    uplink.host.sh("ip", "link", "add", "br0", "type", "bridge")
    try:
        uplink.api.network("foo", ipv6=True, bridge_name="br0", egress_ipv4=SECOND, egress_ipv6=SECOND6)
        assert addresses(uplink, "foo") == [SECOND, SECOND, SECOND6, SECOND6]
        uplink.api.clear()
    finally:
        uplink.host.sh("ip", "link", "delete", "br0")


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
def test_given_an_egress_address_that_cannot_be_when_a_network_is_created_then_it_is_refused(
    uplink: World, options: JSON, status: int
) -> None:
    with pytest.raises(RefusedError) as refused:
        uplink.api.network("foo", **options)
    assert refused.value.status == status
