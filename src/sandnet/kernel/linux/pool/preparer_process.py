"""The daemon's side of the process that prepares sandboxes (``sandnet.preparer``): starts it, asks it, ends it."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import subprocess
import sys
from typing import Final

from sandnet.kernel.linux.pool.messages import REQUEST, receive
from sandnet.kernel.linux.pool.preparation import Listen
from sandnet.kernel.types import PreparedSandbox

DEADLINE: Final = 10.0
"""Seconds that one sandbox may take, and the start of the process with the first one."""
_END_DEADLINE: Final = 1.0

_log = logging.getLogger(__name__)


class PreparerProcess:
    """One process at a time; it is started when it is needed. For one event loop.

    Args:
        listen: where the resolver listens in sandboxes; ``None``: no sockets are opened.
        deadline: seconds that a sandbox may take before the process counts as hung.
    """

    def __init__(self, listen: Listen | None, deadline: float = DEADLINE) -> None:
        where = [str(listen.address), str(listen.port)] if listen else []
        self._where = where
        self.deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.starts = 0
        """How often a process was started."""

    @property
    def pid(self) -> int:
        """Number of the process; 0: there is none."""
        return self._process.pid if self._process else 0

    async def prepare(self) -> PreparedSandbox:
        """Have one sandbox prepared; call it again only after it has returned.

        Raises:
            OSError: the kernel refuses, the process ended, or it hangs. It is started again at the next call if it
                does not answer.
        """
        try:
            control = self._control or await self._start()
            control.send(REQUEST, socket.MSG_NOSIGNAL)
            async with asyncio.timeout(self.deadline):
                await _readable(control)
            return receive(control)
        except TimeoutError as failure:
            await self._end()
            raise OSError(errno.ETIMEDOUT, "the process that prepares sandboxes hangs; it was ended") from failure
        except (EOFError, ConnectionError) as failure:
            await self._end()
            raise OSError(errno.EPIPE, "the process that prepares sandboxes ended") from failure
        except asyncio.CancelledError:
            await asyncio.shield(self._end())
            raise

    async def stop(self) -> None:
        """End the process and wait for it."""
        await self._end()

    async def _start(self) -> socket.socket:
        starting = asyncio.get_running_loop().run_in_executor(None, self._run)
        try:
            self._process, control = await asyncio.shield(starting)
        except asyncio.CancelledError:  # what has been started is ended by the caller
            await asyncio.wait([starting])
            if not starting.exception():
                self._process, self._control = starting.result()
            raise
        self._control = control
        self.starts += 1
        return control

    def _run(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # -P: nothing is imported from the current directory
        command = [sys.executable, "-P", "-m", "sandnet.preparer", str(theirs.fileno()), *self._where]
        with theirs:
            try:
                descriptors = [theirs.fileno()]
                null = subprocess.DEVNULL
                return subprocess.Popen(command, stdin=null, stdout=null, pass_fds=descriptors), ours
            except BaseException:
                ours.close()
                raise

    async def _end(self) -> None:
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control:
            control.close()
        if process:
            process.kill()
            await asyncio.get_running_loop().run_in_executor(None, _reap, process)


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_DEADLINE)
    except subprocess.TimeoutExpired:  # it hangs in the kernel; it ends when that call returns
        _log.warning("process %d, which prepares sandboxes, does not end", process.pid)


async def _readable(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(control.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(control.fileno())
