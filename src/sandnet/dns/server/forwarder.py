"""The forwarder: it sends questions to upstream servers, with limits for each client, server selection and deadlines.

Each question is sent with a new random id from its own socket, which is connected to its server. An answer is accepted
only from that address to that port with that id and that question (RFC 5452). If several servers answer,
:mod:`sandnet.dns.server.upstream_query` selects the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sandnet.dns.message import Question
from sandnet.dns.server.fair_share import Shares
from sandnet.dns.server.server_liveness import Liveness
from sandnet.dns.server.upstream_query import Race, Run
from sandnet.dns.server.upstream_sockets import Server

PORT: Final = 53
DEADLINE: Final = 5.0
"""Seconds until a question without an answer fails: the resolvers of C libraries ask again then."""
OUTSTANDING: Final = 2048
"""Maximum pending questions of all sandboxes: each has a socket for each server, and at most 4 KiB beside them."""
OWN: Final = 256
"""Maximum pending questions of one sandbox; further ones are answered SERVFAIL at once."""
STREAMS: Final = (128, 16)
"""Maximum concurrent TCP retries, of all sandboxes and of one: each uses at most 192 KiB."""
STREAM_WORK: Final = 0.0005
"""Seconds of work that are charged for a TCP retry: the event loop does it in many small steps."""
SERVERS: Final = 8
"""Maximum servers for one question."""


class Options(NamedTuple):
    """The options in a resolv.conf for its servers (resolv.conf(5))."""

    timeout: float = 5.0
    """Seconds to wait for a server."""
    attempts: int = 2
    """Maximum number of rounds in which all servers are asked."""
    rotate: bool = False
    """Whether each question begins with another server."""


class ForwarderUsage:
    """The forwarder's resources that one client uses.

    Args:
        run: does work within the client's CPU budget.
        charge: adds seconds of work that is done outside of :attr:`run` to the client's account.
    """

    def __init__(self, run: Run = lambda work: work(), charge: Callable[[float], None] = lambda _: None) -> None:
        self.outstanding = 0
        """Pending questions."""
        self.streams = 0
        """TCP retries in progress."""
        self.run = run
        self.charge = charge


Done = Callable[[bytes | None], None]
"""Callback that receives an answer with the query's own id; ``None``: no server answered in time."""


class Pending(NamedTuple):
    """A question that was sent."""

    query: bytes
    race: Race
    usage: ForwarderUsage
    streams: list[None]
    """One element for each TCP retry in progress."""
    done: Done
    """Callback that receives the answer."""


class Upstream:
    """The forwarder of questions to upstream servers.

    Args:
        port: port of the servers.
        deadline: seconds for one question.
        limit: maximum pending questions.
        own_limit: maximum pending questions of one client.
    """

    def __init__(
        self, *, port: int = PORT, deadline: float = DEADLINE, limit: int = OUTSTANDING, own_limit: int = OWN
    ) -> None:
        self._port = port
        self._deadline = deadline
        self._slots = Shares(limit, own_limit)
        self._streams = Shares(*STREAMS)
        self._liveness = Liveness()
        self._rotation = 0

    @property
    def outstanding(self) -> int:
        """Number of pending questions."""
        return self._slots.taken

    def send(
        self,
        query: bytes,
        question: Question,
        servers: Sequence[Server],
        *,
        limit: int,
        usage: ForwarderUsage,
        done: Done,
        options: Options | None = None,
    ) -> bool:
        """Send a question; return ``False`` if the client has no free slot. Then ``done`` is not called.

        Args:
            query: a complete DNS message; it is forwarded unchanged, apart from its id.
            question: its question.
            servers: in the order of preference.
            limit: maximum bytes that the client accepts of an answer that was retried over TCP. Of a longer answer it
                gets the truncated one of the server, unless the limit is ``LARGEST`` (the client itself uses TCP).
            usage: of the client.
            done: called once, within the client's CPU budget.
            options: for the servers; ``None``: the defaults.
        """
        options = options or Options()
        if not self._slots.take(usage.outstanding):
            return False
        usage.outstanding += 1
        self._rotation += options.rotate
        begin = self._rotation % max(1, len(servers))
        row, silent = self._liveness.row([*servers[begin:], *servers[:begin]][:SERVERS])
        streams: list[None] = []
        race = Race(
            query,
            question,
            row,
            silent=silent,
            port=self._port,
            limit=limit,
            timeout=options.timeout,
            run=usage.run,
            stream=self._stream_taker(usage, streams),
        )
        deadline = min(self._deadline, options.timeout * options.attempts * max(1, len(row)))
        pending = Pending(query, race, usage, streams, done)
        race.winner.add_done_callback(lambda _: usage.run(lambda: self._finish(pending)))
        race.start(deadline)
        return True

    def _finish(self, pending: Pending) -> None:
        race, usage = pending.race, pending.usage
        answer = race.winner.result()
        self._liveness.record_answer(race.received)
        self._liveness.note_silent(race.unanswered(), race.since)
        race.close()
        usage.outstanding -= 1
        self._slots.release()
        for _ in pending.streams:
            usage.streams -= 1
            self._streams.release()
        pending.done(pending.query[:2] + answer[2:] if answer else None)

    def _stream_taker(self, usage: ForwarderUsage, taken: list[None]) -> Callable[[], bool]:
        def take() -> bool:
            if not self._streams.take(usage.streams):
                return False
            usage.streams += 1
            usage.charge(STREAM_WORK)
            taken.append(None)
            return True

        return take
