"""The resolver's side of the socket to the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sandnet.dns.control_channel import Channel
from sandnet.dns.control_protocol import (
    Apply,
    Done,
    Explain,
    Explained,
    Hello,
    Refused,
    Replace,
    Reply,
    Request,
    Share,
    Shared,
    Stats,
    Stop,
    Welcome,
    decoded_request,
    frame,
)
from sandnet.dns.server.resolver import Draft, Resolver
from sandnet.dns.takeover import peer_of
from sandnet.errors import Error, Kind, invalid

_log = logging.getLogger(__name__)

CALLERS: Final = 16
"""Maximum connections at the same time: the daemon's, and a few for inspection by people."""
_GREETING: Final = 5.0
"""Seconds to wait for the first message."""


class Control:
    """The server of the control protocol.

    Args:
        server: the resolver that the callers control.
        release: of this program.
        owner: id of the only user that may connect.
        complete: called after every complete replacement of the records.
        stop: called to exit the process; its argument is whether to drain first.
    """

    def __init__(
        self,
        server: Resolver,
        release: str,
        owner: int,
        complete: Callable[[], Awaitable[None]],
        stop: Callable[[bool], None],
    ) -> None:
        self._server = server
        self._release = release
        self._owner = owner
        self._complete = complete
        self._stop = stop
        self._callers: dict[asyncio.Task[None], Channel] = {}

    def listen(self, listener: socket.socket) -> None:
        """Serve the connections of a listening unix socket until :meth:`close`."""
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def close(self) -> None:
        """Close all connections."""
        for channel in self._callers.values():
            channel.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if peer_of(connection)[1] != self._owner or len(self._callers) >= CALLERS:
            connection.close()
            return
        channel = Channel(connection)
        task = asyncio.get_running_loop().create_task(self._serve(channel))
        self._callers[task] = channel
        task.add_done_callback(self._callers.pop)

    async def _serve(self, channel: Channel) -> None:
        """Serve one connection until it is closed."""
        try:
            await self._serve_requests(channel)
        except Error as failure:
            _log.warning("a caller was cut off: %s", failure)
        except TimeoutError:
            pass
        finally:
            channel.close()

    async def _serve_requests(self, channel: Channel) -> None:
        greeting = await asyncio.wait_for(channel.receive(), _GREETING)
        if greeting is None or not isinstance(decoded_request(greeting), Hello):
            return
        channel.send(frame(Welcome(self._release, os.getpid())))
        draft = Draft()
        while (body := await channel.receive()) is not None:
            request = decoded_request(body)
            passed = request.passed if isinstance(request, Apply) else ()
            sockets = channel.claim(sum(each.count for each in passed))
            if sockets is None:
                raise invalid("sockets were announced that did not come", code="invalid_message")
            if isinstance(request, Share):
                self._share(channel, request)
            else:
                channel.send(frame(await self._answer(request, draft, sockets)))
            if isinstance(request, Replace) and not request.more:
                draft = Draft()
            await channel.flushed()
            await asyncio.sleep(0)  # DNS questions are served between messages that arrived together

    def _share(self, channel: Channel, request: Share) -> None:
        passed, sockets, more = self._server.share(request.skip)
        channel.send(frame(Shared(passed, more)), sockets)

    async def _answer(self, request: Request, draft: Draft, sockets: Sequence[socket.socket]) -> Reply:
        try:
            return await self._reply(request, draft, sockets)
        except Error as failure:
            return Refused(failure.kind, failure.message, failure.hint, failure.code)
        except Exception as failure:
            _log.exception("cannot serve %s", type(request).__name__)
            return Refused(Kind.INTERNAL, f"the resolver failed: {failure!r}")

    async def _reply(self, request: Request, draft: Draft, sockets: Sequence[socket.socket]) -> Reply:
        match request:
            case Apply():
                self._server.apply(request.changes)
                self._server.provide(request.passed, sockets)
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
        return Done(self._server.problems(), self._server.missing_sockets())

    async def _replace(self, request: Replace, draft: Draft) -> None:
        draft.add(request.changes)
        if not request.more:
            self._server.replace(draft)
            await self._complete()
