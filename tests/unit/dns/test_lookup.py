"""What is answered to whom, as dnspython reads it."""

from __future__ import annotations

import struct
import tracemalloc
from ipaddress import ip_address
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from sandnet.dns import reply_cache
from sandnet.dns.base import Alias, RemoveNames, SetClient, SetNames
from sandnet.dns.lookup import Forward, explain, resolve
from sandnet.dns.message import Question, parse_question
from sandnet.dns.name_table import NameTable

BACKENDS = [f"10.0.1.{i}" for i in range(1, 5)]
MANY = [f"10.1.{i // 250}.{i % 250}" for i in range(300)]


def names(owner: str, *called: str, at: list[str], net: str = "n1", network: str = "foo") -> SetNames:
    addresses = tuple(map(ip_address, at))
    return SetNames(network_id=net, network=network, owner=owner, names=called, addresses=addresses)


def asker(**more: Any) -> SetClient:
    return SetClient(container_id="box", key="/ns/box", inode=1, **{"networks": ("n1",), **more})


TABLE = NameTable().changed(
    names("a", "web", at=["10.0.0.2", "fd00::2"]),
    names("b", "four", at=["10.0.0.3"]),
    names("s", "pool", at=BACKENDS),
    names("m", "many", at=MANY),
    names("c/e", "x" * 64, at=["10.0.0.4"]),
    names("o", "away", at=["10.2.0.2"], net="n2", network="bar"),
)
EXTERNAL = asker()
INTERNAL = asker(external=False)


def reply(
    name: str,
    kind: str = "A",
    who: SetClient = EXTERNAL,
    table: NameTable = TABLE,
    turn: int = 0,
    tcp: bool = False,
    **request: Any,
) -> dns.message.Message:
    """The reply, made anew and from what is kept: both must be the same."""
    query = dns.message.make_query(name, kind, **request)
    results = [resolve(table, who, query.to_wire(), tcp=tcp, turn=turn) for _ in range(2)]
    assert results[0] == results[1]
    assert isinstance(results[0], bytes)
    message = dns.message.from_wire(results[0])
    assert query.is_response(message)
    return message


def answers(message: dns.message.Message) -> list[str]:
    return [record.to_text() for record in message.answer[0]] if message.answer else []


def goes_upstream(name: str, kind: str = "A", who: SetClient = EXTERNAL, table: NameTable = TABLE) -> bool:
    query = dns.message.make_query(name, kind).to_wire()
    result = resolve(table, who, query, tcp=False, turn=0)
    if isinstance(result, Forward):
        assert result.question == parse_question(query)
    return isinstance(result, Forward)


def assert_negative(message: dns.message.Message, rcode: int) -> None:
    """A negative answer that no one keeps (RFC 2308)."""
    assert message.rcode() == rcode
    assert not message.answer
    soa = message.authority[0]
    assert (soa.rdtype, soa.ttl, soa[0].minimum) == (dns.rdatatype.SOA, 0, 0)


def test_name_answers_each_family_with_authority_and_zero_ttl() -> None:
    assert answers(reply("web")) == ["10.0.0.2"]
    assert answers(reply("web.foo", "AAAA")) == ["fd00::2"]
    message = reply("web")
    assert message.answer[0].ttl == 0
    assert message.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA


def test_reply_preserves_the_query_name_case() -> None:
    message = reply("WeB.fOO")
    assert answers(message) == ["10.0.0.2"]
    assert message.question[0].name.to_text() == "WeB.fOO."


@pytest.mark.parametrize("kind", ["AAAA", "MX", "TXT", "SRV", "HTTPS", "PTR", "SOA", "TYPE65280"])
@pytest.mark.parametrize("who", [EXTERNAL, INTERNAL])
def test_name_without_the_requested_type_is_noerror_and_empty(kind: str, who: SetClient) -> None:
    assert_negative(reply("four", kind, who), dns.rcode.NOERROR)


def test_missing_name_under_own_network_is_nxdomain_locally() -> None:
    assert_negative(reply("nobody.foo"), dns.rcode.NXDOMAIN)
    assert_negative(reply("a.b.FOO", "AAAA"), dns.rcode.NXDOMAIN)
    gone = TABLE.changed(
        EXTERNAL, *(RemoveNames(network_id="n1", owner=owner) for owner in ("a", "b", "s", "m", "c/e"))
    )
    assert_negative(reply("web.foo", table=gone), dns.rcode.NXDOMAIN)


@pytest.mark.parametrize("name", ["example.com", "nobody", "away", "away.bar", "foo", ".", "web\\.foo", "web.foo.com"])
def test_unknown_name_is_forwarded_or_nxdomain_if_internal(name: str) -> None:
    assert goes_upstream(name)
    assert_negative(reply(name, who=INTERNAL), dns.rcode.NXDOMAIN)


def test_alias_is_answered_only_for_its_client() -> None:
    mine = asker(aliases=(Alias(name="db", addresses=(ip_address("10.9.9.9"),)),))
    assert answers(reply("DB", who=mine)) == ["10.9.9.9"]
    assert goes_upstream("db")


def test_changed_client_with_the_same_id_gets_no_cached_reply() -> None:
    aliases = (Alias(name="web", addresses=(ip_address("10.9.9.9"),)),)
    assert answers(reply("web")) == ["10.0.0.2"]
    assert answers(reply("web", who=asker(aliases=aliases))) == ["10.9.9.9"]
    assert answers(reply("web")) == ["10.0.0.2"]
    assert goes_upstream("web", who=asker(networks=()))


def test_reply_after_a_table_change_uses_the_new_table() -> None:
    assert answers(reply("four")) == ["10.0.0.3"]
    moved = TABLE.changed(names("b", "four", at=["10.0.0.33"]))
    assert answers(reply("four", table=moved)) == ["10.0.0.33"]
    assert_negative(reply("four.foo", table=moved.changed(RemoveNames(network_id="n1", owner="b"))), dns.rcode.NXDOMAIN)


@pytest.mark.parametrize(
    ("name", "kind", "reported"), [("LocalHost", "A", "127.0.0.1"), ("a.localhost", "AAAA", "::1")]
)
@pytest.mark.parametrize("who", [EXTERNAL, INTERNAL])
def test_localhost_resolves_to_the_loopback_address(name: str, kind: str, reported: str, who: SetClient) -> None:
    assert answers(reply(name, kind, who)) == [reported]
    assert_negative(reply(name, "MX", who), dns.rcode.NOERROR)


@pytest.mark.parametrize(
    ("address", "reported"),
    [("10.0.0.2", "web.foo."), ("fd00::2", "web.foo."), ("127.0.0.1", "localhost."), ("::1", "localhost.")],
)
def test_reverse_lookup_of_a_known_address_returns_its_name(address: str, reported: str) -> None:
    name = dns.reversename.from_address(address).to_text()
    assert answers(reply(name.upper(), "PTR")) == [reported]
    assert answers(reply(name, "ANY")) == [reported]
    assert_negative(reply(name, "A"), dns.rcode.NOERROR)


@pytest.mark.parametrize(
    "name",
    [
        "9.9.0.10.in-addr.arpa",
        "2.0.2.10.in-addr.arpa",
        "0.0.10.in-addr.arpa",
        "02.0.0.10.in-addr.arpa",
        "x.2.0.0.10.in-addr.arpa",
        "in-addr.arpa",
        "ip6.arpa",
        "2.0.ip6.arpa",
        "02." + "0." * 28 + "d.f.ip6.arpa",
        "\\032." + "0." * 27 + "0.0.d.f.ip6.arpa",
        "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.g.ip6.arpa",
    ],
)
def test_reverse_lookup_of_unknown_or_no_address_is_unknown_name(name: str) -> None:
    assert goes_upstream(name, "PTR")
    assert_negative(reply(name, "PTR", INTERNAL), dns.rcode.NXDOMAIN)


def test_reverse_lookup_of_overlong_label_is_noerror_and_empty() -> None:
    assert_negative(reply("4.0.0.10.in-addr.arpa", "PTR"), dns.rcode.NOERROR)


def test_any_type_query_is_answered_with_one_type() -> None:
    assert answers(reply("web", "ANY")) == ["10.0.0.2"]
    only_six = TABLE.changed(names("b", "four", at=["fd00::3"]))
    assert answers(reply("four", "ANY", table=only_six)) == ["fd00::3"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_multiple_addresses_are_all_returned_in_rotating_order(
    step: int,
) -> None:
    for kept in (True, False):
        reported = [
            answers(reply("pool", turn=turn, table=TABLE if kept else TABLE.changed(EXTERNAL)))
            for turn in range(0, 60, step)
        ]
        assert all(sorted(addresses) == BACKENDS for addresses in reported)
        assert {addresses[0] for addresses in reported} == set(BACKENDS)
        doubled = BACKENDS + BACKENDS
        assert all(addresses == doubled[(i := BACKENDS.index(addresses[0])) : i + 4] for addresses in reported)


@pytest.mark.parametrize(("payload", "limit"), [(0, 512), (1232, 1232), (65000, 4096)])
def test_addresses_over_the_udp_limit_are_cut_with_the_tc_bit(payload: int, limit: int) -> None:
    message = reply("many", use_edns=bool(payload), payload=payload)
    assert message.flags & dns.flags.TC
    assert len(message.to_wire()) <= limit
    assert len(answers(message)) >= (limit - 60) // 16
    assert answers(message)[0] != answers(reply("many", turn=1))[0]


def test_addresses_over_the_udp_limit_are_all_sent_over_tcp() -> None:
    message = reply("many", tcp=True)
    assert sorted(answers(message)) == sorted(MANY)
    assert not message.flags & dns.flags.TC


def test_edns_is_answered_only_to_edns_queries() -> None:
    assert reply("web", use_edns=True, want_dnssec=True).ednsflags == dns.flags.DO
    assert reply("web", use_edns=False).edns == -1


def test_later_edns_version_is_badvers() -> None:
    message = reply("web", use_edns=1)
    assert (message.rcode(), message.edns) == (dns.rcode.BADVERS, 0)


@pytest.mark.parametrize(
    ("name", "kind", "group"), [("web", "A", "CH"), ("version.bind", "TXT", "CH"), ("web", "A", 3)]
)
def test_query_of_another_class_is_refused(name: str, kind: str, group: Any) -> None:
    message = reply(name, kind, rdclass=group)
    assert message.rcode() == dns.rcode.REFUSED
    assert not message.flags & dns.flags.AA


def test_class_any_is_answered_as_internet_class() -> None:
    query = dns.message.make_query("web", "A", rdclass="ANY").to_wire()
    result = resolve(TABLE, EXTERNAL, query, tcp=False, turn=0)
    assert isinstance(result, bytes)
    assert answers(dns.message.from_wire(result)) == ["10.0.0.2"]


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_zone_transfer_is_refused(kind: str) -> None:
    for name in ("foo", "example.com"):
        query = dns.message.make_query(name, kind).to_wire()
        result = resolve(TABLE, EXTERNAL, query, tcp=True, turn=0)
        assert isinstance(result, bytes)
        assert result[3] & 15 == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", [dns.opcode.IQUERY, dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE])
def test_other_opcode_is_notimp(opcode: dns.opcode.Opcode) -> None:
    query = dns.message.make_query("web", "A")
    query.set_opcode(opcode)
    result = resolve(TABLE, EXTERNAL, query.to_wire(), tcp=False, turn=0)
    assert isinstance(result, bytes)
    assert (result[:2], result[3] & 15, len(result)) == (query.to_wire()[:2], dns.rcode.NOTIMP, 12)


def test_malformed_query_is_formerr_and_a_reply_is_ignored() -> None:
    query = dns.message.make_query("web", "A", use_edns=False).to_wire()
    malformed = resolve(TABLE, EXTERNAL, query[:-1], tcp=False, turn=0)
    assert isinstance(malformed, bytes)
    assert malformed[3] & 15 == dns.rcode.FORMERR
    reported = resolve(TABLE, EXTERNAL, query, tcp=False, turn=0)
    assert isinstance(reported, bytes)
    assert resolve(TABLE, EXTERNAL, reported, tcp=False, turn=0) == b""
    assert resolve(TABLE, EXTERNAL, query[:11], tcp=False, turn=0) == b""


def question(name: bytes, kind: int = 1, flags: int = 0x0100, opt: bytes = b"") -> bytes:
    return struct.pack("!6H", 7, flags, 1, 0, 0, bool(opt)) + name + struct.pack("!2H", kind, 1) + opt


def asked(query: bytes) -> Question:
    found = parse_question(query)
    assert found is not None
    return found


def replies_kept(table: NameTable) -> int:
    return sum(len(cached.by_question) for cached in table.replies.by_client.values())


def test_query_variants_share_one_cached_reply_fitted_to_each() -> None:
    table = TABLE.changed(EXTERNAL)
    padding = b"\0\0\x29\4\xd0" + bytes(4) + b"\1\0" + b"\0\x0c\0\xfc" + bytes(252)
    for name in (b"\3web\3foo\0", b"\3WEB\3foo\0", b"\3wEb\3FOO\0"):
        for flags in (0x0000, 0x0100, 0x0110, 0x0010, 0x0160):
            for opt in (b"", b"\0\0\x29\4\xd0" + bytes(6), padding):
                query = question(name, flags=flags, opt=opt)
                reported = resolve(table, EXTERNAL, query, tcp=False, turn=0)
                assert isinstance(reported, bytes)
                assert reported[2:4] == (0x8480 | flags & 0x0110).to_bytes(2)
                message = dns.message.from_wire(reported)
                assert answers(message) == ["10.0.0.2"]
                assert reported[12:].startswith(name)
                assert (message.edns == 0) == bool(opt)
    assert replies_kept(table) == 1
    assert len(table.replies.by_client["box"].verbatim) == 1


def test_repeated_query_needs_no_lookup_until_the_names_change() -> None:
    table = TABLE.changed(EXTERNAL)
    first = resolve(table, EXTERNAL, query := question(b"\3web\0"), tcp=False, turn=0)
    assert isinstance(first, bytes)
    table.replies.by_client["box"].by_question.clear()  # the lookup would prepare it again
    assert resolve(table, EXTERNAL, b"id" + query[2:], tcp=False, turn=1) == b"id" + first[2:]
    assert not replies_kept(table)
    moved = table.changed(names("a", "web", at=["10.0.0.9"]))
    last = resolve(moved, EXTERNAL, query, tcp=False, turn=2)
    assert isinstance(last, bytes)
    assert answers(dns.message.from_wire(last)) == ["10.0.0.9"]


def test_rotated_or_long_replies_are_not_kept_for_repetitions() -> None:
    table = TABLE.changed(EXTERNAL)
    for name in (b"\4pool\0", b"\4many\0"):
        resolve(table, EXTERNAL, question(name), tcp=True, turn=0)
    assert replies_kept(table) == 2
    assert not table.replies.by_client["box"].verbatim
    seen = {resolve(table, EXTERNAL, question(b"\4pool\0"), tcp=False, turn=turn) for turn in range(8)}
    assert len(seen) == len(BACKENDS)


def test_types_differing_by_the_case_bit_share_no_cached_reply() -> None:
    table = TABLE.changed(EXTERNAL)
    for kind in (0x41, 0x61, 0x41):
        reported = resolve(table, EXTERNAL, question(b"\3web\0", kind), tcp=False, turn=0)
        assert isinstance(reported, bytes)
        assert dns.message.from_wire(reported).question[0].rdtype == kind


def test_cached_reply_is_not_used_for_another_question() -> None:
    table = TABLE.changed(EXTERNAL)
    sound = question(b"\3web\3foo\0")
    assert isinstance(resolve(table, EXTERNAL, sound, tcp=False, turn=0), bytes)
    for other in (sound + b"\0", sound[:-1], sound[:4] + b"\0\2" + sound[6:], sound[:6] + b"\0\1" + sound[8:]):
        reported = resolve(table, EXTERNAL, other, tcp=False, turn=0)
        assert isinstance(reported, bytes)
        assert reported[3] & 15 == dns.rcode.FORMERR
    assert resolve(table, EXTERNAL, sound[:2] + b"\x81" + sound[3:], tcp=False, turn=0) == b""


def test_cached_replies_of_one_client_stay_within_its_byte_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1 << 18
    monkeypatch.setattr(reply_cache, "CLIENT_LIMIT", limit)
    others = SetClient(container_id="other", key="/ns/other", inode=2, networks=("n1",))
    table = TABLE.changed(INTERNAL, others)
    resolve(table, others, question(b"\3web\0"), tcp=False, turn=0)
    tracemalloc.start()
    try:
        for number in range(2_000):
            name = b"".join(b"\x3c" + b"%060d" % number for _ in range(4)) + b"\0"
            resolve(table, INTERNAL, question(name), tcp=False, turn=0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * limit
    assert table.replies.size == sum(cached.size for cached in table.replies.by_client.values()) <= 2 * limit
    assert table.replies.find(others, question(b"\3web\0"), asked(question(b"\3web\0")))
    assert answers(reply("web", who=INTERNAL, table=table)) == ["10.0.0.2"]


def test_cached_replies_of_all_clients_stay_within_a_byte_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reply_cache, "CLIENT_LIMIT", 1 << 16)
    monkeypatch.setattr(reply_cache, "TOTAL_LIMIT", 1 << 18)
    modest = SetClient(container_id="modest", key="/ns/modest", inode=1, networks=("n1",))
    resolve(table := TABLE.changed(modest), modest, question(b"\3web\0"), tcp=False, turn=0)
    for number in range(20):
        greedy = SetClient(container_id=f"box{number}", key="/ns", inode=2, networks=("n1",), external=False)
        for each in range(200):
            name = b"\x3c" + b"%060d" % each + b"\0"
            resolve(table, greedy, question(name), tcp=False, turn=0)
            assert table.replies.size <= 1 << 18
    assert table.replies.size > 1 << 17
    assert "modest" in table.replies.by_client  # the greediest ones made room


def test_empty_change_keeps_the_cached_replies() -> None:
    table = TABLE.changed(EXTERNAL)
    resolve(table, EXTERNAL, question(b"\3web\0"), tcp=False, turn=0)
    assert replies_kept(table.changed()) == 1
    assert replies_kept(table.changed(EXTERNAL)) == 0


def test_explain_returns_source_owner_and_reason_of_a_name() -> None:
    found = explain(TABLE, EXTERNAL, "Web.")
    assert (found.source, found.network, found.owners) == ("network", "n1", ("a",))
    assert list(map(str, found.answers)) == ["10.0.0.2", "fd00::2"]
    mine = asker(aliases=(Alias(name="db", addresses=(ip_address("10.9.9.9"),)),))
    assert explain(TABLE, mine, "db").source == "alias"
    assert explain(TABLE, EXTERNAL, "localhost").source == "localhost"
    assert explain(TABLE, EXTERNAL, "nobody.foo").source == "none"
    assert explain(TABLE, INTERNAL, "example.com").source == "none"


def test_explain_of_an_unknown_name_returns_the_client_upstreams() -> None:
    servers = (ip_address("192.0.2.53"),)
    reported = explain(TABLE, asker(upstreams=servers), "example.com")
    assert (reported.source, reported.upstreams, reported.answers) == ("upstream", servers, ())


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2", "2.0.0.10.in-addr.arpa"])
def test_explain_of_an_address_returns_its_name(address: str) -> None:
    reported = explain(TABLE, EXTERNAL, address)
    assert (reported.source, reported.network, reported.owners) == ("reverse", "n1", ("a",))
    assert reported.reason.endswith("is web.foo")


def test_explain_of_an_unowned_address_goes_upstream() -> None:
    assert explain(TABLE, EXTERNAL, "10.0.0.99").source == "upstream"
