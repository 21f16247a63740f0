"""The daemon's client of the resolver: it keeps a connection, reconnects with backoff, and restarts the resolver."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from sandnet.dns.base import Change, Explanation, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.dns.client_connection import ControlConnection
from sandnet.dns.control_protocol import (
    BATCH,
    Apply,
    Counts,
    Done,
    Explain,
    Explained,
    Reply,
    Request,
    Stats,
    Stop,
    batches,
)
from sandnet.dns.socket_provider import OpenSockets, Provider, Run
from sandnet.dns.takeover import stop_former
from sandnet.errors import Error, Kind

_log = logging.getLogger(__name__)

TIMEOUT: Final = 1.0
"""Seconds that a change waits for its confirmation."""
HUNG: Final = 10.0
"""Seconds without an answer after which the resolver counts as hung and is restarted."""
RESENT: Final = 30.0
"""Seconds that the transfer of all records may take: a hundred thousand names take about 3 s."""
_CHECK_INTERVAL: Final = 2.0
"""Seconds between two health checks of the resolver."""
_BACKOFF: Final = (0.05, 5.0)
"""Seconds before the next connection: initially, and at most."""
_REPORTED: Final = 3
"""Problems that are described; of further ones only the number is reported."""


class NameClient:
    """The real :class:`sandnet.dns.base.NameService`.

    Begin with :meth:`replace`: before the first call the resolver keeps all records it has. So a restarted daemon does
    not remove the names that are still in use.

    Args:
        path: of the resolver's socket.
        release: of this program; a resolver of another release is replaced.
        start: starts a resolver that takes over the socket, and returns when it serves; raises
            :class:`~sandnet.errors.Error` when it cannot.
        open_sockets: opens sockets in a namespace; called on worker threads.
        run: runs a job on a worker thread.
        host_listen: address and port at which the resolver answers the host.
    """

    def __init__(
        self,
        path: str,
        release: str,
        start: Callable[[], Awaitable[None]],
        open_sockets: OpenSockets,
        run: Run = asyncio.to_thread,
        host_listen: tuple[str, int] | None = None,
    ) -> None:
        self._path = path
        self._run = run
        self._provider = Provider(os.path.dirname(path), open_sockets, run, host_listen)
        self._former_ended = False
        """The resolver that this one replaces was stopped, or there was none."""
        self._release = release
        self.start = start
        """The function that starts a resolver."""
        self._names: dict[tuple[str, str], SetNames] = {}
        self._clients: dict[str, SetClient] = {}
        self._complete = False
        self._link: ControlConnection | None = None
        self._synchronised = asyncio.Event()
        self._error = "it was not started yet"
        self._problems: tuple[str, ...] = ()
        self._supervising: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start the supervision in the background: connect, start the resolver if none runs, and reconnect."""
        self._supervising = asyncio.get_running_loop().create_task(self._supervise())

    async def close(self) -> None:
        """Close the connection; the resolver keeps serving."""
        if self._supervising:
            self._supervising.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervising
        self._disconnect("the daemon closed the connection")
        await self._provider.close()

    async def stop(self) -> None:
        """Close the connection and stop the resolver: names no longer resolve."""
        await self.close()
        await stop_resolver(self._path)

    def apply(self, *changes: Change) -> asyncio.Future[None]:
        """Send changes now; see :class:`~sandnet.dns.base.NameService`."""
        for change in changes:
            self._remember(change)
        sent = self._send(_applications(changes))
        return asyncio.get_running_loop().create_task(self._confirmed(changes, self._link, sent))

    def adopt_sockets(self, container_id: str, inode: int, listening: tuple[socket.socket, ...]) -> None:
        """Take over a sandbox's sockets; see :class:`~sandnet.dns.base.NameService`."""
        self._provider.adopt(container_id, inode, listening)

    async def replace(self, changes: Sequence[Change]) -> None:
        """Replace all names and clients by these; see :class:`~sandnet.dns.base.NameService`."""
        self._names.clear()
        self._clients.clear()
        for change in changes:
            self._remember(change)
        self._complete = True
        await self._confirmed(changes, self._link, self._send([*batches(self._everything())]))

    async def explain(self, container_id: str, name: str) -> Explanation:
        """Return the answer that a question of the container would get.

        Raises:
            Error: ``NOT_FOUND`` the client is unknown; ``UNAVAILABLE`` the resolver is unavailable.
        """
        reply = await self._requested(Explain(container_id, name))
        if not isinstance(reply, Explained):
            raise _away("its answer is no explanation")
        return reply.explanation

    async def stats(self) -> Counts:
        """Return the resolver's counters.

        Raises:
            Error: ``UNAVAILABLE`` the resolver is unavailable.
        """
        reply = await self._requested(Stats())
        if not isinstance(reply, Counts):
            raise _away("its answer holds no counts")
        return reply

    def problem(self) -> str:
        """Return a description of what is wrong; empty: nothing."""
        if self._link is None or not self._synchronised.is_set():
            return f"the resolver is away: {self._error}" if self._error else "the resolver is receiving all names"
        if self._link.waiting() > TIMEOUT:
            return f"the resolver has not answered for {self._link.waiting():.0f} s"
        problems = (*self._problems, *self._provider.problems())
        more = len(problems) - _REPORTED
        return "; ".join(problems[:_REPORTED]) + (f"; and {more} more" if more > 0 else "")

    def _remember(self, change: Change) -> None:
        match change:
            case SetNames():
                self._names[change.network_id, change.owner] = change
            case RemoveNames():
                self._names.pop((change.network_id, change.owner), None)
            case SetClient():
                self._clients[change.container_id] = change
            case RemoveClient():
                self._clients.pop(change.container_id, None)
                self._provider.forget(change.container_id)

    def _everything(self) -> list[Change]:
        return [*self._names.values(), *self._clients.values()]

    async def _confirmed(
        self, changes: Sequence[Change], link: ControlConnection | None, sent: Sequence[asyncio.Future[Reply]]
    ) -> None:
        """Wait until the requests that were sent are in force, at most :data:`TIMEOUT`.

        Without a connection, or when it is lost, the next one begins with all remembered changes, these included.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                if link is None or not await self._applied(link, changes, sent):
                    await self._synchronised.wait()

    async def _applied(
        self, link: ControlConnection, changes: Sequence[Change], sent: Sequence[asyncio.Future[Reply]]
    ) -> bool:
        """Wait for the answers; false when the connection was lost before all requests were confirmed."""
        try:
            for reply in await _answers(sent):
                self._record(reply)
            if self._provider.lacks(change.container_id for change in changes if isinstance(change, SetClient)):
                await self._provide_sockets(link)
            await self._retire_former()
        except ConnectionError as failure:
            if self._link is link:
                self._disconnect(str(failure))
            return False
        except Error as failure:  # the resolver's fault: the remembered changes are right and are sent again later
            self._problems = (failure.message,)
            _log.error("the resolver refuses a change: %s", failure)
        return True

    async def _provide_sockets(self, link: ControlConnection) -> None:
        if not await self._provider.provide(link, self._clients):
            raise ConnectionResetError("the connection to the resolver is lost")

    async def _retire_former(self) -> None:
        """Stop the former resolver when this one has all names and sockets."""
        if self._complete and not self._former_ended:
            await self._run(stop_former, os.path.dirname(self._path))
            self._former_ended = True

    def _send(self, requests: Sequence[Request]) -> list[asyncio.Future[Reply]]:
        """Send the requests now if there is a connection; return their answers."""
        link = self._link
        return [_attempted(partial(self._sent, link, request)) for request in requests] if link else []

    def _sent(self, link: ControlConnection, request: Request) -> asyncio.Future[Reply]:
        """Send a request together with the sockets that were prepared for its clients."""
        if not isinstance(request, Apply):
            return link.request(request)
        passed, sockets = self._provider.take_prepared(
            change for change in request.changes if isinstance(change, SetClient)
        )
        return link.request(Apply(request.changes, passed), sockets)

    def _record(self, reply: Reply) -> None:
        if isinstance(reply, Done):
            self._problems = reply.problems
            self._provider.record_missing(reply.lacking)

    async def _requested(self, request: Request) -> Reply:
        if self._link is None:
            raise _away(self._error)
        try:
            return await asyncio.wait_for(self._link.request(request), TIMEOUT)
        except (OSError, TimeoutError) as failure:
            raise _away(str(failure) or "it does not answer") from failure

    async def _supervise(self) -> None:
        """Keep one connection after another; after a short one the backoff doubles, up to its maximum."""
        loop = asyncio.get_running_loop()
        pause = _BACKOFF[0]
        while True:
            began = loop.time()
            try:
                await self._run_connection()
            except Exception as failure:  # after any failure the connection is tried again: names must resolve
                self._disconnect(str(failure) or type(failure).__name__)
                _log.warning("the resolver is away: %s", self._error)
            if loop.time() - began > _BACKOFF[1]:
                pause = _BACKOFF[0]
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF[1])

    async def _run_connection(self) -> None:
        """Connect, send all records, and check the connection until it is lost.

        Raises:
            OSError, Error, TimeoutError: the connection failed or is lost.
        """
        link = await self._connect()
        self._link = link
        try:
            await asyncio.wait_for(self._resend(link), RESENT)
            self._error = ""
            self._synchronised.set()
            await self._watch(link)
        finally:
            link.close()

    async def _connect(self) -> ControlConnection:
        with suppress(OSError, Error, TimeoutError):
            link = await ControlConnection.open(self._path)
            if link.release == self._release:
                return link
            link.close()
        self._former_ended = False
        await self.start()
        link = await ControlConnection.open(self._path)
        if link.release != self._release:
            link.close()
            raise _away(f"it is of release {link.release}, not {self._release}")
        return link

    async def _resend(self, link: ControlConnection) -> None:
        """Send all records again.

        All requests are queued before the first answer is awaited, so a change made in the meantime is sent after them.
        """
        everything = self._everything()
        messages = [*batches(everything)] if self._complete else _applications(everything) or [Apply(())]
        for reply in await asyncio.gather(*map(link.request, messages)):
            self._record(reply)
        await self._provide_sockets(link)
        await self._retire_former()

    async def _watch(self, link: ControlConnection) -> None:
        while not await link.lost_within(_CHECK_INTERVAL):
            heartbeat = link.request(Apply(()))
            await asyncio.wait([heartbeat], timeout=HUNG)
            if not heartbeat.done():
                raise _away("it hangs")
            self._record(await heartbeat)
            self._provider.start(link, self._clients)
            await self._retire_former()
        raise ConnectionError("the connection was lost")

    def _disconnect(self, trouble: str) -> None:
        self._error = trouble
        self._synchronised.clear()
        if self._link:
            self._link.close()
            self._link = None


def _attempted(send: Callable[[], asyncio.Future[Reply]]) -> asyncio.Future[Reply]:
    """Return the future answer; one that has failed when the request cannot be sent."""
    try:
        return send()
    except Error as failure:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        answer.set_exception(failure)
        return answer


async def _answers(sent: Sequence[asyncio.Future[Reply]]) -> Sequence[Reply]:
    """Wait for all answers; most changes are one request, which needs no group."""
    return [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent)


def _applications(changes: Sequence[Change]) -> list[Apply]:
    return [Apply(tuple(changes[at : at + BATCH])) for at in range(0, len(changes), BATCH)]


def _away(reason: str) -> Error:
    return Error(Kind.UNAVAILABLE, f"the resolver is away: {reason}", code="resolver_away")


async def stop_resolver(path: str) -> None:
    """Stop the resolver that serves at ``path``, if any, wait until it has exited, and remove its socket."""
    with suppress(OSError, Error, TimeoutError):
        link = await ControlConnection.open(path)
        try:
            await asyncio.wait_for(link.request(Stop()), TIMEOUT)
            await link.lost_within(TIMEOUT)
        finally:
            link.close()
        os.unlink(path)
