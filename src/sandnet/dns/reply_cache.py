"""Replies kept ready for the next same question, with a bound in bytes for each asker and for all.

A reply depends on the name in lower case, the type, the class and who asks. Everything else of a query (its id, its
flags, the spelling of the name, its OPT record) is put in when the reply is sent, so a stranger cannot make
variants of one reply.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from sandnet.dns import message
from sandnet.dns.base import SetClient
from sandnet.dns.message import Question

MOST_OF_ONE: Final = 1 << 20
"""Bytes of one asker's replies: about 2,000 usual ones. Beyond it, all replies of that asker are dropped."""
MOST_OF_ALL: Final = 32 << 20
"""Bytes of the replies of all askers. Beyond it, the replies of the asker that has most are dropped."""
OVERHEAD: Final = 400
"""Bytes that a reply takes beside its key and records: objects, and its place in a dict that may be half empty."""
_ONE_QUESTION: Final = b"\0\1\0\0\0\0\0\0"
"""Counts of a query that is a question and nothing else."""


class PreparedReply(NamedTuple):
    """The part of a reply that depends on the question alone."""

    heads: Mapping[bytes, bytes]
    """Flags and counts of the reply, by those of a query that is a question and nothing else."""
    tail: bytes
    """What stands behind the question when nothing is left out or rotated."""
    step: int
    """Bytes of one record."""
    total: int
    """How many records."""
    authority: bytes
    rcode: int

    def rotated(self, turn: int) -> bytes:
        """Return the records, beginning with the one whose turn it is."""
        end = self.total * self.step
        if self.total < 2:
            return self.tail[:end]
        cut = first(turn, self.total) * self.step
        return self.tail[cut:end] + self.tail[:cut]

    def to(self, query: bytes, question: Question, limit: int, turn: int) -> bytes:
        """Return the reply to a query; as many whole records as fit into ``limit`` bytes, and TC where not all do."""
        opt = message.opt_record(question, self.rcode)
        room = limit - question.end - len(self.authority) - len(opt)
        fitting = self.total if self.total * self.step <= room else room // self.step
        high = 0x84 | (fitting < self.total) << 1 | query[2] & 0x01
        low = 0x80 | query[3] & 0x10 | self.rcode
        header = struct.pack("!BBHHHH", high, low, 1, fitting, bool(self.authority), bool(opt))
        records = self.rotated(turn)[: fitting * self.step]
        return b"".join((query[:2], header, query[message.HEADER_SIZE : question.end], records, self.authority, opt))


def reply_of(rcode: int, records: list[bytes], authority: bytes) -> PreparedReply:
    """Put a reply together.

    Args:
        rcode: response code, at most 15.
        records: answers, all of one length.
        authority: the SOA record of a negative answer (RFC 2308), or nothing.
    """
    heads = _heads(rcode, min(len(records), 0xFFFF), bool(authority))
    tail = b"".join((*records, authority))
    return PreparedReply(heads, tail, len(records[0]) if records else 0, len(records), authority, rcode)


@lru_cache(maxsize=1024)
def _heads(rcode: int, total: int, authority: bool) -> Mapping[bytes, bytes]:
    """The AD bit of a query (RFC 6840 section 5.7) asks for nothing that we have."""
    return {
        bytes((rd, ad | cd)) + _ONE_QUESTION: struct.pack(
            "!BBHHHH", 0x84 | rd, 0x80 | cd | rcode, 1, total, authority, 0
        )
        for rd in (0, 0x01)
        for ad in (0, 0x20)
        for cd in (0, 0x10)
    }


class Shelf:
    """The ready replies of one asker."""

    __slots__ = ("asker", "by_question", "size")

    def __init__(self, client: SetClient) -> None:
        self.asker = client
        """The replies hold for this very record; a changed asker has none."""
        self.by_question: dict[bytes, PreparedReply] = {}
        self.size = 0
        """Bytes."""

    def at_once(self, query: bytes, most: int, turn: int) -> bytes | None:
        """Return the whole reply to a query that is a question and nothing else, where one of ``most`` bytes is ready.

        The query was not parsed. What is not a well-formed question has no reply here: lower case changes neither
        lengths nor the type and class, so only the bytes of a well-formed question are equal to a key.
        """
        reply = self.by_question.get(query[12:-4].lower() + query[-4:])
        if reply is None:
            return None
        head = reply.heads.get(query[2:12])
        if head is None or len(query) + len(reply.tail) > most:
            return None
        if reply.total < 2:
            return query[:2] + head + query[12:] + reply.tail
        return query[:2] + head + query[12:] + reply.rotated(turn) + reply.authority


class Replies:
    """The ready replies of all askers, as one table of names has them."""

    __slots__ = ("shelves", "size")

    def __init__(self) -> None:
        self.shelves: dict[str, Shelf] = {}
        """By container id."""
        self.size = 0
        """Bytes."""

    def find(self, asker: SetClient, query: bytes, question: Question) -> PreparedReply | None:
        """Return the ready reply to that question of that asker."""
        shelf = self.shelves.get(asker.container_id)
        return shelf.by_question.get(_key(query, question)) if shelf and shelf.asker is asker else None

    def store(self, asker: SetClient, query: bytes, question: Question, reply: PreparedReply) -> None:
        """Keep a reply for the next same question; older ones make room for it."""
        key = _key(query, question)
        size = OVERHEAD + len(key) + len(reply.tail)
        shelf = self.shelves.get(asker.container_id)
        if shelf and (shelf.asker is not asker or shelf.size + size > MOST_OF_ONE):
            self._drop(asker.container_id)
            shelf = None
        if self.size + size > MOST_OF_ALL:
            self._drop(max(self.shelves, key=lambda each: self.shelves[each].size))
            shelf = self.shelves.get(asker.container_id)
        if shelf is None:
            shelf = self.shelves[asker.container_id] = Shelf(asker)
        shelf.by_question[key] = reply
        shelf.size += size
        self.size += size

    def _drop(self, container_id: str) -> None:
        self.size -= self.shelves.pop(container_id).size


def _key(query: bytes, question: Question) -> bytes:
    """Return the name in lower case, the type and the class."""
    return question.name + query[question.end - 4 : question.end]


def first(turn: int, count: int) -> int:
    """Which of ``count`` goes first at that turn: all equally often, for turns counted in whatever steps.

    The remainder of the turn would not do. Stub resolvers ask for A and AAAA by turns, so that of two addresses one
    would go first for ever. Multiples of the golden ratio are spread evenly, and every second one of them, too.
    """
    return (turn * 0x9E3779B1 & 0xFFFFFFFF) * count >> 32
