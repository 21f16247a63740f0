"""Networks of several hosts, in a laboratory: what one host changes and another sees, joins, and throughput."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Final, Self

from bench.figures import Figure, Section, Target, percentile, time_of
from bench.host import Namespace, stop
from bench.rest import Connection
from bench.sandnet_daemon import SANDNET
from bench.throughput import wait_for_listener
from bench.timing import Counts, Stopwatch
from sandnet.kernel.linux.vxlan.vxlan_links import LinuxVxlanPorts
from sandnet.kernel.syscalls import in_namespace, opened_namespace
from sandnet.kernel.vxlan.base import NO_ENTRIES, PeerEntries, VxlanPort
from sandnet.lab.lab_client import LabClient
from sandnet.lab.lab_directory import BASE_VARIABLE

NAME: Final = "bench"
HOSTS: Final = 3
VISIBLE: Final = Target(20.0)
VISIBLE_P99: Final = Target(100.0)
PEERS: Final = 3334
"""Peers with three entries each: 10,002."""
PROGRAMMED: Final = Target(1000.0)
BARE: Final = Target(0.95, "at least")
HAND_MTU: Final = 1450


class Lab:
    """Hosts and an etcd cluster of three members.

    Args:
        hosts: how many.
    """

    def __init__(self, hosts: int = HOSTS) -> None:
        self.hosts = range(1, hosts + 1)
        self._stack = ExitStack()
        self._directory = Path(tempfile.mkdtemp(prefix="sandnet-bench-", dir="/var/tmp"))

    def __enter__(self) -> Self:
        os.environ[BASE_VARIABLE] = str(self._directory)
        self._command("up", "--hosts", str(len(self.hosts)))
        self.control = LabClient(NAME)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        self._command("down")
        del os.environ[BASE_VARIABLE]
        shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self, number: int, *options: str) -> None:
        """Kill the daemon of a host, or the host with ``--power``."""
        self._command("kill", *options, str(number))

    def _command(self, *words: str) -> None:
        verb, *more = words
        subprocess.run([str(SANDNET), "lab", verb, "--name", NAME, *more], check=True, capture_output=True)

    def address(self, number: int) -> str:
        """Return the underlay address of a host."""
        return self.control.status().hosts[number - 1].address

    def words(self, number: int, *words: str) -> list[str]:
        """Return the command that runs a command on a host."""
        return [str(SANDNET), "lab", "exec", "--name", NAME, str(number), "--", *words]

    def run(self, number: int, *words: str) -> str:
        """Run a command on a host; return what it prints."""
        return subprocess.run(self.words(number, *words), check=True, capture_output=True, text=True).stdout

    def watcher(self, number: int, *words: str) -> subprocess.Popen[str]:
        """Start a program on a host that prints ``ready``, and wait for that; it ends with the lab."""
        started = subprocess.Popen(
            self.words(number, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._stack.callback(stop, started)
        _line_of(started)
        return started

    def rest(self, number: int) -> Connection:
        """Return a connection to the daemon of a host."""
        entry = self._stack.enter_context(self.control.entry(number))
        return Connection(f"/proc/self/fd/{entry.run}/sandnet/sandnet.sock")


def _line_of(started: subprocess.Popen[str]) -> str:
    line = started.stdout.readline() if started.stdout else ""
    if not line:
        raise RuntimeError("a program on a host of the lab ended")
    return line.strip()


def _give(started: subprocess.Popen[str], line: str) -> None:
    if started.stdin:
        started.stdin.write(f"{line}\n")


def measure(counts: Counts) -> Section:
    """Measure all of it, one after the other."""
    before = os.getloadavg()[0]
    with Lab() as lab:
        lab.run(1, "sandnet", "network", "create", "-d", "overlay", "--subnet", "10.60.0.0/16", "blue")
        figures = [*_visible(lab, counts), *_joins(lab, counts), *_streams(lab, counts)]
    with Lab(1) as lab:
        lab.run(1, "sandnet", "network", "create", "-d", "overlay", "--subnet", "10.60.0.0/16", "blue")
        figures += _joins(lab, counts, "in a lab of one host: ")
    figures += _programmed(counts)
    return Section(
        "Networks of several hosts",
        tuple(figures),
        (
            "Three hosts of a laboratory, each with a daemon and a member of etcd, share the machine. A client on "
            "another host asks for the name all the time, and the kernel there reports the peer. What is counted from "
            "the answer is negative if it was seen before the join was answered.",
            "Three hosts share the processors. In a lab of one host, the join and one member of etcd have them alone.",
            "The VXLAN by hand is a veth pair, a bridge and a VXLAN link on each host, with the same MTU and without "
            "any rule.",
            f"Load average at the beginning {before:.1f}, at the end {os.getloadavg()[0]:.1f}; the machine has "
            f"{os.cpu_count()} processors.",
        ),
    )


def _visible(lab: Lab, counts: Counts) -> list[Figure]:
    rest = lab.rest(1)
    lab.run(2, "sandnet", "service", "publish", "client.blue")
    lab.run(2, "sandnet", "service", "attach", "client", "client.blue")
    python = (sys.executable, "-m", "bench.seen")
    names = lab.watcher(2, "sandnet", "sandbox", "exec", "client", "--", *python, "dns")
    kernel = lab.watcher(2, *python, "kernel")
    seen = defaultdict[str, list[float]](list)
    for number in range(counts.calls // 2):
        endpoint = f"/networks/blue/endpoints/e{number}"
        rest.ask("POST", "/networks/blue/endpoints", {"name": f"e{number}"})
        address = str(rest.ask("GET", f"{endpoint}?verbose=true")["address"]).partition("/")[0]
        _give(names, f"e{number}")
        _give(kernel, address)
        begun = time.monotonic()
        rest.ask("POST", f"{endpoint}/containers", {"container_id": f"c{number}"})
        ended = time.monotonic()
        answered = float(_line_of(names))
        programmed = float(_line_of(kernel))
        for name, at in (("dns", answered), ("kernel", programmed)):
            seen[name].append(at - ended)
            seen[f"{name} of request"].append(at - begun)
        seen["request"].append(ended - begun)
    return [
        *_pair("from a join's answer until another host answers the name", seen["dns"]),
        *_pair("from a join's answer until the kernel of another host has the peer", seen["kernel"]),
        time_of("the join itself", seen["request"]),
        time_of("from its request until another host answers the name", seen["dns of request"]),
        time_of("from its request until the kernel of another host has the peer", seen["kernel of request"]),
    ]


def _pair(what: str, samples: Sequence[float]) -> tuple[Figure, Figure]:
    late = percentile(samples, 99) * 1000
    return time_of(what, samples, VISIBLE), Figure("… its 99th percentile", late, "ms", target=VISIBLE_P99)


def _joins(lab: Lab, counts: Counts, where: str = "") -> list[Figure]:
    rest, times = lab.rest(1), {"overlay": Stopwatch(), "bridge": Stopwatch()}
    networks = {"overlay": "blue", "bridge": "plain"}
    rest.ask("POST", "/networks", {"name": "plain", "network_type": "bridge"})
    for number in range(counts.calls // 2):
        for kind, network in networks.items():
            rest.ask("POST", f"/networks/{network}/endpoints", {"name": f"{kind}{number}"})
            path = f"/networks/{network}/endpoints/{kind}{number}/containers"
            times[kind].time(rest.ask, "POST", path, {"container_id": f"{kind}-{number}"})
    answers = lab.run(1, sys.executable, "-m", "bench.seen", "txn", str(counts.calls), lab.address(1))
    transactions: list[float] = json.loads(answers)
    overlay, bridge = times["overlay"].samples, times["bridge"].samples
    bound = (median(bridge) + median(transactions)) * 1000
    return [
        time_of(f"{where}a transaction of etcd", transactions),
        time_of(f"{where}a join on a bridge network", bridge),
        time_of(f"{where}a join on an overlay network; promised: both together", overlay, Target(bound)),
    ]


def _streams(lab: Lab, counts: Counts) -> list[Figure]:
    for number, name in ((1, "here"), (2, "there")):
        lab.run(number, "sandnet", "service", "publish", f"{name}.blue")
        lab.run(number, "sandnet", "service", "attach", name, f"{name}.blue")
        vxlan_by_hand(lab, number, [lab.address(1), lab.address(2)], HAND_MTU)
    ours = json.loads(lab.run(2, "sandnet", "service", "info", "--json", "there.blue"))["address"].partition("/")[0]
    ways = {
        "ours": (("sandnet", "sandbox", "exec", "here", "--"), ("sandnet", "sandbox", "exec", "there", "--"), ours),
        "hand": (("ip", "netns", "exec", "hand"), ("ip", "netns", "exec", "hand"), "10.99.0.2"),
    }
    rates: dict[str, list[float]] = {"ours": [], "hand": []}
    for way in ways.values():
        stream(lab, *way, 1)
    for _ in range(5):
        for name, way in ways.items():
            rates[name].append(stream(lab, *way, counts.seconds))
    spread = {name: f"{min(each):.1f} to {max(each):.1f}, n {len(each)}" for name, each in rates.items()}
    return [
        Figure("a stream over a VXLAN made by hand", median(rates["hand"]), "Gbit/s", spread["hand"]),
        Figure("a stream over an overlay network", median(rates["ours"]), "Gbit/s", spread["ours"]),
        Figure("overlay / by hand", median(rates["ours"]) / median(rates["hand"]), "×", "", BARE),
    ]


def vxlan_by_hand(lab: Lab, number: int, underlay: Sequence[str], mtu: int) -> None:
    """Make a namespace ``hand`` on host 1 or 2, on a bridge with a VXLAN link to the other host, with 10.99.0.NUMBER.

    Args:
        lab: the hosts.
        number: of the host.
        underlay: the addresses of both hosts.
        mtu: of all links.
    """
    options = f"id 9 local {underlay[number - 1]} remote {underlay[2 - number]} dstport 4790"
    for command in (
        "ip netns add hand",
        "ip link add br9 up type bridge",
        f"ip link add vx9 mtu {mtu} up master br9 type vxlan {options}",
        f"ip link add v9 mtu {mtu} up master br9 type veth peer name eth0 mtu {mtu} netns hand",
        f"ip -n hand address add 10.99.0.{number}/24 dev eth0",
        "ip -n hand link set eth0 up",
    ):
        lab.run(number, *command.split())


def stream(lab: Lab, here: Sequence[str], there: Sequence[str], address: str, seconds: int) -> float:
    """Return the Gbit/s of one stream of iperf3 from host 1 to host 2."""
    server = lab.words(2, *there, "iperf3", "--server", "--one-off", "--forceflush")
    listener = subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_listener(listener)
        report = lab.run(1, *here, "iperf3", "--client", address, "--time", str(seconds), "--json")
    finally:
        stop(listener)
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _programmed(counts: Counts) -> list[Figure]:
    """Measure how long the kernel takes for the entries of many peers, in a namespace of its own."""
    host, ports, watch = Namespace(), LinuxVxlanPorts(), Stopwatch()
    local, remote = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    numbers = [number.to_bytes(4, "big") for number in range(PEERS)]
    macs = [b"\x02\x42" + number for number in numbers]
    entries = PeerEntries(
        frozenset((mac, remote.packed) for mac in macs),
        frozenset(macs),
        frozenset((b"\x0a" + number[1:], mac) for number, mac in zip(numbers, macs, strict=True)),
    )
    with opened_namespace(host.path, follow=True) as namespace, in_namespace(namespace):
        host.run(["ip", "link", "add", "br0", "up", "type", "bridge"])
        ports.ensure(VxlanPort("snvx0", "br0", 5000, local, 4789, 1450, isolated=False))
        for _ in range(max(counts.streams // 2, 1)):
            watch.time(ports.change, "snvx0", "br0", NO_ENTRIES, entries)
            ports.change("snvx0", "br0", entries, NO_ENTRIES)
    host.close()
    return [time_of(f"{entries.total:,} entries of {PEERS:,} peers in the kernel", watch.samples, PROGRAMMED)]
