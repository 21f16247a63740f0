"""sandnet's own CNI plugin beside the reference plugins: a process for each call on both sides."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from bench.figures import Figure, Section
from bench.peers.base import beside, compared, skipped
from bench.peers.cni import FIRST_PORT, VERSION, Bridge, BridgeAndPort, missing_plugins
from bench.peers.process import ProcessPeer
from bench.sandnet_daemon import Daemon
from bench.timing import Counts

TITLE = "The CNI plugin"
BOUNDS = {("CNI bridge", "attach"): 0.6, ("CNI bridge and portmap", "attach"): 0.35}
PLUGIN = Path(sys.executable).with_name("sandnet-cni")
"""The native plugin, if there was a C compiler when sandnet was installed; else it is in Python."""
ELF = b"\x7fELF"
"""How a compiled program begins (elf(5))."""


def measure(counts: Counts) -> Section:
    """Round by round beside the reference plugins."""
    if missing := missing_plugins():
        return skipped(TITLE, missing)
    figures: list[Figure] = []
    with Daemon() as daemon, tempfile.TemporaryDirectory() as directory:
        for peer, ports in ((Bridge(directory), False), (BridgeAndPort(directory), True)):
            ours = Plugin(daemon, ports=ports)
            times = beside(peer, ours, ("attach", "detach"), counts.peers)
            peer.close()
            ours.close()
            figures += [
                line
                for verb, pair in times.items()
                for line in compared(peer.name, verb, *pair, BOUNDS.get((peer.name, verb)))
            ]
    language = "native" if PLUGIN.read_bytes().startswith(ELF) else "in Python: there is no C compiler"
    notes = ("A process for each plugin and call, in a namespace that exists.", f"sandnet-cni is {language}.")
    return Section(TITLE, tuple(figures), notes)


class Plugin(ProcessPeer):
    """``ADD`` and ``DEL`` of sandnet's plugin, with a published port or without."""

    name = "sandnet-cni"

    def __init__(self, daemon: Daemon, *, ports: bool) -> None:
        super().__init__()
        self._daemon = daemon
        self._ports = ports

    def attach(self, number: int) -> None:
        """``ADD``."""
        self._call("ADD", number)

    def detach(self, number: int) -> None:
        """``DEL``."""
        self._call("DEL", number)

    def _call(self, command: str, number: int) -> None:
        configuration: dict[str, object] = {"cniVersion": VERSION, "name": "cni", "type": "sandnet-cni"}
        if self._ports:
            port = {"hostPort": FIRST_PORT + number, "containerPort": 80, "protocol": "tcp"}
            configuration["runtimeConfig"] = {"portMappings": [port]}
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"c{number}",
            "CNI_NETNS": self._path,
            "CNI_IFNAME": "eth0",
            "SANDNET_HOST": f"unix://{self._daemon.socket}",
        }
        self._host.run([str(PLUGIN)], json.dumps(configuration), environment)
