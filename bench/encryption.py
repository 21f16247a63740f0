"""Streams between two hosts of a laboratory: encrypted network, wireguard-go alone, and a VXLAN by hand over it."""

from __future__ import annotations

import json
import shutil
import subprocess
from statistics import median
from typing import Final

from bench.figures import Figure, Section, Target
from bench.hosts import Lab, stream, vxlan_by_hand
from bench.timing import Counts

PAIRS: Final = 5
TUNNEL: Final = "10.98.0"
HAND: Final = "10.99.0.2"
TUNNEL_MTU: Final = 1420
"""As ``wg-quick`` has it on Ethernet."""
HAND_MTU: Final = TUNNEL_MTU - 50
PORT: Final = 51999
BARE: Final = Target(0.9, "at least")
ENTER_HAND: Final = ("ip", "netns", "exec", "hand")


def measure(counts: Counts) -> Section:
    """Measure the three ways in turn."""
    if not (shutil.which("wireguard-go") and shutil.which("wg")):
        return Section("Encrypted networks", (), ("Not measured: wireguard-go or wg is not installed.",))
    with Lab(2) as lab:
        lab.run(1, "sandnet", "network", "create", "-d", "overlay", "-o", "encrypted=true", "--subnet",
                "10.61.0.0/16", "red")  # fmt: skip
        keys = {number: _tunnel(lab, number) for number in (1, 2)}
        for number in (1, 2):
            _connect(lab, number, keys[3 - number])
            vxlan_by_hand(lab, number, [f"{TUNNEL}.1", f"{TUNNEL}.2"], HAND_MTU)
        for number, name in ((1, "here"), (2, "there")):
            lab.run(number, "sandnet", "service", "publish", f"{name}.red")
            lab.run(number, "sandnet", "service", "attach", name, f"{name}.red")
        info = json.loads(lab.run(2, "sandnet", "service", "info", "--json", "there.red"))
        ours = info["address"].partition("/")[0]
        ways = {
            "alone": ((), (), f"{TUNNEL}.2"),
            "hand": (ENTER_HAND, ENTER_HAND, HAND),
            "ours": (("sandnet", "sandbox", "exec", "here", "--"), ("sandnet", "sandbox", "exec", "there", "--"), ours),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            stream(lab, *way, 1)
        for _ in range(PAIRS):
            for name, way in ways.items():
                rates[name].append(stream(lab, *way, 2 * counts.seconds))
    version = subprocess.run(["wireguard-go", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    spread = {name: f"{min(each):.2f} to {max(each):.2f}, n {len(each)}" for name, each in rates.items()}
    typical = {name: median(each) for name, each in rates.items()}
    return Section(
        "Encrypted networks",
        (
            Figure("a stream over wireguard-go alone", typical["alone"], "Gbit/s", spread["alone"]),
            Figure("… over a VXLAN made by hand on it", typical["hand"], "Gbit/s", spread["hand"]),
            Figure("… over an encrypted network", typical["ours"], "Gbit/s", spread["ours"]),
            Figure("encrypted network / wireguard-go alone", typical["ours"] / typical["alone"], "×", "", BARE),
            Figure("encrypted network / by hand", typical["ours"] / typical["hand"], "×"),
        ),
        (f"{version or 'wireguard-go'}. Both hosts share the machine; so do both ends of the cipher.",),
    )


def _tunnel(lab: Lab, number: int) -> str:
    """Start a tunnel of wireguard-go on a host; return its public key."""
    lab.run(number, "wireguard-go", "wg9")
    for command in (
        "umask 077; wg genkey > /run/wg9.key",
        f"wg set wg9 listen-port {PORT} private-key /run/wg9.key",
        f"ip address add {TUNNEL}.{number}/24 dev wg9",
        f"ip link set wg9 mtu {TUNNEL_MTU} up",
    ):
        lab.run(number, "sh", "-c", command)
    return lab.run(number, "wg", "show", "wg9", "public-key").strip()


def _connect(lab: Lab, number: int, key: str) -> None:
    other = 3 - number
    where = ("endpoint", f"{lab.address(other)}:{PORT}", "allowed-ips", f"{TUNNEL}.{other}/32")
    lab.run(number, "wg", "set", "wg9", "peer", key, *where)
