"""The CNI plugins: bridge with host-local addresses, and portmap for a published port."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from bench.figures import Section
from bench.peers.base import Ours, beside, compared, skipped
from bench.peers.process import ProcessPeer
from bench.sandnet_daemon import Daemon
from bench.timing import Counts

TITLE = "Compared with the CNI plugins"
PLUGINS = Path("/usr/lib/cni")
VERSION = "0.4.0"
"""Of the CNI specification."""
FIRST_PORT = 20000
BOUNDS = {("CNI bridge and portmap", "attach"): 0.03}


def measure(counts: Counts) -> Section:
    """Round by round beside sandnet."""
    if missing := missing_plugins():
        return skipped(TITLE, missing)
    figures = []
    with Daemon() as daemon, tempfile.TemporaryDirectory() as directory:
        ours = Ours(daemon)
        for peer in (Bridge(directory), BridgeAndPort(directory)):
            times = beside(peer, ours, ("attach", "detach"), counts.peers)
            peer.close()
            figures += [
                line
                for verb, pair in times.items()
                for line in compared(peer.name, verb, *pair, BOUNDS.get((peer.name, verb)))
            ]
    note = (
        "A process for each plugin and call. The container's namespace exists already; sandnet's attach creates it. "
        "sandnet publishes a port when the endpoint is created, so its attach is the same with and without one."
    )
    return Section(TITLE, tuple(figures), (note,))


def missing_plugins() -> str:
    """Return which plugins are not installed; empty: none."""
    missing = [name for name in ("bridge", "host-local", "portmap") if not (PLUGINS / name).exists()]
    return f"{', '.join(missing)} not in {PLUGINS} (Debian package containernetworking-plugins)" if missing else ""


class Bridge(ProcessPeer):
    """``ADD`` and ``DEL`` of the bridge plugin."""

    name = "CNI bridge"

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = directory
        self._result: Any = None

    def attach(self, number: int) -> None:
        """``ADD``."""
        self._result = json.loads(self._call("bridge", "ADD", number))

    def detach(self, number: int) -> None:
        """``DEL``."""
        self._call("bridge", "DEL", number)

    def _call(self, plugin: str, command: str, number: int, **more: Any) -> str:
        configuration = {
            "cniVersion": VERSION,
            "name": "bench",
            "type": plugin,
            "bridge": "bench0",
            "isGateway": True,
            "ipam": {"type": "host-local", "subnet": "10.211.0.0/16", "dataDir": self._directory},
        }
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"c{number}",
            "CNI_NETNS": self._path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(PLUGINS),
        }
        return self._host.run([str(PLUGINS / plugin)], json.dumps({**configuration, **more}), environment)


class BridgeAndPort(Bridge):
    """The same and then portmap, as a runtime chains them."""

    name = "CNI bridge and portmap"

    def attach(self, number: int) -> None:
        """``ADD`` of both."""
        super().attach(number)
        self._call("portmap", "ADD", number, **self._chained(number))

    def detach(self, number: int) -> None:
        """``DEL`` of both, the other way round."""
        self._call("portmap", "DEL", number, **self._chained(number))
        super().detach(number)

    def _chained(self, number: int) -> dict[str, Any]:
        port = {"hostPort": FIRST_PORT + number, "containerPort": 80, "protocol": "tcp"}
        return {
            "capabilities": {"portMappings": True},
            "runtimeConfig": {"portMappings": [port]},
            "prevResult": self._result,
        }
