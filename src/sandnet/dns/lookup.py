"""Local name resolution: the answer is a pure function of the question, the client and the name table.

Sources in order: localhost, addresses (reverse lookups), the client's aliases, the names on its networks. An unknown
name under the name of one of its networks (``name.network``) does not exist. Other unknown names are forwarded to an
upstream server, apart from the questions that must not be forwarded; those are answered here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from sandnet.dns import message
from sandnet.dns.base import Explanation, SetClient
from sandnet.dns.message import Question
from sandnet.dns.name_table import TTL, NameTable, canonical
from sandnet.dns.reply_cache import PreparedReply, reply_of
from sandnet.model.address import Address

_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_NO_SUCH_NAME = message.authority_record(TTL)


class Forward(NamedTuple):
    """The verdict that only an upstream server can answer."""

    question: Question


class _Answer(NamedTuple):
    """The result of a lookup."""

    source: str
    """Source as in :class:`~sandnet.dns.base.Explanation`: ``none`` is NXDOMAIN, ``upstream`` is unknown here."""
    reason: str
    addresses: tuple[Address, ...] = ()
    pointer: str = ""
    """The result of a reverse lookup."""
    network_id: str = ""
    owners: tuple[str, ...] = ()


def resolve(table: NameTable, client: SetClient, query: bytes, *, tcp: bool, turn: int) -> bytes | Forward:
    """Return the reply to a query, or :class:`Forward`. It never raises, whatever the query contains.

    Args:
        table: the names.
        client: the client; its upstream servers are not used here.
        query: a received message, without the length that precedes it over TCP.
        tcp: whether the reply may be as long as TCP allows.
        turn: a growing number; it determines which of several addresses is first (round robin).

    Returns:
        The reply; empty bytes: send nothing, because the message is itself a reply, or shorter than a header.
    """
    cached = table.replies.by_client.get(client.container_id)
    if cached is not None and cached.client is client:
        ready = cached.verbatim.get(query[2:])
        if ready is not None:
            return query[:2] + ready
        ready = cached.find_unparsed(query, message.LARGEST_TCP if tcp else message.PLAIN_UDP, turn)
        if ready is not None:
            return ready
    question = message.parse_question(query)
    return _unusable(query) if question is None else _resolve(table, client, query, question, tcp=tcp, turn=turn)


def _resolve(
    table: NameTable, client: SetClient, query: bytes, question: Question, *, tcp: bool, turn: int
) -> bytes | Forward:
    refusal = _refusal(question)
    if refusal is not None:
        return message.error(query, question, refusal)
    reply = table.replies.find(client, query, question)
    if reply is None:
        verdict = _answer(table, client, message.name_to_text(question.name))
        if verdict.source == "upstream":
            return Forward(question)
        reply = _reply(question, verdict)
        table.replies.store(client, query, question, reply)
    return reply.to(query, question, message.LARGEST_TCP if tcp else message.udp_limit(question), turn)


def _unusable(query: bytes) -> bytes:
    """Return NOTIMP for another operation than a query (RFC 1035 section 4.1.1), FORMERR for all other messages."""
    other = len(query) >= message.HEADER_SIZE and query[2] & 0x78
    return message.malformed(query, message.NOTIMP if other else message.FORMERR)


def _refusal(question: Question) -> int | None:
    """Return the response code for a well-formed question that is answered neither here nor upstream, else ``None``.

    Only the class of the Internet is served: NXDOMAIN in another class would claim to know that class. A zone transfer
    is refused, not forwarded: the forwarder does not pass on its many messages.
    """
    if question.edns is not None and question.edns.version != 0:
        return message.BADVERS
    if question.qclass not in (message.IN, message.ANY) or question.qtype in (message.AXFR, message.IXFR):
        return message.REFUSED
    return None


def _answer(table: NameTable, client: SetClient, name: str) -> _Answer:
    if name == "localhost" or name.endswith(".localhost"):
        return _Answer("localhost", "localhost is the loopback address, always (RFC 6761)", _LOOPBACK)
    address = _reversed(name)
    if address is not None:
        return _reverse_answer(table, client, address)
    found = table.lookup(client, name)
    if found is not None:
        source = "network" if found.network_id else "alias"
        reason = "a name on a network of the asker" if found.network_id else "an alias of the asker alone"
        return _Answer(source, reason, found.addresses, "", found.network_id, found.owners)
    host, _, label = name.rpartition(".")
    if host and table.knows_network(client, label):
        return _Answer("none", f"network {label} has no name {host}")
    return _unknown(client)


def _reverse_answer(table: NameTable, client: SetClient, address: Address) -> _Answer:
    if address.is_loopback:
        return _Answer("localhost", f"{address} is localhost, always (RFC 6761)", pointer="localhost")
    name = table.reverse(client, address)
    if name is None:
        return _unknown(client)
    found = table.lookup(client, name)
    network_id, owners = (found.network_id, found.owners) if found else ("", ())
    return _Answer("reverse", f"{address} is {name}", pointer=name, network_id=network_id, owners=owners)


def _unknown(client: SetClient) -> _Answer:
    """Return the answer for a name that is unknown here.

    For a client on internal networks only, no other names exist, and it gets NXDOMAIN. After SERVFAIL or REFUSED a stub
    resolver would retry and wait, and would not try the next of its search domains.
    """
    if client.inside and not client.external:
        return _Answer(
            "upstream", "no name here: a server that the container's own networks hold is asked, from inside"
        )
    if client.external:
        return _Answer("upstream", "no name here: an upstream server is asked")
    return _Answer("none", "no name here, and an asker on internal networks only reaches no upstream server")


def _reversed(name: str) -> Address | None:
    """Return the address of a name under ``in-addr.arpa`` or ``ip6.arpa``; ``None``: it is no such name."""
    try:
        if name.endswith(".in-addr.arpa"):
            return IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
        if name.endswith(".ip6.arpa"):
            digits = name.removesuffix(".ip6.arpa").split(".")
            return IPv6Address(bytes.fromhex("".join(reversed(digits)))) if max(map(len, digits)) == 1 else None
    except ValueError:  # not a complete address
        return None
    return None


def _reply(question: Question, verdict: _Answer) -> PreparedReply:
    """Return the reply without a limit of its length."""
    records = _records(verdict, question.qtype)
    rcode = message.NXDOMAIN if verdict.source == "none" else message.NOERROR
    return reply_of(rcode, records, b"" if records else _NO_SUCH_NAME)


def _records(verdict: _Answer, qtype: int) -> list[bytes]:
    """Return the records of the requested type; for ``ANY``, those of one type (RFC 8482 section 4.1)."""
    if verdict.pointer:
        return _pointers(verdict.pointer) if qtype in (message.PTR, message.ANY) else []
    if qtype == message.ANY:
        return _address_records(verdict.addresses, 4) or _address_records(verdict.addresses, 6)
    version = {message.A: 4, message.AAAA: 6}.get(qtype)
    return _address_records(verdict.addresses, version) if version else []


def _address_records(addresses: Sequence[Address], version: int) -> list[bytes]:
    return [message.address_record(address, TTL) for address in addresses if address.version == version]


def _pointers(name: str) -> list[bytes]:
    """Return the PTR record of a name; nothing where a container id is longer than a DNS label may be."""
    try:
        return [message.pointer_record(name, TTL)]
    except ValueError:
        return []


def explain(table: NameTable, client: SetClient, name: str) -> Explanation:
    """Return the answer that an A or AAAA question for a name, or a PTR question for an address, would get, and why.

    ``upstreams`` are the client's own servers. For a client without any, the caller adds the host's servers. ``reason``
    contains the name of an address.
    """
    verdict = _answer(table, client, canonical(_question_of(name)))
    return Explanation(
        name=name,
        asker=client.container_id,
        answers=verdict.addresses,
        source=verdict.source,
        network=verdict.network_id,
        owners=verdict.owners,
        upstreams=client.upstreams if verdict.source == "upstream" else (),
        inside=client.inside if verdict.source == "upstream" else (),
        reason=verdict.reason,
    )


def _question_of(name: str) -> str:
    """Return the name of the PTR question for an address; any other name is returned unchanged."""
    try:
        return ipaddress.ip_address(name).reverse_pointer
    except ValueError:
        return name
