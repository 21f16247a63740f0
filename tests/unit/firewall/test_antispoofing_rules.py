"""What each port may send, as elements."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import pytest
from msgspec.structs import replace

from sandnet.firewall import antispoofing_rules
from sandnet.firewall.antispoofing_rules import elements
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.kernel.nft_types import declared_sets
from sandnet.model import Attachment, Network, NetworkOptions, Phase, Subnet
from sandnet.model.link_names import link_local
from sandnet.model.name_server import gateway_socket
from sandnet.model.tap import TapOptions
from tests.unit.firewall.balancing.test_service_elements import ENDPOINT, attachment

NET = Network(id="n", name="net", driver="bridge", phase=Phase.READY, sequence=1, created=0.0)
FIRST = replace(attachment(1), host_link="snv1")
SECOND = replace(attachment(2), host_link="snv2")


TYPES = declared_sets(antispoofing_rules.ruleset())


def held(found: Attachment, name: str) -> set[str]:
    own = elements(NET, ENDPOINT, found)
    return {TYPES[BRIDGE, name].spelled(each.key, b"") for each in own if each.which.name == name}


def test_link_local_address_of_a_mac_matches_linux() -> None:
    assert str(link_local("02:42:0a:09:00:64")) == "fe80::42:aff:fe09:64"


def test_guarded_port_sends_from_its_own_mac_and_addresses() -> None:
    assert held(FIRST, "guarded") == {'"snv1"'}
    assert held(FIRST, "sources4") == {'"snv1" . 02:42:0a:09:00:64 . 10.9.0.100'}
    assert held(FIRST, "sources6") == {
        f'"snv1" . 02:42:0a:09:00:64 . {address}' for address in ("fd09::100", "fe80::42:aff:fe09:64")
    }
    assert held(FIRST, "unclaimed4") == set()


def test_further_backend_sends_from_but_does_not_claim_service() -> None:
    assert held(SECOND, "sources4") == {f'"snv2" . {SECOND.mac} . 10.9.0.{last}' for last in (2, 100)}
    assert held(SECOND, "unclaimed4") == {'"snv2" . 10.9.0.100'}
    assert not any(key.endswith("0100") for key in held(SECOND, "claims6"))
    heir = replace(SECOND, holder=True)
    assert held(heir, "unclaimed4") == set()
    assert any(key.endswith("0100") for key in held(heir, "claims6"))


def test_guarded_port_without_ipv6_sends_no_ipv6() -> None:
    without = replace(FIRST, address_ipv6=None)
    assert [held(without, name) for name in ("sources6", "macs6", "claims6")] == [set(), set(), set()]


def test_port_sends_from_additional_addresses_and_claims_them() -> None:
    further = (IPv4Interface("10.9.0.50/24"), IPv6Interface("fd09::50/64"))
    more = replace(FIRST, additional_addresses=further)
    assert held(more, "sources4") - held(FIRST, "sources4") == {f'"snv1" . {FIRST.mac} . 10.9.0.50'}
    assert held(more, "sources6") - held(FIRST, "sources6") == {f'"snv1" . {FIRST.mac} . fd09::50'}
    assert {key[-2:] for key in held(more, "claims6") - held(FIRST, "claims6")} == {"50"}
    assert held(more, "unclaimed4") == set()


@pytest.mark.parametrize("link", ["", "snv1"])
def test_no_guard_without_anti_spoofing_or_link(link: str) -> None:
    options = NetworkOptions(anti_spoofing=link == "")
    found = elements(replace(NET, options=options), ENDPOINT, replace(FIRST, host_link=link))
    assert {element.which.name for element in found} == ({"ports"} if link else set())


ROUTED = replace(
    NET,
    link="snb1",
    ipv4=Subnet(prefix=IPv4Interface("10.9.0.1/24").network, host_address=IPv4Interface("10.9.0.1/24"), gateway=None),
)


def questions(net: Network, found: Attachment) -> list[object]:
    """Where questions of the attachment at its gateway go."""
    return [value for each, value in elements(net, ENDPOINT, found).items() if each.which.name == "askers4"]


def test_questions_of_a_guest_go_to_its_own_sockets() -> None:
    guest = replace(FIRST, tap=TapOptions())
    assert questions(ROUTED, guest) == [gateway_socket(guest.container_id, 4).packed]
    assert questions(ROUTED, FIRST) == []


@pytest.mark.parametrize("options", [NetworkOptions(anti_spoofing=False), NetworkOptions(firewall=False)])
def test_guests_whose_address_can_be_forged_have_no_names(options: NetworkOptions) -> None:
    net = replace(ROUTED, options=options)
    assert questions(net, replace(FIRST, tap=TapOptions())) == []


def test_guests_on_a_bridge_of_another_program_have_no_names() -> None:
    assert questions(replace(ROUTED, link_adopted=True), replace(FIRST, tap=TapOptions())) == []
