"""Ranges of ports that lead to ranges of ports."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, RefusedError, RunningDaemon, mapping
from tests.support.traffic import TCP, UDP


@pytest.mark.parametrize("inside", [10_000, 20_000], ids=["the same ports", "other ports"])
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_each_port_of_a_published_range_maps_to_its_own(daemon: RunningDaemon, proto: int, inside: int) -> None:
    daemon.api.network("foo", ipv6=True)
    sandbox = daemon.sandbox("foo", "web", mapping(inside, 10_000, proto, port_end=inside + 10))
    assert sorted(set(sandbox.host_ports)) == [*range(10_000, 10_011)]
    for name, step in ("first", 0), ("last", 10):
        for address in ("0.0.0.0", "::"):
            sandbox.serve(name, inside + step, proto, address=address)
    for _ in range(2):
        for called in (HOST_ADDRESS, HOST_ADDRESS6):
            assert daemon.outside.ask(called, 10_000, proto).server == "first"
            assert daemon.outside.ask(called, 10_010, proto).server == "last"
        assert daemon.here.ask("127.0.0.1", 10_010, proto).server == "last"
        assert daemon.outside.is_refused(HOST_ADDRESS, 10_011, proto)
        daemon.kill()
        daemon.start()
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_range_on_one_address_takes_a_single_map_element(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    ports = mapping(10_000, 10_000, host_ip=HOST_ADDRESS, host_port_end=12_999, port_end=12_999)
    sandbox = daemon.sandbox("foo", "web", ports)
    sandbox.serve("web", 12_345)
    assert daemon.outside.ask(HOST_ADDRESS, 12_345).server == "web"
    assert daemon.here.is_refused("127.0.0.1", 12_345)
    listed = daemon.host.sh("nft", "-nn", "list", "map", "inet", "sandnet", "one_span4")
    assert f"{HOST_ADDRESS} . 6 . 10000-12999 : {sandbox.address}" in listed
    daemon.api.leave("foo", "web", sandbox.container)
    daemon.api.delete("/networks/foo/endpoints/web")
    assert "10000" not in daemon.host.sh("nft", "list", "map", "inet", "sandnet", "one_span4")


def test_both_backends_serve_a_service_port_range(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.post("/services", name="web", network_name="foo", port_mapping=[mapping(9_000, 9_000, port_end=9_999)])
    for container in ("c1", "c2"):
        daemon.api.post("/services/web/backend", container_id=container)
        daemon.place(f"{daemon.netns}/{container}").serve(container, 9_500)
    assert {daemon.outside.ask(HOST_ADDRESS, 9_500).server for _ in range(40)} == {"c1", "c2"}
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_five_thousand_mappings_are_published_at_once(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "web", *(mapping(port, port, UDP) for port in range(10_000, 15_000)))
    assert len(daemon.api.reported("foo", "web")["port_mapping"]) == 5_000


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
def test_invalid_port_range_returns_400(daemon: RunningDaemon, port: object, words: str) -> None:
    daemon.api.network("foo")
    with pytest.raises(RefusedError, match=words):
        daemon.api.endpoint("foo", "web", port)
