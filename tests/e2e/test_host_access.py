"""What sandboxes reach of the host's own programs."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, JSON, Box, RefusedError, World, mapping
from tests.support.traffic import TCP, UDP

PORT = 7100
OTHER = 7101


def serving(world: World) -> None:
    """Programs on the host that listen everywhere."""
    for port in (PORT, OTHER):
        for address in ("0.0.0.0", "::"):
            for proto in (TCP, UDP):
                world.here.serve("host", port, proto, address)


def gateways(box: Box) -> list[str]:
    """Addresses of the host, as a sandbox may call them."""
    return [box.address.rpartition(".")[0] + ".1", HOST_ADDRESS, HOST_ADDRESS6]


def boxed(world: World, **options: JSON) -> Box:
    serving(world)
    world.api.network("foo", ipv6=True, **options)
    return world.box("foo", "one")


@pytest.mark.parametrize("options", [{}, {"host_access": False}, {"host_access": []}])
def test_given_a_network_when_a_sandbox_calls_the_hosts_own_programs_then_it_is_refused(
    world: World, options: JSON
) -> None:
    box = boxed(world, **options)
    for address in gateways(box):
        assert box.is_refused(address, PORT)
        assert box.is_refused(address, PORT, UDP)


def test_given_a_network_when_a_sandbox_calls_the_host_then_it_is_told_at_once(world: World) -> None:
    box = boxed(world)
    for address in gateways(box):
        with pytest.raises(OSError, match=r"No route to host|Permission denied"):
            box.ask(address, PORT)


def test_given_host_access_when_a_sandbox_calls_the_hosts_own_programs_then_they_answer(world: World) -> None:
    box = boxed(world, host_access=True)
    for address in gateways(box):
        assert box.ask(address, PORT).server == "host"
    assert box.ask(gateways(box)[0], PORT, UDP).server == "host"  # to others it answers from this one


def test_given_host_access_by_port_when_a_sandbox_calls_then_that_one_answers_and_no_other(world: World) -> None:
    box = boxed(world, host_access=[PORT, f"{OTHER}/udp"])
    for address in gateways(box):
        assert box.ask(address, PORT).server == "host"
        assert box.is_refused(address, OTHER)
    assert box.ask(gateways(box)[0], OTHER, UDP).server == "host"
    assert box.is_refused(gateways(box)[0], PORT, UDP)


@pytest.mark.parametrize("access", [False, True])
def test_given_an_internal_network_when_a_sandbox_calls_the_host_then_only_with_host_access(
    world: World, access: bool
) -> None:
    box = boxed(world, internal=True, **({"host_access": True} if access else {}))
    assert box.is_refused(gateways(box)[0], PORT) is not access


def test_given_no_host_access_when_the_host_calls_and_pings_come_then_both_are_answered(world: World) -> None:
    box = boxed(world)
    box.serve("one", 80)
    box.serve("one", 80, UDP)
    box.serve("one", 80, address="::")
    assert world.here.ask(box.address, 80).server == "one"
    assert world.here.ask(box.address, 80, UDP).server == "one"
    assert world.here.ask(box.address6, 80).server == "one"
    for address in gateways(box):
        assert box.reaches(address)


def test_given_no_host_access_when_a_sandbox_calls_published_ports_and_the_world_then_they_answer(world: World) -> None:
    box = boxed(world)
    web = world.box("foo", "web", mapping(80, 8080))
    web.serve("web", 80)
    web.serve("web", 80, address="::")
    world.outside.serve("far", 7000)
    for address in gateways(box):
        assert box.ask(address, 8080).server == "web"
    assert web.ask(gateways(box)[0], 8080).server == "web"
    assert box.ask("198.51.100.2", 7000).server == "far"


def test_given_no_host_access_when_others_call_the_host_then_they_are_none_of_ours(world: World) -> None:
    boxed(world)
    assert world.outside.ask(HOST_ADDRESS, PORT).server == "host"
    assert world.here.ask("127.0.0.1", PORT).server == "host"


def test_given_a_bridge_that_was_there_when_it_is_to_be_kept_from_the_host_then_it_is_refused(world: World) -> None:
    world.host.sh("ip", "link", "add", "br9", "type", "bridge")
    try:
        with pytest.raises(RefusedError) as refused:
            world.api.network("mine", bridge_name="br9", subnet="10.99.0.0/24", host_access=False)
        assert refused.value.body["code"] == "adopted_host_access"
    finally:
        world.host.sh("ip", "link", "delete", "br9")
