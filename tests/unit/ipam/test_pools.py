"""Choosing subnets: always the lowest free one, never one that overlaps."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandnet.ipam.pools import DEFAULT_POOLS, DEFAULT_SIZE, Occupied, next_subnet, overlap, unique_local_prefix
from sandnet.model import Prefix

POOLS = (IPv4Network("10.1.0.0/22"), IPv4Network("10.0.0.0/23"))


def prefixes(*texts: str) -> list[Prefix]:
    return [ip_network(text) for text in texts]


def inside(pool: IPv4Network, lengths: Iterable[int]) -> st.SearchStrategy[IPv4Network]:
    def place(length: int) -> st.SearchStrategy[IPv4Network]:
        return st.integers(0, 2**32 - 1).map(
            lambda bits: IPv4Network((int(pool.network_address) | bits % pool.num_addresses, length), strict=False)
        )

    return st.sampled_from(list(lengths)).flatmap(place)


near_pools = st.one_of(*(inside(pool, range(18, 33)) for pool in POOLS))


def all_subnets(size: int) -> list[IPv4Network]:
    return [subnet for pool in POOLS if pool.prefixlen <= size for subnet in pool.subnets(new_prefix=size)]


def test_first_subnet_is_the_start_of_the_first_pool() -> None:
    assert next_subnet(DEFAULT_POOLS, DEFAULT_SIZE, []) == IPv4Network("172.16.0.0/24")


def test_freed_subnet_leaves_the_lowest_gap_to_be_chosen() -> None:
    occupied = prefixes("172.16.2.0/24", "172.16.0.0/24", "172.16.3.0/24")

    assert next_subnet(DEFAULT_POOLS, DEFAULT_SIZE, occupied) == IPv4Network("172.16.1.0/24")


@pytest.mark.parametrize(
    ("occupied", "expected"),
    [
        (["172.16.0.0/12"], "10.0.0.0/24"),
        (["172.16.0.0/12", "10.0.0.0/8"], "192.168.0.0/24"),
        (["172.0.0.0/8", "10.0.0.0/8", "192.168.0.0/17"], "192.168.128.0/24"),
        (["172.16.0.77/32", "172.16.1.128/25"], "172.16.2.0/24"),
        (["172.16.0.0/23", "172.16.0.0/24"], "172.16.2.0/24"),
        (["fd00::/8", "::/1", "192.0.2.0/24"], "172.16.0.0/24"),
    ],
)
def test_lowest_free_subnet_beside_occupied_prefixes_is_chosen(occupied: list[str], expected: str) -> None:
    assert next_subnet(DEFAULT_POOLS, DEFAULT_SIZE, prefixes(*occupied)) == IPv4Network(expected)


def test_full_pools_yield_none() -> None:
    assert next_subnet(DEFAULT_POOLS, DEFAULT_SIZE, prefixes("172.16.0.0/12", "10.0.0.0/8", "192.168.0.0/16")) is None


def test_default_pools_hold_a_thousand_distinct_subnets() -> None:
    occupied = Occupied([])
    for _ in range(1000):
        chosen = next_subnet(DEFAULT_POOLS, DEFAULT_SIZE, occupied)
        assert chosen
        assert not overlap(chosen, occupied)
        occupied.add(chosen)


def test_pool_smaller_than_the_subnet_is_skipped() -> None:
    pools = (IPv4Network("192.0.2.0/25"), IPv4Network("198.51.100.0/24"))

    assert next_subnet(pools, 24, []) == IPv4Network("198.51.100.0/24")


def test_gap_at_the_very_end_is_found() -> None:
    pool = IPv4Network("255.255.254.0/23")

    assert next_subnet((pool,), 24, prefixes("255.255.254.0/24")) == IPv4Network("255.255.255.0/24")
    assert next_subnet((pool,), 24, prefixes("255.255.254.0/24", "255.255.255.255/32")) is None


@settings(deadline=None)
@given(st.lists(near_pools, max_size=30), st.integers(22, 27))
def test_chosen_subnet_never_overlaps_and_is_the_lowest(occupied: list[IPv4Network], size: int) -> None:
    free = [subnet for subnet in all_subnets(size) if not any(subnet.overlaps(other) for other in occupied)]

    assert next_subnet(POOLS, size, occupied) == (free[0] if free else None)


@settings(deadline=None)
@given(st.lists(near_pools, max_size=30), st.integers(22, 27))
def test_chosen_subnet_may_be_the_highest_of_its_pool(occupied: list[IPv4Network], size: int) -> None:
    lowest = next_subnet(POOLS, size, occupied)
    free = [subnet for subnet in all_subnets(size) if not any(subnet.overlaps(other) for other in occupied)]
    pool = next((pool for pool in POOLS if lowest and lowest.subnet_of(pool)), None)
    beside = [subnet for subnet in free if pool and subnet.subnet_of(pool)]

    assert next_subnet(POOLS, size, occupied, highest=True) == (beside[-1] if beside else None)


def test_highest_subnets_are_allocated_downwards() -> None:
    assert next_subnet(DEFAULT_POOLS, DEFAULT_SIZE, [], highest=True) == IPv4Network("172.31.255.0/24")
    pool = IPv4Network("255.255.254.0/23")
    taken, reserved = prefixes("255.255.255.0/24"), prefixes("255.255.254.0/32")
    assert next_subnet((pool,), 24, taken, highest=True) == IPv4Network("255.255.254.0/24")
    assert next_subnet((pool,), 24, taken, reserved, highest=True) is None


@settings(deadline=None)
@given(st.lists(near_pools, max_size=20), st.lists(near_pools, max_size=20))
def test_additions_and_removals_match_a_fresh_build(first: list[IPv4Network], second: list[IPv4Network]) -> None:
    kept = Occupied(first)
    for prefix in second:
        kept.add(prefix)
    for prefix in first:
        kept.discard(prefix)

    assert list(kept) == list(Occupied(second))
    assert next_subnet(POOLS, 24, kept) == next_subnet(POOLS, 24, second)


def test_prefix_added_twice_and_removed_once_is_still_occupied() -> None:
    occupied = Occupied(prefixes("172.16.0.0/24", "172.16.0.0/24"))
    occupied.discard(ip_network("172.16.0.0/24"))
    occupied.discard(ip_network("172.16.0.0/25"))

    assert list(occupied) == prefixes("172.16.0.0/24")


@settings(deadline=None)
@given(near_pools, st.lists(near_pools, max_size=20))
def test_overlap_query_returns_the_lowest_overlapping_prefix(prefix: IPv4Network, occupied: list[IPv4Network]) -> None:
    overlapping = sorted(other for other in occupied if prefix.overlaps(other))

    assert overlap(prefix, occupied) == (overlapping[0] if overlapping else None)


def test_overlap_query_ignores_the_other_family() -> None:
    occupied = prefixes("::/0", "10.0.0.0/8", "2001:db8::/32")

    assert overlap(ip_network("11.0.0.0/8"), occupied) is None
    assert overlap(ip_network("10.2.0.0/16"), occupied) == ip_network("10.0.0.0/8")
    assert overlap(ip_network("2001:db8:1::/64"), occupied[1:]) == ip_network("2001:db8::/32")


def test_unique_local_prefix_uses_random_bytes_as_global_id() -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return b"\x12\x34\x56\x78\x9a"

    assert unique_local_prefix(random) == IPv6Network("fd12:3456:789a::/64")
    assert asked == [5]


@settings(deadline=None)
@given(st.lists(near_pools), st.lists(near_pools), st.integers(22, 32))
def test_two_lists_are_occupied_like_their_sum(one: list[Prefix], other: list[Prefix], size: int) -> None:
    assert next_subnet(POOLS, size, one, other) == next_subnet(POOLS, size, [*one, *other])
