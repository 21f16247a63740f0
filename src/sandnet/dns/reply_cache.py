"""Cache of prepared replies, with a limit in bytes for each client and for all.

A reply depends on the name in lower case, the type, the class and the client. All other parts of a query (its id, its
flags, the case of the name, its OPT record) are inserted when the reply is sent. So a client cannot fill the cache with
variants of one reply. Most programs ask a question with the same bytes each time: for the first query of each reply the
complete reply is cached too, which halves the time of a lookup.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from sandnet.dns import message
from sandnet.dns.base import SetClient
from sandnet.dns.message import Question

CLIENT_LIMIT: Final = 1 << 20
"""Maximum bytes of one client's replies: about 1,400 usual ones. Beyond it, all replies of that client are dropped."""
TOTAL_LIMIT: Final = 32 << 20
"""Maximum bytes of the replies of all clients. Beyond it, the replies of the client with the most are dropped."""
OVERHEAD: Final = 600
"""Bytes of a reply beside its keys and records: objects, and its slots in dicts that may be half empty."""
_ONE_QUESTION: Final = b"\0\1\0\0\0\0\0\0"
"""Counts of a query that contains one question and nothing else."""


class PreparedReply(NamedTuple):
    """The part of a reply that depends only on the question."""

    heads: Mapping[bytes, bytes]
    """Flags and counts of the reply, by the flags and counts of a query that contains only one question."""
    tail: bytes
    """The bytes after the question when all records fit and are not rotated."""
    step: int
    """Bytes of one record."""
    total: int
    """Number of records."""
    authority: bytes
    rcode: int

    def rotated(self, turn: int) -> bytes:
        """Return the records, rotated for round robin: they begin with the record that is first at this turn."""
        end = self.total * self.step
        if self.total < 2:
            return self.tail[:end]
        cut = first(turn, self.total) * self.step
        return self.tail[cut:end] + self.tail[:cut]

    def verbatim(self, query: bytes) -> bytes:
        """Return the reply without its id if it is the same at each turn; empty bytes: it is not, or it is too long.

        A query with more than one question, or with an OPT record, has no such reply.
        """
        head = self.heads.get(query[2:12])
        fits = len(query) + len(self.tail) <= message.PLAIN_UDP
        return head + query[12:] + self.tail if head and fits and self.total < 2 else b""

    def to(self, query: bytes, question: Question, limit: int, turn: int) -> bytes:
        """Return the reply to a query, with as many complete records as fit into ``limit`` bytes; TC if not all fit."""
        opt = message.opt_record(question, self.rcode)
        room = limit - question.end - len(self.authority) - len(opt)
        fitting = self.total if self.total * self.step <= room else room // self.step
        high = 0x84 | (fitting < self.total) << 1 | query[2] & 0x01
        low = 0x80 | query[3] & 0x10 | self.rcode
        header = struct.pack("!BBHHHH", high, low, 1, fitting, bool(self.authority), bool(opt))
        records = self.rotated(turn)[: fitting * self.step]
        return b"".join((query[:2], header, query[message.HEADER_SIZE : question.end], records, self.authority, opt))


def reply_of(rcode: int, records: list[bytes], authority: bytes) -> PreparedReply:
    """Build a reply.

    Args:
        rcode: response code, at most 15.
        records: answers, all of one length.
        authority: the SOA record of a negative answer (RFC 2308), or empty.
    """
    heads = _heads(rcode, min(len(records), 0xFFFF), bool(authority))
    tail = b"".join((*records, authority))
    return PreparedReply(heads, tail, len(records[0]) if records else 0, len(records), authority, rcode)


@lru_cache(maxsize=1024)
def _heads(rcode: int, total: int, authority: bool) -> Mapping[bytes, bytes]:
    """Return flags and counts of the reply, by those of the query.

    The AD bit of a query (RFC 6840 section 5.7) is ignored: the resolver does not validate.
    """
    return {
        bytes((rd, ad | cd)) + _ONE_QUESTION: struct.pack(
            "!BBHHHH", 0x84 | rd, 0x80 | cd | rcode, 1, total, authority, 0
        )
        for rd in (0, 0x01)
        for ad in (0, 0x20)
        for cd in (0, 0x10)
    }


class ClientCache:
    """The cached replies of one client."""

    __slots__ = ("by_question", "client", "size", "verbatim")

    def __init__(self, client: SetClient) -> None:
        self.client = client
        """The client's record, compared by identity: a changed client has no cached replies."""
        self.by_question: dict[bytes, PreparedReply] = {}
        self.verbatim: dict[bytes, bytes] = {}
        """Replies of at most ``PLAIN_UDP`` bytes by queries, both without their ids: the first query for each prepared
        reply. Programs ask the same question with the same bytes."""
        self.size = 0
        """Bytes."""

    def find_unparsed(self, query: bytes, most: int, turn: int) -> bytes | None:
        """Return the cached reply to a query that contains only one question, if it has at most ``most`` bytes.

        The query is not parsed. A malformed question has no cached reply: lower case changes neither lengths nor the
        type and class, so only the bytes of a well-formed question are equal to a key.
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


class ReplyCache:
    """The cached replies of all clients, for one name table."""

    __slots__ = ("by_client", "size")

    def __init__(self) -> None:
        self.by_client: dict[str, ClientCache] = {}
        """Caches by container id."""
        self.size = 0
        """Bytes."""

    def find(self, client: SetClient, query: bytes, question: Question) -> PreparedReply | None:
        """Return the cached reply to this question of this client; ``None``: there is none."""
        cached = self.by_client.get(client.container_id)
        return cached.by_question.get(_key(query, question)) if cached and cached.client is client else None

    def store(self, client: SetClient, query: bytes, question: Question, reply: PreparedReply) -> None:
        """Cache a reply for the next identical question; older replies are dropped if it does not fit."""
        key = _key(query, question)
        verbatim = reply.verbatim(query)
        size = OVERHEAD + len(key) + len(reply.tail) + (len(query) + len(verbatim) if verbatim else 0)
        cached = self.by_client.get(client.container_id)
        if cached and (cached.client is not client or cached.size + size > CLIENT_LIMIT):
            self._drop(client.container_id)
            cached = None
        if self.size + size > TOTAL_LIMIT:
            self._drop(max(self.by_client, key=lambda each: self.by_client[each].size))
            cached = self.by_client.get(client.container_id)
        if cached is None:
            cached = self.by_client[client.container_id] = ClientCache(client)
        cached.by_question[key] = reply
        if verbatim:
            cached.verbatim[query[2:]] = verbatim
        cached.size += size
        self.size += size

    def _drop(self, container_id: str) -> None:
        self.size -= self.by_client.pop(container_id).size


def _key(query: bytes, question: Question) -> bytes:
    """Return the cache key: the name in lower case, the type and the class."""
    return question.name + query[question.end - 4 : question.end]


def first(turn: int, count: int) -> int:
    """Return the index of the first of ``count`` records at a turn: all equally often, whatever the step of the turns.

    The remainder of the turn is not sufficient. Stub resolvers alternate between A and AAAA, so of two addresses the
    same one would always be first. Multiples of the golden ratio are spread evenly, and so is every second one of them.
    """
    return (turn * 0x9E3779B1 & 0xFFFFFFFF) * count >> 32
