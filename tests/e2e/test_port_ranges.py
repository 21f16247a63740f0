"""Ranges of ports that lead to ranges of ports."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, RefusedError, World, mapping
from tests.support.traffic import TCP, UDP


@pytest.mark.parametrize("inside", [10_000, 20_000], ids=["the same ports", "other ports"])
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_given_a_range_of_ports_when_published_then_each_leads_to_its_own(
    world: World, proto: int, inside: int
) -> None:
    world.api.network("foo", ipv6=True)
    box = world.box("foo", "web", mapping(inside, 10_000, proto, port_end=inside + 10))
    assert sorted(set(box.host_ports)) == [*range(10_000, 10_011)]
    for name, step in ("first", 0), ("last", 10):
        for address in ("0.0.0.0", "::"):
            box.serve(name, inside + step, proto, address=address)
    for _ in range(2):
        for called in (HOST_ADDRESS, HOST_ADDRESS6):
            assert world.outside.ask(called, 10_000, proto).server == "first"
            assert world.outside.ask(called, 10_010, proto).server == "last"
        assert world.here.ask("127.0.0.1", 10_010, proto).server == "last"
        assert world.outside.is_refused(HOST_ADDRESS, 10_011, proto)
        world.kill()
        world.start()
    assert world.api.post("/reconcile", fix=False)["drift"] == []


def test_given_a_range_on_one_address_when_published_then_one_element_translates_it(world: World) -> None:
    world.api.network("foo")
    ports = mapping(10_000, 10_000, host_ip=HOST_ADDRESS, host_port_end=12_999, port_end=12_999)
    box = world.box("foo", "web", ports)
    box.serve("web", 12_345)
    assert world.outside.ask(HOST_ADDRESS, 12_345).server == "web"
    assert world.here.is_refused("127.0.0.1", 12_345)
    listed = world.host.sh("nft", "-nn", "list", "map", "inet", "sandnet", "one_span4")
    assert f"{HOST_ADDRESS} . 6 . 10000-12999 : {box.address}" in listed
    world.api.leave("foo", "web", box.container)
    world.api.delete("/networks/foo/endpoints/web")
    assert "10000" not in world.host.sh("nft", "list", "map", "inet", "sandnet", "one_span4")


def test_given_a_range_of_a_service_when_it_has_two_backends_then_both_serve_it(world: World) -> None:
    world.api.network("foo")
    world.api.post("/services", name="web", network_name="foo", port_mapping=[mapping(9_000, 9_000, port_end=9_999)])
    for container in ("c1", "c2"):
        world.api.post("/services/web/backend", container_id=container)
        world.place(f"{world.netns}/{container}").serve(container, 9_500)
    assert {world.outside.ask(HOST_ADDRESS, 9_500).server for _ in range(40)} == {"c1", "c2"}
    assert world.api.post("/reconcile", fix=False)["drift"] == []


def test_given_five_thousand_mappings_when_published_at_once_then_all_are(world: World) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "web", *(mapping(port, port, UDP) for port in range(10_000, 15_000)))
    assert len(world.api.told("foo", "web")["port_mapping"]) == 5_000


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (mapping(100, 1000, port_end=99), "no range"),
        (mapping(100, 1000, port_end=110, host_port_end=1005), "6 host ports cannot lead to 11 ports"),
        (mapping(100, 65_530, port_end=110), "out of range"),
        (mapping(1, 1, port_end=65_535), "more than 8192"),
    ],
    ids=["backwards", "unequal", "too high", "too many"],
)
def test_given_a_range_that_makes_no_sense_when_published_then_400(world: World, port: object, words: str) -> None:
    world.api.network("foo")
    with pytest.raises(RefusedError, match=words):
        world.api.endpoint("foo", "web", port)
