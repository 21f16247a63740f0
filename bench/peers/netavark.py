"""netavark: the network program of Podman, a process for each attach and detach."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from bench.figures import Section
from bench.peers.base import Ours, beside, compared, skipped
from bench.peers.process import ProcessPeer
from bench.sandnet_daemon import Daemon
from bench.timing import Counts

TITLE = "Compared with netavark"
PROGRAM = Path("/usr/lib/podman/netavark")
BOUNDS = {"attach": 0.04}


def measure(counts: Counts) -> Section:
    """Round by round beside sandnet."""
    if not PROGRAM.exists():
        return skipped(TITLE, f"{PROGRAM} is not installed (Debian package netavark)")
    with Daemon() as daemon, tempfile.TemporaryDirectory() as directory:
        peer = Netavark(directory)
        times = beside(peer, Ours(daemon), ("attach", "detach"), counts.peers)
        peer.close()
    figures = [line for verb, pair in times.items() for line in compared("netavark", verb, *pair, BOUNDS.get(verb))]
    note = (
        f"{peer.name}: one network, neither ports nor DNS; a process for each call. The container's namespace "
        "exists already; sandnet's attach creates it."
    )
    return Section(TITLE, tuple(figures), (note,))


class Netavark(ProcessPeer):
    """``setup`` and ``teardown``."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._command = [str(PROGRAM), "--config", directory]
        output = subprocess.run([str(PROGRAM), "--version"], capture_output=True, text=True, check=True).stdout
        self.name = output.strip()

    def attach(self, number: int) -> None:
        """Set up the container's namespace."""
        self._host.run([*self._command, "setup", self._path], _configuration(number))

    def detach(self, number: int) -> None:
        """Tear it down."""
        self._host.run([*self._command, "teardown", self._path], _configuration(number))


def _configuration(number: int) -> str:
    high, low = divmod(number + 2, 256)
    network = {
        "name": "bench",
        "id": "b" * 64,
        "driver": "bridge",
        "network_interface": "bench0",
        "subnets": [{"subnet": "10.210.0.0/16", "gateway": "10.210.0.1"}],
        "ipv6_enabled": False,
        "internal": False,
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
    }
    return json.dumps(
        {
            "container_id": f"{number:064x}",
            "container_name": f"c{number}",
            "networks": {"bench": {"interface_name": "eth0", "static_ips": [f"10.210.{high}.{low}"]}},
            "network_info": {"bench": network},
        }
    )
