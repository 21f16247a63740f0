"""The published ports of the host, read from the table's maps: for the case that no record contains them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from sandnet.kernel.types import Listing
from sandnet.model import Address, BoundPort
from sandnet.model.ports import ANY4, ANY6

_MAPS = (
    *(("any4", ANY4), ("any6", ANY6), ("one4", None), ("one6", None)),
    *(("span4", ANY4), ("span6", ANY6), ("one_span4", None), ("one_span6", None)),
)
"""Each map, and the host address that its keys leave out."""


def published(listing: Listing | None) -> Sequence[tuple[Address, BoundPort]]:
    """Return each port of the host with its destination address, from a listing of the table."""
    found: list[tuple[Address, BoundPort]] = []
    for name, host_ip in _MAPS:
        for element in listing.elements.get(name, ()) if listing else ():
            found.extend(_read(element, host_ip))
    return sorted(found, key=lambda each: (each[1].proto, each[1].host_port, each[1].host_ip.version))


def _read(element: str, host_ip: Address | None) -> Iterator[tuple[Address, BoundPort]]:
    """Yield the ports of one element.

    Its form is ``[host address .] protocol . host port : address . port``, or ``… . first-last : address``.
    """
    key, _, value = element.partition(" : ")
    try:
        *head, proto, host_port = key.split(" . ")
        target, _, port = value.partition(" . ")
        where = ip_address(head[0]) if host_ip is None else host_ip
        first, _, last = host_port.partition("-")
        for number in range(int(first), int(last or first) + 1):
            inside = int(port or number)
            yield ip_address(target), BoundPort(proto=int(proto), port=inside, host_ip=where, host_port=number)
    except (ValueError, IndexError):
        return
