"""Real etcd clusters on loopback addresses of their own, with their data in memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from sandnet.stores.etcd.location import NO_CREDENTIALS, Credentials, EtcdLocation, parse
from tests.support.certificates import Authority
from tests.support.network_host import eventually

START = 60.0
"""Seconds until a cluster answers; it takes one to three."""
_numbers = count()


@cache
def missing() -> str:
    """Return why etcd cannot run here; empty: it can."""
    return "" if shutil.which("etcd") else "etcd is not installed (Debian package etcd-server)"


def _own_address() -> str:
    """Return a loopback address that no other process uses: tests run beside each other."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 16) % 64}.{pid >> 8 & 255}.{pid & 255}"


def _is_stopped(task: Path) -> bool:
    """Return whether a thread is stopped by a signal (proc_pid_stat(5), field 3)."""
    return task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T"


class EtcdMember:
    """One member: a process that can be stopped, continued, killed and started again with its data."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self._command, self._log = command, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        with self._log.open("ab") as log:
            command = [*self._command, *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def pause(self) -> None:
        """Stop the process as a machine that hangs: its connections stay open. All its threads stand when this ends."""
        self.signal(signal.SIGSTOP)
        if self._process:
            tasks = Path(f"/proc/{self._process.pid}/task")
            eventually(lambda: all(_is_stopped(task) for task in tasks.iterdir()))

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait(30)
            self._process = None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None


class EtcdCluster:
    """A cluster.

    Args:
        size: how many members.
        options: further options of each member.
        authority: signs the members' certificates; clients must have one of it, too. ``None``: no TLS.
    """

    def __init__(self, size: int = 1, options: Iterable[str] = (), authority: Authority | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sandnet-etcd-", dir="/dev/shm"))
        self._address = _own_address()
        self._base = 20000 + 2 * size * next(_numbers)
        self._authority = authority
        self._tls: ssl.SSLContext | None = None
        self.scheme = "https" if authority else "http"
        self._options = [*options, *(self._tls_options(authority) if authority else [])]
        peers = ",".join(f"m{n}=http://{self._address}:{self._peer_port(n)}" for n in range(size))
        self.members = [self._member(n, peers) for n in range(size)]

    def _peer_port(self, number: int) -> int:
        return self._base + 2 * number + 1

    def _member(self, number: int, peers: str) -> EtcdMember:
        clients = f"{self.scheme}://{self._address}:{self._base + 2 * number}"
        peer = f"http://{self._address}:{self._peer_port(number)}"
        options = {
            "name": f"m{number}",
            "data-dir": str(self._folder / f"m{number}"),
            "listen-client-urls": clients,
            "advertise-client-urls": clients,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": peers,
            "initial-cluster-token": self._folder.name,
            "logger": "zap",
            "log-level": "warn",
        }
        command = ["etcd", *(f"--{name}={value}" for name, value in options.items()), *self._options]
        return EtcdMember(clients, command, self._folder / f"m{number}.log")

    def _tls_options(self, authority: Authority) -> list[str]:
        server = authority.issue("etcd", use="serverAuth,clientAuth", addresses=(self._address,))
        client = authority.issue("etcd-tests", use="clientAuth")
        self._tls = ssl.create_default_context(cafile=str(authority.cert))
        self._tls.load_cert_chain(client.cert, client.key)
        files = {"cert-file": server.cert, "key-file": server.key, "trusted-ca-file": authority.cert}
        return ["--client-cert-auth", *(f"--{name}={path}" for name, path in files.items())]

    def start(self) -> None:
        """Start all members, and wait until they answer."""
        for member in self.members:
            member.start()
        self.wait()

    def wait(self) -> None:
        """Wait until all running members answer a read that the majority confirms."""
        for member in self.members:
            if member.is_running():
                eventually(lambda member=member: self._answers(member) or not member.is_running(), START)  # type: ignore[misc]
                assert member.is_running(), self.log()

    def log(self) -> str:
        """The ends of the members' logs."""
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self._folder.glob("*.log")))

    def url(self, prefix: str = "sandnet", members: Iterable[int] | None = None) -> str:
        """The URL of a store here."""
        chosen = range(len(self.members)) if members is None else members
        hosts = ",".join(f"{self._address}:{self._base + 2 * n}" for n in chosen)
        return f"{'etcds' if self._authority else 'etcd'}://{hosts}/{prefix}"

    def location(
        self, prefix: str = "sandnet", members: Iterable[int] | None = None, credentials: Credentials = NO_CREDENTIALS
    ) -> EtcdLocation:
        """The location of a store here."""
        return parse(self.url(prefix, members), credentials)

    def call(
        self, path: str, message: Mapping[str, object], member: int = 0, token: str = "", *, seconds: float = 30.0
    ) -> Any:
        """Ask a member, and return what it answers."""
        headers = {"Authorization": token} if token else {}
        body = json.dumps(message).encode()
        request = urllib.request.Request(f"{self.members[member].name}/v3/{path}", body, headers)
        with urllib.request.urlopen(request, timeout=seconds, context=self._tls) as answer:
            return json.load(answer)

    def back_up(self) -> None:
        """Copy the data of the first member, which does not run."""
        shutil.copytree(self._folder / "m0", self._folder / "backup")

    def restore(self) -> None:
        """Replace the data of the first member, which does not run, by the copy."""
        shutil.rmtree(self._folder / "m0")
        shutil.copytree(self._folder / "backup", self._folder / "m0")

    def leader(self) -> int:
        """The number of the leader."""
        for number, member in enumerate(self.members):
            with suppress(OSError):
                if member.is_running():
                    status = self.call("maintenance/status", {}, number)
                    if status["leader"] == status["header"]["member_id"]:
                        return number
        raise AssertionError("no member is the leader")

    def _answers(self, member: EtcdMember) -> bool:
        try:
            self.call("kv/range", {"key": "AA=="}, self.members.index(member), seconds=5)
        except OSError as failure:
            return "401" in str(failure) or "400" in str(failure)  # the cluster has users, so it answers
        return True

    def close(self) -> None:
        """Kill all members, and remove their data."""
        for member in self.members:
            member.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> EtcdCluster:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
