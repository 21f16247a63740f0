"""Choose the next free subnet: arithmetic on prefixes, without I/O and without state of its own."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from sandnet.model import Prefix

DEFAULT_POOLS: Final = (IPv4Network("172.16.0.0/12"), IPv4Network("10.0.0.0/8"), IPv4Network("192.168.0.0/16"))
"""The pools for networks that request no subnet: the private ranges of RFC 1918, the least used at home first."""
DEFAULT_SIZE: Final = 24
"""The prefix length of a subnet from these pools."""

_HIGHEST: Final = (1 << 32) - 1
"""The highest address of IPv4."""
_Span = tuple[int, int, Prefix]
"""The first and last address of a prefix as numbers, and the prefix itself."""


class Occupied:
    """Prefixes of both families that must not be allocated again, in address order.

    Prefixes may overlap and repeat. Leave out a default route (length 0): it overlaps everything.
    """

    def __init__(self, prefixes: Iterable[Prefix] = ()) -> None:
        self._spans: dict[int, list[_Span]] = {4: [], 6: []}
        for prefix in prefixes:
            self._spans[prefix.version].append(_span(prefix))
        for spans in self._spans.values():
            spans.sort(key=_sort_key)

    def __iter__(self) -> Iterator[Prefix]:
        return (span[2] for spans in self._spans.values() for span in spans)

    def add(self, prefix: Prefix) -> None:
        """Add ``prefix``, once more if it is present already."""
        insort(self._spans[prefix.version], _span(prefix), key=_sort_key)

    def discard(self, prefix: Prefix) -> None:
        """Remove ``prefix`` once; do nothing when it is not present."""
        spans, target = self._spans[prefix.version], _span(prefix)
        position = bisect_left(spans, _sort_key(target), key=_sort_key)
        if position < len(spans) and spans[position] == target:
            del spans[position]

    def spans(self, version: int) -> Sequence[_Span]:
        """Return the prefixes of one family (4 or 6) in address order, each with its first and last address."""
        return self._spans[version]


def next_subnet(
    pools: Sequence[IPv4Network], size: int, *occupied: Iterable[Prefix], highest: bool = False
) -> IPv4Network | None:
    """Return the lowest free subnet of the first pool that has one; ``None`` when all pools are full.

    Args:
        pools: the pools to search, in this order.
        size: the prefix length of the subnet; a pool smaller than that is skipped.
        occupied: prefixes that the subnet must not overlap. A frequent caller keeps an ``Occupied``, which is not
            sorted again at every call.
        highest: return the highest free subnet of that pool instead.
    """
    lists = [_occupied(each).spans(4) for each in occupied]
    if highest:
        lists = [sorted(map(_mirrored, spans), key=_sort_key) for spans in lists]
    step = 1 << (32 - size)
    for pool in pools:
        span = _span(pool)
        start = _first_gap(_mirrored(span) if highest else span, step, lists)
        if start is not None:
            return IPv4Network((_HIGHEST - (start + step - 1) if highest else start, size))
    return None


def overlapping(prefix: Prefix, occupied: Iterable[Prefix]) -> Iterator[Prefix]:
    """Yield those of ``occupied`` that share an address with ``prefix``, by first address, the widest first."""
    first, last, _ = _span(prefix)
    for other_first, other_last, other in _occupied(occupied).spans(prefix.version):
        if other_first > last:
            break
        if other_last >= first:
            yield other


def overlap(prefix: Prefix, occupied: Iterable[Prefix]) -> Prefix | None:
    """Return the first of :func:`overlapping`, or ``None``."""
    return next(overlapping(prefix, occupied), None)


def unique_local_prefix(random: Callable[[int], bytes]) -> IPv6Network:
    """Return the first /64 of a new site prefix: ``fd``, a random 40-bit global id, subnet 0 (RFC 4193, 3.1).

    Args:
        random: returns as many unpredictable bytes as requested, as ``secrets.token_bytes`` does.
    """
    return IPv6Network((b"\xfd" + random(5) + bytes(10), 64))


def _mirrored(span: _Span) -> _Span:
    """Return a span of IPv4 with its addresses counted from the highest one downwards."""
    first, last, prefix = span
    return _HIGHEST - last, _HIGHEST - first, prefix


def _first_gap(pool: _Span, step: int, lists: Sequence[Sequence[_Span]]) -> int | None:
    """Return the first multiple of ``step`` in the pool from which ``step`` addresses are free in all lists."""
    start, end, _ = pool
    found = -1
    while found != start:  # what is free in one list may be occupied in another one
        found = start
        for spans in lists:
            start = _free_from(start, step, spans)
    return start if start + step - 1 <= end else None


def _free_from(start: int, step: int, spans: Sequence[_Span]) -> int:
    """Return the first multiple of ``step`` from ``start`` on whose ``step`` addresses are in none of the spans."""
    for first, last, _ in spans:
        if first >= start + step:
            break
        if last >= start:
            start = (last // step + 1) * step
    return start


def _occupied(prefixes: Iterable[Prefix]) -> Occupied:
    return prefixes if isinstance(prefixes, Occupied) else Occupied(prefixes)


def _span(prefix: Prefix) -> _Span:
    first = int(prefix.network_address)
    return first, first + (1 << (prefix.max_prefixlen - prefix.prefixlen)) - 1, prefix


def _sort_key(span: _Span) -> tuple[int, int]:
    """Return the sort key of a span: by first address; of equal ones the widest first."""
    return span[0], -span[1]
