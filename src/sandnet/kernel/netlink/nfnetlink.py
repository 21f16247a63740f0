"""Reads nftables over netlink, except for elements, and changes elements.

libnftables would return it as text, but it first reads every element of every set, learned flows too: over a second
with 100,000 of them. And it reads tables, chains and sets again for each change that follows another. Layouts and
numbers: ``linux/netfilter/nfnetlink.h``, ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sandnet.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    Message,
    Netlink,
    NetlinkError,
    SharedSocket,
    attribute,
    attributes,
    nested,
    string,
    to_text,
)
from sandnet.kernel.types import ElementChange

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10 << 8
_GET_CHAIN: Final = _SUBSYSTEM | 4
_GET_RULE: Final = _SUBSYSTEM | 7
_GET_SET: Final = _SUBSYSTEM | 10
_GET_GENERATION: Final = _SUBSYSTEM | 16
_NEW_ELEMENT: Final = _SUBSYSTEM | 12
_DELETE_ELEMENT: Final = _SUBSYSTEM | 14
_BATCH_BEGIN: Final = 16
_BATCH_END: Final = 17
_BATCH_GENERATION: Final = 1
"""Attribute: the transaction is for the ruleset with that number, and refused (``ERESTART``) with any other."""
_HEADER: Final = struct.Struct("!BBH")
"""``struct nfgenmsg``: family, version, resource."""
_FAMILIES: Final = {"inet": 1, "bridge": 7, "ip": 2, "ip6": 10}

_ELEMENTS_TABLE: Final = 1
_ELEMENTS_SET: Final = 2
_ELEMENTS: Final = 3
_LIST_ELEMENT: Final = 1
_ELEMENT_KEY: Final = 1
_ELEMENT_DATA: Final = 2
_DATA_VALUE: Final = 1
_TABLE: Final = 1
"""Attribute with the table's name: the same for chains, rules and sets."""
_GENERATION_ID: Final = 1
_CHAIN: Final = (1, 3, 4, 5, 7)
"""Table, name, hook, policy and type: the identity of a chain, without its handle and its reference count."""
_RULE: Final = (1, 2, 4)
"""Table, chain and expressions."""
_SET: Final = (1, 2, 3, 4, 5, 6, 7, 11)
"""Table, name, flags, types and lengths of key and data, timeout; not the number of elements."""
_NAME: Final = 2
_FLAGS: Final = 3
_ANONYMOUS: Final = 0x1
_MAP: Final = 0x8
_TIMEOUT: Final = 0x10
_WRITTEN_BY_RULES: Final = 0x20


_Attributes = dict[int, bytes]
"""Attributes by their type."""


class TableDeclaration(NamedTuple):
    """A table without its elements."""

    frame: str
    """Chains, rules and sets as the kernel reports them, in hexadecimal digits, for comparison only."""
    sets: tuple[str, ...]
    """The sets whose elements can be listed: ``set NAME`` or ``map NAME``, except for those that rules write to."""


class Nfnetlink:
    """Sends requests through a socket that it keeps."""

    def __init__(self) -> None:
        self._socket = SharedSocket(lambda: Netlink(_NETLINK_NETFILTER))

    def generation(self) -> int:
        """Return the number of the last transaction in this network namespace.

        Raises:
            NetlinkError: the kernel has no nftables.
        """
        with self._socket.used() as netlink:
            body = netlink.get(_GET_GENERATION, _HEADER.pack(0, 0, 0)) or b""
        return int.from_bytes(attributes(body, _HEADER.size).get(_GENERATION_ID, b""), "big")

    def change(self, elements: Sequence[ElementChange], generation: int) -> bool:
        """Change elements as one transaction.

        Args:
            elements: at least one.
            generation: do it only if the ruleset has this number; 0: in any case.

        Returns:
            Whether it was done; it was not if the ruleset has another number.

        Raises:
            NetlinkError: the kernel refuses; nothing of it has happened.
        """
        batch = _HEADER.pack(0, 0, _SUBSYSTEM >> 8)
        expected = attribute(_BATCH_GENERATION, generation.to_bytes(4, "big")) if generation else b""
        changes = [_element(each) for each in elements]
        changes[-1] = changes[-1]._replace(flags=changes[-1].flags | NLM_F_ACK)
        messages = [Message(_BATCH_BEGIN, 0, batch + expected), *changes, Message(_BATCH_END, 0, batch)]
        with self._socket.used() as netlink:
            try:
                netlink.transact(messages)
            except NetlinkError as refused:
                if refused.errno != errno.ERESTART:
                    raise
                return False
        return True

    def declared(self, table: str) -> TableDeclaration | None:
        """Return a table (``inet sandnet``) as it is; ``None``: there is none.

        Raises:
            NetlinkError: the kernel refuses.
        """
        family, _, name = table.partition(" ")
        with self._socket.used() as netlink:
            chains = [*_dump(netlink, _GET_CHAIN, family, name)]
            rules = [*_dump(netlink, _GET_RULE, family, name)]
            sets = [*_dump(netlink, _GET_SET, family, name)]
        return _declared(chains, rules, sets) if chains or sets else None

    def close(self) -> None:
        """Close the socket; a later call takes a new one."""
        self._socket.close()


def _declared(chains: list[_Attributes], rules: list[_Attributes], sets: list[_Attributes]) -> TableDeclaration:
    parts = [("chain", _CHAIN, chains), ("rule", _RULE, rules), ("set", _SET, sets)]
    frame = "\n".join(
        f"{kind} {' '.join(each.get(key, b'').hex() for key in keys)}" for kind, keys, found in parts for each in found
    )
    return TableDeclaration(frame, tuple(listable for each in sets if (listable := _listable(each))))


def _dump(netlink: Netlink, kind: int, family: str, table: str) -> Iterator[dict[int, bytes]]:
    body = _HEADER.pack(_FAMILIES[family], 0, 0) + string(_TABLE, table)
    try:
        bodies = netlink.dump(kind, body)
    except NetlinkError as refused:
        if refused.errno == errno.ENOENT:
            return
        raise
    for each in bodies:
        found = attributes(each, _HEADER.size)
        if to_text(found.get(_TABLE)) == table:
            yield found


def _element(change: ElementChange) -> Message:
    family, _, table = change.table.partition(" ")
    data = nested(_ELEMENT_DATA, attribute(_DATA_VALUE, change.data)) if change.data else b""
    element = nested(_LIST_ELEMENT, nested(_ELEMENT_KEY, attribute(_DATA_VALUE, change.packed)), data)
    where = string(_ELEMENTS_TABLE, table) + string(_ELEMENTS_SET, change.name)
    body = _HEADER.pack(_FAMILIES[family], 0, 0) + where + nested(_ELEMENTS, element)
    return Message(_NEW_ELEMENT, NLM_F_CREATE, body) if change.added else Message(_DELETE_ELEMENT, 0, body)


def _listable(found: dict[int, bytes]) -> str:
    flags = int.from_bytes(found.get(_FLAGS, b""), "big")
    if flags & (_ANONYMOUS | _TIMEOUT | _WRITTEN_BY_RULES):
        return ""
    return f"{'map' if flags & _MAP else 'set'} {to_text(found.get(_NAME))}"
