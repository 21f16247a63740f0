"""One host of a lab, as the supervisor sees it: its first process, its daemon, its member of etcd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

from sandnet.errors import Error, Kind
from sandnet.kernel.syscalls import unshare
from sandnet.lab import host_init
from sandnet.lab.child_processes import HostProgram, ProcessTable, fork, start_on_host
from sandnet.lab.entry import NEW_NAMESPACES, open_namespaces
from sandnet.lab.etcd_member import etcd_command
from sandnet.lab.lab_spec import LabSpec, address, host_name

DAEMON_SOCKET: Final = "sandnet/sandnet.sock"
"""Path below ``/run``."""
CONNECT_TIMEOUT: Final = 0.5
LOG_TAIL: Final = 600
"""Bytes of a log that a message about a failure shows."""


class PowerOn(NamedTuple):
    """A host that is being started; it waits for its link to the switch."""

    pid: int
    proceed: int
    """Descriptor; closing it lets the host configure its link."""
    report: IO[str]
    """What goes wrong; it ends when the host is ready."""


class LabHost:
    """A host, with or without power.

    Args:
        number: of the host, from 1.
        spec: the lab.
        folder: the directory of what it keeps.
        processes: where the ends of its processes are noticed.
    """

    def __init__(self, number: int, spec: LabSpec, folder: Path, processes: ProcessTable) -> None:
        self.number, self.folder = number, folder
        self.has_member = number <= spec.members
        self.init = self.daemon = self.member = 0
        """Pids of its processes; 0: never started."""
        self._spec, self._processes = spec, processes
        self._stopped: set[int] = set()
        """Pids of processes that were asked to end."""

    @property
    def name(self) -> str:
        """The host's name, which is also that of its port of the switch."""
        return host_name(self.number)

    @property
    def daemon_log(self) -> str:
        """Path of the log of its daemons."""
        return str(self.folder / "daemon.log")

    @property
    def member_log(self) -> str:
        """Path of the log of its member of etcd."""
        return str(self.folder / "etcd.log")

    @property
    def has_power(self) -> bool:
        """Whether its first process runs."""
        return self._processes.is_running(self.init)

    # Power.

    def power_on(self) -> PowerOn:
        """Start the first process, which waits for its link."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        host_init.write_own_files(self.number, self._spec, self.folder)
        (proceed_reader, proceed), (report_reader, report) = os.pipe(), os.pipe()

        def unshare_and_fork() -> None:
            unshare(NEW_NAMESPACES)
            pid = os.fork()
            if pid:
                os.write(report, f"{pid}\n".encode())
            else:
                self._become_first_process(proceed_reader, report)

        child = fork(unshare_and_fork, {proceed_reader, report})
        os.close(proceed_reader)
        os.close(report)
        lines = os.fdopen(report_reader)
        pid = lines.readline()
        os.waitpid(child, 0)
        if not pid:
            raise Error(Kind.UNAVAILABLE, f"the kernel refuses namespaces to {self.name}", code="no_namespaces")
        self.init = int(pid)
        self._processes.add(self.init)
        return PowerOn(self.init, proceed, lines)

    def _become_first_process(self, proceed: int, report: int) -> None:
        try:
            host_init.set_up_host(self.number, self._spec, self.folder)
            os.read(proceed, 1)
            host_init.configure_links(self.number)
        except subprocess.CalledProcessError as failure:
            os.write(report, str(failure.stderr).encode())
        except OSError as failure:
            os.write(report, str(failure).encode())
        else:
            os.close(report)
            host_init.wait_for_children()

    def finish_power_on(self, started: PowerOn) -> None:
        """Wait until a host whose link is there has its addresses.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        os.close(started.proceed)
        with started.report as report:
            reason = report.read().strip()
        if reason or not self.has_power:
            message = f"cannot start the host {self.number}: {reason or 'its first process ended'}"
            raise Error(Kind.UNAVAILABLE, message, code="host_not_started")

    def power_off(self) -> None:
        """Kill everything on the host at once. Its link must have been removed: ends of processes close connections."""
        self._stopped.update({self.daemon, self.member})
        self._processes.kill_and_wait(self.init)

    def lose_state(self) -> None:
        """Remove sandnet's state of a host without power."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    # Its processes.

    def start_daemon(self) -> None:
        """Start sandnet's daemon, unless it runs."""
        if self._processes.is_running(self.daemon):
            return
        self.daemon = self._start(self._daemon_command(), self.daemon_log)

    def _daemon_command(self) -> list[str]:
        shared = [f"--store={self._spec.store_url}", f"--underlay={address(self.number)}"]
        options = [*(shared if self._spec.members else ()), *self._spec.daemon_options]
        return [self._spec.program, "daemon", *options]

    def start_member(self) -> None:
        """Start the host's member of etcd, unless it runs."""
        if self.has_member and not self._processes.is_running(self.member):
            command = etcd_command(self.number, self._spec.members, self._spec.etcd_options)
            self.member = self._start(command, self.member_log)

    def _start(self, command: list[str], log: str) -> int:
        try:
            pid = start_on_host(self.init, HostProgram(command, log))
        except OSError as failure:
            raise Error(Kind.UNAVAILABLE, f"cannot start {command[0]} on {self.name}: {failure}") from failure
        self._processes.add(pid)
        return pid

    def kill_daemon(self) -> None:
        """Kill the daemon (SIGKILL)."""
        self._stopped.add(self.daemon)
        self._processes.kill_and_wait(self.daemon)

    def kill_member(self) -> None:
        """Kill the member of etcd (SIGKILL)."""
        self._stopped.add(self.member)
        self._processes.kill_and_wait(self.member)

    def stop_member(self) -> None:
        """Stop the member of etcd (SIGTERM), and wait until it has ended: a leader hands over first."""
        self._stopped.add(self.member)
        self._processes.kill_and_wait(self.member, signal.SIGTERM)

    # How it is.

    def daemon_state(self) -> str:
        """Return the state of the daemon, as :class:`sandnet.lab.lab_messages.HostStatus` has it."""
        if not self.has_power:
            return "off"
        return self._end(self.daemon) or ("ready" if self._daemon_answers() else "starting")

    def member_state(self) -> str:
        """Return how the member of etcd ended; empty: it runs, or there is none."""
        if not self.has_member:
            return ""
        return self._end(self.member) if self.has_power else "off"

    def _end(self, pid: int) -> str:
        status = self._processes.status(pid)
        if status is None:
            return ""
        if pid in self._stopped:
            return "killed" if status == -signal.SIGKILL else "stopped"
        return f"ended with signal {-status}" if status < 0 else f"ended with status {status}"

    def _daemon_answers(self) -> bool:
        """Return whether the daemon that was started last listens: one that is ending may still hold the socket."""
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.settimeout(CONNECT_TIMEOUT)
            probe.connect(f"/proc/{self.init}/root/run/{DAEMON_SOCKET}")
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return bool(pid == self.daemon)
        return False

    def require_power(self) -> None:
        """Refuse a host without power.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        if not self.has_power:
            hint = f"start it: sandnet lab start {self.number}"
            raise Error(Kind.UNAVAILABLE, f"the host {self.number} has no power", hint, "host_off")

    def open_entry(self) -> list[int]:
        """Return descriptors of its namespaces, and one of its ``/run``.

        Raises:
            Error: ``UNAVAILABLE``, it has no power.
        """
        self.require_power()
        run = os.open(f"/proc/{self.init}/root/run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return [*open_namespaces(self.init), run]

    def log_tail(self, log: str) -> str:
        """Return the last lines of a log."""
        with suppress(OSError), open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
            return file.read().decode(errors="replace").strip().rpartition("\n")[2]
        return ""
