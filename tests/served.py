"""The whole daemon but its socket, in the test's own process: real core, drivers and API over an in-memory
store and an in-memory kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import NamedTuple

import httpx

from sandnet.api.app import create_app
from sandnet.api.front import Front, Message
from sandnet.core.controller import Controller
from sandnet.core.hostfiles import HostFiles
from sandnet.core.leases import Leases
from sandnet.core.locks import Locks
from sandnet.core.operations import Operations
from sandnet.core.parts import Parts, Settings
from sandnet.core.records import Records
from sandnet.drivers.base import Driver
from sandnet.drivers.bridge.driver import BridgeDriver
from sandnet.drivers.tuning import Tuning
from sandnet.drivers.unlinked import UnlinkedDriver
from sandnet.kernel.fake import FakeKernel
from sandnet.kernel.files import Files
from sandnet.kernel.reaper import Reaper
from sandnet.kernel.workers import Workers
from sandnet.stores.memory import MemoryStore

SANDBOX_DIR = "/var/run/docker/netns"


class Served(NamedTuple):
    """A running daemon and a client of it."""

    controller: Controller
    kernel: FakeKernel
    client: httpx.AsyncClient
    files_dir: Path


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Served]:
    """A daemon whose files are below ``directory``."""
    kernel, store, workers = FakeKernel(SANDBOX_DIR), MemoryStore(), Workers()
    records, reaper = Records(store), Reaper(kernel.links, workers, pause=0.001)
    files_dir = directory / "sandboxes"
    tuning = Tuning(kernel.sysctl, store, workers)
    drivers: dict[str, Driver] = {
        "null": UnlinkedDriver("null"),
        "host": UnlinkedDriver("host"),
        "bridge": BridgeDriver(kernel, workers, reaper, tuning, [IPv4Network("172.16.0.0/12")]),
    }
    controller = Controller(
        Parts(
            settings=Settings(sandbox_dir=SANDBOX_DIR, files_dir=str(files_dir), default_network="bridge"),
            records=records,
            leases=Leases(records),
            files=HostFiles(records, Files([str(directory)]), workers, str(files_dir)),
            locks=Locks(),
            operations=Operations(),
            drivers=drivers,
            kernel=kernel,
            workers=workers,
            reaper=reaper,
        )
    )
    await controller.start()
    transport = httpx.ASGITransport(app=create_app(controller, version="1.2.3"))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Served(controller, kernel, client, files_dir)
    finally:
        await controller.stop()
        workers.close()


async def make(client: httpx.AsyncClient, path: str, **body: object) -> str:
    """Create something, which must succeed; what was answered."""
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    made: str = response.json()
    return made


def assert_refused(response: httpx.Response, status: int, *words: str) -> None:
    """A failure of that status in the dialect's one shape, telling all of the words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["message", "code", "hint"]
    for word in words:
        assert word in response.text


async def exchange(
    app: Front, method: str, raw_path: bytes, events: Sequence[Message] = ({"type": "http.request", "body": b""},)
) -> list[Message]:
    """What the application sends when a server hands it a request: below what an HTTP client would let through."""
    coming = iter(events)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(coming)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Message = {"type": "http", "method": method, "path": raw_path.decode(), "raw_path": raw_path}
    await app({**scope, "query_string": b"", "headers": [], "server": None}, receive, send)
    return sent
