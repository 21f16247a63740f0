"""The host's own questions: ``name.network`` of every network, and nothing else.

A listener for the host is opt-in. It never asks upstream, so a host that sends it everything gets no loop.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sandnet.dns import message
from sandnet.dns.base import SetClient
from sandnet.dns.control_protocol import HOST
from sandnet.dns.lookup import Forward, resolve
from sandnet.dns.server.query_handler import AskingClient, Peer, QueryHandler, Send


class HostQueries:
    """Answers the host from the names of all networks."""

    def __init__(self, answers: QueryHandler) -> None:
        self._answers = answers
        self.client = AskingClient(SetClient(container_id=HOST, key="", inode=0, networks=()))

    def see(self, networks: Iterable[str]) -> None:
        """Answer from these networks, by id; one without names does no harm."""
        seen = tuple(networks)
        if seen != self.client.asker.networks:
            self.client.asker = msgspec.structs.replace(self.client.asker, networks=seen)

    def answer(self, client: AskingClient, query: bytes, send: Send, peer: Peer, *, tcp: bool) -> bool:
        """Answer what is a name on a network or an address there; refuse the rest (RFC 1035, 4.1.1)."""
        self._answers.queries += 1
        question = message.parse_question(query)
        if question and _is_bare(question.name):
            answer = message.error(query, question, message.REFUSED)
        else:
            found = resolve(self._answers.table, client.asker, query, tcp=tcp, turn=self._answers.queries)
            answer = message.error(query, found.question, message.REFUSED) if isinstance(found, Forward) else found
        if answer:
            send(peer, answer)
        else:
            self._answers.dropped += 1
        return bool(answer)

    def refused(self) -> None:
        """A connection was closed because of a limit."""
        self._answers.refused()

    def unsent(self) -> None:
        """An answer could not be sent."""
        self._answers.unsent()


def _is_bare(name: bytes) -> bool:
    """Whether a name in wire form has one label: bare names of several networks would be mixed up."""
    return len(name) == name[0] + 2
