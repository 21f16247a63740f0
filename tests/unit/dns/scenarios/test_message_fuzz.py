"""Bytes from strangers: whatever they are, there is a reply or none, and never an exception."""

from __future__ import annotations

import random
from ipaddress import ip_address

import dns.exception
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.dns import message
from sandnet.dns.base import SetClient, SetNames
from sandnet.dns.lookup import Forward, resolve
from sandnet.dns.name_table import NameTable

ASKER = SetClient(container_id="box", key="/ns/box", inode=1, networks=("n1",))
ADDRESSES = tuple(ip_address(f"10.0.0.{i}") for i in range(1, 60))
TABLE = NameTable().changed(SetNames(network_id="n1", network="foo", owner="a", names=("web",), addresses=ADDRESSES))

QUERIES = [
    dns.message.make_query("web.foo", "A", use_edns=False, id=1).to_wire(),
    dns.message.make_query("web", "A", use_edns=True, payload=1232, want_dnssec=True, id=1).to_wire(),
    dns.message.make_query("www.example.com", "AAAA", use_edns=True, id=1).to_wire(),
    dns.message.make_query("1.0.0.10.in-addr.arpa", "PTR", id=1).to_wire(),
]
SOUND = [question for query in QUERIES if (question := message.parse_question(query))]


def check(data: bytes) -> None:
    """Everything that may be done with a message from a stranger, and what must be true of the reply."""
    question = message.parse_question(data)
    message.malformed(data, message.FORMERR)
    for query, sound in zip(QUERIES, SOUND, strict=True):
        message.matches(query, sound, data)
    if question:
        message.matches(data, question, data)
        message.error(data, question, message.SERVFAIL)
    for tcp in (False, True):
        result = resolve(TABLE, ASKER, data, tcp=tcp, turn=7)
        if isinstance(result, Forward):
            assert result.question == question
        elif result:
            limit = message.LARGEST_TCP if tcp else message.udp_limit(question) if question else message.PLAIN_UDP
            assert len(result) <= limit
            assert result[:2] == data[:2]
            assert result[2] & 0x80
            dns.message.from_wire(result)
        else:
            assert len(data) < message.HEADER_SIZE or data[2] & 0x80
    if question is not None:
        assert message.text_to_name(message.name_to_text(question.name)) == question.name


@given(data=st.binary(max_size=600))
def test_random_bytes_are_handled(data: bytes) -> None:
    check(data)


@given(tail=st.binary(max_size=300), counts=st.tuples(*[st.integers(0, 3)] * 4), flags=st.integers(0, 0x07FF))
def test_random_bytes_after_a_header_are_handled(tail: bytes, counts: tuple[int, ...], flags: int) -> None:
    check(b"id" + flags.to_bytes(2) + b"".join(count.to_bytes(2) for count in counts) + tail)


def test_million_random_bytes_are_handled_in_pieces_or_at_once() -> None:
    source = random.Random(1035)
    data = source.randbytes(1_000_000)
    at = 0
    while at < len(data):
        size = source.choice((11, 12, 13, 17, 29, 64, 512, 4096))
        check(data[at : at + size])
        at += size
    check(data)
    check(QUERIES[0][:12] + data)


@pytest.mark.parametrize("query", QUERIES, ids=bytes.hex)
def test_query_truncated_anywhere_is_malformed(query: bytes) -> None:
    for end in range(len(query)):
        assert message.parse_question(query[:end]) is None
        check(query[:end])


@given(query=st.sampled_from(QUERIES), seed=st.integers(0, 2**32), flips=st.integers(1, 6))
def test_query_with_changed_bytes_is_handled(query: bytes, seed: int, flips: int) -> None:
    source = random.Random(seed)
    data = bytearray(query)
    for _ in range(flips):
        data[source.randrange(len(data))] = source.choice(
            (0, 1, 0x29, 0x3F, 0x40, 0x80, 0xC0, 0xFF, source.randrange(256))
        )
    check(bytes(data))


@given(query=st.sampled_from(QUERIES), position=st.integers(12, 40), byte=st.integers(0, 255))
def test_question_refused_by_dnspython_is_not_read_differently(query: bytes, position: int, byte: int) -> None:
    data = bytearray(query)
    data[position % len(data)] = byte
    question = message.parse_question(bytes(data))
    try:
        judged = dns.message.from_wire(bytes(data))
    except dns.exception.DNSException:
        return
    if question is not None:
        assert judged.question[0].name.to_digestable() == question.name
        assert (judged.question[0].rdtype, judged.question[0].rdclass) == (question.qtype, question.qclass)


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",
        b"\xc0\x0e\xc0\x0c",
        b"\1a\xc0\x0c",
        b"\xc0\xff",
        b"\xc0\x00",
        b"\xff" * 200,
        b"\x3f" * 60_000,
        b"\1a" * 30_000 + b"\0",
        b"\xc0\x0c" * 30_000,
    ],
    ids=lambda name: f"{name[:8].hex()}-{len(name)}",
)
def test_compression_loops_and_endless_names_return_formerr(name: bytes) -> None:
    data = QUERIES[0][:12] + name + b"\0\1\0\1"
    check(data)
    result = resolve(TABLE, ASKER, data, tcp=True, turn=0)
    assert isinstance(result, bytes)
    assert message.rcode(result) == message.FORMERR


@given(junk=st.binary(max_size=80))
def test_junk_additional_records_are_handled(junk: bytes) -> None:
    for count in (1, 2, 0xFFFF):
        check(QUERIES[0][:10] + count.to_bytes(2) + QUERIES[0][12:] + junk)
