"""End the processes that run for a sandbox alone, before everything is removed."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from sandnet.core.state.boot_id import BootId
from sandnet.kernel.base import Kernel
from sandnet.kernel.observation import ProcessHandle
from sandnet.kernel.workers import Workers
from sandnet.model import Process, Sandbox

GRACE: Final = 5.0
"""Seconds that the processes get to end after SIGTERM."""
RESEND_INTERVAL: Final = 0.5
"""Seconds after which SIGTERM is sent again: ``sandnet run`` waits for a daemon when its command has ended."""


async def end_processes(boot_id: BootId, kernel: Kernel, workers: Workers, sandboxes: Iterable[Sandbox]) -> list[int]:
    """End the processes of sandboxes that have one for themselves: SIGTERM, and after five seconds SIGKILL.

    Each is held by a descriptor, and its start time is the recorded one, so that no other process gets the signal.

    Returns:
        The numbers of the processes that were running.
    """
    if await boot_id.has_rebooted():
        return []
    processes = {sandbox.process: None for sandbox in sandboxes if sandbox.process and sandbox.end_process}
    return await workers.run(_end, kernel, list(processes)) if processes else []


def _end(kernel: Kernel, processes: Iterable[Process]) -> list[int]:
    with ExitStack() as stack:
        running: dict[int, tuple[int, ProcessHandle]] = {}
        for process in processes:
            watched = kernel.processes.watch(process.pid, process.started)
            if watched:
                stack.callback(watched.close)
                running[watched.fileno()] = (process.pid, watched)
        ended = [pid for pid, _ in running.values()]
        deadline = time.monotonic() + GRACE
        while running and time.monotonic() < deadline:
            _signal(running, force=False)
        if running:
            _signal(running, force=True)
    return ended


def _signal(running: dict[int, tuple[int, ProcessHandle]], *, force: bool) -> None:
    """Signal all processes, and drop those that end soon."""
    waiting = select.poll()
    for descriptor, (_, watched) in running.items():
        watched.end(force=force)
        waiting.register(descriptor, select.POLLIN)
    until = time.monotonic() + RESEND_INTERVAL
    while running and (left := until - time.monotonic()) > 0:
        for descriptor, _ in waiting.poll(left * 1000):
            waiting.unregister(descriptor)
            del running[descriptor]
