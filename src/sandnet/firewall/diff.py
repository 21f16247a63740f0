"""Differences between a listing of an nftables table and its desired content (pure functions)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from sandnet.firewall.base import Fault
from sandnet.kernel.nft_types import SetType
from sandnet.kernel.types import Elements, Listing, TableStructure, Value

NO_LOOPBACK: Final = "ports published on 127.0.0.1 are not reached, or what must not be reached is"


NO_RULES: Final = "addresses are not translated, ports not published, networks not kept apart"


NO_ELEMENT: Final = "what it stands for (a network, a published port, a backend) is not served, or served wrongly"


ONE_TOO_MANY: Final = "it belongs to no record: packets may go where no container is"


_REASONS: Final = {
    "route_localnet": NO_LOOPBACK,
    "forwarding": "its sandboxes reach nothing beyond their own network, and no client reaches their published ports",
    "accept_ra": "a sandbox may configure the host by router advertisements",
    "disable_ipv6": "its IPv6 addresses are gone, or the host is reached by one that no network has",
}
"""By parameter: the consequence of a wrong value."""


_NONE: Final[Mapping[bytes, Value]] = {}
LISTED: Final = 20
"""Elements of one set that are reported one by one."""


class Wanted(NamedTuple):
    """The desired content of a table, twice where it changed while the table was read."""

    structure: TableStructure | None
    """Its chains, rules and sets just after sandnet made it."""
    needed: tuple[Elements, Elements]
    """Elements of both tables; what is in both of these must exist."""
    allowed: tuple[Elements, Elements]
    """What is in one of these may exist; they include elements being added or removed."""


def table_faults(
    table: str, found: Listing | None, wanted: Wanted, types: Mapping[tuple[str, str], SetType]
) -> Iterator[Fault]:
    """Yield the differences of a table from its desired content.

    Args:
        table: its name.
        found: its content in the kernel.
        wanted: its desired content.
        types: the declarations of its sets.
    """
    if found is None:
        yield Fault("rules", table, f"table {table} is gone", NO_RULES)
        return
    if found.structure != wanted.structure:
        yield Fault("rules", table, f"chains, rules or sets of table {table} have been changed", NO_RULES)
    needed, allowed = ([_of_table(table, each) for each in both] for both in (wanted.needed, wanted.allowed))
    for name in sorted(found.elements.keys() | needed[0].keys()):
        present = found.elements.get(name, _NONE)
        if all(each.get(name, _NONE) == present for each in needed):
            continue
        required, later = (each.get(name, _NONE).items() for each in needed)
        allowed_now, allowed_later = (each.get(name, _NONE).items() for each in allowed)
        missing = (required & later) - present.items()
        unexpected = present.items() - allowed_now - allowed_later
        spelled = _spelling(table, name, types)
        yield from _elements(table, f"is missing in {name}", NO_ELEMENT, sorted(map(spelled, missing)))
        yield from _elements(table, f"is in {name} and should not be", ONE_TOO_MANY, sorted(map(spelled, unexpected)))


def _of_table(table: str, elements: Elements) -> dict[str, Mapping[bytes, Value]]:
    return {which.name: found for which, found in elements.items() if which.table == table and found}


def _spelling(table: str, name: str, types: Mapping[tuple[str, str], SetType]) -> Callable[[tuple[bytes, Value]], str]:
    set_type = types.get((table, name))
    if set_type is None:  # another program's set
        return lambda element: element[0].hex()
    known = set_type
    return lambda element: known.spelled(*element)


def _elements(table: str, what: str, reason: str, found: Sequence[str]) -> Iterator[Fault]:
    for element in islice(found, LISTED):
        yield Fault("rules", table, f"element {element} {what}", reason)
    if len(found) > LISTED:
        yield Fault("rules", table, f"and {len(found) - LISTED} more of which each {what}", reason)
