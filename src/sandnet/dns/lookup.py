"""What a question is answered: a function of the question, who asks and the table, and of nothing else.

From top to bottom: localhost, addresses (reverse lookups), the asker's aliases, the names on its networks, nothing
for what is under the name of one of its networks, then upstream. What must not go there is answered here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from sandnet.dns import message
from sandnet.dns.base import Explanation, SetClient
from sandnet.dns.message import Question
from sandnet.dns.name_table import TTL, NameTable, normal
from sandnet.dns.reply_cache import PreparedReply, reply_of
from sandnet.model.address import Address

_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_NO_SUCH_NAME = message.authority_record(TTL)


class Forward(NamedTuple):
    """Only an upstream server can answer."""

    question: Question


class _Answer(NamedTuple):
    """What is known of a name."""

    source: str
    """As in :class:`~sandnet.dns.base.Explanation`: ``none`` is NXDOMAIN, ``upstream`` unknown here."""
    reason: str
    addresses: tuple[Address, ...] = ()
    pointer: str = ""
    """The name that a reverse lookup gives."""
    network_id: str = ""
    owners: tuple[str, ...] = ()


def resolve(table: NameTable, asker: SetClient, query: bytes, *, tcp: bool, turn: int) -> bytes | Forward:
    """The reply to a query, or that it must go upstream. Never raises, whatever the query is.

    Args:
        table: the names.
        asker: who asks; its upstreams are the caller's business.
        query: a message as it came, without the length that TCP puts before it.
        tcp: whether the reply may be as long as TCP allows.
        turn: a number that grows; whose turn it is to go first among several addresses follows from it.

    Returns:
        The reply; empty bytes: send nothing, for it was itself a reply, or shorter than a header.
    """
    shelf = table.ready.shelves.get(asker.container_id)
    if shelf is not None and shelf.asker is asker:
        ready = shelf.at_once(query, message.LARGEST_TCP if tcp else message.PLAIN_UDP, turn)
        if ready is not None:
            return ready
    question = message.parse_question(query)
    return _unusable(query) if question is None else _resolve(table, asker, query, question, tcp=tcp, turn=turn)


def _resolve(
    table: NameTable, asker: SetClient, query: bytes, question: Question, *, tcp: bool, turn: int
) -> bytes | Forward:
    refusal = _refusal(question)
    if refusal is not None:
        return message.error(query, question, refusal)
    reply = table.ready.find(asker, query, question)
    if reply is None:
        verdict = _answer(table, asker, message.name_to_text(question.name))
        if verdict.source == "upstream":
            return Forward(question)
        reply = _reply(question, verdict)
        table.ready.store(asker, query, question, reply)
    return reply.to(query, question, message.LARGEST_TCP if tcp else message.udp_limit(question), turn)


def _unusable(query: bytes) -> bytes:
    """Another operation than a query is not done here (RFC 1035 section 4.1.1); anything else is malformed."""
    other = len(query) >= message.HEADER_SIZE and query[2] & 0x78
    return message.malformed(query, message.NOTIMP if other else message.FORMERR)


def _refusal(question: Question) -> int | None:
    """Response code for a well-formed question that is answered neither here nor upstream.

    Only the Internet's names are served: NXDOMAIN in another class would claim to know that class. A zone transfer
    is refused, not passed on: its many messages would not come through.
    """
    if question.edns is not None and question.edns.version != 0:
        return message.BADVERS
    if question.qclass not in (message.IN, message.ANY) or question.qtype in (message.AXFR, message.IXFR):
        return message.REFUSED
    return None


def _answer(table: NameTable, asker: SetClient, name: str) -> _Answer:
    if name == "localhost" or name.endswith(".localhost"):
        return _Answer("localhost", "localhost is the loopback address, always (RFC 6761)", _LOOPBACK)
    address = _reversed(name)
    if address is not None:
        return _reverse_answer(table, asker, address)
    found = table.lookup(asker, name)
    if found is not None:
        source = "network" if found.network_id else "alias"
        reason = "a name on a network of the asker" if found.network_id else "an alias of the asker alone"
        return _Answer(source, reason, found.addresses, "", found.network_id, found.owners)
    host, _, label = name.rpartition(".")
    if host and table.knows_network(asker, label):
        return _Answer("none", f"nobody on network {label} is called {host}")
    return _unknown(asker)


def _reverse_answer(table: NameTable, asker: SetClient, address: Address) -> _Answer:
    if address.is_loopback:
        return _Answer("localhost", f"{address} is localhost, always (RFC 6761)", pointer="localhost")
    name = table.reverse(asker, address)
    if name is None:
        return _unknown(asker)
    found = table.lookup(asker, name)
    network_id, owners = (found.network_id, found.owners) if found else ("", ())
    return _Answer("reverse", f"{address} is {name}", pointer=name, network_id=network_id, owners=owners)


def _unknown(asker: SetClient) -> _Answer:
    """On internal networks only, the names there are all there is.

    So others do not exist; with SERVFAIL or REFUSED stub resolvers would try again and wait, and never go on to the
    next of their search domains.
    """
    if asker.inside and not asker.external:
        return _Answer(
            "upstream", "no name here: a server that the container's own networks hold is asked, from inside"
        )
    if asker.external:
        return _Answer("upstream", "no name here: an upstream server is asked")
    return _Answer("none", "no name here, and an asker on internal networks only reaches no upstream server")


def _reversed(name: str) -> Address | None:
    """The address that a name under ``in-addr.arpa`` or ``ip6.arpa`` stands for."""
    try:
        if name.endswith(".in-addr.arpa"):
            return IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
        if name.endswith(".ip6.arpa"):
            digits = name.removesuffix(".ip6.arpa").split(".")
            return IPv6Address(bytes.fromhex("".join(reversed(digits)))) if max(map(len, digits)) == 1 else None
    except ValueError:  # not the whole of an address
        return None
    return None


def _reply(question: Question, verdict: _Answer) -> PreparedReply:
    """Return the whole reply, however long."""
    records = _records(verdict, question.qtype)
    rcode = message.NXDOMAIN if verdict.source == "none" else message.NOERROR
    return reply_of(rcode, records, b"" if records else _NO_SUCH_NAME)


def _records(verdict: _Answer, qtype: int) -> list[bytes]:
    """Records of the asked type; to a question for any, those of one type (RFC 8482 section 4.1)."""
    if verdict.pointer:
        return _pointers(verdict.pointer) if qtype in (message.PTR, message.ANY) else []
    if qtype == message.ANY:
        return _address_records(verdict.addresses, 4) or _address_records(verdict.addresses, 6)
    version = {message.A: 4, message.AAAA: 6}.get(qtype)
    return _address_records(verdict.addresses, version) if version else []


def _address_records(addresses: Sequence[Address], version: int) -> list[bytes]:
    return [message.address_record(address, TTL) for address in addresses if address.version == version]


def _pointers(name: str) -> list[bytes]:
    """A container id may be longer than a label: what cannot be said is left out."""
    try:
        return [message.pointer_record(name, TTL)]
    except ValueError:
        return []


def explain(table: NameTable, asker: SetClient, name: str) -> Explanation:
    """What an A or AAAA question for the name, or a PTR question for the address, would be answered, and why.

    ``upstreams`` are the asker's own; where it has none the host's are asked, which the caller knows. The name that an
    address bears is in ``reason``.
    """
    verdict = _answer(table, asker, normal(_question_of(name)))
    return Explanation(
        name=name,
        asker=asker.container_id,
        answers=verdict.addresses,
        source=verdict.source,
        network=verdict.network_id,
        owners=verdict.owners,
        upstreams=asker.upstreams if verdict.source == "upstream" else (),
        inside=asker.inside if verdict.source == "upstream" else (),
        reason=verdict.reason,
    )


def _question_of(name: str) -> str:
    """The name that a question about an address has."""
    try:
        return ipaddress.ip_address(name).reverse_pointer
    except ValueError:
        return name
