"""Who has used up a pool of subnets: arithmetic on prefixes, for the people who are told so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import NamedTuple

from sandnet.ipam.pools import Occupied, overlap, overlapping
from sandnet.model import Prefix

SHOWN = 5
"""Names of one kind that a sentence has room for."""


class PoolUsage(NamedTuple):
    """What has become of one pool."""

    pool: IPv4Network
    subnets: int
    """That it has room for; 0: it is smaller than one."""
    by_networks: int
    """How many of these networks have, whole or in part."""
    networks: Sequence[str]
    """Their names."""
    host: Sequence[Prefix]
    """What the host uses of the pool, in address order."""


def usage(
    pool: IPv4Network, size: int, networks: Iterable[tuple[str, Prefix]], occupied: Iterable[Prefix]
) -> PoolUsage:
    """How a pool is used.

    Args:
        pool: the pool.
        size: prefix length of the subnets it gives.
        networks: name and prefix of each network there is.
        occupied: what the host uses; a prefix may come several times.
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
    """The first names, and how many more there are."""
    shown = list(names)
    rest = len(shown) - SHOWN
    return ", ".join(shown[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _touched(pool: IPv4Network, size: int, prefixes: Iterable[Prefix]) -> int:
    """How many subnets of the pool some prefix shares addresses with."""
    begin, end = int(pool.network_address), int(pool.broadcast_address)
    step = 1 << (pool.max_prefixlen - size)
    count, next_ = 0, 0
    for first, last, _ in Occupied(prefixes).spans(4):
        low = max((max(first, begin) - begin) // step, next_)
        high = (min(last, end) - begin) // step
        count += max(high - low + 1, 0)
        next_ = max(next_, high + 1)
    return count
