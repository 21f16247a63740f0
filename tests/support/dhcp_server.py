"""A DHCP server on the segment of the host's uplink: dnsmasq, on the machine outside."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.daemon import OUTSIDE_ADDRESS, RunningDaemon
from tests.support.network_host import eventually

FIRST, LAST = "198.51.100.100", "198.51.100.150"
SHORTEST = 16
"""Seconds of the shortest lease that udhcpc accepts."""
_STARTED = "DHCP, sockets bound"


class DhcpServer:
    """Answers while it runs; its leases are in a file, as on a real one, and outlast it.

    Args:
        daemon: the host, and the machine beside it.
        folder: for its files.
    """

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        self._daemon = daemon
        self._log = folder / "dnsmasq.log"
        self._leases = folder / "dnsmasq.leases"
        self._process: subprocess.Popen[str] | None = None

    def start(
        self,
        *options: str,
        port: int = 0,
        first: str = FIRST,
        last: str = LAST,
        mask: str = "255.255.255.0",
        lease: str = "1h",
    ) -> None:
        """Start it, with further options.

        Args:
            options: options of dnsmasq.
            port: at which it answers names; 0: nowhere.
            first: the first address that it gives.
            last: the last one.
            mask: the mask of the segment.
            lease: how long a lease lasts.
        """
        command = [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--port={port}", "--interface=eth0",
            "--bind-interfaces", f"--dhcp-range={first},{last},{mask},{lease}",
            f"--dhcp-option=option:router,{OUTSIDE_ADDRESS}",
            f"--dhcp-leasefile={self._leases}", f"--log-facility={self._log}", "--log-dhcp", "--no-ping",
            "--dhcp-authoritative", "--pid-file=", *options,
            "--user=root", "--group=",  # an ordinary user can change neither
        ]  # fmt: skip
        self._log.write_text("")
        host = self._daemon.host
        self._process = host.inside(self._daemon.outside.namespace, host.start_here, *command)
        eventually(lambda: _STARTED in self.log)

    def stop(self) -> None:
        """Kill it, so that no one answers any more."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """What it has done since its start."""
        return self._log.read_text()

    def forget(self) -> None:
        """Lose all leases; it does not run."""
        self._leases.unlink(missing_ok=True)

    def count(self, message: str, mac: str) -> int:
        """Return how many messages of a kind, as ``DHCPREQUEST``, concern a client."""
        return sum(f"{message}(" in line and mac in line for line in self.log.splitlines())

    def has_leased(self, address: str) -> bool:
        """Return whether an address is leased."""
        return any(line.split()[2] == address for line in self._leases.read_text().splitlines())


class ShortLeases:
    """Another server, udhcpd of BusyBox: its leases may be shorter than two minutes.

    Args:
        daemon: the host, and the machine beside it.
        folder: for its files.
    """

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        config = folder / "udhcpd.conf"
        config.write_text(
            f"start {FIRST}\nend {LAST}\ninterface eth0\nlease_file {folder}/udhcpd.leases\npidfile {folder}/pid\n"
            f"opt subnet 255.255.255.0\nopt router {OUTSIDE_ADDRESS}\nopt lease {SHORTEST}\nmin_lease {SHORTEST}\n"
        )
        host = daemon.host
        command = ("busybox", "udhcpd", "-f", str(config))
        self._process = host.inside(daemon.outside.namespace, host.start_here, *command)

    def stop(self) -> None:
        """Kill it, so that no one answers any more."""
        self._process.kill()
        self._process.wait()
