"""Answers to the host's own questions: ``name.network`` of every network, and nothing else.

A listener for the host is opt-in. It never forwards a question, so there is no loop if the host sends it all questions.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sandnet.dns import message
from sandnet.dns.base import SetClient
from sandnet.dns.control_protocol import HOST
from sandnet.dns.lookup import Forward, resolve
from sandnet.dns.server.query_handler import ClientState, Peer, QueryHandler, Send


class HostQueries:
    """The handler of the host's questions; it answers from the names of all networks."""

    def __init__(self, answers: QueryHandler) -> None:
        self._answers = answers
        self.client = ClientState(SetClient(container_id=HOST, key="", inode=0, networks=()))

    def set_networks(self, networks: Iterable[str]) -> None:
        """Set the ids of the networks whose names are answered. They may contain networks without names."""
        served = tuple(networks)
        if served != self.client.settings.networks:
            self.client.settings = msgspec.structs.replace(self.client.settings, networks=served)

    def answer(self, client: ClientState, query: bytes, send: Send, peer: Peer, *, tcp: bool) -> bool:
        """Answer a name on a network or an address there; refuse all other questions (RFC 1035, 4.1.1)."""
        self._answers.queries += 1
        question = message.parse_question(query)
        if question and _is_bare(question.name):
            answer = message.error(query, question, message.REFUSED)
        else:
            found = resolve(self._answers.table, client.settings, query, tcp=tcp, turn=self._answers.queries)
            answer = message.error(query, found.question, message.REFUSED) if isinstance(found, Forward) else found
        if answer:
            send(peer, answer)
        else:
            self._answers.dropped += 1
        return bool(answer)

    def refused(self) -> None:
        """Count a connection that was closed because of a limit."""
        self._answers.refused()

    def unsent(self) -> None:
        """Count an answer that could not be sent."""
        self._answers.unsent()


def _is_bare(name: bytes) -> bool:
    """Return whether a name in wire form has only one label: a bare name would be ambiguous between networks."""
    return len(name) == name[0] + 2
