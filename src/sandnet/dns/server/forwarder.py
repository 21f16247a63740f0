"""Questions handed to other servers: how many of whom, to which servers, and for how long.

Each question goes out with a fresh random id from a socket of its own, connected to its server: an answer counts only
when it comes from that address to that port with that id and that question (RFC 5452).
:mod:`sandnet.dns.server.upstream_query` says whose answer counts.
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
"""Seconds until a question without an answer is given up: the resolvers of C libraries ask again then."""
OUTSTANDING: Final = 2048
"""Questions under way of all sandboxes together: each holds a socket a server, and at most 4 KiB beside them."""
OWN: Final = 256
"""Questions of one sandbox under way; more are answered SERVFAIL at once."""
STREAMS: Final = (128, 16)
"""Answers being fetched over TCP, of all sandboxes together and of one: each holds at most 192 KiB."""
STREAM_WORK: Final = 0.0005
"""Seconds of work that fetching an answer over TCP is counted as: the event loop does it in many small steps."""
SERVERS: Final = 8
"""Servers asked for one question at most."""


class Options(NamedTuple):
    """What a resolv.conf says of how its servers are asked (resolv.conf(5))."""

    timeout: float = 5.0
    """Seconds a server is waited for."""
    attempts: int = 2
    """How often all servers are asked in turn."""
    rotate: bool = False
    """Each question begins with another server."""


class ForwarderUsage:
    """What one asker uses of the forwarder.

    Args:
        run: does work in the asker's time.
        charge: counts seconds of work that was done, or will be done, outside of :attr:`run`.
    """

    def __init__(self, run: Run = lambda work: work(), charge: Callable[[float], None] = lambda _: None) -> None:
        self.outstanding = 0
        """Questions under way."""
        self.streams = 0
        """Answers being fetched over TCP."""
        self.run = run
        self.charge = charge


Done = Callable[[bytes | None], None]
"""Takes an answer with the query's own id; ``None``: no server gave any in time."""


class Pending(NamedTuple):
    """A question that was sent."""

    query: bytes
    race: Race
    usage: ForwarderUsage
    streams: list[None]
    """One element for each answer being fetched over TCP."""
    done: Done
    """Takes the answer."""


class Upstream:
    """Asks servers.

    Args:
        port: where the servers listen.
        deadline: seconds for one question.
        limit: questions under way at most.
        own_limit: questions of one asker under way at most.
    """

    def __init__(
        self, *, port: int = PORT, deadline: float = DEADLINE, limit: int = OUTSTANDING, own_limit: int = OWN
    ) -> None:
        self._port = port
        self._deadline = deadline
        self._places = Shares(limit, own_limit)
        self._streams = Shares(*STREAMS)
        self._liveness = Liveness()
        self._rotation = 0

    @property
    def outstanding(self) -> int:
        """Questions under way."""
        return self._places.taken

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
        """Send a question; ``False``: the asker has no place for another one, and ``done`` is not called.

        Args:
            query: a whole DNS message, passed on as it is but for its id.
            question: what it asks.
            servers: in the order of preference.
            limit: bytes the asker takes of an answer that had to be fetched over TCP; a longer one is given as
                the server truncated it, unless ``LARGEST`` is taken (the asker came over TCP itself).
            usage: of the asker.
            done: is called once, in the asker's time.
            options: of how servers are asked; ``None``: the usual ones.
        """
        options = options or Options()
        if not self._places.take(usage.outstanding):
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
            patience=options.timeout,
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
        self._places.give_back()
        for _ in pending.streams:
            usage.streams -= 1
            self._streams.give_back()
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
