"""The index of subnets follows the networks."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandnet.ipam.pools import Occupied
from sandnet.ipam.subnet_plan import SubnetIndex
from sandnet.model import Network, Phase, Subnet


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


@settings(max_examples=100, deadline=None)
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
