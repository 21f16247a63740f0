"""Containers that Docker starts on networks of sandnet, by its plugin, on those of its own bridge driver, and on none.

What a container without a network takes is the engine's own, which no network can save.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.crowd import together
from bench.figures import MS, Figure, Section, Target, percentile, ratio_of, time_of
from bench.peers.base import PAUSE, skipped
from bench.peers.docker import Docker, missing
from bench.rest import JSON, Connection
from bench.sandnet_daemon import Daemon
from bench.timing import Counts, Stopwatch

TITLE = "Containers that Docker starts"
_PLUGIN: Final = "/run/docker/plugins/sandnet.sock"
_EXEC_ROOT: Final = "/run/docker"
_AT_ONCE: Final = 50
_ROUNDS: Final = 3
"""How often as many rounds as of other crowds: they differ more than those of the daemon alone."""
_FIRST_PORT: Final = 20000
_THEIRS, _OURS, _NONE = "Docker's bridge", "sandnet", "no network"
_DRIVERS: Final = {_THEIRS: "bridge", _OURS: "sandnet"}
_RUN_BOUND, _PUBLISH_BOUND, _CROWD_BOUND = 1.0, 0.9, 1.0


@dataclass
class Runs:
    """Starts and removals of containers on one network."""

    docker: Connection
    network: str

    def run(self, name: str, port: int = 0) -> None:
        """Do as ``docker run -d``, without the start of the command."""
        self.start(self.docker, name, port)

    def start(self, connection: Connection, name: str, port: int = 0) -> None:
        """Do the same by another connection."""
        host: dict[str, JSON] = {"NetworkMode": self.network}
        wanted: dict[str, JSON] = {"Image": "bench", "Cmd": ["/busybox", "sleep", "100000"], "HostConfig": host}
        if port:
            host["PortBindings"] = {"80/tcp": [{"HostPort": str(port)}]}
            wanted["ExposedPorts"] = {"80/tcp": {}}
        connection.ask("POST", f"/containers/create?name={name}", wanted)
        connection.ask("POST", f"/containers/{name}/start")

    def remove(self, name: str) -> None:
        """Do as ``docker rm -f``."""
        self.docker.ask("DELETE", f"/containers/{name}?force=1")


def measure(counts: Counts) -> Section:
    """Round by round, on a network of either kind."""
    if why := missing():
        return skipped(TITLE, why)
    with _pair() as (docker, sides):
        figures = [
            *_one_by_one(sides, counts.peers, "docker run", 0, _RUN_BOUND),
            *_one_by_one(sides, counts.peers, "docker run -p", _FIRST_PORT, _PUBLISH_BOUND),
            *_at_once(sides, docker.socket, counts),
        ]
        note = (
            f"{docker.name} with the vfs storage driver: `create` and `start` of its API, which `docker run` calls. "
            "sandnet learns the name of each container from that API, and serves names in it."
        )
    return Section(TITLE, tuple(figures), (note,))


@contextmanager
def _pair() -> Iterator[tuple[Docker, dict[str, Runs]]]:
    """Yield an engine beside a daemon whose plugin it has, with a network of either driver."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)  # of the private host alone
    subprocess.run(["mount", "--make-shared", "/run"], check=True)
    try:
        engine_socket = Path("/run/engine.sock")
        settings = f'plugin_socket = "{_PLUGIN}"\nengine_socket = "{engine_socket}"\n'
        with (
            Daemon(settings=settings, sandbox_dir=f"{_EXEC_ROOT}/netns") as daemon,
            Docker(daemon.host, _EXEC_ROOT) as docker,
        ):
            engine_socket.symlink_to(docker.socket)
            connection = Connection(docker.socket)
            sides = {}
            for name, driver in _DRIVERS.items():
                ipam = {"Driver": "sandnet"} if driver == "sandnet" else {}
                wanted = {"Name": f"on-{driver}", "Driver": driver, "IPAM": ipam}
                connection.ask("POST", "/networks/create", wanted)
                sides[name] = Runs(connection, f"on-{driver}")
            sides[_NONE] = Runs(connection, "none")
            yield docker, sides
            for name in _DRIVERS:
                connection.ask("DELETE", f"/networks/{sides[name].network}")
            connection.close()
    finally:
        subprocess.run(["umount", "--lazy", "/run"], check=True)


def _one_by_one(sides: dict[str, Runs], rounds: int, what: str, port: int, bound: float) -> list[Figure]:
    """Start and remove containers, on all sides in turn; the first round warms up."""
    runs, removals = ({name: Stopwatch() for name in sides} for _ in range(2))
    for number in range(rounds + 1):
        order = list(sides) if number % 2 else list(reversed(sides))
        for name in order:
            time.sleep(PAUSE)
            runs[name].time(sides[name].run, "one", port + number if port and name != _NONE else 0)
            time.sleep(PAUSE)
            removals[name].time(sides[name].remove, "one")
    figures = []
    for verb, watches, limit in ((what, runs, Target(bound)), (f"docker rm -f after {what}", removals, None)):
        samples = {name: watch.samples[1:] for name, watch in watches.items()}
        figures += [time_of(f"`{verb}`, {name}", found) for name, found in samples.items()]
        figures.append(ratio_of(f"`{verb}`, sandnet / Docker's bridge", samples[_OURS], samples[_THEIRS], limit))
    return figures


def _at_once(sides: dict[str, Runs], socket: str, counts: Counts) -> list[Figure]:
    """Start many containers at once, on all sides in turn."""
    size = min(_AT_ONCE, counts.crowd)
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(_ROUNDS * counts.crowds):
        for name, runs in sides.items() if number % 2 else reversed(sides.items()):
            names = [f"c{number}" for number in range(size)]
            rounds[name].append(together([_starting(runs, socket, each) for each in names]))
            for each in names:
                runs.remove(each)
    what = f"{size} `docker run` at once, until the last one runs"
    figures = [
        Figure(f"{what}, {name}", percentile(found, 50) * MS, "ms", f"longest {max(found) * MS:.0f}, n {len(found)}")
        for name, found in rounds.items()
    ]
    ratio = ratio_of(f"{what}, sandnet / Docker's bridge", rounds[_OURS], rounds[_THEIRS], Target(_CROWD_BOUND))
    return [*figures, ratio]


def _starting(runs: Runs, socket: str, name: str) -> Callable[[], None]:
    connection = Connection(socket)
    connection.connect()

    def call(start: Callable[[], None]) -> None:
        start()
        connection.close()

    return partial(call, partial(runs.start, connection, name))
