"""Notice the end of processes that sandboxes and endpoints are tied to, and remove these.

The event loop waits for a process by a descriptor, which costs nothing while the process runs. A sandbox that is to be
removed after the last process in its namespace has no such descriptor: the kernel does not report that a namespace has
become empty. So these namespaces are checked once a second, all in one job, and only if there are any. Where the path
of a container runtime's namespace is known, the namespace is in use as long as the path leads to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence, Set
from typing import Any, NamedTuple

from msgspec.structs import replace

from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.liveness import namespaces_in_use
from sandnet.core.monitoring.bulk_removal import BulkRemoval
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations
from sandnet.core.state.events import Event, Events
from sandnet.core.state.records import Records
from sandnet.errors import Error
from sandnet.kernel.base import Kernel
from sandnet.kernel.observation import ProcessHandle
from sandnet.kernel.workers import Workers
from sandnet.model import Endpoint, Phase, Process, Sandbox

_log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two checks of namespaces, and between attempts to remove what could not be removed."""
BATCH = 24
"""Sandboxes that are removed together.

Their links are deleted in one request, which holds a lock that joins need for 20 to 50 ms; then the lock is free for as
long.
"""
PARALLEL_REMOVALS = 16
"""Removals one by one that run at a time: requests must not wait behind a thousand of them."""


class TiedObject(NamedTuple):
    """A sandbox or endpoint that is removed with a process.

    The sequence distinguishes it from a later one of the same container.
    """

    kind: type[Sandbox] | type[Endpoint]
    id: str
    sequence: int


class ProcessWatcher:
    """Watches the processes and namespaces that records are tied to; events add and remove them."""

    def __init__(
        self,
        records: Records,
        events: Events,
        operations: Operations,
        locks: Locks,
        kernel: Kernel,
        workers: Workers,
        removal: Deletion,
        bulk_removal: BulkRemoval,
    ) -> None:
        self._records = records
        self._events = events
        self._operations = operations
        self._locks = locks
        self._kernel = kernel
        self._workers = workers
        self._removal = removal
        self._bulk_removal = bulk_removal
        self._processes: dict[TiedObject, Process] = {}
        self._tied: dict[Process, set[TiedObject]] = {}
        self._watched: dict[Process, ProcessHandle] = {}
        self._namespaces: set[TiedObject] = set()
        """Sandboxes that are removed after the last process in their namespace."""
        self._empty: set[TiedObject] = set()
        """Those of them whose namespace had no process at the latest check, after it had one."""
        self._exited: dict[TiedObject, Process | None] = {}
        """Objects that are not removed yet, with their process that has ended, if they were tied to one."""
        self._removing: set[TiedObject] = set()
        self._queue: list[TiedObject] = []
        """Those of them whose removal has not begun."""
        self._draining = False
        self._slots = asyncio.Semaphore(PARALLEL_REMOVALS)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Watch the processes that the records name, and follow the events."""
        self._events.listen(self._receive)
        self._spawn(self._scan_again())
        self._tie_all()

    def close(self) -> None:
        """Stop watching; nothing is removed any more."""
        self._events.ignore(self._receive)
        for task in self._tasks:
            task.cancel()
        for process in list(self._watched):
            self._unwatch(process)

    # Objects to watch.

    def _receive(self, event: Event) -> None:
        if isinstance(event.subject, Sandbox | Endpoint):
            tie = _tie(event.subject)
            if event.action == "removed":
                self._untie(tie)
            else:
                self._tie(event.subject)

    def _tie_all(self) -> None:
        subjects: list[Sandbox | Endpoint] = [*self._records.sandboxes(), *self._records.endpoints()]
        for subject in subjects:
            if subject.phase is Phase.READY:
                self._tie(subject)

    def _tie(self, subject: Sandbox | Endpoint) -> None:
        tie, process = _tie(subject), subject.process
        removable = not isinstance(subject, Sandbox) or subject.auto_remove
        if self._processes.get(tie) != (process if removable else None):
            self._untie(tie)
        if isinstance(subject, Sandbox) and removable and process is None:
            self._namespaces.add(tie)
        elif removable and process:
            self._processes[tie] = process
            ties = self._tied.setdefault(process, set())
            ties.add(tie)
            if len(ties) == 1:
                self._spawn(self._watch(process))

    def _untie(self, tie: TiedObject) -> None:
        self._namespaces.discard(tie)
        self._empty.discard(tie)
        process = self._processes.pop(tie, None)
        if process:
            ties = self._tied.get(process, set())
            ties.discard(tie)
            if not ties:
                self._tied.pop(process, None)
                self._unwatch(process)

    # Processes.

    async def _watch(self, process: Process) -> None:
        try:
            watched = await self._workers.run(self._kernel.processes.watch, process.pid, process.started)
        except Error as failure:  # the next scan tries again
            _log.warning("%s", failure)
            return
        if watched is None:
            self._ended(process)
        elif process in self._watched or process not in self._tied:
            watched.close()
        else:
            self._watched[process] = watched
            asyncio.get_running_loop().add_reader(watched.fileno(), self._ended, process)

    def _unwatch(self, process: Process) -> None:
        watched = self._watched.pop(process, None)
        if watched:
            asyncio.get_running_loop().remove_reader(watched.fileno())
            watched.close()

    def _ended(self, process: Process) -> None:
        self._unwatch(process)
        for tie in [*self._tied.get(process, ())]:
            _log.info("process %d of %s %s has ended", process.pid, tie.kind.__name__.lower(), tie.id)
            self._remove(tie)

    # Removals.

    def _remove(self, tie: TiedObject) -> None:
        self._exited[tie] = self._processes.get(tie)
        self._untie(tie)
        self._begin_removal(tie)

    def _begin_removal(self, tie: TiedObject) -> None:
        if tie not in self._removing:
            self._removing.add(tie)
            self._queue.append(tie)
            if not self._draining:
                self._draining = True
                self._spawn(self._drain_queue())

    async def _drain_queue(self) -> None:
        """Remove the objects in the queue.

        All that end at once are in the queue before this begins: one iteration of the event loop reports all processes.
        """
        try:
            while self._queue:
                some, self._queue = self._queue[:BATCH], self._queue[BATCH:]
                for tie in await self._remove_batch(some):
                    self._spawn(self._remove_one(tie))
        finally:
            self._draining = False

    async def _remove_batch(self, ties: Sequence[TiedObject]) -> Sequence[TiedObject]:
        """Remove objects in bulk; return those that are left for removal one by one."""
        sandboxes = {tie: sandbox for tie in ties if (sandbox := self._exited_sandbox(tie, self._exited[tie]))}
        removed: Set[str] = frozenset()
        if len(sandboxes) > 1:
            try:
                removed = await self._operations.run(self._bulk_removal.remove_all(sandboxes.values()))
            except Error as failure:
                _log.info("exited sandboxes are removed one at a time: %s", failure)
            except Exception:  # the same; they must be removed nevertheless
                _log.exception("exited sandboxes are removed one at a time")
        done = [tie for tie, sandbox in sandboxes.items() if sandbox.container_id in removed]
        for tie in done:
            self._removing.discard(tie)
            if self._exited.get(tie) == sandboxes[tie].process:
                del self._exited[tie]
        return [tie for tie in ties if tie not in done]

    def _exited_sandbox(self, tie: TiedObject, process: Process | None) -> Sandbox | None:
        """Return the sandbox to remove; ``None`` if it was removed, replaced, or tied to another process by now."""
        sandbox = self._records.sandbox(tie.id) if tie.kind is Sandbox else None
        return sandbox if sandbox and (sandbox.sequence, sandbox.process) == (tie.sequence, process) else None

    async def _remove_one(self, tie: TiedObject) -> None:
        process = self._exited[tie]
        try:
            async with self._slots:
                await self._operations.run(self._removed(tie, process))
            if self._exited[tie] == process:
                del self._exited[tie]
        except Error as failure:
            _log.warning("%s; it is tried again", failure)
        finally:
            self._removing.discard(tie)

    async def _removed(self, tie: TiedObject, process: Process | None) -> None:
        if tie.kind is Endpoint:
            await self._removal.remove_exited_endpoint(tie.id)
            return
        if sandbox := self._exited_sandbox(tie, process):
            await self._removal.remove_exited(sandbox)

    # Periodic scans.

    async def _scan_again(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self._scan()
            except Error as failure:
                _log.info("the check for exited sandboxes is repeated: %s", failure)
            except Exception:  # the next scan must not be lost
                _log.exception("the check for exited sandboxes failed")

    async def _scan(self) -> None:
        for tie in self._exited.keys() - self._removing:
            self._begin_removal(tie)
        for process in self._tied.keys() - self._watched.keys():
            await self._watch(process)
        if self._namespaces:
            await self._scan_namespaces()

    async def _scan_namespaces(self) -> None:
        found = ((tie, self._records.sandbox(tie.id)) for tie in self._namespaces)
        sandboxes = {tie: each for tie, each in found if each and each.sequence == tie.sequence}
        in_use = await self._workers.run(namespaces_in_use, self._kernel, list(sandboxes.values()))
        for tie, sandbox in sandboxes.items():
            await self._scan_namespace(tie, sandbox, in_use)

    async def _scan_namespace(self, tie: TiedObject, sandbox: Sandbox, in_use: Set[int]) -> None:
        if sandbox.inode in in_use:
            self._empty.discard(tie)
            if not sandbox.occupied and not sandbox.watched_path:
                await self._operations.run(self._record_occupied(tie))
        elif tie in self._empty:
            _log.info("no process is left in the namespace of %s", sandbox.container_id)
            self._remove(tie)
        elif (
            sandbox.occupied or sandbox.watched_path
        ):  # one check is not enough: between two commands of a script there is no process either
            self._empty.add(tie)

    async def _record_occupied(self, tie: TiedObject) -> None:
        async with self._locks.hold(f"sandbox/{tie.id}"):
            sandbox = self._records.sandbox(tie.id)
            if sandbox and sandbox.sequence == tie.sequence and sandbox.phase is Phase.READY:
                await self._records.commit(put=[replace(sandbox, occupied=True)])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tie(subject: Sandbox | Endpoint) -> TiedObject:
    return TiedObject(
        type(subject), subject.id if isinstance(subject, Endpoint) else subject.container_id, subject.sequence
    )
