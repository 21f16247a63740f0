"""Encrypted networks of several hosts with their daemons: what passes the wire, whatever is killed or changed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from sandnet.kernel.vxlan.base import PROBE_VNI
from sandnet.lab.host_init import INTERFACE
from sandnet.model.link_names import vxlan_name
from sandnet.prerequisites import has_program
from tests.support.lab import DOUBT, ECHO, LabFactory, RunningLab, echo, lab_directory, new_lab
from tests.support.network_host import eventually
from tests.support.privileges import TAPS_NEED

__all__ = ["lab_directory", "new_lab"]

pytestmark = pytest.mark.timeout(400)
WORD = "a-word-that-must-not-be-on-the-wire"
KEY_FILE = "/var/lib/sandnet/wireguard.json"
BACK = 2.0
"""Seconds in which traffic goes on after the process of the tunnel was killed."""
BUSY = 15.0
"""Seconds that a busy machine may need besides."""
INTERVAL = 0.02
"""Seconds from one echo to the next."""
STOP = "/run/end-of-capture"
PROBES = "".join(f"\\x{byte:02x}" for byte in PROBE_VNI.to_bytes(3, "big"))
"""Hosts probe each other in clear, and nothing of the sandboxes is in that."""
CAPTURE = f"""
import os, socket, struct
listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
listener.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)
listener.bind(("{INTERFACE}", 3))
listener.settimeout(0.1)
print("ready", flush=True)
clear = encrypted = 0
while not os.path.exists("{STOP}"):
    try:
        frame = listener.recv(65536)
    except TimeoutError:
        continue
    port = frame[36:38] if frame[12:14] == b"\\x08\\0" and frame[23] == 17 else b""
    encrypted += port == struct.pack("!H", 51871)
    vxlan = port == struct.pack("!H", 4789) and frame[46:49] != b"{PROBES}"
    clear += b"{WORD}" in frame or vxlan
dropped = struct.unpack("=II", listener.getsockopt(263, 6, 8))[1]
print(clear, encrypted, dropped, flush=True)
"""
FLOOD = f"""
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        sender.sendto(b"{WORD}", ("db", 9))
    except OSError:
        pass
    time.sleep(0.001)
"""


@pytest.fixture
def lab(new_lab: LabFactory, tmp_path: Path) -> RunningLab:
    """Two hosts with an encrypted network; nothing is attached yet."""
    if not has_program("wireguard-go") or not has_program("wg"):
        pytest.skip("wireguard-go is not installed: apt-get install wireguard-go wireguard-tools")
    if TAPS_NEED:
        pytest.skip(TAPS_NEED)
    config = tmp_path / "sandnet.toml"
    config.write_text("wireguard_userspace = true\n")
    lab = new_lab(2, "--", "--config", str(config))
    lab.sandnet(1, "network", "create", "-d", "overlay", "-o", "encrypted=true", "blue")
    lab.wait_until(lambda: all(lab.client(number).get("/networks", name="blue") for number in lab.hosts))
    return lab


@contextmanager
def silent_wire(lab: RunningLab) -> Iterator[None]:
    """Check that within the block nothing of the sandboxes passes the hosts' links in clear, but much encrypted."""
    captures = [lab.popen(number, "python3", "-c", CAPTURE) for number in lab.hosts]
    for capture in captures:
        assert capture.stdout
        assert capture.stdout.readline() == "ready\n"
    yield
    for number, capture in zip(lab.hosts, captures, strict=True):
        lab.sh(number, "touch", STOP)
        out, err = capture.communicate(timeout=30)
        lab.sh(number, "rm", STOP)
        clear, encrypted, dropped = map(int, out.split() or err)
        assert (clear, dropped) == (0, 0)
        assert encrypted > 20


def attach(lab: RunningLab) -> None:
    """Put ``web`` on host 1 and ``db`` on host 2, and let ``web`` flood ``db`` with words from its first moment on."""
    lab.containers[2] = lab.start_sleeper(2, "blue", "db")
    lab.wait_until(lambda: "db" in lab.sandnet(1, "endpoint", "ls", "blue"))
    words = ("run", "-d", "--net", "blue", "--name", "web", "--", "python3", "-c", FLOOD)
    lab.containers[1] = lab.sandnet(1, *words).strip()
    (lab.address,) = lab.resolved(1, lab.containers[1], "db")


def inside(lab: RunningLab) -> tuple[str, ...]:
    """The words that run a command in the sandbox of host 1, with or without a daemon."""
    return "nsenter", f"--net=/var/run/docker/netns/{lab.containers[1][:12]}", "--"


def pings(lab: RunningLab, seconds: int = ECHO) -> bool:
    return lab.run(1, *inside(lab), *echo(seconds), lab.address).returncode == 0


def start_pings(lab: RunningLab, seconds: float) -> subprocess.Popen[str]:
    """Send echoes from host 1 to host 2."""
    return lab.popen(1, *inside(lab), "ping", "-i", str(INTERVAL), "-w", str(int(seconds)), lab.address)


def longest_gap(pings: subprocess.Popen[str]) -> float:
    """The longest time in which echoes were sent and not answered, in seconds. None are sent while all stands still."""
    out, _ = pings.communicate(timeout=120)
    answered = [int(found[1]) for found in re.finditer(r"bytes from .* icmp_seq=(\d+)", out)]
    assert len(answered) > 50, out[-300:]
    return max(after - before for before, after in pairwise(answered)) * INTERVAL


def test_nothing_is_in_clear_whatever_is_killed(lab: RunningLab) -> None:
    with silent_wire(lab):
        attach(lab)
        lab.wait_until(lambda: pings(lab))
        for number in lab.hosts:
            echoes = start_pings(lab, 12)
            lab.sh(number, "sleep", "1")
            lab.sh(number, "pkill", "-KILL", "wireguard-go")
            assert longest_gap(echoes) < BACK + BUSY
        lab.kill(1)
        assert pings(lab), "traffic goes on without the daemon"
        lab.sh(1, "pkill", "-KILL", "wireguard-go")
        assert not pings(lab, DOUBT)
        lab.start(1)
        lab.wait_until(lambda: pings(lab))
        lab.kill(1)
        lab.start(1)
        lab.wait_until(lambda: pings(lab))
    for number in lab.hosts:
        eventually(lambda number=number: lab.client(number).get("/healthz", verbose="true")["status"] == "ok")  # type: ignore[misc]
        lab.wait_until(lambda number=number: "nothing differs" in lab.sandnet(number, "doctor"))  # type: ignore[misc]


def test_key_is_changed_while_traffic_goes_on(lab: RunningLab) -> None:
    attach(lab)
    lab.wait_until(lambda: pings(lab))
    before = lab.sh(1, "wg", "show", "snwg0", "public-key")
    stored = json.loads(lab.sh(1, "cat", KEY_FILE))
    lab.kill(1)
    lab.sh(1, "python3", "-c", f"open('{KEY_FILE}', 'w').write('''{json.dumps({**stored, 'since': 0})}''')")
    lab.start(1)
    with silent_wire(lab):
        echoes = start_pings(lab, 45)
        lab.wait_until(lambda: lab.sh(1, "wg", "show", "snwg0", "public-key") != before, 60)
        lab.wait_until(lambda: before.strip() not in lab.sh(2, "wg", "show", "snwg0", "peers"))
        assert longest_gap(echoes) < 1.0
    assert lab.sh(1, "stat", "-c", "%a", KEY_FILE).strip() == "600"


def test_segments_that_arrive_one_by_one_are_joined(lab: RunningLab) -> None:
    network = lab.client(2).get("/networks", name="blue")[0]
    link = vxlan_name(network["id"])
    assert lab.sh(2, "cat", f"/sys/class/net/{link}/gro_flush_timeout").strip() == "50000"
    assert not lab.client(2).get("/healthz")["problems"]


def test_network_shows_it_and_its_end_removes_the_tunnel(lab: RunningLab) -> None:
    assert lab.client(2).get("/networks", name="blue")[0]
    assert "encrypted" in lab.sandnet(2, "network", "info", "blue")
    assert lab.sandnet(2, "run", "--net", "blue", "--", "cat", "/sys/class/net/eth0/mtu") == "1370\n"
    lab.sandnet(2, "network", "rm", "blue")
    for number in lab.hosts:
        lab.wait_until(lambda number=number: "snwg0" not in lab.sh(number, "ip", "link"))  # type: ignore[misc]
        lab.wait_until(lambda number=number: lab.run(number, "pgrep", "wireguard-go").returncode)  # type: ignore[misc]
        assert "fdb3" not in lab.sh(number, "ip", "-6", "route")
