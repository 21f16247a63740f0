"""A thousand containers are killed at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread

from bench.figures import MS, Figure, Section, Target, time_of, worst_of
from bench.floor import Floor
from bench.host import stop, wait_until
from bench.rest import Connection
from bench.sandnet_daemon import CLEAN_DEADLINE, Daemon
from bench.timing import Counts, Stopwatch

WITHIN = 5000.0
"""Milliseconds within which exited containers are removed, as promised."""
PAUSE = 0.05
"""Seconds between two joins of a running container."""


def measure(counts: Counts) -> Section:
    """Killed, with joins of others going on; beside it the kernel's floor for as many namespaces."""
    floor = _floor(counts.many)
    with Daemon() as daemon, _mortals(counts.many) as mortals:
        network = daemon.network("deaths", subnet="10.214.0.0/16")
        for number, pid in enumerate(mortals.pids):
            endpoint = daemon.endpoint(network, f"e{number}")
            path = f"/networks/{network}/endpoints/{endpoint}/containers"
            daemon.rest.ask("POST", path, {"container_id": f"c{number:06d}", "watch_pid": pid})
        with _joining(daemon) as calm:
            time.sleep(2.0)
        with _joining(daemon) as joining:
            begun = mortals.kill()
            unpinned = _until(lambda: len(os.listdir(daemon.directory / "sandbox-dir")) <= 1, begun)
            gone = _until(lambda: _is_removed(daemon, "c0"), begun)
            clean = _until(lambda: daemon.links() <= daemon.bare_links + 3, begun)
    figures = (
        Figure("floor: the kernel's own time for as many namespaces", floor * MS, "ms"),
        Figure("their namespaces are unpinned", unpinned * MS, "ms"),
        Figure("their sandboxes are removed", gone * MS, "ms", "", Target(WITHIN)),
        Figure("their links are deleted", clean * MS, "ms", f"{clean / floor:.1f} times the floor", Target(WITHIN)),
        time_of("a join before", calm.samples),
        time_of("a join during the removal", joining.samples),
        worst_of("the longest join during the removal", joining.samples),
    )
    note = (
        f"{counts.many} sandboxes on one network, each tied to a process by `watch_pid`. All processes are killed "
        "with SIGKILL at once; times are from the first kill. Another client joins and leaves another network all the "
        "time. The floor is the time for as many namespaces with a veth pair on a bridge, created with raw netlink and "
        "released at once, until the last link is deleted."
    )
    return Section(f"{counts.many} containers killed at once", figures, (note,))


def _floor(many: int) -> float:
    with closing(Floor()) as floor:
        for number in range(many):
            floor.attach(number)
        begun = time.perf_counter()
        floor.release()
        return _until(lambda: floor.links() <= 2, begun)


def _until(condition: Callable[[], bool], begun: float) -> float:
    wait_until(condition, CLEAN_DEADLINE, "the exited containers are not removed", 0.005)
    return time.perf_counter() - begun


def _is_removed(daemon: Daemon, prefix: str) -> bool:
    connection = Connection(str(daemon.socket))
    found = connection.ask("GET", "/sandboxes")
    connection.close()
    return not any(sandbox["id"].startswith(prefix) for sandbox in found)


class _Mortals:
    """The processes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout  # noqa: S101, PT018 - asked for
        self._in, self._out = process.stdin, process.stdout
        self.pids = list(map(int, self._out.readline().split()))

    def kill(self) -> float:
        """Kill all; when that began."""
        self._in.write("\n")
        self._in.flush()
        return float(self._out.readline())


@contextmanager
def _mortals(many: int) -> Iterator[_Mortals]:
    command = [sys.executable, "-m", "bench.mortals", str(many)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        yield _Mortals(process)
    finally:
        process.communicate()
        stop(process)


@contextmanager
def _joining(daemon: Daemon) -> Iterator[Stopwatch]:
    """Join and leave until the end of the block."""
    watch, done = Stopwatch(), Event()

    def live() -> None:
        connection = Connection(str(daemon.socket))
        network = connection.ask("POST", "/networks", {"name": f"joining{id(watch)}"})
        endpoint = connection.ask("POST", f"/networks/{network}/endpoints", {"name": "one"})
        path = f"/networks/{network}/endpoints/{endpoint}/containers"
        while not done.is_set():
            watch.time(connection.ask, "POST", path, {"container_id": "living000000"})
            connection.ask("DELETE", f"{path}/living000000")
            time.sleep(PAUSE)
        connection.close()

    thread = Thread(target=live)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()
