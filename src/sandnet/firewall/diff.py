"""Differences between a listing of an nftables table and what it should be (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from sandnet.firewall.base import Fault
from sandnet.kernel.types import Listing

NO_LOOPBACK: Final = "ports published on 127.0.0.1 are not reached, or what must not be reached is"


NO_RULES: Final = "addresses are not translated, ports not published, networks not kept apart"


NO_ELEMENT: Final = "what it stands for (a network, a published port, a backend) is not served, or served wrongly"


ONE_TOO_MANY: Final = "it belongs to no record: packets may go where nobody is"


_REASONS: Final = {
    "route_localnet": NO_LOOPBACK,
    "forwarding": "its sandboxes reach nothing beyond their own network, and nobody reaches their published ports",
    "accept_ra": "a sandbox may configure the host by router advertisements",
    "disable_ipv6": "its IPv6 addresses are gone, or the host is reached by one that no network has",
}
"""By parameter: why it matters."""


LISTED: Final = 20
"""Elements of one set that are told one by one."""


_ADDING: Final = re.compile(r"add element (\S+ \S+) (\S+) \{ (.*) \}")


def elements(script: str) -> dict[str, dict[str, set[str]]]:
    """The elements that a script adds, by table and set, as they are spelled there."""
    found: dict[str, dict[str, set[str]]] = {}
    for table, name, listed in _ADDING.findall(script):
        found.setdefault(table, {}).setdefault(name, set()).update(listed.split(", "))
    return found


def table_faults(
    table: str, found: Listing | None, frame: str, needed: Mapping[str, set[str]], allowed: Mapping[str, set[str]]
) -> Iterator[Fault]:
    """What is wrong with a table.

    Args:
        table: its name.
        found: what there is.
        frame: what its frame was when we had just made it.
        needed: elements that must be there.
        allowed: those that may: what is coming and going included.
    """
    if found is None:
        yield Fault("rules", table, f"table {table} is gone", NO_RULES)
        return
    if found.structure != frame:
        yield Fault("rules", table, f"chains, rules or sets of table {table} have been changed", NO_RULES)
    for name in sorted(found.elements.keys() | needed.keys()):
        there = found.elements.get(name, frozenset())
        missing = sorted(needed.get(name, set()) - there)
        strange = sorted(there - allowed.get(name, set()))
        yield from _elements(table, f"is missing in {name}", NO_ELEMENT, missing)
        yield from _elements(table, f"is in {name} and should not be", ONE_TOO_MANY, strange)


def _elements(table: str, what: str, reason: str, found: Sequence[str]) -> Iterator[Fault]:
    for element in islice(found, LISTED):
        yield Fault("rules", table, f"element {element} {what}", reason)
    if len(found) > LISTED:
        yield Fault("rules", table, f"and {len(found) - LISTED} more of which each {what}", reason)
