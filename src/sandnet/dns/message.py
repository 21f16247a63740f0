"""DNS messages as bytes: what a question asks, and what an answer looks like (RFC 1035, 2181, 2308, 3597, 6891).

No input or output happens here, and nothing here raises on what a stranger sent. Only the little that a
resolver of addresses needs is here: one question in, address and pointer records out.

Why not a library: dnspython reads a query and writes its answer in 71 us, this module in 3 (one core, Python 3.11),
and 70,000 questions a second leave 14 us for each, the system calls included. The tests read our answers with it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from sandnet.model.address import Address

A, SOA, PTR, AAAA, OPT = 1, 6, 12, 28, 41
"""Types of records, as assigned by IANA."""
IXFR, AXFR, ANY = 251, 252, 255
"""Types that only a question has; ``ANY`` is a class, too."""
IN = 1
"""The class of the Internet."""

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
"""Response codes (RFC 1035 section 4.1.1)."""
BADVERS = 16
"""Response code: a version of EDNS that is not spoken here (RFC 6891 section 6.1.3)."""

HEADER_SIZE = 12
LONGEST_LABEL = 63
LONGEST_NAME = 255
"""Bytes of a name in wire form, the root's byte included (RFC 1035 section 2.3.4)."""
PLAIN_UDP = 512
"""Bytes of a message over UDP without EDNS."""
LARGEST_UDP = 4096
"""Bytes of an answer over UDP at the most, whatever the asker offers."""
LARGEST_TCP = 65535
"""Bytes of a message over TCP: its length has 16 bits."""
OFFERED_UDP = 1232
"""Bytes that we say we take: what fits every path unfragmented (DNS flag day 2020)."""
LARGEST_QUERY = 1232
"""Bytes of a query: a name has 255, and with all options and padding a client stays below the half of this."""
MOST_ADDITIONAL = 4
"""Additional records of a query. Clients send OPT (RFC 6891) and perhaps a signature (RFC 8945, 2931)."""


_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
_LABEL = rb"(?:\\[0-9]{3}|\\[^0-9]|[^\\.])+"
_NAME = re.compile(rb"%s(?:\.%s)*\.?" % (_LABEL, _LABEL))
_ESCAPE = re.compile(rb"\\([0-9]{3}|[^0-9])")


class Edns(NamedTuple):
    """What the OPT record of a query says (RFC 6891 section 6.1)."""

    size: int
    """Bytes of an answer that the asker takes over UDP."""
    version: int
    dnssec: bool
    """The DO bit; an answer repeats it (RFC 3225)."""


class Question(NamedTuple):
    """The one question of a query, and what its OPT record says. A query is parsed once, to this."""

    name: bytes
    """Wire form: lower case, uncompressed, length bytes and the root's zero byte included."""
    qtype: int
    qclass: int
    end: int
    """Offset of what follows the question."""
    edns: Edns | None
    """``None``: the query has no OPT record."""


def parse_question(query: bytes) -> Question | None:
    """Return the question of a standard query; ``None`` for everything else.

    One question, no answer or authority records, at most ``MOST_ADDITIONAL`` well-formed additional records with at
    most one OPT among them, nothing behind them, and at most ``LARGEST_QUERY`` bytes. A compression pointer in the
    question is refused: nothing stands before it to point at.
    """
    if not HEADER_SIZE + 5 <= len(query) <= LARGEST_QUERY or query[2] & 0xF8 or query[4:10] != b"\0\1\0\0\0\0":
        return None
    after = _name_end(query, HEADER_SIZE)
    end = after + 4
    if not after or end > len(query):
        return None
    offer = None
    if end != len(query) or query[10:12] != b"\0\0":
        offers = _offers(query, end)
        if offers is None:
            return None
        offer = offers[0] if offers else None
    kind, group = query[after : after + 2], query[after + 2 : end]
    return Question(query[HEADER_SIZE:after].lower(), int.from_bytes(kind), int.from_bytes(group), end, offer)


def _name_end(query: bytes, at: int) -> int:
    """Return the offset behind the uncompressed name at ``at``; 0: it is malformed."""
    last = min(len(query), at + LONGEST_NAME) - 1
    while at <= last:
        length = query[at]
        if not length:
            return at + 1
        if length > LONGEST_LABEL:
            return 0
        at += length + 1
    return 0


def _offers(query: bytes, at: int) -> list[Edns] | None:
    """Return what the OPT record among the additional records says, if there is one.

    ``None``: the records are too many or malformed, there are several OPT records, or bytes stand behind them.
    """
    count = int.from_bytes(query[10:12])
    if count > MOST_ADDITIONAL:
        return None
    offers = []
    for _ in range(count):
        start, at = at, _owner_end(query, at)
        if not at or at + 10 > len(query):
            return None
        kind, group, ttl, length = struct.unpack_from("!HHIH", query, at)
        if kind == OPT:
            if at != start + 1:  # its owner is the root (RFC 6891 section 6.1.2)
                return None
            offers.append(Edns(group, ttl >> 16 & 0xFF, bool(ttl & 0x8000)))
        at += 10 + length
    return offers if at == len(query) and len(offers) < 2 else None


def _owner_end(query: bytes, at: int) -> int:
    """Return the offset behind the owner of a record, its compression pointer not followed; 0: it is malformed."""
    last = min(len(query), at + LONGEST_NAME) - 1
    while at <= last:
        length = query[at]
        if not length:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length > LONGEST_LABEL:
            return 0
        at += length + 1
    return 0


def udp_limit(question: Question) -> int:
    """Return the bytes that an answer over UDP may have: 512, or what the query's OPT says, between 512 and 4096."""
    return min(max(question.edns.size, PLAIN_UDP), LARGEST_UDP) if question.edns else PLAIN_UDP


def name_to_text(wire: bytes) -> str:
    """A well-formed uncompressed name as text, without a trailing dot; the root is ``.``.

    Within a label a backslash is doubled, and a dot and what is not printable ASCII become ``\\DDD`` (RFC 1035
    section 5.1): no two names have one text, and every dot in it separates two labels.
    """
    labels = []
    at = 0
    while wire[at]:
        end = at + 1 + wire[at]
        labels.append(_label_to_text(wire[at + 1 : end]))
        at = end
    return ".".join(labels) or "."


def _label_to_text(label: bytes) -> str:
    if not label.translate(None, _PLAIN):
        return label.decode("ascii")
    return "".join(_escaped(byte) for byte in label)


def _escaped(byte: int) -> str:
    if byte in b"\\":
        return "\\\\"
    return chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x2E else f"\\{byte:03d}"


def text_to_name(text: str) -> bytes:
    """The wire form of a name, its case kept; a trailing dot is allowed. Undoes :func:`name_to_text`.

    Raises:
        ValueError: a label that is empty or longer than 63 bytes, a name of more than 255 bytes, a broken escape,
            or a character that is not ASCII.
    """
    if text == ".":
        return b"\0"
    plain = text.encode("ascii")
    labels = [_ESCAPE.sub(_unescaped, label) for label in re.findall(_LABEL, plain)]
    if not _NAME.fullmatch(plain) or max(map(len, labels)) > LONGEST_LABEL:
        raise ValueError(f"not a domain name: {text!r}")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(wire) > LONGEST_NAME:
        raise ValueError(f"a domain name of more than {LONGEST_NAME} bytes: {text!r}")
    return wire


def _unescaped(escape: re.Match[bytes]) -> bytes:
    byte = escape[1]
    return bytes((int(byte),)) if len(byte) == 3 else byte


def answer(
    query: bytes,
    question: Question,
    rcode: int,
    records: Sequence[bytes],
    *,
    limit: int,
    authoritative: bool = True,
    authority: bytes = b"",
) -> bytes:
    """The reply to a query: its id, its question as it was spelled, the records and, where it had one, an OPT.

    Args:
        query: what :func:`parse_question` made the question from.
        question: its question.
        rcode: response code; one above 15 needs an OPT in the query to be told.
        records: answers; as many whole ones as fit are sent, and the TC bit set when some are left out.
        limit: bytes that the reply may have, at least 512.
        authoritative: the AA bit.
        authority: the SOA record of a negative answer (RFC 2308), or nothing.
    """
    opt = opt_record(question, rcode)
    fitting = _fitting(records, limit - question.end - len(authority) - len(opt))
    high = 0x80 | authoritative << 2 | (len(fitting) < len(records)) << 1 | query[2] & 0x01
    low = 0x80 | query[3] & 0x10 | rcode & 0x0F
    header = struct.pack("!BBHHHH", high, low, 1, len(fitting), bool(authority), bool(opt))
    return b"".join((query[:2], header, query[HEADER_SIZE : question.end], *fitting, authority, opt))


def opt_record(question: Question, rcode: int) -> bytes:
    """Return our OPT record when the query had one, else nothing (RFC 6891 section 7)."""
    if question.edns is None:
        return b""
    return struct.pack("!BHHBBHH", 0, OPT, OFFERED_UDP, rcode >> 4, 0, question.edns.dnssec << 15, 0)


def _fitting(records: Sequence[bytes], room: int) -> Sequence[bytes]:
    if sum(map(len, records)) <= room:
        return records
    taken = []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        taken.append(record)
    return taken


def error(query: bytes, question: Question, rcode: int) -> bytes:
    """Return a reply that says what is wrong.

    The question is repeated: stub resolvers drop a reply without it and wait in vain.
    """
    return answer(query, question, rcode, (), limit=PLAIN_UDP, authoritative=False)


def malformed(query: bytes, rcode: int) -> bytes:
    """Return a reply to what :func:`parse_question` refused, its question not repeated; empty: nothing may be sent.

    What is itself a reply, or shorter than a header, is never answered: two servers could go on for ever.
    """
    if len(query) < HEADER_SIZE or query[2] & 0x80:
        return b""
    return query[:2] + bytes((0x80 | query[2] & 0x79, 0x80 | rcode & 0x0F)) + bytes(8)


def address_record(address: Address, ttl: int) -> bytes:
    """An A or AAAA record of the name that was asked; ``ttl`` in seconds."""
    kind = A if isinstance(address, IPv4Address) else AAAA
    return _record(kind, ttl, address.packed)


def pointer_record(name: str, ttl: int) -> bytes:
    """A PTR record of the name that was asked; ``ttl`` in seconds.

    Raises:
        ValueError: ``name`` is no domain name.
    """
    return _record(PTR, ttl, text_to_name(name))


def _record(kind: int, ttl: int, data: bytes) -> bytes:
    """A record whose owner is the question's name, as a pointer to behind the header."""
    return struct.pack("!HHHIH", 0xC000 | HEADER_SIZE, kind, IN, ttl, len(data)) + data


def authority_record(ttl: int) -> bytes:
    """The SOA record that says for how many seconds a negative answer may be kept (RFC 2308 section 3).

    Its owner, server and mailbox are the root: it stands above every name, and nothing can be looked up there.
    """
    data = struct.pack("!BBIIIII", 0, 0, 1, 0, 0, 0, ttl)
    return struct.pack("!BHHIH", 0, SOA, IN, ttl, len(data)) + data


def matches(query: bytes, question: Question, reply: bytes) -> bool:
    """Return whether this is a reply to that query: same id, type, class and name in any case (RFC 5452 section 9.1).

    Who sent it is for the caller to compare.
    """
    name_end, end = question.end - 4, question.end
    return (
        len(reply) >= end
        and reply[:2] == query[:2]
        and reply[2] & 0xF8 == 0x80
        and reply[4:6] == b"\0\1"
        and reply[HEADER_SIZE:name_end].lower() == question.name
        and reply[name_end:end] == query[name_end:end]
    )


def is_truncated(reply: bytes) -> bool:
    """Whether a reply that :func:`matches` says to ask again over TCP."""
    return bool(reply[2] & 0x02)


def rcode(reply: bytes) -> int:
    """The response code in the header of a reply that :func:`matches`."""
    return reply[3] & 0x0F


def is_positive(reply: bytes) -> bool:
    """Return whether a reply that :func:`matches` has records that answer (NOERROR, and not NODATA: RFC 2308)."""
    return not reply[3] & 0x0F and reply[6:8] != b"\0\0"


def is_lame(reply: bytes) -> bool:
    """Return whether a reply that :func:`matches` says nothing at all: no error, no records, from no authority, and
    from a server that does not ask others either. C libraries go on to the next server (glibc, ``res_send``)."""
    return not reply[2] & 0x04 and not reply[3] & 0x8F and reply[6:8] == reply[10:12] == b"\0\0"
