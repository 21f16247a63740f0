"""Measure what uses up a pool of subnets: arithmetic on prefixes, for error messages and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import NamedTuple

from sandnet.ipam.pools import Occupied, overlap, overlapping
from sandnet.model import Prefix

SHOWN = 5
"""The number of names of one kind in one sentence."""


class PoolUsage(NamedTuple):
    """The use of one pool."""

    pool: IPv4Network
    subnets: int
    """The number of subnets that fit into the pool; 0 when the pool is smaller than one."""
    by_networks: int
    """The number of these subnets that networks use, whole or in part."""
    networks: Sequence[str]
    """The names of these networks."""
    host: Sequence[Prefix]
    """The prefixes inside or around the pool that the host uses, in address order."""


def usage(
    pool: IPv4Network, size: int, networks: Iterable[tuple[str, Prefix]], occupied: Iterable[Prefix]
) -> PoolUsage:
    """Return how a pool is used.

    Args:
        pool: the pool.
        size: the prefix length of the subnets that the pool is divided into.
        networks: the name and prefix of each existing network.
        occupied: prefixes that the host uses; a prefix may appear several times.
    """
    inside = [(name, prefix) for name, prefix in networks if overlap(prefix, [pool])]
    return PoolUsage(
        pool=pool,
        subnets=1 << (size - pool.prefixlen) if pool.prefixlen <= size else 0,
        by_networks=_touched(pool, size, [prefix for _, prefix in inside]),
        networks=list(dict.fromkeys(name for name, _ in inside)),
        host=list(dict.fromkeys(overlapping(pool, occupied))),
    )


def some(names: Iterable[str]) -> str:
    """Return the first :data:`SHOWN` names, and how many more there are."""
    shown = list(names)
    rest = len(shown) - SHOWN
    return ", ".join(shown[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _touched(pool: IPv4Network, size: int, prefixes: Iterable[Prefix]) -> int:
    """Count the subnets of the pool that share addresses with one of the prefixes."""
    begin, end = int(pool.network_address), int(pool.broadcast_address)
    step = 1 << (pool.max_prefixlen - size)
    count, next_ = 0, 0
    for first, last, _ in Occupied(prefixes).spans(4):
        low = max((max(first, begin) - begin) // step, next_)
        high = (min(last, end) - begin) // step
        count += max(high - low + 1, 0)
        next_ = max(next_, high + 1)
    return count
