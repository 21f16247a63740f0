"""Rules and routes by which a sandbox with several interfaces answers on each of them (pure functions)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from sandnet.kernel.types import (
    RT_TABLE_MAIN,
    PackedPrefix,
    Policy,
    PolicyRoute,
    PolicyRule,
    SourceRoute,
    packed_prefix,
)

TABLES: Final = 0x736E0000
"""Our tables are numbered from here by the index of the interface ("sn" and a number); main is 254."""


_PRIORITY_NETWORKS: Final = 700


_PRIORITY_MAIN_TABLE: Final = 701


_PRIORITY_DEFAULT: Final = 702


_PRIORITY_UNBOUND: Final = 703
"""Rule priorities, in the order of evaluation: the sandbox's networks, the specific routes of the main table, all other
destinations, and the same for packets that have no source address yet."""


_BITS: Final = {4: 32, 6: 128}


def table_of(ifindex: int) -> int:
    """Return the number of an interface's table."""
    return TABLES | (ifindex & 0xFFFF)


def policy(routes: Iterable[SourceRoute], indexes: Mapping[str, int]) -> Policy:
    """Return the rules and routes that make a sandbox answer as ``routes`` specify.

    Args:
        routes: one for each interface and family.
        indexes: indexes of links by name; routes of absent links are left out.
    """
    present = [(route, indexes[route.interface]) for route in routes if route.interface in indexes]
    return Policy(
        frozenset(rule for route, index in present for rule in _rules(route, table_of(index))),
        frozenset(found for route, index in present for found in _routes(route, index)),
    )


def _rules(route: SourceRoute, table: int) -> Iterator[PolicyRule]:
    """Yield the rules of one route.

    Other networks of the sandbox are reached through this network's gateway as well: it carries the answer to a client
    that called a published port of the host. For all other destinations, a route that the sandbox has of its own takes
    precedence over our default route.
    """
    version = route.address.version
    for source in (each.packed for each in route.sources):
        yield PolicyRule(version, _PRIORITY_NETWORKS, source, (0, 0), table, specific=True)
        if route.default:
            yield PolicyRule(version, _PRIORITY_MAIN_TABLE, source, (0, 0), RT_TABLE_MAIN, specific=True)
            yield PolicyRule(version, _PRIORITY_DEFAULT, source, (0, 0), table, specific=False)
    for ports in route.udp_ports:
        yield PolicyRule(version, _PRIORITY_MAIN_TABLE, b"", ports, RT_TABLE_MAIN, specific=True)
        yield PolicyRule(version, _PRIORITY_UNBOUND, b"", ports, table, specific=False)


def _routes(route: SourceRoute, index: int) -> Iterator[PolicyRoute]:
    version, source, table = route.address.version, route.address.ip.packed, table_of(index)
    yield PolicyRoute(version, table, packed_prefix(route.address.network), b"", index, source)
    if route.gateway:
        gateway = route.gateway.packed
        for prefix in route.others:
            yield PolicyRoute(version, table, packed_prefix(prefix), gateway, index, source)
        if route.default:
            yield PolicyRoute(version, table, default_destination(version), gateway, index, source)


def default_destination(version: int) -> PackedPrefix:
    """Return the destination of a default route, for an IP version."""
    return bytes(_BITS[version] // 8), 0
