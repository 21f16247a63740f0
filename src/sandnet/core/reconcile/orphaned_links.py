"""Orphaned links: links made by the daemon that belong to no record."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sandnet.kernel.types import DELETING, PREPARED, RETIRED, Link, Port
from sandnet.model.link_names import OUR_LINKS, port_of


def orphaned_links(ports: Iterable[Port], is_claimed: Callable[[str], bool]) -> list[str]:
    """Return the names of the daemon's links that nothing claims, except those of its pool and those being deleted."""
    ours = [port.link for port in ports if is_ours(port.link)]
    return [link.name for link in ours if not _has_owner(link) and not is_claimed(port_of(link.name))]


def is_ours(link: Link) -> bool:
    """Return whether the daemon made a link, by its kind and name."""
    pattern = OUR_LINKS.get(link.kind)
    return pattern is not None and pattern.fullmatch(link.name) is not None


def _has_owner(link: Link) -> bool:
    """Return whether the reaper or the pool of prepared sandboxes deletes the link."""
    return link.group in (RETIRED, DELETING, PREPARED)
