"""The CNI plugin's program, called as a container runtime calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.daemon import RunningDaemon

PLUGIN = Path(sys.executable).with_name("sandnet-cni")
VERSIONS = ["0.4.0", "1.0.0", "1.1.0"]
JSON = Any


class Outcome(NamedTuple):
    """What a call printed, and its status."""

    status: int
    printed: str
    complained: str

    @property
    def answer(self) -> JSON:
        """The result or error; what is printed is always JSON, if there is anything."""
        return json.loads(self.printed) if self.printed else None


class Runtime:
    """Calls of the plugin for one network.

    Args:
        daemon: the daemon that is asked.
        name: the network's name in the configuration.
        version: the version of the specification.
        more: further fields of the configuration.
    """

    def __init__(self, daemon: RunningDaemon, name: str = "web", version: str = "1.0.0", **more: JSON) -> None:
        self._daemon = daemon
        self.configuration = {"cniVersion": version, "name": name, "type": "sandnet-cni", **more}

    def call(
        self,
        command: str,
        container: str = "",
        netns: str = "",
        ifname: str = "eth0",
        args: str = "",
        *,
        text: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        **more: JSON,
    ) -> Outcome:
        """Run the plugin once; ``more`` is added to the configuration, ``text`` replaces it."""
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": "/opt/cni/bin",
            "SANDNET_HOST": f"unix://{self._daemon.run}/sandnet.sock",
            "PATH": os.environ["PATH"],
            **(environment or {}),
        }
        variables = {name: value for name, value in variables.items() if value}
        given = json.dumps({**self.configuration, **more}).encode() if text is None else text

        def run() -> subprocess.CompletedProcess[bytes]:
            return subprocess.run([PLUGIN], input=given, env=variables, capture_output=True, check=False, timeout=60)

        done = self._daemon.host.run(run)
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    def add(self, container: str, netns: str, ifname: str = "eth0", args: str = "", **more: JSON) -> JSON:
        """The result of an ``ADD`` that succeeds."""
        outcome = self.call("ADD", container, netns, ifname, args, **more)
        assert outcome.status == 0, outcome
        return outcome.answer

    def delete(self, container: str, netns: str = "", ifname: str = "eth0", **more: JSON) -> None:
        """Run a ``DEL``, which always succeeds."""
        assert self.call("DEL", container, netns, ifname, **more) == (0, "", "")

    def refused(self, command: str, *words: str, **more: JSON) -> JSON:
        """The error of a call that fails."""
        outcome = self.call(command, *words, **more)
        assert outcome.status == 1, outcome
        assert {"cniVersion", "code", "msg"} <= outcome.answer.keys()
        return outcome.answer


def address_of(result: JSON) -> str:
    """The IPv4 address in a result, without its prefix length."""
    return str(next(each["address"] for each in result["ips"] if "." in each["address"])).partition("/")[0]
