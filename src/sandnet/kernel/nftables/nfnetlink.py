"""Reads nftables over netlink, and sends transactions.

libnftables would return it as text, but it first reads every element of every set, learned flows too: over a second
with 100,000 of them. And it reads tables, chains and sets again for each change that follows another. Layouts and
numbers: ``linux/netfilter/nfnetlink.h``, ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sandnet.kernel.netlink.shared_socket import SharedSocket
from sandnet.kernel.netlink.socket import (
    NLM_F_ACK,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    string,
    to_text,
)
from sandnet.kernel.netlink.uapi.netfilter_numbers import (
    NETLINK_NETFILTER,
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES,
)
from sandnet.kernel.nftables.element_messages import FAMILIES, GET_ELEMENT, HEADER, decoded, request
from sandnet.kernel.types import TableStructure, Value

_GET_CHAIN: Final = NFNL_SUBSYS_NFTABLES | 4
_GET_RULE: Final = NFNL_SUBSYS_NFTABLES | 7
_GET_SET: Final = NFNL_SUBSYS_NFTABLES | 10
_GET_GENERATION: Final = NFNL_SUBSYS_NFTABLES | 16
_BATCH_GENERATION: Final = 1
"""Attribute: the transaction is for the ruleset with that number, and refused (``ERESTART``) with any other."""
_OVERHEAD: Final = 32
"""More than the header and the padding of a message."""
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
"""Attribute of a set."""
_CHAIN_NAME: Final = 3
_FLAGS: Final = 3
_ANONYMOUS: Final = 0x1
_MAP: Final = 0x8
_TIMEOUT: Final = 0x10
_WRITTEN_BY_RULES: Final = 0x20


_Attributes = dict[int, bytes]
"""Attributes by their type."""


class TableDeclaration(NamedTuple):
    """A table without its elements."""

    structure: TableStructure
    """The frame has chains, rules and sets as the kernel reports them, in hexadecimal digits."""
    listable: tuple[str, ...]
    """The names of the sets and maps whose elements can be listed: all except for those that rules write to."""


class Nfnetlink:
    """Sends requests through a socket that it keeps."""

    def __init__(self) -> None:
        self._socket = SharedSocket(lambda: Netlink(NETLINK_NETFILTER))

    def generation(self) -> int:
        """Return the number of the last transaction in this network namespace.

        Raises:
            NetlinkError: the kernel has no nftables.
        """
        with self._socket.used() as netlink:
            body = netlink.get(_GET_GENERATION, HEADER.pack(0, 0, 0)) or b""
        return int.from_bytes(attributes(body, HEADER.size).get(_GENERATION_ID, b""), "big")

    def transact(self, messages: Sequence[Message], generation: int) -> bool:
        """Change the ruleset by these messages, as one transaction.

        Args:
            messages: at least one.
            generation: do it only if the ruleset has this number; 0: in any case.

        Returns:
            Whether it was done; it was not if the ruleset has another number.

        Raises:
            NetlinkError: the kernel refuses; nothing of it has happened.
        """
        batch = HEADER.pack(0, 0, NFNL_SUBSYS_NFTABLES >> 8)
        expected = attribute(_BATCH_GENERATION, generation.to_bytes(4, "big")) if generation else b""
        *most, last = messages
        last = last._replace(flags=last.flags | NLM_F_ACK)
        whole = [Message(NFNL_MSG_BATCH_BEGIN, 0, batch + expected), *most, last, Message(NFNL_MSG_BATCH_END, 0, batch)]
        with self._socket.used() as netlink:
            try:
                netlink.reserve(sum(len(message.body) + _OVERHEAD for message in whole))
                netlink.transact(whole)
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

    def elements(self, table: str, name: str) -> dict[bytes, Value] | None:
        """Return the elements of a set by key; ``None``: there is no such set.

        Raises:
            NetlinkError: the kernel refuses.
        """
        with self._socket.used() as netlink:
            try:
                return decoded(netlink.dump(GET_ELEMENT, request(table, name)))
            except NetlinkError as refused:
                if refused.errno != errno.ENOENT:
                    raise
        return None

    def close(self) -> None:
        """Close the socket; a later call takes a new one."""
        self._socket.close()


def _declared(chains: list[_Attributes], rules: list[_Attributes], sets: list[_Attributes]) -> TableDeclaration:
    parts = [("chain", _CHAIN, chains), ("rule", _RULE, rules), ("set", _SET, sets)]
    frame = "\n".join(
        f"{kind} {' '.join(each.get(key, b'').hex() for key in keys)}" for kind, keys, found in parts for each in found
    )
    plain, maps = ([each for each in sets if _flags_of(each) & (_ANONYMOUS | _MAP) == kind] for kind in (0, _MAP))
    structure = TableStructure(frame, _names(chains, _CHAIN_NAME), _names(plain, _NAME), _names(maps, _NAME))
    return TableDeclaration(structure, tuple(listable for each in sets if (listable := _listable(each))))


def _names(found: Iterable[_Attributes], key: int) -> frozenset[str]:
    return frozenset(to_text(each.get(key)) for each in found)


def _flags_of(found: _Attributes) -> int:
    return int.from_bytes(found.get(_FLAGS, b""), "big")


def _dump(netlink: Netlink, kind: int, family: str, table: str) -> Iterator[dict[int, bytes]]:
    body = HEADER.pack(FAMILIES[family], 0, 0) + string(_TABLE, table)
    try:
        bodies = netlink.dump(kind, body)
    except NetlinkError as refused:
        if refused.errno == errno.ENOENT:
            return
        raise
    for each in bodies:
        found = attributes(each, HEADER.size)
        if to_text(found.get(_TABLE)) == table:
            yield found


def _listable(found: dict[int, bytes]) -> str:
    if _flags_of(found) & (_ANONYMOUS | _TIMEOUT | _WRITTEN_BY_RULES):
        return ""
    return to_text(found.get(_NAME))
