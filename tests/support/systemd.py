"""A live systemd on a test's host, with nothing to manage but our units."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.support.confined_daemon import CAPABILITIES
from tests.support.daemon import SANDNET, Api, RunningDaemon
from tests.support.network_host import eventually
from tests.support.privileges import knows_other_users

UNITS: Final = Path(__file__).parents[2] / "systemd"
SYSTEMD: Final = Path("/lib/systemd/systemd")
TARGETS: Final = ("default", "basic", "sysinit", "sockets", "shutdown", "network", "multi-user")
"""Those that systemd, or a unit of ours, cannot do without; here they are empty."""
INSIDE: Final = """
for folder in fs kernel vm; do
    mount --bind /proc/sys/$folder /proc/sys/$folder
    mount -o remount,bind,ro /proc/sys/$folder
done
mount --bind /dev /dev
mount -o remount,bind,ro /dev
mount -t tmpfs none /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec "$@"
"""
"""What is the machine's must stay as it is: an init raises limits below /proc/sys, and makes files in /dev. The kernel
refuses to mount cgroup2 directly upon cgroup2, which is at that place on most machines: something must lie between."""
DEADLINE: Final = 60.0
"""Seconds a job of systemd may take (the longest takes about two)."""


def missing() -> str:
    """Why there can be no systemd, in words; empty when there can."""
    if not knows_other_users():
        return "systemd needs the machine's root, for control groups"
    return "" if SYSTEMD.exists() and shutil.which("systemctl") else "systemd is not installed"


class Manager:
    """systemd as process 1 of a PID namespace, with the daemon's network and its ``/run`` and ``/var/lib``.

    Mounts below ``/run`` show on the daemon's host as well. ``/etc`` is a copy.
    """

    def __init__(self, running: RunningDaemon) -> None:
        self._daemon, self._sh = running, running.host.sh
        self._units = running.folder / "units"
        self._cgroup = running.folder / "cgroup"
        self._log = running.folder / "log"
        self._group = self._make_group()
        self._prepare()
        self.pid = self._boot()
        running.run = Path(f"/proc/{self.pid}/root/run/sandnet")  # the default directories, as tests can name them
        running.netns = Path("/run/docker/netns")
        running.api = Api(running.run / "sandnet.sock")

    def _make_group(self) -> Path:
        """A cgroup beside the one we are in; whoever mounts cgroups from within sees nothing above it."""
        self._cgroup.mkdir()
        self._sh("mount", "-t", "cgroup2", "none", str(self._cgroup))
        (own,) = re.findall(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        group: Path = self._cgroup / own / f"sandnet-test-{secrets.token_hex(8)}"
        self._sh("mkdir", str(group))
        return group

    def _prepare(self) -> None:
        for name in TARGETS:
            self.unit(f"{name}.target", f"[Unit]\nDescription={name}\n")
        for name in ("sandnet.service", "sandnet.socket", "sandnet-plugin.socket"):
            self.unit(name, (UNITS / name).read_text())
        self.drop_in("path", f"Environment=PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin")
        self.drop_in("log", f"StandardOutput=append:{self._log}\nStandardError=append:{self._log}")
        self._sh("mount", "--make-shared", "/run")
        self._sh("cp", "-a", "/etc", "/run/etc")
        self._sh("mount", "--bind", "/run/etc", "/etc")
        self._sh("sh", "-c", f"echo {secrets.token_hex(16)} > /etc/machine-id")
        self._sh("systemd-sysusers", str(UNITS / "sandnet.sysusers"))

    def _boot(self) -> int:
        nothing = str(self._daemon.folder / "nothing")
        settings = {"UNIT_PATH": str(self._units), "GENERATOR_PATH": nothing, "ENVIRONMENT_GENERATOR_PATH": nothing}
        join = f'echo $$ > {self._group}/cgroup.procs; exec "$@"'
        spaces = ("--cgroup", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc")
        words = [f"SYSTEMD_{name}={value}" for name, value in settings.items()]
        self._process = self._daemon.host.popen(
            "sh", "-c", join, "sh",
            "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=test", *words,
            "unshare", *spaces, "--propagation", "unchanged",
            "sh", "-euc", INSIDE, "sh",
            str(SYSTEMD), "--system", "--log-target=console", "--show-status=no",
        )  # fmt: skip
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        eventually(lambda: self._process.poll() is not None or children.read_text())
        assert self._process.poll() is None, self._process.communicate()
        pid = int(children.read_text())
        private = Path(f"/proc/{pid}/root/run/systemd/private")
        eventually(lambda: self._process.poll() is not None or private.exists())
        assert self._process.poll() is None, self._process.communicate()
        return pid

    def unit(self, name: str, text: str) -> None:
        """Write a file that systemd reads."""
        file = self._units / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def drop_in(self, name: str, settings: str) -> None:
        """Add settings to the service (systemd.unit(5))."""
        self.unit(f"sandnet.service.d/{name}.conf", f"[Service]\n{settings}\n")

    def sh(self, *command: str) -> str:
        """The output of a command run beside systemd."""
        spaces = ("--mount", "--pid", "--cgroup", "--uts", "--ipc")
        return self._sh("timeout", str(DEADLINE), "nsenter", f"--target={self.pid}", *spaces, *command)

    def control(self, *words: str) -> str:
        """``systemctl``."""
        return self.sh("systemctl", *words)

    def reported(self, name: str, unit: str = "sandnet.service") -> str:
        """A property of a unit."""
        return self.control("show", f"--property={name}", "--value", unit).strip()

    @property
    def daemon(self) -> int:
        """Its main process, in systemd's PID namespace; 0: none."""
        return int(self.reported("MainPID"))

    def others(self) -> list[int]:
        """What else belongs to the service, but for the process that prepares sandboxes, which ends with the daemon."""
        group = self.reported("ControlGroup")
        pids = [int(pid) for pid in self.sh("cat", f"/sys/fs/cgroup{group}/cgroup.procs").split()]
        commands = {pid: self.sh("cat", f"/proc/{pid}/cmdline") for pid in pids if pid != self.daemon}
        return sorted(pid for pid, command in commands.items() if "sandnet.preparer" not in command)

    def down(self) -> None:
        """``sandnet down``, after a stop."""
        self.control("stop", "sandnet.socket", "sandnet.service")
        self.sh(str(SANDNET), "down")

    def capabilities(self, pid: int, kind: str) -> set[str]:
        """``CapBnd`` or ``CapEff`` of a process (proc_pid_status(5))."""
        (line,) = re.findall(rf"^{kind}:\s*([0-9a-f]+)$", self.sh("cat", f"/proc/{pid}/status"), re.MULTILINE)
        return {f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if int(line, 16) >> number & 1}

    def close(self) -> None:
        """End all of it; the cgroups are taken away."""
        self._process.kill()
        self._process.wait()
        eventually(self._remove_groups)

    def _remove_groups(self) -> bool:
        with suppress(AssertionError):  # a process that has been killed is there for a moment
            self._sh("find", str(self._group), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+")
            return True
        return False
