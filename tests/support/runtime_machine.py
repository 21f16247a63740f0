"""A machine with real container runtimes and a sandnet daemon, in a PID namespace of its own: nothing outlives it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.cni import PLUGIN
from tests.support.daemon import RunningDaemon
from tests.support.network_host import eventually

BUSYBOX = Path("/bin/busybox")
SUBNET = "10.88.0.0/24"
START = 60.0
"""Seconds until a runtime answers; it takes about one."""
APPLETS = ("sh", "sleep", "ping", "httpd", "cat", "ip", "true")
_INIT = "while :; do sleep 1000 & wait $!; done"
"""The first process of the PID namespace: it reaps what the runtimes leave."""
_CAPABILITIES = {"portMappings": True, "ips": True, "mac": True, "aliases": True}


def missing() -> str:
    """Return which program is not installed; empty: none."""
    programs = ("containerd", "ctr", "podman", "runc")
    absent = [name for name in programs if not shutil.which(name)]
    return ", ".join([*absent, *([] if BUSYBOX.exists() else ["busybox"])])


class RuntimeMachine:
    """The processes of containerd and Podman, and of the daemon that their plugin asks.

    Args:
        daemon: the host, and the daemon that is started here.
    """

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon
        self._group = f"sandnet-test-{secrets.token_hex(4)}"
        self._init = daemon.host.popen(
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _INIT)
        )
        eventually(lambda: _children(self._init.pid))
        self._pid = str(_children(self._init.pid)[0])
        eventually(lambda: self._attempt("test", "-e", "/proc/1/cmdline").returncode == 0)
        self._root = f"/run/{self._group}"
        self._prepare()

    def _prepare(self) -> None:
        script = f"""
            set -e
            mkdir -p /opt /etc/cni /run/netns {self._root}/bin {self._root}/etc {self._root}/www
            mkdir -p {self._root}/proc {self._root}/sys {self._root}/dev {self._root}/tmp
            mount -t tmpfs tmpfs /opt
            mount -t tmpfs tmpfs /etc/cni
            mkdir -p /opt/cni/bin /etc/cni/net.d
            ln -s {PLUGIN} /opt/cni/bin/sandnet-cni
            cp {BUSYBOX} {self._root}/bin/
            for name in {" ".join(APPLETS)}; do ln -s busybox {self._root}/bin/$name; done
            echo hello >{self._root}/www/index.html
            echo nameserver 127.0.0.11 >{self._root}/etc/resolv.conf
        """
        self.sh("sh", "-c", script)
        self.configure("web", ipam={"subnet": SUBNET})

    def configure(self, name: str, **more: Any) -> None:
        """Write the configuration of a network, which is the only one then."""
        plugin = {
            "type": "sandnet-cni",
            "socket": f"unix://{self.daemon.run}/sandnet.sock",
            "capabilities": _CAPABILITIES,
            **more,
        }
        text = json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]})
        self.sh("sh", "-c", 'echo "$0" >/etc/cni/net.d/10-test.conflist', text)

    # Programs.

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs on this machine."""
        return ["nsenter", "--target", self._pid, "--mount", "--pid", "--", *words]

    def _attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        def run() -> subprocess.CompletedProcess[str]:
            nothing = subprocess.DEVNULL
            return subprocess.run(
                self.command(*words), stdin=nothing, capture_output=True, text=True, check=False, timeout=100
            )

        return self.daemon.host.run(run)

    def sh(self, *words: str) -> str:
        """The output of a command, without its line end.

        Raises:
            AssertionError: it failed; the message has what it printed.
        """
        done = self._attempt(*words)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}{done.stdout}\n{self.daemon.log}"
        return done.stdout.strip()

    def start_daemon(self) -> None:
        """Start the daemon here, so that it sees the runtimes' process numbers."""
        self.daemon.start(through=self.command())

    def kill_daemon(self) -> None:
        """SIGKILL, and wait until it does not run any more."""
        assert self.daemon.process
        for child in _children(self.daemon.process.pid):  # of nsenter
            os.kill(child, signal.SIGKILL)
        self.daemon.process.wait(40)

    def start_containerd(self) -> None:
        """Start containerd, without its CRI service."""
        text = 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        self.sh("sh", "-c", 'echo "$0" >/run/containerd.toml', text)
        log = self.daemon.folder / "containerd.log"
        self.daemon.host.popen(*self.command("sh", "-c", f"exec containerd --config /run/containerd.toml >{log} 2>&1"))
        eventually(lambda: self._attempt("ctr", "version").returncode == 0, START)

    # containerd.

    def ctr(self, *words: str) -> str:
        """The output of ``ctr``."""
        return self.sh("ctr", "--namespace", self._group, *words)

    def ctr_run(self, name: str, *command: str, detached: bool = True) -> str:
        """Run a container on the configured network; the output of its command, if it is not detached."""
        how = "--detach" if detached else "--rm"
        return self.ctr("run", how, "--cni", "--rootfs", self._root, name, *command)

    def ctr_name(self, name: str) -> str:
        """The id that a container has for the plugin."""
        return f"{self._group}-{name}"

    def ctr_exec(self, name: str, *command: str) -> str:
        """The output of a command in a container."""
        return self.ctr("task", "exec", "--exec-id", secrets.token_hex(4), name, *command)

    def ctr_remove(self, name: str) -> None:
        """Kill a container and delete it. ctr 1.6 calls no plugin then; 1.7 does, and fails if the plugin does."""
        eventually(lambda: self._is_stopped(name))
        self._attempt("ctr", "--namespace", self._group, "task", "delete", name)  # its status is that of the container
        self.ctr("container", "delete", name)

    def _is_stopped(self, name: str) -> bool:
        """Kill a container unless it has ended; return whether it has. A busy containerd may not get to it at once.

        ctr 1.7 kills nothing if the plugin fails, as while its daemon is away. Then this kills the process.
        """
        pid, status = self._task(name)
        if status == "RUNNING":
            killed = self._attempt("ctr", "--namespace", self._group, "task", "kill", "--signal", "KILL", name)
            if killed.returncode:
                self._attempt("kill", "-KILL", pid)
        return self._task(name)[1] == "STOPPED"

    def _task(self, name: str) -> tuple[str, str]:
        """The process number and the status of a container."""
        rows = [line.split() for line in self.ctr("task", "list").splitlines()]
        return next((pid, status) for task, pid, status in rows if task == name)

    # Podman.

    def start_podman(self) -> bool:
        """Write Podman's configuration and import an image; ``False``: this Podman has no CNI."""
        text = (
            '[network]\nnetwork_backend = "cni"\ncni_plugin_dirs = ["/opt/cni/bin"]\n'
            'network_config_dir = "/etc/cni/net.d"\ndefault_network = "web"\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "runc"\n'
        )
        self.sh("sh", "-c", 'echo "$0" >/run/containers.conf', text)
        self.sh("sh", "-c", f"tar -C {self._root} -cf /run/image.tar .")
        try:
            self.podman("import", "/run/image.tar", "busybox")
        except AssertionError as failure:
            if "cni support is not enabled" in str(failure):
                return False
            raise
        return True

    def podman(self, *words: str) -> str:
        """The output of ``podman``."""
        options = ("--storage-driver=vfs", "--root=/run/podman-data", "--runroot=/run/podman-run")
        return self.sh("env", "CONTAINERS_CONF=/run/containers.conf", "podman", *options, *words)

    def podman_run(self, name: str, *options: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
        """Start a container in the background; its address."""
        where = (f"--cgroup-parent=/{self._group}", "--name", name)
        own = ("--dns-search=.", "--dns-opt=ndots:1")  # the search domains' name servers do not answer on this host
        self.podman("run", "--detach", *where, *own, *options, "busybox", *command)
        return self.podman("inspect", name, "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    # The end.

    def close(self) -> None:
        """End all processes, and remove the runtimes' control groups."""
        self._init.kill()
        self._init.wait(40)
        top = Path("/sys/fs/cgroup")
        groups = [*top.glob(self._group), *top.glob(f"*/{self._group}")]
        with suppress(AssertionError):
            eventually(lambda: all(_remove_group(each) for each in groups), 10)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _remove_group(group: Path) -> bool:
    for each in sorted(path for path in group.rglob("*") if path.is_dir())[::-1]:
        with suppress(OSError):
            os.rmdir(each)
    with suppress(OSError):
        os.rmdir(group)
    return not group.exists()
