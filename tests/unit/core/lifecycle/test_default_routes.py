"""Which network carries the default route, and how a sandbox answers on the others."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from sandnet.core.lifecycle.default_routes import Attached, Gateways, source_routes
from sandnet.model import Attachment, BoundPort, Endpoint, Phase
from sandnet.model.ports import TCP, UDP


def attached(number: int, *ports: tuple[int, int], internal: bool = False, subnet: int = -1) -> Attached:
    """The attachment of that number, on a subnet of its own, with ports (protocol and number) that are published."""
    third = number if subnet < 0 else subnet
    address = IPv4Interface(f"10.9.{third}.{2 + number}/24")
    common: dict[str, Any] = {"sequence": number, "phase": Phase.READY, "network_id": f"n{number}", "address": address}
    published = tuple(
        BoundPort(proto=proto, port=port, host_ip=IPv4Address("0.0.0.0"), host_port=8000 + port)
        for proto, port in ports
    )
    endpoint = Endpoint(id=f"e{number}", name=f"e{number}", created=0.0, ports=published, **common)
    attachment = Attachment(endpoint_id=endpoint.id, container_id="c1", interface=f"eth{number}", **common)
    gateway = None if internal else IPv4Address(f"10.9.{third}.1")
    return Attached(attachment, endpoint, Gateways(gateway))


def test_single_interface_has_no_source_routes() -> None:
    assert source_routes([attached(0, (UDP, 53))]) == []


def test_interface_without_the_default_route_gets_a_source_route() -> None:
    first, second = source_routes([attached(0), attached(1)])
    assert (first.default, second.default) == (False, True)
    assert (first.others, second.others) == ((IPv4Network("10.9.1.0/24"),), (IPv4Network("10.9.0.0/24"),))


def test_internal_network_has_no_gateway_or_other_routes() -> None:
    first, second = source_routes([attached(0), attached(1, internal=True)])
    assert (second.gateway, second.others, second.default) == (None, (), False)
    assert first.default is False


def test_endpoints_of_one_network_each_route_their_own_source() -> None:
    first, second = source_routes([attached(0, subnet=7), attached(1, subnet=7)])
    assert first.sources == (IPv4Address("10.9.7.2"),)
    assert second.sources == (IPv4Address("10.9.7.3"),)
    assert (first.others, second.others) == ((), ())


def test_published_udp_ports_are_ranges_owned_by_one_network() -> None:
    ports = [(UDP, port) for port in (10, 11, 12, 20)]
    found = source_routes([attached(0, (UDP, 11)), attached(1, (TCP, 80), *ports), attached(2, (UDP, 20), (UDP, 21))])
    assert [route.udp_ports for route in found] == [(), ((10, 10), (12, 12), (20, 20)), ((21, 21),)]
