"""Liveness of upstream servers: questions do not wait for a server that was silent before."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sandnet.dns.server.upstream_sockets import Server

PROBE: Final = 1.0
"""Seconds before a silent server is probed first, by a question that another server gets too; then doubled."""
LONGEST: Final = 30.0
"""Maximum seconds between two probes."""
SILENT_AFTER: Final = 0.9
"""Seconds without an answer, also to the question sent again, after which a server counts as silent."""
_MOST: Final = 1024
"""Maximum servers remembered: about 200 KiB."""


class _Silence(NamedTuple):
    next_probe: float
    pause: float


class Liveness:
    """The silent servers, and the times of the last answers of the others."""

    def __init__(self) -> None:
        self._silent: dict[Server, _Silence] = {}
        self._answered: dict[Server, float] = {}

    def row(self, servers: Sequence[Server]) -> tuple[list[Server], frozenset[Server]]:
        """Return the servers in the order in which they are asked, and the set of those that are not waited for.

        A silent server is last. When its probe is due, it keeps its place and is asked together with the next one.
        """
        now = time.monotonic()
        silent = frozenset(server for server in servers if server in self._silent)
        last = [server for server in silent if self._silent[server].next_probe > now]
        for server in silent.difference(last):
            pause = self._silent[server].pause
            self._silent[server] = _Silence(now + pause, min(2 * pause, LONGEST))
        return sorted(servers, key=last.__contains__), silent

    def record_answer(self, servers: Iterable[Server]) -> None:
        """Remember servers that sent any answer just now."""
        if len(self._answered) > _MOST:
            self._answered.clear()
        for server in servers:
            self._answered[server] = time.monotonic()
            self._silent.pop(server, None)

    def note_silent(self, servers: Iterable[Server], since: dict[Server, float]) -> None:
        """Remember servers that did not answer, unless they answered another question since they were asked.

        Args:
            servers: servers without an answer.
            since: times at which they were asked (``time.monotonic``).
        """
        now = time.monotonic()
        if len(self._silent) > _MOST:
            self._silent.clear()
        for server in servers:
            asked = since[server]
            if now - asked >= SILENT_AFTER and self._answered.get(server, -1.0) < asked and server not in self._silent:
                self._silent[server] = _Silence(now + PROBE, 2 * PROBE)
