"""The one bridge between the event loop and the kernel: worker threads that never abandon a job.

The kernel works inside ``sendmsg``: a netlink call on the event loop stalls it for as long as a link
takes to die (15 ms at the median), four threads keep it at 0.13 ms (docs/design.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4


class Workers:
    """Runs synchronous kernel jobs off the event loop."""

    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kernel")

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The job's result. When the caller is cancelled, the job still runs to its end, and the
        cancellation arrives after it: a client that hangs up cannot leave half a step."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: job(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Wait for the running jobs and stop the threads."""
        self._pool.shutdown(wait=True)
