"""Keys and values of nftables sets and maps: their bytes in the kernel, and their spelling in nft scripts.

Several parts of a key stand one after the other, each padded to four bytes (``NFT_REG32_SIZE``); a single one is not
padded. Numbers of packets are in network order, those of the kernel itself (marks, lengths) in the machine's. But sets
of ranges have all numbers in network order: the kernel compares their bytes, and the library converts what is looked
up.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, summarize_address_range
from typing import Final, NamedTuple

from sandnet.kernel.types import Elements, Value

_WORD: Final = 4


class _Part(NamedTuple):
    """The type of a part of a key or value."""

    size: int
    """Bytes, without padding."""
    spell: Callable[[bytes], str]


class SetType(NamedTuple):
    """The declaration of a set or map."""

    key: tuple[_Part, ...]
    value: tuple[_Part, ...]
    """Empty for sets, and for maps of verdicts."""
    ranges: bool = False
    """Its keys are ranges."""

    def spelled(self, key: bytes, value: Value) -> str:
        """Return an element as ``add element`` writes it: ``key`` or ``key : value``."""
        if self.ranges:
            middle = len(key) // 2
            ends = zip(_split(self.key, key[:middle]), _split(self.key, key[middle:]), strict=True)
            text = " . ".join(_range(part, first, last) for (part, first), (_, last) in ends)
        else:
            text = _texts(self.key, key)
        if isinstance(value, str):
            return f"{text} : {value}"
        return f"{text} : {_texts(self.value, value)}" if value else text


def join_parts(*parts: bytes) -> bytes:
    """Return a key or value of these parts."""
    if len(parts) == 1:
        return parts[0]
    return b"".join([padded(part) for part in parts])


def padded(part: bytes) -> bytes:
    """Return a part as it stands in a key of several parts."""
    return part + bytes(-len(part) % _WORD)


@lru_cache(maxsize=4096)
def link_name(name: str) -> bytes:
    """Return a link's name (``IFNAMSIZ``)."""
    return name.encode().ljust(16, b"\0")


@lru_cache(maxsize=4096)
def mac_address(text: str) -> bytes:
    """Return a MAC."""
    return bytes.fromhex(text.replace(":", ""))


def port_number(number: int) -> bytes:
    """Return a port."""
    return number.to_bytes(2, "big")


def protocol_number(number: int) -> bytes:
    """Return a protocol of IP, or a family of netfilter."""
    return number.to_bytes(1, "big")


def host_number(number: int) -> bytes:
    """Return a mark, a length or a hash."""
    return number.to_bytes(4, sys.byteorder)


@lru_cache(maxsize=8)
def declared_sets(script: str) -> dict[tuple[str, str], SetType]:
    """Return the sets and maps that a script declares, by table and name; without those of other types of keys."""
    found: dict[tuple[str, str], SetType] = {}
    table = ""
    for line in script.splitlines():
        if opened := _TABLE.match(line):
            table = opened[1]
        elif declared := _DECLARATION.match(line):
            key_names, _, value_names = declared[3].partition(" : ")
            ranges = "interval" in declared[4]
            key, value = _parts(key_names, ranges=ranges), _parts(value_names)
            if key is not None and value is not None:
                found[declared[1] or table, declared[2]] = SetType(key, value, ranges)
    return found


def spelled_elements(declared: dict[tuple[str, str], SetType], elements: Elements) -> Iterator[str]:
    """Yield the statements that add the elements."""
    for which, found in elements.items():
        if found:
            set_type = declared[which.table, which.name]
            listed = ", ".join(set_type.spelled(key, value) for key, value in found.items())
            yield f"add element {which.table} {which.name} {{ {listed} }}"


_TABLE: Final = re.compile(r"table (\S+ \S+) \{")
_DECLARATION: Final = re.compile(r"(?:add | *)(?:set|map) (?:(\w+ \w+) )?(\w+) \{ type(?:of)? ([^;]*);(.*)")


def _parts(names: str, *, ranges: bool = False) -> tuple[_Part, ...] | None:
    if names in ("", "verdict"):
        return ()
    found = [_PARTS.get(name) for name in names.split(" . ")]
    known = tuple(_in_ranges(part) if ranges else part for part in found if part)
    return known if len(known) == len(found) else None


def _in_ranges(part: _Part) -> _Part:
    return part._replace(spell=_decimal) if part.spell is _host_decimal else part


def _split(parts: tuple[_Part, ...], packed: bytes) -> Iterator[tuple[_Part, bytes]]:
    at = 0
    for part in parts:
        yield part, packed[at : at + part.size]
        at += part.size if len(parts) == 1 else part.size + -part.size % _WORD


def _texts(parts: tuple[_Part, ...], packed: bytes) -> str:
    return " . ".join(part.spell(each) for part, each in _split(parts, packed))


def _range(part: _Part, first: bytes, last: bytes) -> str:
    if first == last:
        return part.spell(first)
    if part.spell is _address:
        prefixes = [*summarize_address_range(ip_address(first), ip_address(last))]
        if len(prefixes) == 1:
            return str(prefixes[0])
    return f"{part.spell(first)}-{part.spell(last)}"


def _name(packed: bytes) -> str:
    return f'"{packed.rstrip(bytes(1)).decode(errors="replace")}"'


def _mac(packed: bytes) -> str:
    return packed.hex(":")


def _address(packed: bytes) -> str:
    return str((IPv4Address if len(packed) == 4 else IPv6Address)(packed))


def _decimal(packed: bytes) -> str:
    return str(int.from_bytes(packed, "big"))


def _hexadecimal(packed: bytes) -> str:
    return hex(int.from_bytes(packed, "big"))


def _host_decimal(packed: bytes) -> str:
    return str(int.from_bytes(packed, sys.byteorder))


def _mark(packed: bytes) -> str:
    return f"0x{int.from_bytes(packed, sys.byteorder):08x}"


def _named(part: _Part, *names: str) -> Iterable[tuple[str, _Part]]:
    return ((name, part) for name in names)


_PARTS: Final = dict(
    (
        *_named(_Part(16, _name), "ifname", "iifname", "oifname"),
        *_named(_Part(6, _mac), "ether saddr", "ether daddr"),
        *_named(_Part(4, _address), "ip saddr", "ip daddr", "ipv4_addr"),
        *_named(_Part(16, _address), "ip6 saddr", "ip6 daddr", "ipv6_addr"),
        *_named(_Part(4, _mark), "meta mark"),
        *_named(_Part(4, _host_decimal), "meta length"),
        *_named(_Part(2, _decimal), "th sport", "th dport", "inet_service"),
        *_named(_Part(1, _decimal), "meta l4proto", "inet_proto", "nf_proto"),
        *_named(_Part(3, _hexadecimal), "@th,96,24"),
        *_named(_Part(6, _hexadecimal), "@ll,48,48", "@th,176,48"),
        *_named(_Part(16, _hexadecimal), "@th,64,128"),
    )
)
"""By the expression or type that declares it."""
