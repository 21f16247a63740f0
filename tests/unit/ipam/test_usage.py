"""Who has used up a pool."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from sandnet.ipam.usage import some, usage
from sandnet.model import Prefix

POOL = IPv4Network("10.1.0.0/22")


def prefixes(*texts: str) -> list[Prefix]:
    return [ip_network(text) for text in texts]


def test_pool_usage_counts_each_subnet_once() -> None:
    networks = [("a", ip_network("10.1.0.0/24")), ("b", ip_network("10.1.1.0/25")), ("c", ip_network("10.1.1.128/25")),
                ("elsewhere", ip_network("10.2.0.0/24")), ("six", ip_network("fd00::/64"))]  # fmt: skip
    reported = usage(
        POOL, 24, networks, prefixes("10.1.3.0/24", "10.1.2.0/23", "10.1.3.0/24", "10.1.1.7/32", "10.9.0.0/16")
    )
    assert (reported.subnets, reported.by_networks, list(reported.networks)) == (4, 2, ["a", "b", "c"])
    assert list(reported.host) == prefixes("10.1.1.7/32", "10.1.2.0/23", "10.1.3.0/24")


@pytest.mark.parametrize("prefix", ["10.0.0.0/8", "10.1.0.0/22"])
def test_prefix_wider_than_the_pool_uses_all_of_it(prefix: str) -> None:
    assert usage(POOL, 24, [("a", ip_network(prefix))], []).by_networks == 4


def test_pool_smaller_than_a_subnet_has_no_room() -> None:
    reported = usage(IPv4Network("10.1.0.0/25"), 24, [("a", ip_network("10.1.0.0/24"))], [])
    assert reported.subnets == 0


@pytest.mark.parametrize(
    ("count", "text"), [(2, "n0, n1"), (5, "n0, n1, n2, n3, n4"), (7, "n0, n1, n2, n3, n4 and 2 more")]
)
def test_long_name_lists_are_abbreviated(count: int, text: str) -> None:
    assert some(f"n{i}" for i in range(count)) == text
