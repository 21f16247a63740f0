"""The pool of prepared sandboxes: filled in the background by a process of its own, emptied by joins.

Each sandbox is handed out once. What a join does not use is closed, and the kernel deletes it. The descriptors in this
process are all that keeps them, so nothing is left when it is killed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sandnet.kernel.linux.pool.pool_size import PoolLimits, PoolSize
from sandnet.kernel.linux.pool.preparation import Listen, close_sandbox, prepare_sandbox
from sandnet.kernel.linux.pool.preparer_process import PreparerProcess
from sandnet.kernel.netlink.rtnetlink import link_header
from sandnet.kernel.netlink.socket import Netlink, map_errors, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELLINK
from sandnet.kernel.types import PREPARED, PoolStatus, PreparedSandbox

QUIET: Final = 0.005
"""Seconds without a change in progress after which the daemon counts as idle."""
LONGEST_WAIT: Final = 0.25
"""Seconds after which one sandbox is prepared although the daemon is not idle; else constant load would never meet a
filled pool."""
SHRINK_INTERVAL: Final = 5.0
"""Seconds between two checks whether the pool is too large."""
SHORTEST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts after a failure; each pause is twice as long as the one before."""
RESERVED_DESCRIPTORS: Final = 256
"""Descriptors that the pool leaves to the rest of the daemon."""
_DOUBLINGS: Final = 10
TOLERATED: Final = 1
"""Failures in a row that are no problem to report: a process that was killed is started again."""

_log = logging.getLogger(__name__)


class LinuxSandboxPool:
    """The Linux implementation of :class:`sandnet.kernel.namespace_protocols.SandboxPool`.

    Args:
        listen: where the resolver listens inside; ``None``: its sockets are not opened ahead of time.
        limits: the bounds of the pool's size.
        process: prepares the sandboxes of the pool; ``None``: a new one.
    """

    def __init__(
        self,
        listen: Listen | None = None,
        limits: PoolLimits | None = None,
        process: PreparerProcess | None = None,
    ) -> None:
        self._listen = listen
        self._size = PoolSize(limits or PoolLimits())
        self._process = process or PreparerProcess(listen)
        self._ready: deque[PreparedSandbox] = deque()
        self._probe: Netlink | None = None
        """Answers for the index of a link; opened on the host by the first caller."""
        self._task: asyncio.Task[None] | None = None
        self._was_started = False
        self._wanted = asyncio.Event()
        self._taken_at = 0.0
        self._counting = threading.Lock()
        self._handed_out = self._misses = self._inline = self._discarded = 0
        self._failures = self._in_a_row = 0
        self._problem = ""

    # For joins.

    def take(self) -> PreparedSandbox | None:
        """Return a prepared sandbox; ``None``: there is none."""
        if not self._task:
            self._misses += 1
            return None
        now = self._taken_at = asyncio.get_running_loop().time()
        self._wanted.set()
        while self._ready:
            prepared = self._ready.popleft()
            if self._is_intact(prepared):
                self._handed_out += 1
                self._size.taken(len(self._ready), now)
                return prepared
            self._drop(prepared)
        self._misses += 1
        self._size.missed(now)
        return None

    def prepare(self) -> PreparedSandbox:
        """Make a prepared sandbox now.

        Raises:
            Error: ``EXHAUSTED`` or ``UNAVAILABLE``, as in the protocol.
        """
        with map_errors("prepare a sandbox"):
            prepared = prepare_sandbox(self._listen)
        with self._counting:
            self._inline += 1
        return prepared

    def discard(self, prepared: PreparedSandbox) -> None:
        """Close the descriptors."""
        close_sandbox(prepared)

    def status(self) -> PoolStatus:
        """Return the pool's state and its counts."""
        return PoolStatus(
            ready=len(self._ready),
            target=self._size.target,
            limit=self._size.most,
            handed_out=self._handed_out,
            misses=self._misses,
            prepared_inline=self._inline,
            discarded=self._discarded,
            failures=self._failures,
            restarts=max(0, self._process.starts - 1),
            problem=self._problem,
        )

    # Filling.

    def start(self, is_busy: Callable[[], bool]) -> None:
        """Fill the pool from now on, while the daemon is idle; nothing happens where the pool is off.

        Args:
            is_busy: returns whether there is a change in progress.
        """
        if self._size.most and not self._task:
            self._was_started = True
            self._wanted.set()
            self._task = asyncio.get_running_loop().create_task(self._maintain(is_busy))

    async def stop(self) -> None:
        """Stop filling, end the process that does it, and close the prepared sandboxes."""
        task, self._task = self._task, None
        if task:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._process.stop()
        while self._ready:
            close_sandbox(self._ready.popleft())

    def close(self) -> None:
        """Delete the links of what :meth:`stop` closed now, and not when the kernel gets to it."""
        if self._probe:
            self._probe.close()
            self._probe = None
        if self._was_started:
            with suppress(OSError), Netlink() as here:
                here.call(RTM_DELLINK, link_header() + u32(IFLA_GROUP, PREPARED), accept=(errno.ENODEV, errno.ESRCH))

    async def _maintain(self, is_busy: Callable[[], bool]) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SHRINK_INTERVAL):
                    await self._wanted.wait()
            self._wanted.clear()
            self._shrink()
            self._drop_broken()
            while len(self._ready) < self._size.target:
                await self._until_idle(is_busy)
                await self._add_one()

    async def _until_idle(self, is_busy: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST_WAIT
        while (now := loop.time()) < deadline and (  # noqa: ASYNC110 - an event at each change would cost more
            is_busy() or now - self._taken_at < QUIET
        ):
            await asyncio.sleep(QUIET)

    async def _add_one(self) -> None:
        try:
            prepared = await self._process.prepare()
            _check_descriptors(prepared)
        except Exception as failure:  # whatever it is, the next attempt may succeed
            self._record(failure)
            await asyncio.sleep(min(SHORTEST_PAUSE * 2 ** min(self._in_a_row, _DOUBLINGS), LONGEST_PAUSE))
        else:
            self._ready.append(prepared)
            self._in_a_row, self._problem = 0, ""

    def _record(self, failure: Exception) -> None:
        self._failures += 1
        self._in_a_row += 1
        if self._in_a_row > TOLERATED:
            reason = getattr(failure, "strerror", None) or repr(failure)
            problem = f"no sandboxes are prepared ahead of joins, which are slower: {reason}"
            if getattr(failure, "errno", 0) == errno.ENOSPC:
                problem += "; raise user.max_net_namespaces (sysctl)"
            if problem != self._problem:
                _log.warning("%s", problem)
            self._problem = problem

    def _shrink(self) -> None:
        self._size.shrink(asyncio.get_running_loop().time())
        while len(self._ready) > self._size.target:
            self._drop(self._ready.popleft())

    def _drop_broken(self) -> None:
        broken = [each for each in self._ready if not self._is_intact(each)]
        for each in broken:
            self._ready.remove(each)
            self._drop(each)

    def _drop(self, unused: PreparedSandbox) -> None:
        close_sandbox(unused)
        self._discarded += 1

    def _is_intact(self, prepared: PreparedSandbox) -> bool:
        """Return whether the host link still has its name and index; the link inside is deleted with it."""
        try:
            self._probe = self._probe or Netlink()
            return self._probe.index(prepared.host_link) == prepared.host_index
        except OSError:  # no free descriptor for the probe: a join then reports that, as it prepares its own
            return False


def _check_descriptors(prepared: PreparedSandbox) -> None:
    """Close a sandbox again if it took a descriptor that the rest of the daemon may need.

    The kernel assigns the lowest free number, so a high one shows that as many are in use.

    Raises:
        OSError: ``EMFILE`` too few are free.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max([prepared.namespace, *(each.fileno() for each in prepared.sockets or ())])
    if limit != resource.RLIM_INFINITY and highest >= limit - RESERVED_DESCRIPTORS:
        close_sandbox(prepared)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
