"""Networks are apart, and nobody speaks in another's name."""

from __future__ import annotations

import socket

import pytest

from tests.support.daemon import HOST_ADDRESS, OUTSIDE_ADDRESS, Box, RefusedError, World, mapping
from tests.support.traffic import DOUBT, UDP, ask_again


@pytest.fixture
def apart(world: World) -> tuple[Box, Box]:
    """Two boxes on two networks, each serving at port 80."""
    boxes = []
    for name in ("foo", "bar"):
        world.api.network(name, ipv6=True)
        box = world.box(name, name)
        box.serve(name, 80)
        box.serve(name, 80, UDP)
        box.serve(name, 80, address="::")
        boxes.append(box)
    return boxes[0], boxes[1]


def test_given_two_networks_when_boxes_call_each_other_then_nothing_passes(apart: tuple[Box, Box]) -> None:
    one, two = apart
    for caller, called in ((one, two), (two, one)):
        assert not caller.reaches(called.address, DOUBT)
        assert not caller.reaches(called.address6, DOUBT)
        assert caller.is_refused(called.address, 80)
        assert caller.is_refused(called.address, 80, UDP)
        assert caller.is_refused(called.address6, 80)


def test_given_the_predefined_bridge_when_its_box_calls_another_network_then_nothing_passes(world: World) -> None:
    world.api.network("foo")
    one, two = world.box("bridge", "one"), world.box("foo", "two")
    two.serve("two", 80)
    assert one.is_refused(two.address, 80)
    assert one.reaches(OUTSIDE_ADDRESS)


def test_given_a_published_port_when_called_from_another_network_by_the_boxs_address_then_nothing_passes(
    world: World, apart: tuple[Box, Box]
) -> None:
    one, _ = apart
    web = world.box("bar", "web", mapping(81, 8080))
    web.serve("web", 81)
    assert one.is_refused(web.address, 81)
    assert one.ask(HOST_ADDRESS, 8080).server == "web"


def test_given_a_box_on_an_internal_network_when_it_calls_a_published_port_then_nothing_passes(world: World) -> None:
    world.api.network("foo", internal=True)
    world.api.network("bar")
    web = world.box("bar", "web", mapping(80, 8080))
    web.serve("web", 80)
    box = world.box("foo", "one")
    box.sh("ip", "route", "add", "default", "dev", "eth0")
    assert box.is_refused(HOST_ADDRESS, 8080)
    assert world.outside.is_refused(box.address, 80)


def test_given_no_inter_container_traffic_when_a_port_is_published_then_outside_reaches_it_all_the_same(
    world: World,
) -> None:
    world.api.network("foo", icc=False)
    web, other = world.box("foo", "web", mapping(80, 8080)), world.box("foo", "other")
    web.serve("web", 80)
    assert world.outside.ask(HOST_ADDRESS, 8080).address == OUTSIDE_ADDRESS
    assert other.is_refused(web.address, 80)


def test_given_a_box_on_two_networks_when_reached_then_by_both_and_it_does_not_join_them(world: World) -> None:
    for name in ("foo", "bar"):
        world.api.network(name)
    middle = world.box("foo", "middle")
    second = world.api.endpoint("bar", "middle")
    world.attach("bar", second, middle.container)
    one, two = world.box("foo", "one"), world.box("bar", "two")
    assert one.reaches(middle.address)
    assert two.reaches(world.api.told("bar", "middle")["address"].partition("/")[0])
    assert not one.reaches(two.address, DOUBT)


def test_given_an_endpoint_of_another_network_when_joined_through_this_one_then_404(world: World) -> None:
    world.api.network("foo")
    world.api.network("bar")
    endpoint = world.api.endpoint("foo", "one")
    with pytest.raises(RefusedError) as refused:
        world.api.join("bar", endpoint, "c1")
    assert refused.value.status == 404


def test_given_flows_of_a_network_that_is_gone_when_an_internal_one_has_its_subnet_then_none_of_them_passes(
    world: World,
) -> None:
    world.api.network("foo", subnet="10.9.0.0/24")
    server = world.outside.serve("far", 7000, UDP)
    box = world.box("foo", "one", address="10.9.0.9")
    assert box.ask(OUTSIDE_ADDRESS, 7000, UDP, source_port=5555).server == "far"
    world.api.clear()
    world.api.network("foo", subnet="10.9.0.0/24", internal=True)
    box = world.box("foo", "one", address="10.9.0.9")
    box.sh("ip", "route", "add", "default", "via", "10.9.0.1")
    with box.bound("0.0.0.0", UDP, 5555) as client:
        client.settimeout(DOUBT)
        client.connect((OUTSIDE_ADDRESS, 7000))
        with pytest.raises(TimeoutError):
            ask_again(client)
    server.close()


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("target", ["239.1.1.1", "255.255.255.255", "ff15::1"])
def test_given_a_network_when_a_sandbox_sends_to_all_or_to_a_group_then_its_neighbour_gets_it(
    world: World, target: str, internal: bool
) -> None:
    world.api.network("foo", ipv6=True, internal=internal)
    sender, hearer = world.box("foo", "sender"), world.box("foo", "hearer")
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

    def said() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.sendto(b"all", (target, 5353))

    with world.host.inside(hearer.namespace, listening) as heard:
        world.host.inside(sender.namespace, said)
        assert heard.recv(9) == b"all"


def test_given_a_sandbox_on_an_internal_network_when_it_joins_another_then_groups_go_by_the_default_route(
    world: World,
) -> None:
    world.api.network("in", internal=True)
    world.api.network("out")
    box = world.box("in", "one")
    assert "224.0.0.0/4 dev eth0" in box.sh("ip", "route")
    world.api.post("/services", name="two", network_name="out")
    world.api.post("/services/two/backend", container_id=box.container)
    assert "224.0.0.0/4" not in box.sh("ip", "route")
    world.api.delete(f"/services/two/backend/{box.container}")
    assert "224.0.0.0/4 dev eth0" in box.sh("ip", "route")
