"""How many hops joins, leaves and backends of a service take: files of the program, jobs on worker threads, commits.

The kernel and the store are those in memory, so the counts are the same on every machine. They leave out the files that
only the real kernel uses.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import httpx

import sandnet
from bench.figures import Figure, Section
from bench.timing import Counts
from sandnet.api.app import create_app
from sandnet.composition import assemble
from sandnet.config import Config
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.workers import Workers
from sandnet.stores.base import Change
from sandnet.stores.memory import MemoryStore

P = ParamSpec("P")
T = TypeVar("T")

PACKAGE = str(Path(sandnet.__file__).parent)
ROUNDS = 10
"""Joins and leaves; background work adds to some of them, so the least of each count is reported."""


KINDS = ("join", "join of a further backend", "leave of a further backend", "leave")
IN_EXISTING = "join in a namespace that exists"


class Hops(NamedTuple):
    """The counts of one request."""

    files: int
    jobs: int
    commits: int


_traced: ContextVar[object] = ContextVar("traced")
"""The request that a task belongs to: work that an earlier one has left in the background does not count."""


class Trace:
    """The files whose functions were called, the jobs and the commits of one request, until :meth:`take`."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self.jobs = 0
        self.commits = 0
        self._current = object()

    @property
    def counts(self) -> bool:
        """Whether what happens now belongs to the request that is traced."""
        return _traced.get(None) is self._current

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call; for ``sys.setprofile``."""
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self._files.add(frame.f_code.co_filename)

    @contextmanager
    def profiled(self) -> Iterator[None]:
        """Note the calls in this thread."""
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)

    def take(self) -> Hops:
        """Return the counts, and begin with another request, that of the caller."""
        taken = Hops(len(self._files), self.jobs, self.commits)
        self._current = object()
        _traced.set(self._current)
        self._files, self.jobs, self.commits = set(), 0, 0
        return taken


class CountingWorkers(Workers):
    """Workers that note their jobs."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the job as :class:`Workers` does, and note what it calls."""
        self._trace.jobs += self._trace.counts

        def traced() -> T:
            with self._trace.profiled():
                return job(*args, **kwargs)

        return await super().run(traced)


class CountingStore(MemoryStore):
    """A store that counts its commits."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """Commit, and count it."""
        self._trace.commits += self._trace.counts
        return await super().commit(*changes, durable=durable)


async def _hops(folder: str) -> dict[str, Hops]:
    trace = Trace()
    workers = CountingWorkers(trace)
    config = Config(state_dir=folder, run_dir=folder, sandbox_dir="/var/run/sandnet/netns", file_dirs=())
    kernel = FakeKernel(config.sandbox_dir)
    controller = assemble(config, CountingStore(trace), kernel, workers)
    await controller.start()
    transport = httpx.ASGITransport(app=create_app(controller, version="0"))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await _rounds(client, trace) | {IN_EXISTING: await _in_existing(client, trace, kernel)}
    finally:
        await controller.stop()
        workers.close()


async def _rounds(client: httpx.AsyncClient, trace: Trace) -> dict[str, Hops]:
    found: dict[str, list[Hops]] = {kind: [] for kind in KINDS}
    await _request(client, "POST", "/networks", {"name": "net", "driver": "bridge"})
    await _request(client, "POST", "/services", {"name": "web", "network_name": "net"})
    for number in range(ROUNDS):
        first, further = f"first{number}", f"further{number}"
        requests = (("POST", first), ("POST", further), ("DELETE", further), ("DELETE", first))
        for kind, (method, container) in zip(KINDS, requests, strict=True):
            trace.take()
            with trace.profiled():
                await _backend(client, method, container)
            found[kind].append(trace.take())
    return {kind: _least(hops) for kind, hops in found.items()}


async def _in_existing(client: httpx.AsyncClient, trace: Trace, kernel: FakeKernel) -> Hops:
    found = []
    for number in range(ROUNDS):
        path = f"/run/netns/{number}"
        kernel.namespaces.add_foreign(path)
        trace.take()
        with trace.profiled():
            body = {"container_id": f"existing{number}", "netns": path}
            await _request(client, "POST", "/services/web/backend", body)
        found.append(trace.take())
        await _backend(client, "DELETE", f"existing{number}")
    return _least(found)


async def _backend(client: httpx.AsyncClient, method: str, container: str) -> None:
    if method == "POST":
        await _request(client, method, "/services/web/backend", {"container_id": container})
    else:
        await _request(client, method, f"/services/web/backend/{container}")


async def _request(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    (await client.request(method, path, json=body)).raise_for_status()


def _least(found: list[Hops]) -> Hops:
    return Hops(*(min(counts) for counts in zip(*found, strict=True)))


def count() -> dict[str, Hops]:
    """Return the hops of each of the kinds."""
    with TemporaryDirectory() as folder:
        return asyncio.run(_hops(folder))


def measure(_: Counts) -> Section:
    """Return the counts of all kinds."""
    figures = [
        Figure(f"{what}, {name.replace('jobs', 'jobs on worker threads')}", value, "")
        for what, hops in count().items()
        for name, value in hops._asdict().items()
    ]
    return Section("Hops", tuple(figures), ("Counted over the kernel and the store in memory.",))
