"""Elements of nftables sets and maps as netlink attributes, many at a time (``linux/netfilter/nf_tables.h``).

A service takes several hundred elements, so the cost of one is what counts here: 0.3 µs to encode, as much to decode.
The library takes 20 µs for each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final

from sandnet.kernel.netlink.socket import NLM_F_CREATE, Message, attribute, attributes, nested, string, to_text
from sandnet.kernel.netlink.uapi.netfilter_numbers import NFNL_SUBSYS_NFTABLES
from sandnet.kernel.types import Elements, ElementSet, Value

_NEW_ELEMENT: Final = NFNL_SUBSYS_NFTABLES | 12
GET_ELEMENT: Final = NFNL_SUBSYS_NFTABLES | 13
_DELETE_ELEMENT: Final = NFNL_SUBSYS_NFTABLES | 14
HEADER: Final = struct.Struct("!BBH")
"""``struct nfgenmsg``: family, version, resource."""
FAMILIES: Final = {"inet": 1, "bridge": 7, "ip": 2, "ip6": 10}

_TABLE: Final = 1
_SET: Final = 2
_LIST: Final = 3
_ELEMENT: Final = 1
_KEY: Final = 1
_DATA: Final = 2
_KEY_END: Final = 10
_VALUE: Final = 1
_VERDICT: Final = 2
_VERDICT_CODE: Final = 1
_VERDICT_CHAIN: Final = 2
_HEADER: Final = 4
"""Length of an attribute's header."""
_TYPE_MASK: Final = 0x3FFF
_VERDICTS: Final = {"drop": 0, "accept": 1, "jump": 0xFFFFFFFD, "goto": 0xFFFFFFFC}
"""The code of each verdict (``linux/netfilter/nf_tables.h``: ``NFT_JUMP`` is -3)."""
_VERDICT_WORDS: Final = {code.to_bytes(4, "big"): word for word, code in _VERDICTS.items()}
_BATCH: Final = 500
"""Elements of one message: the length of an attribute has 16 bits, and an element takes at most 124 bytes."""


def addition(elements: Elements) -> Iterator[Message]:
    """Yield the messages that add elements; adding one that exists with the same value is no error."""
    for which, found in elements.items():
        yield from _messages(_NEW_ELEMENT, NLM_F_CREATE, which, found.items())


def removal(elements: Elements) -> Iterator[Message]:
    """Yield the messages that remove elements by their keys."""
    for which, found in elements.items():
        yield from _messages(_DELETE_ELEMENT, 0, which, ((key, b"") for key in found))


def request(table: str, name: str = "") -> bytes:
    """Return the body that names a set: of a request for its elements, and the beginning of others."""
    family, _, table_name = table.partition(" ")
    return HEADER.pack(FAMILIES[family], 0, 0) + string(_TABLE, table_name) + string(_SET, name)


def decoded(bodies: Iterable[bytes]) -> dict[bytes, Value]:
    """Return the elements in the kernel's reply to a request for all of a set."""
    found: dict[bytes, Value] = {}
    for body in bodies:
        listed = attributes(body, HEADER.size).get(_LIST, b"")
        _decode(listed, found)
    return found


def _messages(kind: int, flags: int, which: ElementSet, items: Iterable[tuple[bytes, Value]]) -> Iterator[Message]:
    where, left = request(which.table, which.name), iter(items)
    while batch := [*islice(left, _BATCH)]:
        yield Message(kind, flags, where + nested(_LIST, *_encoded(which, batch)))


def _encoded(which: ElementSet, items: Sequence[tuple[bytes, Value]]) -> list[bytes]:
    """Return the elements of a set. Its keys have one length, and many have one value."""
    if which.ranges:
        return [_encoded_range(key, value) for key, value in items]
    length = len(items[0][0])
    around = {value: _around(length, value) for value in {value for _, value in items}}
    return [(ends := around[value])[0] + key + ends[1] for key, value in items]


def _encoded_range(key: bytes, value: Value) -> bytes:
    middle = len(key) // 2
    ends = nested(_KEY, attribute(_VALUE, key[:middle])) + nested(_KEY_END, attribute(_VALUE, key[middle:]))
    return nested(_ELEMENT, ends + _data(value))


@lru_cache(maxsize=4096)
def _around(length: int, value: Value) -> tuple[bytes, bytes]:
    """Return what precedes and follows a key of this length in an element."""
    data = _data(value)
    whole = nested(_ELEMENT, nested(_KEY, attribute(_VALUE, bytes(length))), data)
    start = 3 * _HEADER
    return whole[:start], whole[start + length :]


def _data(value: Value) -> bytes:
    if isinstance(value, str):
        word, _, chain = value.partition(" ")
        code = attribute(_VERDICT_CODE, _VERDICTS[word].to_bytes(4, "big"))
        return nested(_DATA, nested(_VERDICT, code, string(_VERDICT_CHAIN, chain) if chain else b""))
    return nested(_DATA, attribute(_VALUE, value)) if value else b""


def _decode(listed: bytes, found: dict[bytes, Value]) -> None:
    """Add the elements of one message.

    Those of a set mostly differ in key and value only. So as many as have the first one's length and attributes are
    read as an array.
    """
    at = 0
    while at < len(listed):
        length = (struct.unpack_from("=H", listed, at)[0] + 3) & ~3
        if length < _HEADER:
            return
        element = listed[at : at + length]
        key, value = _element(element)
        found[key] = value
        at += length
        if isinstance(value, bytes):
            at = _decode_alike(listed, at, element, (key, value), found)


def _is_plain(element: bytes, key: bytes, value: bytes) -> bool:
    """Return whether an element begins with its key, followed by its value where it has one."""
    kinds = [_KEY, _VALUE]
    places = [_HEADER, 2 * _HEADER]
    if value:
        data_at = 3 * _HEADER + _padded(key)
        kinds += [_DATA, _VALUE]
        places += [data_at, data_at + _HEADER]
    return (
        len(element) > places[-1]
        and kinds == [_kind(element, place) for place in places]
        and len(key) == (struct.unpack_from("=H", element, 2 * _HEADER)[0] - _HEADER)
    )


def _kind(packed: bytes, at: int) -> int:
    return int(struct.unpack_from("=H", packed, at + 2)[0]) & _TYPE_MASK


def _padded(packed: bytes) -> int:
    return (len(packed) + 3) & ~3


def _element(packed: bytes) -> tuple[bytes, Value]:
    own = attributes(packed, _HEADER)
    key = attributes(own.get(_KEY, b"")).get(_VALUE, b"")
    if _KEY_END in own:
        key += attributes(own[_KEY_END]).get(_VALUE, b"")
    data = attributes(own.get(_DATA, b""))
    if _VERDICT in data:
        verdict = attributes(data[_VERDICT])
        word, chain = (
            _VERDICT_WORDS.get(verdict.get(_VERDICT_CODE, b""), "unknown"),
            to_text(verdict.get(_VERDICT_CHAIN)),
        )
        return key, f"{word} {chain}" if chain else word
    return key, data.get(_VALUE, b"")


def _decode_alike(listed: bytes, at: int, element: bytes, first: tuple[bytes, bytes], found: dict[bytes, Value]) -> int:
    """Add the elements from ``at`` that are as the first one but for key and value; return where others begin."""
    key, value = first
    if not _is_plain(element, key, value):
        return at
    data_at = 3 * _HEADER + _padded(key)
    value_at = data_at + 2 * _HEADER if value else data_at
    gap, rest = value_at - 3 * _HEADER - len(key), len(element) - value_at - len(value)
    layout = struct.Struct(f"{3 * _HEADER}s{len(key)}s{gap}s{len(value)}s{rest}s")
    head, _, middle, _, tail = layout.unpack(element)
    count = (len(listed) - at) // layout.size
    for start, own_key, space, own_value, end in layout.iter_unpack(listed[at : at + count * layout.size]):
        if start != head or space != middle or end != tail:
            break
        found[own_key] = own_value
        at += layout.size
    return at
