"""Starts, ends and reads the DHCP clients of sandboxes."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.dhcp.base import DhcpClient, DhcpRequest
from sandnet.kernel.linux.dhcp.files import ClientFiles
from sandnet.kernel.linux.processes import LinuxProcesses, PidFd
from sandnet.kernel.spawn import start_detached
from sandnet.prerequisites import PROGRAM_FOLDERS, install_command

PROGRAM: Final = "udhcpc"
PACKAGE: Final = "udhcpc"
FOLDER: Final = "dhcp"
LOG: Final = "dhcp.log"
_RELEASE_DEADLINE: Final = 2.0
"""Seconds that a client may take to return its address; it sends one packet and does not wait for an answer."""
_KILL_DEADLINE: Final = 2.0
_PAUSE: Final = 0.02


class LinuxDhcpClients:
    """The Linux implementation of :class:`sandnet.kernel.dhcp.base.DhcpClients`.

    Args:
        run_dir: the directory for the files of clients, and for the log of their starts.
    """

    def __init__(self, run_dir: str) -> None:
        self._files = ClientFiles(os.path.join(run_dir, FOLDER))
        self._log = os.path.join(run_dir, LOG)
        self._processes = LinuxProcesses()

    def problem(self) -> str:
        """See :meth:`sandnet.kernel.dhcp.base.DhcpClients.problem`."""
        return "" if _program() else f"the program {PROGRAM} is missing: {install_command(PACKAGE)}"

    def start(self, request: DhcpRequest) -> None:
        """See :meth:`sandnet.kernel.dhcp.base.DhcpClients.start`."""
        program = _program()
        if program is None:
            raise Error(Kind.UNAVAILABLE, f"no DHCP client: {self.problem()}", install_command(PACKAGE), "no_dhcp")
        if self._files.process(request.id):
            return
        self._files.make(request.id)
        # -P: nothing is imported from the current directory
        command = [sys.executable, "-P", "-m", "sandnet.kernel.linux.dhcp.client_process", "--program", program]
        command += ["--lock", self._files.lock_path(request.id), "--folder", self._files.folder(request.id)]
        command += ["--namespace", request.namespace, "--inode", str(request.inode), "--interface", request.interface]
        command += ["--host-name", request.host_name] if request.host_name else []
        command += ["--wanted", str(request.wanted)] if request.wanted else []
        start_detached(command, self._log)

    def stop(self, ids: Collection[str], *, release: bool) -> None:
        """See :meth:`sandnet.kernel.dhcp.base.DhcpClients.stop`."""
        deadline = time.monotonic() + (_RELEASE_DEADLINE if release else 0)
        if release:
            for client in ids:
                self._signal(client, force=False)
        running = self._await_end(ids, deadline)
        deadline = time.monotonic() + _KILL_DEADLINE
        while running and time.monotonic() < deadline:  # one that was being started has a number by now
            for client in running:
                self._signal(client, force=True)
            running = self._await_end(running, time.monotonic() + 5 * _PAUSE)
        for client in ids:
            with self._files.taken(client) as ended:
                if ended:
                    self._files.remove(client)
        if running:
            raise Error(Kind.UNAVAILABLE, f"the DHCP client of endpoint {running[0][:12]} does not end", "repeat it")

    def states(self, ids: Collection[str]) -> Mapping[str, DhcpClient]:
        """See :meth:`sandnet.kernel.dhcp.base.DhcpClients.states`."""
        return {each: DhcpClient(self._files.process(each) is not None, self._files.report(each)) for each in ids}

    def endpoints(self) -> list[str]:
        """See :meth:`sandnet.kernel.dhcp.base.DhcpClients.endpoints`."""
        return self._files.list()

    def pids(self) -> frozenset[int]:
        """Return the numbers of the processes of all clients."""
        found = (self._files.process(each) for each in self._files.list())
        return frozenset(process.pid for process in found if process)

    def _await_end(self, ids: Collection[str], deadline: float) -> list[str]:
        """Return which of the clients run at the deadline, or earlier if none does."""
        while (running := [each for each in ids if self._files.process(each)]) and time.monotonic() < deadline:
            self._wait(running[0], _PAUSE)
        return running

    def _wait(self, client: str, seconds: float) -> None:
        handle = self._handle(client)
        if handle is None:
            time.sleep(_PAUSE)
            return
        ended = select.poll()
        ended.register(handle.fileno(), select.POLLIN)
        ended.poll(seconds * 1000)
        handle.close()

    def _signal(self, client: str, *, force: bool) -> None:
        if handle := self._handle(client):
            handle.end(force=force)
            handle.close()

    def _handle(self, client: str) -> PidFd | None:
        process = self._files.process(client)
        if process is None or not process.pid:
            return None
        with suppress(Error):
            return self._processes.watch(process.pid, process.started)
        return None


def _program() -> str | None:
    return shutil.which(PROGRAM, path=PROGRAM_FOLDERS)
