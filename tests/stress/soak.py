"""An hour under pressure: ``make soak``.

In the first third of the time the daemon is killed again and again. Then one daemon lives to the end, and whatever
it uses is looked at each time when everything has been removed: nothing of it may grow.

Environment:
    SOAK_MINUTES: how long, 60 unless reported.
    SOAK_SEED: of the random numbers; chosen and printed unless reported.
    SOAK_REPORT: the file that gets the figures as Markdown; they are printed in any case.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.stress.process_stats import MIB, Finding, Sample, findings, sample, table
from tests.stress.runner import Campaign
from tests.support.daemon import RunningDaemon
from tests.support.network_host import eventually, unavailable

OPERATIONS = 500
"""In each round."""
ROUNDS = 4
"""Between two removals of everything."""
KILLED = 1 / 3
"""Of the time, in the beginning."""
WARM = 0.2
"""Of the rest, in which one daemon comes to its size: samples from before are not judged."""
SAMPLING = 5.0
"""Seconds between looks while clients are at work."""


class Soak:
    """One run."""

    def __init__(self, daemon: RunningDaemon, seed: int, minutes: float) -> None:
        self._daemon, self._minutes = daemon, minutes
        self._campaign = Campaign(daemon, seed)
        self._born = time.monotonic()
        self.quiet: list[Sample] = []
        """When everything was removed, and the daemon was not killed any more."""
        self.busy: list[Sample] = []

    def _elapsed(self) -> float:
        return time.monotonic() - self._born

    async def run(self) -> None:
        """All of it."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._cycles(self._minutes * 60 * KILLED, kills=1)
            await self._campaign.kill()
            warm = self._elapsed() + WARM * (self._minutes * 60 - self._elapsed())
            await self._cycles(self._minutes * 60, kills=0, judged_from=warm)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _cycles(self, until: float, kills: int, judged_from: float = float("inf")) -> None:
        while self._elapsed() < until:
            for _ in range(ROUNDS):
                await self._campaign.round(OPERATIONS, kills)
            await self._campaign.clear()
            taken = await asyncio.to_thread(sample, self._daemon, self._elapsed())
            self._report("empty", taken)
            if taken.seconds >= judged_from:
                self.quiet.append(taken)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SAMPLING)
            with suppress(AssertionError, OSError):  # the daemon is away just now
                taken = await asyncio.to_thread(sample, self._daemon, self._elapsed(), elements=False)
                self.busy.append(taken)
                self._report("busy", taken)

    def _report(self, state: str, taken: Sample) -> None:
        tally = self._campaign.tally
        print(
            f"{taken.seconds / 60:6.1f} min {state:5} {tally.operations:8} operations {tally.kills:4} kills | daemon "
            f"{taken.daemon_fds} fds {taken.daemon_threads} threads {taken.daemon_rss / MIB:.1f} MiB | resolver "
            f"{taken.resolver_fds} fds {taken.resolver_rss / MIB:.1f} MiB | {taken.links} links {taken.namespaces} "
            f"namespaces, store {taken.store / MIB:.1f} MiB",
            flush=True,
        )

    def report(self, found: list[Finding]) -> str:
        """The figures as Markdown."""
        peak = max(self.busy, key=lambda each: each.namespaces, default=None)
        most = f"At the most {peak.namespaces} sandboxes and {peak.links} links at a time. " if peak else ""
        machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
        return (
            f"{self._minutes:g} minutes on {machine}, seed {self._campaign.seed}. {self._campaign.tally}. {most}"
            f"{len(self.quiet)} samples with everything removed.\n\n{table(found)}\n"
        )


def main() -> int:
    """The exit code: 0 when all was true and everything stayed flat."""
    if reason := unavailable():
        print(reason, file=sys.stderr)
        return 1
    minutes = float(os.environ.get("SOAK_MINUTES", "60"))
    seed = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbits(32)
    print(f"{minutes:g} minutes, SOAK_SEED={seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="sandnet-soak-"))
    daemon = RunningDaemon(folder)
    try:
        flat = _soaked(daemon, seed, minutes)
    except BaseException:
        print(f"the daemon's files, its log and the journal are in {folder}", file=sys.stderr)
        raise
    finally:
        daemon.close()
    shutil.rmtree(folder)
    return 0 if flat else 1


def _soaked(daemon: RunningDaemon, seed: int, minutes: float) -> bool:
    daemon.start()
    soak = Soak(daemon, seed, minutes)
    asyncio.run(soak.run())
    found = findings(soak.quiet)
    report = soak.report(found)
    print(f"\n{report}", flush=True)
    if path := os.environ.get("SOAK_REPORT"):
        Path(path).write_text(report)
    daemon.down()
    eventually(lambda: daemon.facts() == daemon.before)
    print("the host is as it was before", flush=True)
    return all(each.is_flat for each in found)


if __name__ == "__main__":
    sys.exit(main())
