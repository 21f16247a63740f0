"""Which subnet comes next: arithmetic on prefixes, no I/O and no state but the caller's."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from sandnet.model import Prefix

DEFAULT_POOLS: Final = (IPv4Network("172.16.0.0/12"), IPv4Network("10.0.0.0/8"), IPv4Network("192.168.0.0/16"))
"""Where subnets come from that nobody named: the private ranges of RFC 1918, the least used at home first."""
DEFAULT_SIZE: Final = 24
"""Prefix length of such a subnet."""

_Span = tuple[int, int, Prefix]
"""First and last address of a prefix as numbers, and the prefix itself."""


class Occupied:
    """Prefixes of both families that must not be used again, kept in address order.

    Prefixes may overlap and repeat. A default route (length 0) overlaps everything: leave it out.
    """

    def __init__(self, prefixes: Iterable[Prefix] = ()) -> None:
        self._spans: dict[int, list[_Span]] = {4: [], 6: []}
        for prefix in prefixes:
            self._spans[prefix.version].append(_span(prefix))
        for spans in self._spans.values():
            spans.sort(key=_place)

    def __iter__(self) -> Iterator[Prefix]:
        return (span[2] for spans in self._spans.values() for span in spans)

    def add(self, prefix: Prefix) -> None:
        """Count ``prefix`` in, once more if it is in already."""
        insort(self._spans[prefix.version], _span(prefix), key=_place)

    def discard(self, prefix: Prefix) -> None:
        """Count ``prefix`` out once; no error when it is not in."""
        spans, wanted = self._spans[prefix.version], _span(prefix)
        position = bisect_left(spans, _place(wanted), key=_place)
        if position < len(spans) and spans[position] == wanted:
            del spans[position]

    def spans(self, version: int) -> Sequence[_Span]:
        """The prefixes of one family (4 or 6) in address order, each with its first and last address as numbers."""
        return self._spans[version]


def next_subnet(pools: Sequence[IPv4Network], size: int, occupied: Iterable[Prefix]) -> IPv4Network | None:
    """The lowest free subnet of the first pool that has one; ``None`` when all are full.

    Args:
        pools: where to look, in this order.
        size: the subnet's prefix length; a pool smaller than that is passed over.
        occupied: what the subnet must not overlap. Who asks often keeps an ``Occupied``, which need not be sorted
            for every call.
    """
    spans = _occupied(occupied).spans(4)
    for pool in pools:
        start = _first_gap(pool, 1 << (pool.max_prefixlen - size), spans)
        if start is not None:
            return IPv4Network((start, size))
    return None


def overlapping(prefix: Prefix, occupied: Iterable[Prefix]) -> Iterator[Prefix]:
    """Those of ``occupied`` that share an address with ``prefix``, the lowest first, the widest of equals first."""
    first, last, _ = _span(prefix)
    for other_first, other_last, other in _occupied(occupied).spans(prefix.version):
        if other_first > last:
            break
        if other_last >= first:
            yield other


def overlap(prefix: Prefix, occupied: Iterable[Prefix]) -> Prefix | None:
    """The first of :func:`overlapping`, or ``None``."""
    return next(overlapping(prefix, occupied), None)


def unique_local_prefix(random: Callable[[int], bytes]) -> IPv6Network:
    """The first /64 of a site prefix of one's own: ``fd``, a random 40-bit global id, subnet 0 (RFC 4193, 3.1).

    Args:
        random: that many unpredictable bytes, as ``secrets.token_bytes`` gives them.
    """
    return IPv6Network((b"\xfd" + random(5) + bytes(10), 64))


def _first_gap(pool: IPv4Network, step: int, spans: Sequence[_Span]) -> int | None:
    """The first multiple of ``step`` in the pool with ``step`` free addresses from there on."""
    start, end, _ = _span(pool)
    for first, last, _ in spans:
        if first >= start + step:
            break
        if last >= start:
            start = (last // step + 1) * step
    return start if start + step - 1 <= end else None


def _occupied(prefixes: Iterable[Prefix]) -> Occupied:
    return prefixes if isinstance(prefixes, Occupied) else Occupied(prefixes)


def _span(prefix: Prefix) -> _Span:
    first = int(prefix.network_address)
    return first, first + (1 << (prefix.max_prefixlen - prefix.prefixlen)) - 1, prefix


def _place(span: _Span) -> tuple[int, int]:
    """Sort key: by first address, the widest of equals first."""
    return span[0], -span[1]
