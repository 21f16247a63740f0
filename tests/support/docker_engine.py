"""A real dockerd on a test's host, with a sandnet daemon beside it whose plugin socket it finds."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.network_host import RunsCommands, eventually
from tests.support.privileges import RUNTIMES_NEED

PLUGIN = "/run/docker/plugins/sandnet.sock"
SOCKET = "unix:///run/docker-engine.sock"
BUSYBOX = Path("/bin/busybox")
IMAGE = "busybox"
START = 90.0
"""Seconds until dockerd answers; it takes about two."""
_INIT = """
import os, time
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.02)
"""
"""The first process of the engine's PID namespace: it takes in what the engine leaves when it is killed."""
_APPLETS = ("sh", "sleep", "ping", "nslookup", "wget", "httpd", "nc", "ip", "cat", "true")


def missing() -> str:
    """Return why dockerd cannot run here; empty: it can."""
    if RUNTIMES_NEED:
        return RUNTIMES_NEED
    if not shutil.which("dockerd") or not shutil.which("docker"):
        return "dockerd or docker is not installed (Debian packages docker.io and, from 13 on, docker-cli)"
    return "" if BUSYBOX.exists() else "busybox is not installed (Debian package busybox-static)"


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class DockerEngine:
    """A dockerd in a PID namespace: nothing of it outlives it. It is on the host's network."""

    def __init__(self, host: RunsCommands, folder: Path, state: str = "/run/docker") -> None:
        self._host, self._folder, self._state = host, folder, state
        self._folder.mkdir(parents=True, exist_ok=True)
        self._group = f"sandnet-test-{secrets.token_hex(4)}"
        self._process: subprocess.Popen[str] | None = None
        host.sh("mount", "--make-shared", "/run")
        self._init = host.popen(
            *("unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-c", _INIT),
        )
        eventually(lambda: _children(self._init.pid))

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        flags = {
            "storage-driver": "vfs",
            "data-root": self._folder / "data",
            "exec-root": self._state,
            "pidfile": self._folder / "pid",
            "host": SOCKET,
            "cgroup-parent": f"/{self._group}",
        }
        command = ["dockerd", *(f"--{name}={value}" for name, value in flags.items()), *options]
        script = 'rm -f "$0/pid"; exec "$@" >>"$0/log" 2>&1'
        within = ("nsenter", f"--target={_children(self._init.pid)[0]}", "--mount", "--pid")
        self._process = self._host.popen(*within, "sh", "-c", script, str(self._folder), *command)
        eventually(lambda: self._answers() or not self.is_running(), START)
        assert self.is_running(), self.log()[-3000:]

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _answers(self) -> bool:
        return self.attempt("version", "--format", "{{.Server.Version}}").returncode == 0

    @property
    def pid(self) -> int:
        """The process id of dockerd on this machine."""
        assert self._process
        return _children(self._process.pid)[0]

    def load_image(self) -> None:
        """Import an image with nothing but busybox."""
        packed = self._folder / "image.tar"
        with tarfile.open(packed, "w") as archive:
            archive.add(BUSYBOX.resolve(), "bin/busybox")
            for name in _APPLETS:
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
            page = tarfile.TarInfo("www/index.html")
            page.size = 6
            archive.addfile(page, io.BytesIO(b"hello\n"))
        self("import", str(packed), IMAGE)

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``docker`` on the host."""
        command = ["docker", "-H", SOCKET, *words]
        return self._host.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False, timeout=100))

    def __call__(self, *words: str) -> str:
        """The output of ``docker``, without its line end.

        Raises:
            AssertionError: it failed; the message has what it printed.
        """
        done = self.attempt(*words)
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def refused(self, *words: str) -> str:
        """What ``docker`` prints when it fails, as it must."""
        done = self.attempt(*words)
        assert done.returncode != 0, f"docker {' '.join(words)} succeeded: {done.stdout}"
        return done.stderr

    def container(self, network: str, name: str, *options: str, command: Sequence[str] = ("sleep", "1000")) -> str:
        """Start a container in the background; its address on the network."""
        self("run", "-d", "--stop-signal", "KILL", "--name", name, "--network", network, *options, IMAGE, *command)
        return self.address(name, network)

    def inspect(self, name: str) -> Any:
        """All that ``docker inspect`` has of an object."""
        return json.loads(self("inspect", name))[0]

    def address(self, name: str, network: str) -> str:
        """A container's IPv4 address on a network."""
        return str(self.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"])

    def execute(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        return self.attempt("exec", name, *words)

    def pings(self, name: str, target: str, seconds: int = 15) -> bool:
        """Whether a container reaches an address or a name."""
        return self.execute(name, "ping", "-c", "1", "-W", str(seconds), target).returncode == 0

    def remove_containers(self) -> None:
        """Remove all containers, and the networks without any."""
        if found := self("ps", "-aq").split():
            self("rm", "-f", *found)
        self("network", "prune", "-f")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to dockerd alone; the containers go on."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process and self.is_running():
            with suppress(ProcessLookupError, IndexError):
                os.kill(self.pid, number)
            self._process.wait(60)

    def close(self) -> None:
        """End it, and remove what it leaves behind."""
        self._end(signal.SIGKILL)
        self._init.kill()
        self._init.wait()
        with suppress(AssertionError):
            eventually(self._groups_removed)  # the processes of containers end a little later
        self._host.sh("sh", "-c", f"mount | grep ' {self._folder}/' | cut -d' ' -f3 | xargs -r umount -l")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _groups_removed(self) -> bool:
        """Remove the control groups of the containers, and return whether none is left."""
        top = Path("/sys/fs/cgroup")
        groups = [*top.glob(self._group), *top.glob(f"*/{self._group}")]
        for group in groups:
            for each in (*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group):
                with suppress(OSError):
                    each.rmdir()
        return not any(group.exists() for group in groups)
