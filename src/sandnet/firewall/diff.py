"""Differences between a listing of an nftables table and its desired content (pure functions)."""

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
"""By parameter: the consequence of a wrong value."""


LISTED: Final = 20
"""Elements of one set that are reported one by one."""


_ADDING: Final = re.compile(r"add element (\S+ \S+) (\S+) \{ (.*) \}")


def elements(script: str) -> dict[str, dict[str, set[str]]]:
    """Return the elements that a script adds, by table and set, as they are spelled there."""
    found: dict[str, dict[str, set[str]]] = {}
    for table, name, listed in _ADDING.findall(script):
        found.setdefault(table, {}).setdefault(name, set()).update(listed.split(", "))
    return found


def table_faults(
    table: str, found: Listing | None, structure: str, needed: Mapping[str, set[str]], allowed: Mapping[str, set[str]]
) -> Iterator[Fault]:
    """Yield the differences of a table from its desired content.

    Args:
        table: its name.
        found: its content in the kernel.
        structure: its chains, rules and sets just after sandnet made it.
        needed: elements that must exist.
        allowed: elements that may exist, including those being added or removed.
    """
    if found is None:
        yield Fault("rules", table, f"table {table} is gone", NO_RULES)
        return
    if found.structure != structure:
        yield Fault("rules", table, f"chains, rules or sets of table {table} have been changed", NO_RULES)
    for name in sorted(found.elements.keys() | needed.keys()):
        present = found.elements.get(name, frozenset())
        missing = sorted(needed.get(name, set()) - present)
        unexpected = sorted(present - allowed.get(name, set()))
        yield from _elements(table, f"is missing in {name}", NO_ELEMENT, missing)
        yield from _elements(table, f"is in {name} and should not be", ONE_TOO_MANY, unexpected)


def _elements(table: str, what: str, reason: str, found: Sequence[str]) -> Iterator[Fault]:
    for element in islice(found, LISTED):
        yield Fault("rules", table, f"element {element} {what}", reason)
    if len(found) > LISTED:
        yield Fault("rules", table, f"and {len(found) - LISTED} more of which each {what}", reason)
