"""netavark, or its plugin called as netavark would call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.daemon import RunningDaemon

PLUGIN = Path(sys.executable).with_name("sandnet-netavark")
NETAVARK = Path("/usr/lib/podman/netavark")


def runs_plugins() -> bool:
    """Whether there is a netavark that does."""
    if not NETAVARK.exists():
        return False
    return "--plugin-directory" in subprocess.run([NETAVARK, "--help"], capture_output=True, text=True).stdout


class Podman:
    """What Podman passes to netavark for one container on one network.

    Args:
        daemon: the daemon that the plugin asks.
        netns: the container's namespace.
        options: fields of the network.
    """

    def __init__(self, daemon: RunningDaemon, netns: str, **options: Any) -> None:
        self._daemon, self._netns = daemon, netns
        self.network: dict[str, Any] = {
            "name": "blue", "id": "ab" * 32, "driver": "sandnet", "dns_enabled": True, "internal": False,
            "ipv6_enabled": False, "options": {}, "ipam_options": {"driver": "host-local"},
            "subnets": [{"subnet": "10.87.0.0/24", "gateway": "10.87.0.1"}], **options,
        }  # fmt: skip
        self.container: dict[str, Any] = {"container_id": "cd" * 32, "container_name": "web", "port_mappings": []}
        self.joined: dict[str, Any] = {"interface_name": "eth0", "aliases": ["www"]}
        self.socket = f"unix://{daemon.run}/sandnet.sock"

    def __call__(self, command: str) -> tuple[int, Any]:
        """The status and the answer of ``setup`` or ``teardown``."""
        if not runs_plugins():
            message = {**self.container, "network": self.network, "network_options": self.joined}
            return self.plugin(command, self._netns, message=message)
        folder = self._daemon.folder / "netavark"
        folder.mkdir(exist_ok=True)
        if not (folder / "sandnet").exists():
            (folder / "sandnet").symlink_to(PLUGIN)
        words = [str(NETAVARK), f"--config={folder}/config", f"--plugin-directory={folder}", command, self._netns]
        parts = {"networks": {"blue": self.joined}, "network_info": {"blue": self.network}}
        status, answer = self._run(words, {**self.container, **parts})
        return status, answer["blue"] if command == "setup" and not status else answer

    def plugin(self, *words: str, message: Any = None) -> tuple[int, Any]:
        """The status and the answer of the plugin's program."""
        return self._run([str(PLUGIN), *words], message)

    def _run(self, words: list[str], message: Any) -> tuple[int, Any]:
        command = ["env", f"SANDNET_HOST={self.socket}", *words]
        text = message if isinstance(message, str) else json.dumps(message)
        done = self._daemon.host.run(
            lambda: subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=100)
        )
        assert done.stdout or not done.returncode, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None
