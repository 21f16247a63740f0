"""Messages as bytes, read and written beside dnspython, which is the judge."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandnet.dns import message as packet
from sandnet.dns.message import Question, parse_question

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=6).filter(lambda ls: sum(map(len, ls)) + len(ls) < 255)
KINDS = st.sampled_from(["A", "AAAA", "PTR", "MX", "TXT", "HTTPS", "ANY"])


def wire(labels: list[bytes]) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def query(name: str = "web.foo", kind: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, kind, **{"id": 7, **options}).to_wire()  # type: ignore[arg-type]


def header(flags: int = 0x0100, questions: int = 1, answers: int = 0, authority: int = 0, additional: int = 0) -> bytes:
    return struct.pack("!HHHHHH", 7, flags, questions, answers, authority, additional)


WEB = b"\3web\0\0\1\0\1"


def asked(data: bytes) -> Question:
    question = parse_question(data)
    assert question is not None
    return question


def answered(data: bytes, rcode: int = 0, records: list[bytes] | None = None, limit: int = 512) -> dns.message.Message:
    return dns.message.from_wire(packet.answer(data, asked(data), rcode, records or [], limit=limit))


@given(labels=LABELS, kind=KINDS, edns=st.booleans())
def test_query_parsing_agrees_with_dnspython(labels: list[bytes], kind: str, edns: bool) -> None:
    name = dns.name.Name([*labels, b""])
    data = dns.message.make_query(name, kind, use_edns=edns).to_wire()
    question = asked(data)
    assert (question.name, question.qtype, question.qclass) == (wire(labels).lower(), dns.rdatatype.from_text(kind), 1)
    assert question.end == 12 + len(question.name) + 4


@given(labels=LABELS.filter(bool))
@example(labels=[b"@"])
@example(labels=[b'"$();@\\'])
def test_name_round_trips_through_text(labels: list[bytes]) -> None:
    text = packet.name_to_text(wire(labels))
    assert packet.text_to_name(text) == packet.text_to_name(text + ".") == wire(labels)
    assert dns.name.from_text(text).to_wire() == wire(labels)
    assert len(text.split(".")) == len(labels)


@given(text=st.text(max_size=300))
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    try:
        name = packet.text_to_name(text)
    except ValueError:
        return
    assert len(name) <= 255
    assert packet.text_to_name(packet.name_to_text(name)) == name


def test_root_name_is_written_as_a_dot() -> None:
    assert packet.name_to_text(b"\0") == "."
    assert packet.text_to_name(".") == b"\0"


@pytest.mark.parametrize("text", ["", "..", ".a", "a..b", "a" * 64, "ä", "\\", "a\\", "\\25", "\\256", "a." * 128])
def test_invalid_name_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        packet.text_to_name(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        header(),
        header() + WEB[:-1],
        header() + b"\3we",
        header(questions=0),
        header(questions=0) + WEB,
        header(questions=2) + WEB + WEB,
        header(flags=0x8000) + WEB,
        header(flags=0x2800) + WEB,
        header(answers=1) + WEB + b"\0" + bytes(10),
        header(authority=1) + WEB + b"\0" + bytes(10),
        header(additional=1) + WEB,
        header(additional=1) + WEB + b"\0" + bytes(9),
        header(additional=2) + WEB + b"\0\0\x29\4\xd0" + bytes(6),
        header(additional=2) + WEB + (b"\0\0\x29\4\xd0" + bytes(6)) * 2,
        header(additional=1) + WEB + b"\0\0\x29\4\xd0" + bytes(4) + b"\0\5",
        header(additional=1) + WEB + b"\x40" + bytes(10),
        header(additional=65535) + WEB,
        header() + WEB + b"!",
        header() + b"\xc0\x0c\0\1\0\1",
        header() + b"\3web\xc0\x0c\0\1\0\1",
        header() + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        header() + b"\x80\0\0\1\0\1",
        header() + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
    ],
    ids=bytes.hex,
)
def test_anything_but_one_valid_question_is_none(data: bytes) -> None:
    assert parse_question(data) is None


OPT = b"\0\0\x29\4\xd0" + bytes(6)
SIGNATURE = b"\0\0\xfa\0\xff" + bytes(6)
"""An empty record of type TSIG."""


def test_largest_client_query_is_parsed_and_a_larger_one_is_not() -> None:
    assert asked(header(additional=4) + WEB + SIGNATURE * 3 + OPT).edns == (1232, 0, False)
    assert parse_question(header(additional=5) + WEB + SIGNATURE * 4 + OPT) is None
    padding = b"\0\0\x29\4\xd0" + bytes(4)
    for spare, sound in ((0, True), (1, False)):
        size = packet.LARGEST_QUERY - len(header() + WEB + padding) - 2 + spare
        data = header(additional=1) + WEB + padding + size.to_bytes(2) + bytes(size)
        assert (parse_question(data) is not None) is sound


@pytest.mark.parametrize(
    "owner", [b"\1a\0", b"\xc0\x0c", b"\xc0\xff", (b"\x3f" + b"a" * 63) * 4 + b"\0"], ids=bytes.hex
)
def test_opt_record_not_owned_by_the_root_is_none(owner: bytes) -> None:
    assert parse_question(header(additional=1) + WEB + owner + OPT[1:]) is None


def test_longest_name_is_parsed_and_one_byte_more_is_not() -> None:
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    longer = (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0"
    assert len(longest) == 255
    assert asked(header() + longest + b"\0\1\0\1").name == longest
    assert parse_question(header() + longer + b"\0\1\0\1") is None


def test_other_additional_record_is_ignored_without_edns() -> None:
    data = header(additional=1) + WEB + b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + bytes(4)
    assert asked(data).edns is None


def test_response_has_the_id_question_and_flags_of_a_server() -> None:
    data = query("WeB.Foo", id=4711, flags=dns.flags.RD | dns.flags.CD)
    records = [packet.address_record(ip_address(f"10.0.0.{i}"), 5) for i in (1, 2)]
    reply = answered(data, records=records)
    assert (reply.id, reply.rcode(), reply.edns) == (4711, dns.rcode.NOERROR, -1)
    assert reply.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA | dns.flags.CD
    assert reply.question[0].to_text() == "WeB.Foo. IN A"
    assert reply.answer[0].to_text() == "WeB.Foo. 5 IN A 10.0.0.1\nWeB.Foo. 5 IN A 10.0.0.2"


def test_response_leaves_rd_unset_without_requested_recursion() -> None:
    assert not answered(query(flags=0)).flags & dns.flags.RD


def test_ipv6_address_is_written_as_an_aaaa_record() -> None:
    reply = answered(query(kind="AAAA"), records=[packet.address_record(ip_address("fd00::2"), 0)])
    assert reply.answer[0].to_text() == "web.foo. 0 IN AAAA fd00::2"


def test_ptr_record_contains_the_name() -> None:
    reply = answered(query("2.0.0.10.in-addr.arpa", "PTR"), records=[packet.pointer_record("web.foo", 60)])
    assert reply.answer[0].to_text() == "2.0.0.10.in-addr.arpa. 60 IN PTR web.foo."


def test_negative_response_has_a_soa_authority_record() -> None:
    data = query()
    reply = packet.answer(data, asked(data), packet.NXDOMAIN, (), limit=512, authority=packet.authority_record(3))
    soa = dns.message.from_wire(reply).authority[0]
    assert (soa.name, soa.ttl, soa[0].minimum) == (dns.name.root, 3, 3)


@pytest.mark.parametrize(("offered", "limit"), [(0, 512), (100, 512), (512, 512), (1232, 1232), (65535, 4096)])
def test_payload_size_of_the_query_is_clamped(offered: int, limit: int) -> None:
    data = query(use_edns=True, payload=offered)
    assert packet.udp_limit(asked(data)) == limit


def test_payload_limit_without_edns_is_512() -> None:
    data = query(use_edns=False)
    assert packet.udp_limit(asked(data)) == 512


def test_edns_response_has_our_own_opt_with_the_do_bit() -> None:
    option = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    data = query(use_edns=True, payload=4096, want_dnssec=True, options=[option])
    reply = answered(data)
    assert (reply.edns, reply.payload, reply.ednsflags, reply.options) == (0, 1232, dns.flags.DO, ())


def test_extended_rcode_puts_its_upper_bits_in_the_opt() -> None:
    assert answered(query(use_edns=True), packet.BADVERS).rcode() == dns.rcode.BADVERS


@given(count=st.integers(0, 300), limit=st.sampled_from([512, 1232, 4096, 65535]), edns=st.booleans())
def test_oversized_answer_holds_whole_records_up_to_limit_and_tc(count: int, limit: int, edns: bool) -> None:
    data = query(use_edns=edns)
    records = [packet.address_record(ip_address(0x0A000000 + i), 0) for i in range(count)]
    raw = packet.answer(data, asked(data), 0, records, limit=limit)
    reply = dns.message.from_wire(raw)
    sent = len(reply.answer[0]) if reply.answer else 0
    assert len(raw) <= limit
    assert packet.is_truncated(raw) == bool(reply.flags & dns.flags.TC) == (sent < count)
    assert sent == count or len(raw) + 16 > limit


def test_records_that_exactly_fill_the_limit_are_all_sent() -> None:
    data = query("a" * 14, use_edns=False)
    records = [packet.address_record(ip_address(0x0A000000 + i), 0) for i in range(31)]
    assert [len(answered(data, 0, records[:count]).answer[0]) for count in (30, 31)] == [30, 30]
    assert not answered(data, 0, records[:30]).flags & dns.flags.TC
    assert answered(data, 0, records).flags & dns.flags.TC


def test_error_reply_to_a_valid_query_repeats_the_question() -> None:
    data = query("Web.Foo", use_edns=True)
    reply = dns.message.from_wire(packet.error(data, asked(data), packet.SERVFAIL))
    assert (reply.rcode(), reply.question[0].name.to_text(), reply.edns) == (dns.rcode.SERVFAIL, "Web.Foo.", 0)
    assert not reply.flags & dns.flags.AA


def test_error_reply_to_a_malformed_query_is_a_bare_header() -> None:
    reply = dns.message.from_wire(packet.malformed(header(flags=0x2900) + b"\xc0", packet.FORMERR))
    assert (reply.id, reply.rcode(), reply.opcode(), reply.question) == (7, dns.rcode.FORMERR, 5, [])
    assert reply.flags & dns.flags.RD


@pytest.mark.parametrize("data", [b"", header()[:11], header(flags=0x8000), header(flags=0x8180) + WEB], ids=bytes.hex)
def test_malformed_reply_or_short_header_gets_no_error_reply(data: bytes) -> None:
    assert packet.malformed(data, packet.FORMERR) == b""


def test_reply_matches_in_any_case_but_only_with_its_own_id() -> None:
    data = query("web.foo")
    reply = packet.answer(data, asked(data), packet.NXDOMAIN, (), limit=512)
    assert packet.matches(data, asked(data), reply)
    assert packet.matches(data, asked(data), reply.replace(b"web", b"WeB"))
    assert packet.rcode(reply) == packet.NXDOMAIN
    assert not packet.matches(data, asked(data), with_id(reply, 8))
    assert packet.matches(with_id(data, 9), asked(data), with_id(reply, 9))


@pytest.mark.parametrize(
    "other", [query("wec.foo"), query("web.foo", "AAAA"), query("web.foo", rdclass="CH")], ids=bytes.hex
)
def test_reply_to_another_question_does_not_match(other: bytes) -> None:
    assert not packet.matches(
        query("web.foo"), asked(query("web.foo")), packet.answer(other, asked(other), 0, (), limit=512)
    )


def test_reply_types_differing_by_the_case_bit_do_not_match() -> None:
    upper, lower = header() + b"\3web\0\0A\0\1", header() + b"\3web\0\0a\0\1"
    assert not packet.matches(upper, asked(upper), packet.answer(lower, asked(lower), 0, (), limit=512))


def test_query_or_partial_reply_does_not_match() -> None:
    data = query("web.foo", use_edns=False)
    reply = packet.answer(data, asked(data), 0, (), limit=512)
    assert not packet.matches(data, asked(data), data)
    assert not any(packet.matches(data, asked(data), reply[:end]) for end in range(len(reply)))


@pytest.mark.parametrize(
    ("flags", "rcode", "answers", "positive", "lame"),
    [
        (0x81, 0x80, 1, True, False),
        (0x81, 0x80, 0, False, False),
        (0x85, 0x00, 0, False, False),
        (0x81, 0x00, 0, False, True),
        (0x81, 0x00, 1, True, False),
        (0x81, 0x83, 1, False, False),
        (0x81, 0x02, 0, False, False),
    ],
)
def test_reply_with_records_is_positive_and_lame_reply_is_lame(
    flags: int, rcode: int, answers: int, positive: bool, lame: bool
) -> None:
    reply = b"id" + bytes((flags, rcode)) + struct.pack("!HHHH", 1, answers, 0, 0) + WEB
    assert (packet.is_positive(reply), packet.is_lame(reply)) == (positive, lame)


def with_id(message: bytes, identity: int) -> bytes:
    """The message with another id."""
    return identity.to_bytes(2) + message[2:]
