"""Elements of nftables sets and maps in the form in which the kernel compares them, and their differences."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final, NamedTuple

from sandnet.kernel.types import Elements, ElementSet, Value

BRIDGE: Final = "bridge sandnet"
INET: Final = "inet sandnet"

ElementMap = dict[ElementSet, dict[bytes, Value]]
"""Elements by set: the form for many."""


class Element(NamedTuple):
    """The set and key of an element."""

    which: ElementSet
    key: bytes


class Difference(NamedTuple):
    """The elements of one state that another one lacks, or has with another value."""

    removed: ElementMap
    added: ElementMap


@cache
def bridge_set(name: str) -> ElementSet:
    """Return a set of the bridge table."""
    return ElementSet(BRIDGE, name)


@cache
def inet_set(name: str, *, ranges: bool = False) -> ElementSet:
    """Return a set of the inet table; ``ranges``: its keys are ranges."""
    return ElementSet(INET, name, ranges)


def by_set(elements: Iterable[tuple[Element, Value]]) -> ElementMap:
    """Return elements by their sets."""
    found: ElementMap = {}
    for (which, key), value in elements:
        found.setdefault(which, {})[key] = value
    return found


def merge(into: ElementMap, elements: Elements) -> None:
    """Add elements to others."""
    for which, found in elements.items():
        into.setdefault(which, {}).update(found)


def difference(old: Elements, new: Elements) -> Difference:
    """Return what has to change for the old elements to become the new ones; equal ones are not touched."""
    return Difference(_beyond(old, new), _beyond(new, old))


def _beyond(one: Elements, other: Elements) -> ElementMap:
    found: ElementMap = {}
    for which, own in one.items():
        theirs = other.get(which)
        differing = {key: value for key, value in own.items() if theirs.get(key) != value} if theirs else dict(own)
        if differing:
            found[which] = differing
    return found
