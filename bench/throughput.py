"""TCP between two containers of a network, beside a bridge made by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from statistics import median

from bench.figures import Figure, Section, parity_of
from bench.host import Namespace, stop
from bench.sandnet_daemon import Daemon
from bench.timing import Counts


@dataclass(frozen=True)
class Pair:
    """Namespaces that reach each other, by their paths, and the address at which who listens is reached."""

    listeners: tuple[str, ...]
    """Where the stream may arrive."""
    sender: str
    address: str


def measure(counts: Counts) -> Section:
    """Streams alternate between the two, after one each to warm up."""
    host, here, there = Namespace(), Namespace(), Namespace()
    with Daemon() as daemon:
        ours, plain = _joined(daemon), _by_hand(host, here, there)
        rates: dict[Pair, list[float]] = {plain: [], ours: []}
        for pair in rates:
            stream(pair, 1)
        for _ in range(counts.streams):
            for pair, seen in rates.items():
                seen.append(stream(pair, counts.seconds))
    for namespace in (host, here, there):
        namespace.close()
    program = "iperf3" if shutil.which("iperf3") else "Python sockets, as iperf3 is not installed"
    return Section(
        "Throughput between two containers",
        (
            Figure("a bridge made by hand", median(rates[plain]), "Gbit/s", _spread(rates[plain])),
            Figure("a sandnet network", median(rates[ours]), "Gbit/s", _spread(rates[ours])),
            parity_of("sandnet / by hand", rates[ours], rates[plain]),
        ),
        (
            f"One TCP stream of {counts.seconds} s with {program}, alternating between the two. 1.00 means no "
            "difference. The noise is the median deviation among the runs over the bridge made by hand.",
        ),
    )


def _spread(rates: list[float]) -> str:
    return f"{min(rates):.1f} to {max(rates):.1f}, n {len(rates)}"


def _joined(daemon: Daemon) -> Pair:
    network = daemon.network("stream", subnet="10.205.0.0/24")
    listener = daemon.join(network, daemon.endpoint(network, "a", address="10.205.0.10"), "a" * 12)
    sender = daemon.join(network, daemon.endpoint(network, "b"), "b" * 12)
    return Pair((listener,), sender, "10.205.0.10")


def _by_hand(host: Namespace, here: Namespace, there: Namespace) -> Pair:
    host.run(["ip", "link", "add", "br0", "up", "type", "bridge"])
    for name, namespace, address in (("v0", here, "10.206.0.10/24"), ("v1", there, "10.206.0.11/24")):
        peer = ["peer", "name", "eth0", "netns", namespace.path]
        host.run(["ip", "link", "add", name, "up", "master", "br0", "type", "veth", *peer])
        namespace.run(["ip", "addr", "add", address, "dev", "eth0"])
        namespace.run(["ip", "link", "set", "eth0", "up"])
    return Pair((here.path,), there.path, "10.206.0.10")


def stream(pair: Pair, seconds: int) -> float:
    """Gbit/s from the sender to whichever listener it reaches."""
    if shutil.which("iperf3"):
        serve = ["iperf3", "--server", "--one-off", "--forceflush"]
        send = ["iperf3", "--client", pair.address, "--time", str(seconds), "--json"]
    else:
        serve = [sys.executable, "-m", "bench.stream", "serve"]
        send = [sys.executable, "-m", "bench.stream", "send", pair.address, str(seconds)]
    listeners: list[subprocess.Popen[str]] = []
    try:
        for place in pair.listeners:
            listeners.append(
                subprocess.Popen(
                    ["nsenter", f"--net={place}", *serve], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
            wait_for_listener(listeners[-1])
        command = ["nsenter", f"--net={pair.sender}", *send]
        report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    finally:
        for listener in listeners:
            stop(listener)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def wait_for_listener(listener: subprocess.Popen[str]) -> None:
    """Wait until it reports that it listens.

    Raises:
        RuntimeError: it ended without that.
    """
    for line in listener.stdout or ():
        if "listening" in line:
            return
    raise RuntimeError("the listener ended before it listened")
