"""Lookups inside sandboxes, and name servers that the resolver asks in turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import dns.message
import dns.rcode

from tests.support.daemon import RunningDaemon
from tests.support.dns_servers import Answering, FakeUpstream, query, rcode, records
from tests.support.traffic import UDP, Place

SERVER = "127.0.0.11"
UPSTREAM = "127.0.0.53"
"""On the loopback of the host: only the resolver reaches it there."""


class Reply(NamedTuple):
    """What dig was reported."""

    status: str
    records: Sequence[str]


def dig(place: Place, name: str, *options: str) -> Reply:
    """One question by dig, tried once.

    Raises:
        AssertionError: no answer.
    """
    reported = place.sh("dig", f"@{SERVER}", "+tries=1", "+time=10", "+noall", "+comments", "+answer", *options, name)
    status = re.search(r"status: (\w+)", reported)
    assert status, reported
    return Reply(status[1], [line.split()[-1] for line in reported.splitlines() if line and not line.startswith(";")])


def found(*answers: str) -> Reply:
    return Reply("NOERROR", list(answers))


MISSING = Reply("NXDOMAIN", [])


def lookup(place: Place, name: str) -> list[str]:
    """The addresses of a name, asked for in this process.

    Raises:
        OSError: no answer at once, or no one listens.
    """
    with place.client(SERVER, 53, UDP) as client:
        client.settimeout(0.1)
        client.send(query(name))
        reply = client.recv(4096)
    return records(reply) if rcode(reply) == "NOERROR" else []


def upstream(daemon: RunningDaemon, answering: Answering) -> FakeUpstream:
    """A name server on the host's loopback, until the test ends."""
    made = FakeUpstream(daemon.host, UPSTREAM, answering)
    daemon.stack.callback(made.close)
    return made


def unknowing(asked: bytes) -> list[bytes]:
    """A server that knows no name."""
    reply = dns.message.make_response(dns.message.from_wire(asked))
    reply.set_rcode(dns.rcode.NXDOMAIN)
    return [reply.to_wire()]
