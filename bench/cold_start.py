"""Ten hosts with two thousand endpoints: the start of one that knows nothing, and of all daemons at once."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from bench.figures import MS, Figure, Section, Target
from bench.hosts import Lab
from bench.rest import Connection
from bench.timing import Counts
from sandnet.errors import Error
from sandnet.kernel.linux.vxlan.vxlan_links import LinuxVxlanPorts
from sandnet.kernel.syscalls import in_namespace
from sandnet.lab.entry import KINDS
from sandnet.model.link_names import bridge_name, vxlan_name

HOSTS: Final = 10
NETWORK: Final = "blue"
NET: Final = [kind for kind, _ in KINDS].index("net")
CONVERGED: Final = Target(5000.0)
DEADLINE: Final = 300.0
LOOK: Final = 0.05
"""Seconds between two looks at a kernel."""
ENTRIES: Final = 3
"""In the kernel, for each container on another host."""


class Started(NamedTuple):
    """How a host started, in seconds from the request."""

    ready: float
    """Until its daemon answered."""
    converged: float
    """Until its kernel had all entries."""


def measure(counts: Counts) -> Section:
    """Make the hosts and their containers, start one host without any state, then kill and start all daemons."""
    with Lab(HOSTS) as lab:
        scene = Scene(lab, 2 * counts.many)
        lab.kill(HOSTS, "--power", "--lose-state")
        alone = scene.start([HOSTS])
        for number in lab.hosts:
            lab.kill(number)
            lab.run(number, "ip", "link", "delete", scene.link)
        together = scene.start(list(lab.hosts))
    rows = [
        *_figures("a host that has lost all its state starts", alone, CONVERGED),
        *_figures(f"all {HOSTS} daemons start at once, over kernels without the entries", together, CONVERGED),
    ]
    return Section(
        f"{HOSTS} hosts with {scene.containers:,} endpoints",
        tuple(rows),
        (
            f"Each endpoint has a container, on {HOSTS - 1} of the hosts. A host is in line when its kernel has the "
            f"{ENTRIES} entries of each container of the others. All daemons and the three members of etcd share the "
            f"{os.cpu_count()} processors of this machine.",
        ),
    )


def _figures(what: str, started: list[Started], target: Target) -> list[Figure]:
    spread = f"first {min(each.converged for each in started) * MS:.0f}" if len(started) > 1 else ""
    return [
        Figure(f"{what}: until it answers", max(each.ready for each in started) * MS, "ms"),
        Figure("… until it is in line", max(each.converged for each in started) * MS, "ms", spread, target),
    ]


class Scene:
    """A network of all hosts, with containers on all but the last.

    Args:
        lab: the hosts.
        containers: how many, at least one a host.
    """

    def __init__(self, lab: Lab, containers: int) -> None:
        self._lab = lab
        self._each = max(containers // (HOSTS - 1), 1)
        self.containers = self._each * (HOSTS - 1)
        lab.run(1, "sandnet", "network", "create", "-d", "overlay", "--subnet", "10.60.0.0/16", NETWORK)
        (network,) = lab.rest(1).ask("GET", f"/networks?name={NETWORK}")
        self.link, self._bridge = vxlan_name(network["id"]), bridge_name(network["id"])
        with ThreadPoolExecutor(HOSTS) as pool:
            for made in [pool.submit(self._fill, lab.rest(number), number) for number in range(1, HOSTS)]:
                made.result()

    def _fill(self, rest: Connection, number: int) -> None:
        while not rest.ask("GET", f"/networks?name={NETWORK}"):
            time.sleep(LOOK)
        for each in range(self._each):
            path = f"/networks/{NETWORK}/endpoints"
            rest.ask("POST", path, {"name": f"h{number}-{each}"})
            rest.ask("POST", f"{path}/h{number}-{each}/containers", {"container_id": f"c{number}-{each}"})

    def start(self, hosts: list[int]) -> list[Started]:
        """Start hosts at once, and wait until all are in line."""
        with ThreadPoolExecutor(len(hosts)) as pool:
            return list(pool.map(self._started, hosts))

    def _started(self, number: int) -> Started:
        """Start a host; its kernel may have all entries before its daemon answers."""
        begun = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            ready = pool.submit(self._ready, number, begun)
            own = 0 if number == HOSTS else self._each
            while self._entries(number) < ENTRIES * (self.containers - own):
                if time.monotonic() > begun + DEADLINE:
                    raise RuntimeError(f"host {number} is not in line after {DEADLINE:.0f} s")
                time.sleep(LOOK)
            converged = time.monotonic() - begun
            return Started(ready.result(), converged)

    def _ready(self, number: int, begun: float) -> float:
        self._lab.control.start_host(number)
        return time.monotonic() - begun

    def _entries(self, number: int) -> int:
        try:
            with self._lab.control.entry(number) as entry, in_namespace(entry.namespaces[NET]):
                return LinuxVxlanPorts().entries(self.link, self._bridge).total
        except Error:
            return 0  # the host has no power yet, or no links
