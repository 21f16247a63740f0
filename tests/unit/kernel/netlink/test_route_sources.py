"""Which sources the host's routes prefer over those that masquerading would choose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from sandnet.errors import Error, Kind
from sandnet.firewall import inet_table
from sandnet.firewall.masquerade_sources import RouteSources, element
from sandnet.firewall.ruleset.elements import INET, Element
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.netlink.route_sources import OwnAddress, Path, differing_sources
from sandnet.kernel.nft_types import declared_sets
from sandnet.kernel.types import RouteSource, Value
from sandnet.kernel.workers import Workers

TYPES = declared_sets(inet_table.table([], inet_table.HostState()))
NAMES = {2: "up0", 3: "up1"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def path(to: str, source: str = "", gateway: str = "", link: int = 2, metric: int = 0, table: int = 254) -> Path:
    prefix = ip_network(to)
    span = int(prefix.network_address), int(prefix.broadcast_address)
    hop, preferred = (ip_address(text).packed if text else b"" for text in (gateway, source))
    return Path(FAMILIES[prefix.version], span, (table != 254, table, metric), link, hop, preferred, 3)


def own(text: str, link: int = 2) -> OwnAddress:
    found = ip_interface(text)
    span = int(found.network.network_address), int(found.network.broadcast_address)
    return OwnAddress(FAMILIES[found.version], link, found.ip.packed, span)


def reported(paths: Iterable[Path], *addresses: OwnAddress) -> list[str]:
    found = [element(each) for each in differing_sources(paths, addresses, NAMES)]
    return [TYPES[INET, which.name].spelled(key, value) for (which, key), value in found]


FIRST, SECOND = own("192.0.2.1/24"), own("192.0.2.50/24")
CONNECTED = path("192.0.2.0/24", "192.0.2.1")


def test_preferred_source_equal_to_masquerade_choice_is_omitted() -> None:
    assert reported([CONNECTED, path("0.0.0.0/0", "192.0.2.1", "192.0.2.9")], FIRST) == []
    assert reported([CONNECTED, path("0.0.0.0/0", "", "192.0.2.9")], FIRST) == []
    assert reported([path("::/0", "2001:db8::1", "fe80::9")], own("2001:db8::1/64")) == []


def test_other_preferred_source_spares_the_connected_prefix() -> None:
    found = reported([CONNECTED, path("0.0.0.0/0", "192.0.2.50", "192.0.2.9")], FIRST)
    assert found == ['"up0" . 0.0.0.0-192.0.1.255 : 192.0.2.50', '"up0" . 192.0.3.0-255.255.255.255 : 192.0.2.50']


def test_masquerade_uses_the_address_in_the_gateway_subnet() -> None:
    elsewhere = own("203.0.113.1/24")
    assert reported([path("0.0.0.0/0", "192.0.2.1", "192.0.2.9")], elsewhere, FIRST) == []
    assert reported([path("0.0.0.0/0", "203.0.113.1", "192.0.2.9")], elsewhere, FIRST) == [
        '"up0" . 0.0.0.0/0 : 203.0.113.1'
    ]


def test_nested_routes_flatten_to_the_longest_prefix() -> None:
    routes = [
        path("0.0.0.0/0", "10.0.0.1", "192.0.2.9"),
        path("10.0.0.0/8", "10.0.0.2", "192.0.2.9"),
        path("10.1.0.0/16", "", "192.0.2.9"),
        path("10.1.1.1/32", "10.0.0.3", "192.0.2.9"),
        path("255.255.255.255/32", "10.0.0.4", "192.0.2.9"),
    ]
    assert reported(routes, FIRST) == [
        '"up0" . 0.0.0.0-9.255.255.255 : 10.0.0.1',
        '"up0" . 10.0.0.0/16 : 10.0.0.2',
        '"up0" . 10.1.1.1 : 10.0.0.3',
        '"up0" . 10.2.0.0-10.255.255.255 : 10.0.0.2',
        '"up0" . 11.0.0.0-255.255.255.254 : 10.0.0.1',
        '"up0" . 255.255.255.255 : 10.0.0.4',
    ]


def test_adjacent_routes_with_one_source_flatten_to_one_span() -> None:
    routes = [path(f"10.{number}.0.0/16", "10.0.0.1", "192.0.2.9") for number in range(0, 200, 2)]
    assert reported(routes, FIRST) == ['"up0" . 10.0.0.0-10.198.255.255 : 10.0.0.1']


def test_duplicate_routes_are_decided_by_main_table_and_metric() -> None:
    routes = [
        path("0.0.0.0/0", "10.0.0.3", "192.0.2.9", table=100),
        path("0.0.0.0/0", "10.0.0.2", "192.0.2.9", metric=200),
        path("0.0.0.0/0", "10.0.0.1", "192.0.2.9", metric=100),
    ]
    assert reported(routes, FIRST) == reported(routes[::-1], FIRST) == ['"up0" . 0.0.0.0/0 : 10.0.0.1']


def test_each_of_two_uplinks_has_its_own_source() -> None:
    routes = [path("::/0", "2001:db8::5", link=3), path("0.0.0.0/0", "10.0.0.1", link=2)]
    assert reported(routes) == ['"up0" . 0.0.0.0/0 : 10.0.0.1', '"up1" . ::/0 : 2001:db8::5']


def test_unnamed_link_or_loopback_source_is_skipped() -> None:
    assert reported([path("0.0.0.0/0", "10.0.0.1", link=9), path("0.0.0.0/0", "127.0.0.1")]) == []


Changed = Iterable[tuple[Element, Value]]


def span(link: str, to: str, source: str) -> RouteSource:
    prefix = ip_network(to)
    return RouteSource(link, prefix.network_address, prefix.broadcast_address, ip_address(source))


def test_route_changes_write_only_differences_and_retry_refusals() -> None:
    host, changes, refuse = FakeKernel().host, list[object](), [False]
    host.preferred = [span("up0", "0.0.0.0/0", "192.0.2.50")]

    async def apply(removed: Changed, added: Changed) -> None:
        changes.append(([*removed], [*added]))
        if refuse[0]:
            raise Error(Kind.UNAVAILABLE, "no")

    async def run() -> None:
        sources = RouteSources(host, Workers(), apply)
        await sources.follow()
        assert sources.elements() == ()
        await sources.start()
        await sources.follow()
        assert changes == []
        before, host.preferred = host.preferred, [span("up1", "::/0", "2001:db8::5")]
        wanted = [element(each) for each in before], [element(each) for each in host.preferred]
        refuse[0] = True
        with pytest.raises(Error):
            await sources.follow()
        refuse[0] = False
        await sources.follow()
        assert changes == [wanted, wanted]
        sources.stop()
        host.preferred = []
        await sources.follow()
        assert len(changes) == 2

    asyncio.run(run())
