"""Which name servers have been silent, so that not each question waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sandnet.dns.server.upstream_sockets import Server

PROBE: Final = 1.0
"""Seconds after which a silent server is asked again beside another one, at first; then twice as many, and so on."""
LONGEST: Final = 30.0
"""Seconds between two of these at the most."""
SILENT_AFTER: Final = 0.9
"""Seconds that a server must have had for an answer, and for that to the same question sent again."""
_MOST: Final = 1024
"""Servers remembered: some 200 KiB."""


class _Silence(NamedTuple):
    next_probe: float
    pause: float


class Liveness:
    """Remembers servers that were silent, and when others were heard."""

    def __init__(self) -> None:
        self._silent: dict[Server, _Silence] = {}
        self._heard: dict[Server, float] = {}

    def row(self, servers: Sequence[Server]) -> tuple[list[Server], frozenset[Server]]:
        """Return the servers in the order in which they are to be asked, and those not to be waited for.

        A silent server goes last. Now and then it keeps its place: then it is asked beside the next one.
        """
        now = time.monotonic()
        silent = frozenset(server for server in servers if server in self._silent)
        last = [server for server in silent if self._silent[server].next_probe > now]
        for server in silent.difference(last):
            pause = self._silent[server].pause
            self._silent[server] = _Silence(now + pause, min(2 * pause, LONGEST))
        return sorted(servers, key=last.__contains__), silent

    def record_answer(self, servers: Iterable[Server]) -> None:
        """Remember servers that said something just now, whatever it was."""
        if len(self._heard) > _MOST:
            self._heard.clear()
        for server in servers:
            self._heard[server] = time.monotonic()
            self._silent.pop(server, None)

    def note_silent(self, servers: Iterable[Server], since: dict[Server, float]) -> None:
        """Remember servers that have not answered, each asked at a moment: unless it has said anything since then."""
        now = time.monotonic()
        if len(self._silent) > _MOST:
            self._silent.clear()
        for server in servers:
            asked = since[server]
            if now - asked >= SILENT_AFTER and self._heard.get(server, -1.0) < asked and server not in self._silent:
                self._silent[server] = _Silence(now + PROBE, 2 * PROBE)
