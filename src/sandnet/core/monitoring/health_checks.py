"""Probe the backends of services from inside their own sandboxes, to see whether they serve."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.runtime.operations import Operations
from sandnet.core.state.events import Event, Events
from sandnet.core.state.records import Records
from sandnet.errors import Error
from sandnet.kernel.namespace_protocols import Namespaces
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Phase, Probe, ProbeKind, Sandbox

_log = logging.getLogger(__name__)

MAX_STATUS_LINE = 1024
"""Bytes read of an HTTP response."""
FIRST_BAD_STATUS = 400


class HealthChecks:
    """One task for each backend with a probe; events add and remove tasks."""

    def __init__(
        self,
        records: Records,
        events: Events,
        operations: Operations,
        namespaces: Namespaces,
        workers: Workers,
        backends: Backends,
    ) -> None:
        self._records = records
        self._events = events
        self._operations = operations
        self._namespaces = namespaces
        self._workers = workers
        self._backends = backends
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def start(self) -> None:
        """Probe the existing backends, and follow attachments as they are added and removed."""
        self._events.listen(self._receive)
        for attachment in self._records.attachments():
            self._begin(attachment)

    def close(self) -> None:
        """Stop all probes."""
        self._events.ignore(self._receive)
        for task in self._tasks.values():
            task.cancel()

    def _receive(self, event: Event) -> None:
        if isinstance(event.subject, Attachment) and event.action == "attached":
            self._begin(event.subject)
        elif isinstance(event.subject, Attachment) and event.action == "detached":
            self._end(event.subject)

    def _begin(self, attachment: Attachment) -> None:
        key = (attachment.endpoint_id, attachment.container_id)
        endpoint = self._records.endpoint(attachment.endpoint_id)
        if endpoint and endpoint.probe and attachment.phase is Phase.READY and key not in self._tasks:
            self._tasks[key] = asyncio.get_running_loop().create_task(self._watch(attachment, endpoint.probe))

    def _end(self, attachment: Attachment) -> None:
        task = self._tasks.pop((attachment.endpoint_id, attachment.container_id), None)
        if task:
            task.cancel()

    async def _watch(self, attachment: Attachment, probe: Probe) -> None:
        healthy = attachment.healthy
        while True:
            serves = await self._is_healthy(attachment, probe) or await self._is_healthy(attachment, probe)
            if serves is not healthy and await self._report(attachment, serves):
                healthy = serves
            await asyncio.sleep(probe.interval)

    async def _report(self, attachment: Attachment, healthy: bool) -> bool:
        """Apply a result; return whether it is in force. If not, the next probe reports it again."""
        _log.info("backend %s %s", attachment.container_id, "serves again" if healthy else "does not serve")
        change = self._backends.set_health(attachment.endpoint_id, attachment.container_id, healthy=healthy)
        try:
            await self._operations.run(change)
        except Error as failure:
            _log.warning("verdict on backend %s is not in force: %s", attachment.container_id, failure)
            return False
        return True

    async def _is_healthy(self, attachment: Attachment, probe: Probe) -> bool:
        sandbox = self._records.sandbox(attachment.container_id)
        if sandbox is None or attachment.address is None:
            return False
        try:
            async with asyncio.timeout(probe.timeout):
                return await self._probe(sandbox, str(attachment.address.ip), probe)
        except (OSError, TimeoutError, Error):
            return False

    async def _probe(self, sandbox: Sandbox, address: str, probe: Probe) -> bool:
        inside = self._namespaces.tcp_socket
        with await self._workers.run(inside, sandbox.key, sandbox.inode) as connection:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (address, probe.port))
            if probe.kind is ProbeKind.TCP:
                return True
            request = (
                f"GET {probe.path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: sandnet\r\nConnection: close\r\n\r\n"
            )
            await loop.sock_sendall(connection, request.encode())
            return _is_good(await _status_line(connection))


async def _status_line(connection: socket.socket) -> bytes:
    received = b""
    while b"\n" not in received and len(received) < MAX_STATUS_LINE:
        more = await asyncio.get_running_loop().sock_recv(connection, MAX_STATUS_LINE)
        if not more:
            break
        received += more
    return received.partition(b"\n")[0]


def _is_good(status_line: bytes) -> bool:
    words = status_line.split()
    with suppress(ValueError, IndexError):
        return words[0].startswith(b"HTTP/") and int(words[1]) < FIRST_BAD_STATUS
    return False
