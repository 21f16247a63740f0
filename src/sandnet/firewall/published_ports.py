"""The published ports of the host, read from the table's maps: for the case that no record contains them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from sandnet.kernel.types import Listing, Value
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
        elements = listing.elements.get(name, {}) if listing else {}
        for key, value in elements.items():
            found.extend(_read(key, value, host_ip, "span" in name))
    return sorted(found, key=lambda each: (each[1].proto, each[1].host_port, each[1].host_ip.version))


def _read(key: bytes, value: Value, host_ip: Address | None, ranges: bool) -> Iterator[tuple[Address, BoundPort]]:
    """Yield the ports of one element: host address if the key has one, protocol, host port; address, perhaps a port."""
    if isinstance(value, str):
        return
    first, last = (key[: len(key) // 2], key[len(key) // 2 :]) if ranges else (key, key)
    try:
        where = ip_address(first[:-_PORT]) if host_ip is None else host_ip
        target = ip_address(value if ranges else value[:-_WORD])
    except ValueError:
        return
    for number in range(_number(first[-_WORD:]), _number(last[-_WORD:]) + 1):
        inside = number if ranges else _number(value[-_WORD:])
        yield target, BoundPort(proto=first[-_PORT], port=inside, host_ip=where, host_port=number)


_WORD: Final = 4
_PORT: Final = 2 * _WORD
"""Length of protocol and port, with padding."""


def _number(packed: bytes) -> int:
    return int.from_bytes(packed[:2], "big")
