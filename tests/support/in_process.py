"""The whole daemon but its socket, in the test's own process: real core, drivers and API over an in-memory
store and an in-memory kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from sandnet.api.app import create_app
from sandnet.api.libnetwork.event_stream import Streams
from sandnet.api.middleware.normalization import Message, RequestNormalizer
from sandnet.composition import assemble
from sandnet.config import Config
from sandnet.core.controller import Controller
from sandnet.dns.base import NameService
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.workers import Workers
from sandnet.stores.memory import MemoryStore

SANDBOX_DIR = "/var/run/docker/netns"


class Running(NamedTuple):
    """A started daemon without its API."""

    controller: Controller
    kernel: FakeKernel


class Served(NamedTuple):
    """A started daemon and a client of its API."""

    controller: Controller
    kernel: FakeKernel
    client: httpx.AsyncClient
    files_dir: Path
    app: RequestNormalizer


@asynccontextmanager
async def started(directory: Path, names: NameService | None = None) -> AsyncIterator[Running]:
    """Start a daemon whose files are below ``directory``, without an API: building one takes longer than the rest."""
    kernel, workers = FakeKernel(SANDBOX_DIR), Workers()
    pools = (IPv4Network("172.16.0.0/12"),)
    config = Config(
        state_dir=str(directory), run_dir=str(directory), sandbox_dir=SANDBOX_DIR, file_dirs=(), pools=pools
    )
    controller = assemble(config, MemoryStore(), kernel, workers, names)
    await controller.start()
    try:
        yield Running(controller, kernel)
    finally:
        await controller.stop()
        workers.close()


class _Current(Controller):
    """Stands for the controller that the shared application serves now."""

    controller: Controller | None

    def __init__(self) -> None:
        self.controller = None

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name == "controller" or name.startswith("__"):
            return object.__getattribute__(self, name)
        return getattr(own["controller"], name)


@cache
def _shared() -> tuple[_Current, RequestNormalizer]:
    """Return an application that is built once: that takes 70 ms, longer than most tests."""
    current = _Current()
    return current, create_app(current, version="1.2.3")


@contextmanager
def application(controller: Controller, streams: Streams | None) -> Iterator[RequestNormalizer]:
    """Yield an application that serves the controller: the shared one, unless another daemon has it."""
    current, app = _shared()
    if streams or current.controller:
        yield create_app(controller, version="1.2.3", streams=streams)
        return
    current.controller = controller
    try:
        yield app
    finally:
        current.controller = None


@asynccontextmanager
async def served(
    directory: Path, names: NameService | None = None, streams: Streams | None = None
) -> AsyncIterator[Served]:
    """Start a daemon whose files are below ``directory``, and connect a client to its API."""
    async with started(directory, names) as running:
        with application(running.controller, streams) as app:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield Served(running.controller, running.kernel, client, directory / "sandboxes", app)


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
    app: RequestNormalizer,
    method: str,
    raw_path: bytes,
    events: Sequence[Message] = ({"type": "http.request", "body": b""},),
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
