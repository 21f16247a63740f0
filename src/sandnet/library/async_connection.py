"""The library for coroutines: the same objects; what waits for the daemon or a program does so beside the event loop.

The requests are those of :mod:`sandnet.library.connection`, in threads. When a coroutine is cancelled, its request is
completed, and what it has created is deleted.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sandnet.library.connection import DaemonConnection, Network, Ports, Sandbox
    from sandnet.wire import libnetwork as wire

T = TypeVar("T")


class AsyncConnection:
    """A daemon; see :class:`sandnet.library.connection.DaemonConnection`.

    Attributes:
        blocking: the connection for programs without an event loop.
    """

    def __init__(self, blocking: DaemonConnection) -> None:
        """Initialize without a request."""
        self.blocking = blocking

    @asynccontextmanager
    async def network(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnet: str | None = None,
        options: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncNetwork]:
        """Create a network for the block; see :meth:`DaemonConnection.network`."""
        creation = self.blocking.network(name, driver=driver, subnet=subnet, options=options, labels=labels)
        async with in_threads(creation) as network:
            yield AsyncNetwork(network)

    async def existing_network(self, reference: str) -> AsyncNetwork:
        """Return a network that exists; see :meth:`DaemonConnection.existing_network`."""
        return AsyncNetwork(await asyncio.to_thread(self.blocking.existing_network, reference))


class AsyncNetwork:
    """A network; see :class:`sandnet.library.connection.Network`.

    Attributes:
        blocking: the network for programs without an event loop.
    """

    def __init__(self, blocking: Network) -> None:
        """Initialize without a request."""
        self.blocking = blocking
        self.name = blocking.name
        self.id = blocking.id

    async def info(self) -> wire.Network:
        """Return all that the daemon knows of it."""
        return await asyncio.to_thread(self.blocking.info)

    @asynccontextmanager
    async def sandbox(
        self,
        name: str,
        *,
        ports: Ports = (),
        aliases: Sequence[str] = (),
        ip: str | None = None,
        ip6: str | None = None,
        additional_addresses: Sequence[str] = (),
        hostname: str | None = None,
        dns: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        pid: int | None = None,
        netns: str | None = None,
    ) -> AsyncIterator[AsyncSandbox]:
        """Make a sandbox on the network for the block; see :meth:`Network.sandbox`."""
        creation = self.blocking.sandbox(
            name,
            ports=ports,
            aliases=aliases,
            ip=ip,
            ip6=ip6,
            additional_addresses=additional_addresses,
            hostname=hostname,
            dns=dns,
            labels=labels,
            pid=pid,
            netns=netns,
        )
        async with in_threads(creation) as sandbox:
            yield AsyncSandbox(sandbox)

    def connect(
        self, sandbox: AsyncSandbox, *, name: str | None = None, aliases: Sequence[str] = ()
    ) -> AbstractAsyncContextManager[None]:
        """Attach a sandbox of another network for the block; see :meth:`Network.connect`."""
        return in_threads(self.blocking.connect(sandbox.blocking, name=name, aliases=aliases))


class AsyncSandbox:
    """A sandbox; see :class:`sandnet.library.connection.Sandbox`.

    Attributes:
        blocking: the sandbox for programs without an event loop.
    """

    def __init__(self, blocking: Sandbox) -> None:
        """Initialize without a request."""
        self.blocking = blocking
        self.name = blocking.name
        self.id = blocking.id
        self.service_id = blocking.service_id

    async def info(self) -> wire.Sandbox:
        """Return all that the daemon knows of it."""
        return await asyncio.to_thread(self.blocking.info)

    async def address(self) -> str:
        """Return its first IPv4 address; see :attr:`Sandbox.address`."""
        return await asyncio.to_thread(lambda: self.blocking.address)

    async def ports(self) -> list[wire.BoundPort]:
        """Return its published ports; see :attr:`Sandbox.ports`."""
        return await asyncio.to_thread(lambda: self.blocking.ports)

    async def run(
        self,
        command: Sequence[str],
        *,
        stdin: str | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the sandbox to its end; see :meth:`Sandbox.run`. It is killed when the task is cancelled.

        Raises:
            subprocess.CalledProcessError: with ``check``, its status is not 0.
        """
        pipe = subprocess.PIPE
        words = self.blocking.words(command)
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=cwd)
        try:
            out, err = await process.communicate((stdin or "").encode())
        except BaseException:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise
        done = subprocess.CompletedProcess(words, process.returncode or 0, out.decode(), err.decode())
        if check:
            done.check_returncode()
        return done

    async def start(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> asyncio.subprocess.Process:
        """Start a program in the sandbox; see :meth:`Sandbox.start`. Its output is that of the caller."""
        words = self.blocking.words(command)
        return await asyncio.create_subprocess_exec(*words, stdin=subprocess.DEVNULL, env=env, cwd=cwd)


@asynccontextmanager
async def in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a blocking context manager in threads. A cancelled task leaves it, too."""
    entering = asyncio.ensure_future(asyncio.to_thread(manager.__enter__))
    try:
        await asyncio.wait([entering])
        value = entering.result()
    except asyncio.CancelledError:
        if await _succeeds(entering):
            await _completed(manager, None)
        raise
    try:
        yield value
    except BaseException as error:
        await _completed(manager, error)
        raise
    await _completed(manager, None)


async def _succeeds(entering: asyncio.Future[T]) -> bool:
    await asyncio.wait([entering])
    return not entering.cancelled() and entering.exception() is None


async def _completed(manager: AbstractContextManager[T], error: BaseException | None) -> None:
    """Leave the block to the end; a cancellation in the meantime is raised afterwards.

    Args:
        manager: of the block.
        error: the one that ends the block.
    """
    leaving = asyncio.ensure_future(asyncio.to_thread(manager.__exit__, type(error) if error else None, error, None))
    cancelled: asyncio.CancelledError | None = None
    while not leaving.done():
        try:
            await asyncio.wait([leaving])
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    leaving.result()
    if cancelled:
        raise cancelled
