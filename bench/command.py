"""How long a command takes, its start included."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.figures import Section, Target, time_of
from bench.sandnet_daemon import SANDNET, Daemon
from bench.timing import Counts, Stopwatch


def measure(counts: Counts) -> Section:
    """``sandnet network ls`` and ``sandnet run``, and a Python that does nothing beside them."""
    command, bare, run = Stopwatch(), Stopwatch(), Stopwatch()
    with Daemon() as daemon:
        environment = {**os.environ, "SANDNET_HOST": f"unix://{daemon.socket}"}
        _run([str(SANDNET), "network", "ls"], environment)
        for _ in range(counts.commands):
            bare.time(_run, [sys.executable, "-c", "pass"], environment)
            command.time(_run, [str(SANDNET), "network", "ls"], environment)
            daemon.until_prepared()
            run.time(daemon.host.run, [str(SANDNET), "-H", f"unix://{daemon.socket}", "run", "--", "true"])
    return Section(
        "The command line",
        (
            time_of("`sandnet network ls`, start to end", command.samples, Target(90)),
            time_of("`sandnet run -- true`, start to end", run.samples, Target(100)),
            time_of("Python that does nothing", bare.samples),
        ),
    )


def _run(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
