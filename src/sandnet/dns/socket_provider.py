"""Sockets for the resolver: the daemon opens them in the sandboxes and passes them to the resolver.

The resolver has no privilege to enter a sandbox. It reports which clients lack sockets. The sockets of a resolver that
is being replaced are passed on to its successor, so that no question is lost; missing sockets are opened.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from sandnet.dns.base import SetClient
from sandnet.dns.client_connection import ControlConnection
from sandnet.dns.control_protocol import HOST, MOST_DESCRIPTORS, Apply, Done, Lack, Passed
from sandnet.dns.takeover import OpenedSockets, has_former, shared_by_former
from sandnet.errors import Error
from sandnet.model.address import Address

_log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH: Final = 25
"""Clients whose sockets are opened in one job and passed in one message."""


class OpenSockets(Protocol):
    """A function that opens sockets in a namespace."""

    def __call__(
        self, key: str, inode: int, lack: Lack, *, beside_another: bool, at: Address | None = None
    ) -> OpenedSockets:
        """Open the missing sockets in the namespace at ``key``; for :data:`HOST` in the host's namespace.

        ``beside_another`` and ``at`` (its ``listen``): see :class:`~sandnet.dns.base.SetClient`.

        Raises:
            Error: they cannot be opened.
        """
        ...


class Run(Protocol):
    """A function that runs a job on a worker thread."""

    def __call__(self, job: Callable[..., T], /, *arguments: object) -> Awaitable[T]:
        """Return the job's result."""
        ...


class Provider:
    """The provider of the sockets that clients of the resolver lack.

    Args:
        run_dir: directory with the socket of a resolver that is being replaced.
        open_sockets: opens sockets in a namespace; called on worker threads.
        run: runs a job on a worker thread.
        host_listen: address and port at which the resolver answers the host.
    """

    def __init__(
        self, run_dir: str, open_sockets: OpenSockets, run: Run, host_listen: tuple[str, int] | None = None
    ) -> None:
        self._run_dir = run_dir
        self._host_listen = host_listen
        self._open = open_sockets
        self._run = run
        self._missing: dict[str, Lack] = {}
        self._prepared: dict[str, OpenedSockets] = {}
        """Prepared sockets, by container."""
        self._failures: dict[str, str] = {}
        """The reason why a container's sockets cannot be opened, by container."""
        self._providing: asyncio.Task[bool] | None = None

    def problems(self) -> tuple[str, ...]:
        """Return a description of the problem of every client that cannot be served."""
        return tuple(self._failures.values())

    def adopt(self, container_id: str, inode: int, listening: tuple[socket.socket, ...]) -> None:
        """Take over the listening sockets of a future client from the caller's objects."""
        moved = tuple(socket.socket(each.family, each.type, each.proto, each.detach()) for each in listening)
        former = self._prepared.pop(container_id, None)
        self._prepared[container_id] = OpenedSockets(inode, moved)
        if former:
            former.close()

    def take_prepared(self, clients: Iterable[SetClient]) -> tuple[tuple[Passed, ...], list[socket.socket]]:
        """Take the prepared sockets of these clients."""
        passed: list[Passed] = []
        sockets: list[socket.socket] = []
        for client in clients:
            opened = self._take_prepared(client)
            if opened:
                passed.append(opened.passed(client.container_id))
                sockets += [*opened.listening, *opened.asking]
        return tuple(passed), sockets

    def record_missing(self, lacking: Sequence[Lack]) -> None:
        """Remember which sockets the resolver reports as missing."""
        self._missing = {lack.container_id: lack for lack in lacking}
        for container_id in self._failures.keys() - self._missing.keys():
            del self._failures[container_id]

    def lacks(self, container_ids: Iterable[str]) -> bool:
        """Return whether one of these containers lacks sockets."""
        return bool(self._missing) and not self._missing.keys().isdisjoint(container_ids)

    def forget(self, container_id: str) -> None:
        """Forget a removed client and close its prepared sockets."""
        self._missing.pop(container_id, None)
        self._failures.pop(container_id, None)
        if opened := self._prepared.pop(container_id, None):
            opened.close()

    def start(self, link: ControlConnection, clients: Mapping[str, SetClient]) -> None:
        """Start to provide the missing sockets in the background."""
        if self._missing and (self._providing is None or self._providing.done()):
            self._providing = asyncio.get_running_loop().create_task(self._provide(link, clients))

    async def provide(self, link: ControlConnection, clients: Mapping[str, SetClient]) -> bool:
        """Provide the missing sockets; return false if the connection was lost.

        Cancelling the caller does not cancel the work.
        """
        while self._providing and not self._providing.done():
            await asyncio.shield(self._providing)  # more sockets may be missing now than when it began
        self.start(link, clients)
        return self._providing is None or await asyncio.shield(self._providing)

    async def close(self) -> None:
        """Stop, and close the sockets that were not passed on."""
        if self._providing:
            self._providing.cancel()
            with suppress(asyncio.CancelledError):
                await self._providing
        for container_id in tuple(self._prepared):
            self.forget(container_id)

    async def _provide(self, link: ControlConnection, clients: Mapping[str, SetClient]) -> bool:
        try:
            if has_former(self._run_dir):
                self._keep_missing(await self._run(shared_by_former, self._run_dir))
            waiting = list(self._missing.values())
            for start in range(0, len(waiting), BATCH):
                await self._open_and_send(link, waiting[start : start + BATCH], clients)
        except (ConnectionError, Error) as failure:  # the supervisor reconnects and starts this again
            _log.warning("sockets were not passed to the resolver: %s", failure)
            return False
        return True

    def _keep_missing(self, shared: Mapping[str, OpenedSockets]) -> None:
        """Keep the shared sockets that are missing and close the others.

        The host's sockets may have another address than the one configured now.
        """
        for container_id, opened in shared.items():
            needed = container_id in self._missing and container_id not in self._prepared
            if container_id == HOST:
                needed = needed and opened.listening[0].getsockname()[:2] == self._host_listen
            if needed:
                self._prepared[container_id] = opened
            else:
                opened.close()

    async def _open_and_send(
        self, link: ControlConnection, lacking: Sequence[Lack], clients: Mapping[str, SetClient]
    ) -> None:
        needed = [(lack, client) for lack in lacking if (client := _client(lack.container_id, clients))]
        opened = await self._run(self._open_all, needed)
        waiting: list[tuple[Passed, OpenedSockets]] = []
        for lack, result in opened.items():
            if isinstance(result, str):
                self._failures[lack.container_id] = result
                continue
            passed = result.passed(lack.container_id)
            if sum(each.count for each, _ in waiting) + passed.count > MOST_DESCRIPTORS:
                await self._send(link, waiting)
                waiting = []
            waiting.append((passed, result))
        await self._send(link, waiting)

    async def _send(self, link: ControlConnection, opened: Sequence[tuple[Passed, OpenedSockets]]) -> None:
        sockets = [each for _, result in opened for each in (*result.listening, *result.asking)]
        reply = await link.request(Apply((), tuple(passed for passed, _ in opened)), sockets)
        if isinstance(reply, Done):
            self.record_missing(reply.lacking)

    def _open_all(self, needed: Sequence[tuple[Lack, SetClient]]) -> dict[Lack, OpenedSockets | str]:
        return {lack: self._take_prepared(client) or self._try_to_open(lack, client) for lack, client in needed}

    def _take_prepared(self, client: SetClient) -> OpenedSockets | None:
        """Take the prepared sockets of a client; sockets in another namespace than its own are closed."""
        opened = self._prepared.pop(client.container_id, None)
        if opened is None or opened.inode == client.inode:
            return opened
        opened.close()
        return None

    def _try_to_open(self, lack: Lack, client: SetClient) -> OpenedSockets | str:
        who = "the host" if lack.container_id == HOST else lack.container_id
        what = "has no name server" if lack.listening else "cannot ask its servers from inside"
        if not client.upstreams:  # the records, not the resolver, decide which sockets it gets
            lack = Lack(lack.container_id, lack.listening)
        try:
            return self._open(client.key, client.inode, lack, beside_another=client.beside_another, at=client.listen)
        except Error as failure:
            return f"{who} {what}: {failure.message}"
        except Exception as failure:  # a problem with one client must not affect another
            return f"{who} {what}: {failure!r}"


def _client(container_id: str, clients: Mapping[str, SetClient]) -> SetClient | None:
    if container_id == HOST:
        return SetClient(container_id=HOST, key="", inode=0, networks=())
    return clients.get(container_id)
