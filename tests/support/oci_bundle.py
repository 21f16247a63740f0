"""Containers of real OCI runtimes on a test's host, each from a bundle that holds busybox only."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.daemon import SANDNET, RunningDaemon

RUNTIMES: Final = {"runc": ["runc"], "crun": ["crun", "--cgroup-manager=disabled"]}
"""Commands of the runtimes."""
UNIFIED: Final = Path("/sys/fs/cgroup/unified")
"""Where crun on Debian 12 refuses to start anything when a version 2 control group with controllers is mounted beside
version 1. It is hidden on the test's host only."""
PAGE: Final = "served by "
TIME_LIMIT: Final = 60.0
"""Seconds that a command of a runtime may take; the longest takes about one."""


class OciRuntime:
    """A runtime with a root directory of its own.

    Args:
        running: the daemon's host.
        name: a key of ``RUNTIMES``.
        root: the name of the root directory.
    """

    def __init__(self, running: RunningDaemon, name: str, root: str = "runtime") -> None:
        self._running = running
        self._command = [*RUNTIMES[name], "--root", str(running.folder / root)]
        self._containers: list[str] = []
        if UNIFIED.is_mount():
            running.host.run(lambda: subprocess.run(["umount", str(UNIFIED)], check=False))

    def bundle(self, name: str, annotations: Mapping[str, str], **changes: object) -> Path:
        """Make a bundle whose container serves its name over HTTP on port 80, and calls the hook; return its path."""
        folder = self._running.folder / "bundles" / name
        root = folder / "rootfs"
        for part in ("bin", "etc", "proc", "dev", "sys", "www"):
            (root / part).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox, "busybox-static is not installed"
        shutil.copy(busybox, root / "bin" / "busybox")
        (root / "etc" / "resolv.conf").write_text("nameserver 127.0.0.11\n")
        (root / "www" / "index.html").write_text(PAGE + name)
        (folder / "config.json").write_text(json.dumps(self._config(annotations) | changes))
        return folder

    def _config(self, annotations: Mapping[str, str]) -> dict[str, object]:
        socket = f"unix://{self._running.run}/sandnet.sock"
        hook = {"path": str(SANDNET), "args": ["sandnet", "-H", socket, "oci-hook"], "timeout": 60}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "args": ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "capabilities": {
                    kind: ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")
                },
            },
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": dict(annotations),
            "hooks": {"createRuntime": [hook], "poststop": [hook]},
            "linux": {
                "cgroupsPath": f"/sandnet-test-{secrets.token_hex(6)}",  # parallel tests share the tree
                "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            },
        }

    def start(self, container: str, bundle: Path) -> subprocess.CompletedProcess[str]:
        """Start a container in the background. Its output goes nowhere, as it would keep a pipe open."""
        self._containers.append(container)
        return self._do("run", "--detach", "--bundle", str(bundle), container)

    def start_in_group(self, name: str, group: str) -> int:
        """Start a container without a hook in a control group of that name, as an engine does; its first process."""
        bundle = self.bundle(name, {}, hooks={})
        config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
        config["linux"]["cgroupsPath"] = f"/{group}"
        (bundle / "config.json").write_text(json.dumps(config))
        done = self.start(name, bundle)
        assert done.returncode == 0, done.stderr
        return int(str(self.state(name)["pid"]))

    def delete(self, container: str) -> subprocess.CompletedProcess[str]:
        """Kill and delete a container."""
        return self._do("delete", "--force", container)

    def do_inside(self, container: str, *command: str) -> str:
        """Return what a command of busybox prints inside a container, errors included."""
        return self._do("exec", container, "/bin/busybox", *command).stderr

    def state(self, container: str) -> dict[str, object]:
        """Return the state of a container, as the runtime passes it to hooks."""
        return dict(json.loads(self._running.host.sh(*self._command, "state", container)))

    def close(self) -> None:
        """Delete the containers that are left."""
        for container in reversed(self._containers):  # a group inside of another one goes first
            self.delete(container)

    def _do(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_to_file(self._running, [*self._command, *words])


def run_to_file(
    running: RunningDaemon, command: Sequence[str], state: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on the host; ``stderr`` of the result has all that it prints. A daemon that it leaves may go on."""
    printed = running.folder / "printed"
    given = running.folder / "given"
    given.write_text(state or "")
    with printed.open("w") as target, given.open() as source:
        done = running.host.run(
            lambda: subprocess.run(
                command, stdin=source, stdout=target, stderr=target, timeout=TIME_LIMIT, check=False, cwd="/"
            )
        )
    return subprocess.CompletedProcess(command, done.returncode, "", printed.read_text())


def call_hook(running: RunningDaemon, state: Mapping[str, object] | str) -> subprocess.CompletedProcess[str]:
    """Call the hook as a runtime does, with a container's state on standard input."""
    text = state if isinstance(state, str) else json.dumps(state)
    return run_to_file(running, [str(SANDNET), "-H", f"unix://{running.run}/sandnet.sock", "oci-hook"], text)
