"""Docker Engine, in namespaces of its own: networks, and one running container connected and disconnected."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.figures import Figure, Section
from bench.host import Namespace, children, resident, stop, wait_until
from bench.peers.base import Ours, beside, compared, really_root, skipped
from bench.rest import JSON, Connection
from bench.sandnet_daemon import Daemon
from bench.timing import Counts

TITLE = "Compared with Docker Engine"
BUSYBOX = Path("/bin/busybox")
CGROUP = "sandnet-bench"
JOIN_BOUND = 0.05
"""A join is to take no more than a tenth of Docker's connect."""
VERBS = ("create_network", "attach", "detach", "delete_network")
START = 60.0
"""Seconds until dockerd answers."""


def measure(counts: Counts) -> Section:
    """Round by round beside sandnet."""
    if why := missing():
        return skipped(TITLE, why)
    with Daemon() as daemon, Docker() as docker:
        idle = resident(docker.pid)
        times = beside(docker, Ours(daemon), VERBS, counts.peers)
        name = docker.name
    words = {
        "create_network": "network create",
        "attach": "connect",
        "detach": "disconnect",
        "delete_network": "network delete",
    }
    figures: list[Figure] = []
    for verb, (ours, theirs) in times.items():
        figures += compared("Docker", words[verb], ours, theirs, JOIN_BOUND if verb == "attach" else None)
    figures.append(Figure("memory of dockerd and containerd, one container", idle, "MiB"))
    note = (
        f"{name} with the vfs storage driver. Its connect and disconnect take a running container, whose namespace "
        "exists already. sandnet's join creates the namespace, and its leave removes it."
    )
    return Section(TITLE, tuple(figures), (note,))


def missing() -> str:
    """Why Docker cannot be measured, in words; empty when it can."""
    if not shutil.which("dockerd"):
        return "dockerd is not installed (Debian package docker.io)"
    if not BUSYBOX.exists():
        return f"{BUSYBOX} is not installed (Debian package busybox-static)"
    return "" if really_root() else "dockerd needs a root that is not one of a user namespace only"


class Docker:
    """A dockerd with a running container. In a PID namespace, so that nothing of it can outlive us.

    Args:
        host: the host's namespace; ``None``: one of its own.
        exec_root: where it pins namespaces; ``None``: where nothing else sees them.
    """

    def __init__(self, host: Namespace | None = None, exec_root: str | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="sandnet-bench-docker-", dir="/var/tmp"))
        where = host or Namespace()
        self._own_host = None if host else where
        self._exec_root = exec_root
        private = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if exec_root:
            private.append("--propagation=unchanged")
        self._process = where.start([*private, *self._command()], self._directory / "log")
        self._rest = Connection(str(self._directory / "sock"))
        self._network = self._created = ""

    def _command(self) -> list[str]:
        here = self._directory
        flags = {
            "storage-driver": "vfs",
            "data-root": here / "data",
            "exec-root": self._exec_root or here / "exec",
            "pidfile": here / "pid",
            "host": f"unix://{here}/sock",
            "cgroup-parent": f"/{CGROUP}",
        }
        return ["dockerd", *(f"--{name}={value}" for name, value in flags.items())]

    def __enter__(self) -> Self:
        try:
            wait_until(self._answers, START, "dockerd does not answer", 0.05)
            self.name = f"Docker Engine {self._ask('GET', '/version')['Version']}"
            self._start_container()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError, OSError):
            self._ask("DELETE", "/containers/bench?force=1")
        self._clean_up()

    @property
    def pid(self) -> int:
        """The process id of dockerd: the child of ``unshare``."""
        return next(iter(children(self._process.pid)), self._process.pid)

    def _ask(self, method: str, path: str, body: JSON = None) -> JSON:
        return self._rest.ask(method, path, body)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"dockerd ended:\n{(self._directory / 'log').read_text()[-2000:]}")
        try:
            self._rest.exchange("GET", "/_ping", None, {})
        except OSError:
            self._rest.close()
            return False
        return True

    def _start_container(self) -> None:
        headers = {"Content-Type": "application/x-tar"}
        self._rest.exchange("POST", "/images/create?fromSrc=-&repo=bench", _image(), headers)
        wanted = {"Image": "bench", "Cmd": ["/busybox", "sleep", "100000"]}
        self._ask("POST", "/containers/create?name=bench", wanted)
        self._ask("POST", "/containers/bench/start")
        self._network = str(self._ask("POST", "/networks/create", {"Name": "bench"})["Id"])

    def _clean_up(self) -> None:
        self._rest.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        stop(self._process, signal.SIGCONT)  # unshare ends when dockerd has
        if self._own_host:
            self._own_host.close()
        shutil.rmtree(self._directory)
        _remove_cgroups()

    @property
    def socket(self) -> str:
        """The path of its API's socket."""
        return str(self._directory / "sock")

    def known_as(self, names: Sequence[str]) -> str:
        """Connect the container under these names; the path of its namespace, in which Docker's resolver listens."""
        wanted = {"Container": "bench", "EndpointConfig": {"Aliases": list(names)}}
        self._ask("POST", f"/networks/{self._network}/connect", wanted)
        key = self._ask("GET", "/containers/bench/json")["NetworkSettings"]["SandboxKey"]
        return f"/proc/{self.pid}/root{key}"

    # As a peer.

    def create_network(self, number: int) -> None:
        """``POST /networks/create``."""
        self._created = str(self._ask("POST", "/networks/create", {"Name": f"n{number}"})["Id"])

    def delete_network(self, number: int) -> None:
        """``DELETE /networks/…``."""
        self._ask("DELETE", f"/networks/{self._created}")

    def prepare(self, number: int) -> None:
        """Do nothing: the container runs already."""

    def attach(self, number: int) -> None:
        """``POST /networks/…/connect``."""
        self._ask("POST", f"/networks/{self._network}/connect", {"Container": "bench"})

    def detach(self, number: int) -> None:
        """``POST /networks/…/disconnect``."""
        self._ask("POST", f"/networks/{self._network}/disconnect", {"Container": "bench"})

    def clear(self, number: int) -> None:
        """Do nothing: the container continues to run."""


def _image() -> bytes:
    """Return a file system with nothing but busybox."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(BUSYBOX.resolve(), "busybox")
    return packed.getvalue()


def _remove_cgroups() -> None:
    """Remove the groups that dockerd made for its containers, in every hierarchy: it leaves them behind."""
    top = Path("/sys/fs/cgroup")
    for group in [*top.glob(CGROUP), *top.glob(f"*/{CGROUP}")]:
        with suppress(OSError):
            group.rmdir()
