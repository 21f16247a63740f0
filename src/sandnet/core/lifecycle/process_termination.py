"""End the processes that run for a sandbox alone, before everything is removed."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from sandnet.core.runtime.context import Context
from sandnet.kernel.base import Kernel
from sandnet.kernel.observation import ProcessHandle
from sandnet.model import Process, Sandbox

GRACE: Final = 5.0
"""Seconds that they get to end by themselves."""
REPEAT: Final = 0.5
"""Seconds after which they are asked again: ``sandnet run`` waits for a daemon when its command has ended."""


async def end_processes(context: Context, sandboxes: Iterable[Sandbox]) -> list[int]:
    """End the processes of sandboxes that have one for themselves: SIGTERM, and after five seconds SIGKILL.

    Each is held by a descriptor and has started when its record says, so that no other process is met.

    Returns:
        The numbers of those that were alive.
    """
    if await context.boot_id.has_rebooted():
        return []
    wanted = {sandbox.process: None for sandbox in sandboxes if sandbox.process and sandbox.end_process}
    return await context.workers.run(_end, context.kernel, list(wanted)) if wanted else []


def _end(kernel: Kernel, processes: Iterable[Process]) -> list[int]:
    with ExitStack() as stack:
        alive: dict[int, tuple[int, ProcessHandle]] = {}
        for process in processes:
            watched = kernel.processes.watch(process.pid, process.started)
            if watched:
                stack.callback(watched.close)
                alive[watched.fileno()] = (process.pid, watched)
        ended = [pid for pid, _ in alive.values()]
        deadline = time.monotonic() + GRACE
        while alive and time.monotonic() < deadline:
            _ask(alive, force=False)
        if alive:
            _ask(alive, force=True)
    return ended


def _ask(alive: dict[int, tuple[int, ProcessHandle]], *, force: bool) -> None:
    """Signal all, and forget those that end soon."""
    waiting = select.poll()
    for descriptor, (_, watched) in alive.items():
        watched.end(force=force)
        waiting.register(descriptor, select.POLLIN)
    until = time.monotonic() + REPEAT
    while alive and (left := until - time.monotonic()) > 0:
        for descriptor, _ in waiting.poll(left * 1000):
            waiting.unregister(descriptor)
            del alive[descriptor]
