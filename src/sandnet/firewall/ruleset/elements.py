"""An element of an nftables set or map, and the statements that change elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

BRIDGE: Final = "bridge sandnet"


INET: Final = "inet sandnet"


class Element(NamedTuple):
    """The table, set and key of an element."""

    table: str
    name: str
    key: str


def diff_statements(old: dict[Element, str], new: dict[Element, str]) -> Iterator[str]:
    """Yield the statements that change the old elements into the new ones; equal ones are not touched."""
    removed = [element for element, _ in old.items() - new.items()]
    added = [element for element, _ in new.items() - old.items()]
    yield from _statements("delete", removed, {})
    yield from _statements("add", added, new)


def _statements(verb: str, found: Sequence[Element], values: dict[Element, str]) -> Iterator[str]:
    for (table, name), group in groupby(sorted(found), key=lambda element: element[:2]):
        listed = (f"{element.key} : {values[element]}" if values.get(element) else element.key for element in group)
        yield f"{verb} element {table} {name} {{ {', '.join(listed)} }}"
