"""What of a plugin's answers is put into records, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import msgspec
import pytest

from sandnet.drivers.remote.answers import endpoint_with, supply
from sandnet.model import Endpoint, Phase
from sandnet.model.supplied_link import StaticRoute
from sandnet.wire.plugin_answers import EndpointAnswer, JoinReply

ENDPOINT = Endpoint(id="e" * 64, name="web", network_id="n" * 64, phase=Phase.CREATING, sequence=1, created=0.0)
LINK = {"SrcName": "veth7", "DstPrefix": "eth"}


def joined(**answer: Any) -> Any:
    return supply(msgspec.convert(answer, JoinReply))


def created(endpoint: Endpoint = ENDPOINT, **answer: Any) -> Endpoint:
    return endpoint_with(endpoint, msgspec.convert(answer, EndpointAnswer))


def test_answer_to_a_join_in_both_generations() -> None:
    for names in ({"InterfaceName": LINK}, {"InterfaceNames": [LINK]}):
        found = joined(**names, Gateway="10.5.0.1", GatewayIPv6="fd00::1", Unknown=1, StaticRoutes=None)
        assert (found.prefix, found.link.source) == ("eth", "veth7")
        assert (found.link.gateway, found.link.gateway_ipv6) == (ip_address("10.5.0.1"), ip_address("fd00::1"))
    assert joined(InterfaceName={"SrcName": "veth7"}).prefix == "eth"
    assert joined(InterfaceName=LINK, Gateway="").link.gateway is None
    nothing: dict[str, Any]
    for nothing in ({}, {"InterfaceName": None}, {"InterfaceName": {"SrcName": ""}}, {"InterfaceNames": []}):
        assert joined(**nothing) is None


def test_routes_are_by_next_hop_or_on_the_link() -> None:
    routes = [
        {"Destination": "10.6.0.0/16", "RouteType": 0, "NextHop": "10.5.0.9"},
        {"Destination": "fd06::/64", "RouteType": 1, "NextHop": ""},
    ]
    hop = StaticRoute(destination=ip_network("10.6.0.0/16"), gateway=ip_address("10.5.0.9"))
    assert joined(InterfaceName=LINK, StaticRoutes=routes).link.routes == (
        hop, StaticRoute(destination=ip_network("fd06::/64")),
    )  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        {"InterfaceName": {"SrcName": "a/b"}},
        {"InterfaceName": {"SrcName": "x" * 16}},
        {"InterfaceName": {"SrcName": "veth7", "DstPrefix": "x" * 13}},
        {"InterfaceName": {"SrcName": "veth7", "DstPrefix": "0"}},
        {"InterfaceNames": [LINK, LINK]},
        {"InterfaceName": LINK, "Gateway": "fd00::1"},
        {"InterfaceName": LINK, "Gateway": "0.0.0.0"},
        {"InterfaceName": LINK, "GatewayIPv6": "10.5.0.1"},
        {"InterfaceName": LINK, "StaticRoutes": [{"Destination": "0.0.0.0/0", "NextHop": "10.5.0.9"}]},
        {"InterfaceName": LINK, "StaticRoutes": [{"Destination": "10.6.0.0/16", "RouteType": 0}]},
        {"InterfaceName": LINK, "StaticRoutes": [{"Destination": "10.6.0.0/16", "NextHop": "fd00::1"}]},
        {"InterfaceName": LINK, "StaticRoutes": [{"Destination": "there"}]},
        {"InterfaceName": LINK, "StaticRoutes": [{"Destination": "10.6.0.0/16", "RouteType": 1}] * 257},
    ],
)
def test_wrong_answers_are_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        joined(**answer)


def test_plugin_chooses_only_what_was_left_to_it() -> None:
    chosen = {"Address": "10.5.0.7/24", "AddressIPv6": "fd00::7/64", "MacAddress": "02:42:0A:05:00:07"}
    for answer in ({"Interface": chosen}, {"Interfaces": [chosen]}):
        found = created(**answer)
        assert (str(found.address), str(found.address_ipv6), found.mac) == (
            "10.5.0.7/24", "fd00::7/64", "02:42:0a:05:00:07",
        )  # fmt: skip
    own = msgspec.structs.replace(ENDPOINT, address=ip_interface("10.5.0.2/24"), mac="02:42:0a:05:00:02")
    found = created(own, Interface=chosen)
    assert (found.address, found.mac) == (own.address, own.mac)
    assert created(Interface=None) == ENDPOINT


@pytest.mark.parametrize(
    "chosen",
    [
        {"Address": "10.5.0.7"},
        {"Address": "fd00::7/64"},
        {"Address": "127.0.0.1/8"},
        {"Address": "224.0.0.1/24"},
        {"Address": "10.5.0.7/0"},
        {"AddressIPv6": "10.5.0.7/24"},
        {"MacAddress": "01:00:5e:00:00:01"},
        {"MacAddress": "02:42"},
    ],
)
def test_address_that_no_interface_can_have_is_refused(chosen: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        created(Interface=chosen)
