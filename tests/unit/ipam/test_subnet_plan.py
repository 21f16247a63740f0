"""The index of subnets follows the networks."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sandnet.errors import Error
from sandnet.ipam.pools import Occupied
from sandnet.ipam.subnet_plan import SubnetIndex, plan_ipv6, subnet4
from sandnet.model import Network, NetworkOptions, Phase, Subnet


def network(number: int, generation: int) -> Network:
    """A network whose IPv4 subnet depends on both numbers, and whose IPv6 subnet on the first."""
    third = (number * 3 + generation) % 16
    return Network(
        id=str(number),
        name=f"n{number}",
        driver="bridge",
        phase=Phase.READY,
        sequence=number,
        created=0.0,
        ipv4=Subnet(prefix=IPv4Network(f"10.0.{third}.0/24")) if number % 4 else None,
        ipv6=Subnet(prefix=IPv6Network(f"fd00:{number}::/64")) if number % 2 else None,
    )


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 12), st.integers(0, 3)), max_size=6))
def test_index_holds_exactly_the_subnets_of_the_current_networks(states: list[dict[int, int]]) -> None:
    index = SubnetIndex()
    for state in states:
        networks = [network(number, generation) for number, generation in state.items()]
        prefixes = [sub.prefix for net in networks for sub in (net.ipv4, net.ipv6) if sub]
        assert list(index.subnets_of(networks)) == list(Occupied(prefixes))


def test_unchanged_networks_are_not_sorted_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    index, networks = SubnetIndex(), [network(number, 0) for number in range(9)]
    index.subnets_of(networks)
    subnets = index._subnets
    monkeypatch.setattr(Occupied, "add", None)
    monkeypatch.setattr(Occupied, "discard", None)
    assert index.subnets_of(networks) is subnets


@pytest.mark.parametrize(
    ("subnet", "reserved", "gateway"),
    [
        ("10.0.0.0/24", ["10.0.0.1", "10.0.0.2", "10.0.0.4"], "10.0.0.3"),
        ("10.0.0.0/24", ["10.0.0.9"], "10.0.0.1"),
        ("10.0.0.0/30", ["10.0.0.1"], "10.0.0.2"),
        ("10.0.0.0/30", ["10.0.0.1", "10.0.0.2"], ""),
        ("fd00::/126", ["fd00::1", "fd00::2"], "fd00::3"),
        ("fd00::/126", ["fd00::1", "fd00::2", "fd00::3"], ""),
    ],
)
def test_gateway_is_no_reserved_address(subnet: str, reserved: list[str], gateway: str) -> None:
    prefix, addresses = ip_network(subnet), {each: ip_address(each) for each in reserved}
    options = NetworkOptions(reserved_addresses=addresses)
    if isinstance(prefix, IPv6Network):
        options = replace(options, ipv6=True, subnet_ipv6=prefix)
    net = replace(network(1, 0), options=options)

    def planned() -> Subnet | None:
        return plan_ipv6(net, [], []) if isinstance(prefix, IPv6Network) else subnet4(net, prefix, None)

    if gateway:
        assert (found := planned())
        assert str(found.gateway) == gateway
    else:
        with pytest.raises(Error, match="all addresses"):
            planned()
