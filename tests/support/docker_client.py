"""The real docker command, as a client of the sandnet daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.daemon import RunningDaemon

DEBIAN_DOCKER = "/usr/bin/docker"


def docker_commands() -> list[str]:
    """The docker commands of this machine: Debian's, and the first one of the path if it is another."""
    found = [path for path in (DEBIAN_DOCKER, shutil.which("docker") or DEBIAN_DOCKER) if Path(path).exists()]
    return list(dict.fromkeys(found))


class DockerClient:
    """One docker command, connected to a daemon."""

    def __init__(self, daemon: RunningDaemon, program: str) -> None:
        self._daemon, self._program = daemon, program

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``docker`` on the daemon's host."""
        words = (
            self._program,
            "--config",
            str(self._daemon.folder),
            "-H",
            f"unix://{self._daemon.run}/sandnet.sock",
            *words,
        )
        return self._daemon.host.run(
            lambda: subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
        )

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

    def inspect(self, network: str) -> Any:
        """A network as the daemon's answer has it."""
        return json.loads(self("network", "inspect", network))[0]
