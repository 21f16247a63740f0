"""The resolver's side of the socket to the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from sandnet.dns.protocol import (
    Apply,
    Done,
    Explain,
    Explained,
    Hello,
    Refused,
    Replace,
    Reply,
    Request,
    Stats,
    Stop,
    Welcome,
    frame,
    read_request,
)
from sandnet.dns.server import Draft, Server
from sandnet.errors import Error, Kind

_log = logging.getLogger(__name__)

CALLERS: Final = 16
"""Connections served together: the daemon's, and a few of people who look."""
_GREETING: Final = 5.0
"""Seconds to the first message."""


class Control:
    """Serves callers.

    Args:
        server: what they control.
        release: of this program.
        complete: called after every replacement: all names there are have been told.
        stop: called to end the process, with whether to drain first.
    """

    def __init__(
        self,
        server: Server,
        release: str,
        complete: Callable[[], Awaitable[None]],
        stop: Callable[[bool], None],
    ) -> None:
        self._server = server
        self._release = release
        self._complete = complete
        self._stop = stop
        self._callers = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end (the callback of :func:`asyncio.start_unix_server`)."""
        self._callers += 1
        try:
            if self._callers <= CALLERS:
                await self._converse(reader, writer)
        except Error as failure:
            _log.warning("a caller was cut off: %s", failure)
        except (ConnectionError, TimeoutError):
            pass
        except asyncio.CancelledError:  # the process ends; asyncio would log a task that says so
            writer.transport.abort()
        finally:
            self._callers -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = await asyncio.wait_for(read_request(reader), _GREETING)
        if not isinstance(greeting, Hello):
            return
        writer.write(frame(Welcome(self._release, os.getpid())))
        draft = Draft()
        while (request := await read_request(reader)) is not None:
            writer.write(frame(await self._answer(request, draft)))
            if isinstance(request, Replace) and not request.more:
                draft = Draft()
            await writer.drain()
            await asyncio.sleep(0)  # questions get their turn between messages that came together

    async def _answer(self, request: Request, draft: Draft) -> Reply:
        try:
            return await self._reply(request, draft)
        except Error as failure:
            return Refused(failure.kind, failure.message, failure.hint, failure.code)
        except Exception as failure:
            _log.exception("cannot serve %s", type(request).__name__)
            return Refused(Kind.INTERNAL, f"the resolver failed: {failure!r}")

    async def _reply(self, request: Request, draft: Draft) -> Reply:
        match request:
            case Apply():
                await self._server.apply(request.changes)
            case Replace():
                await self._replace(request, draft)
            case Explain():
                return Explained(self._server.explain(request.container_id, request.name))
            case Stats():
                return self._server.counts()
            case Stop():
                self._stop(request.drain)
            case Hello():
                return Welcome(self._release, os.getpid())
        return Done(self._server.problems())

    async def _replace(self, request: Replace, draft: Draft) -> None:
        draft.add(request.changes)
        if not request.more:
            await self._server.replace(draft)
            await self._complete()
