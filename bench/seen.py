"""What is seen on a host of a lab, and when, by the clock that all processes of the machine have.

``python -m bench.seen dns`` and ``kernel`` read lines: a name, or an address. They print the time (CLOCK_MONOTONIC) at
which the name server of the sandbox answers it, or at which the kernel has the neighbour. ``txn COUNT ADDRESS`` prints
how long transactions of etcd take.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from ipaddress import ip_address

PAUSE = 0.0005
"""Seconds between two looks."""
NAME_SERVER = ("127.0.0.11", 53)
ETCD_PORT = 2379


def answered(query: socket.socket, name: str) -> bool:
    """Ask for the address of a name; return whether there is one."""
    number = int.from_bytes(os.urandom(2))
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query.sendto(
        struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1), NAME_SERVER
    )
    with suppress(TimeoutError):
        while True:
            answer = query.recv(2048)
            if answer[:2] == struct.pack("!H", number):
                return answer[6:8] != b"\0\0"
    return False


def watch_names() -> None:
    """Print when each name that is given is answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        query.settimeout(0.2)
        print("ready", flush=True)
        for line in sys.stdin:
            while not answered(query, line.strip()):
                time.sleep(PAUSE)
            print(time.monotonic(), flush=True)


def watch_kernel() -> None:
    """Print when each address that is given is a neighbour, as the kernel's notifications have it."""
    from sandnet.kernel.linux.vxlan.vxlan_links import LinuxVxlanPorts

    ports, seen = LinuxVxlanPorts(), dict[bytes, float]()
    ports.changed()
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = ip_address(line.strip()).packed
        while wanted not in seen:
            for entries in ports.changed().present.values():
                seen.update({address: time.monotonic() for address, _ in entries.neighbours})
            time.sleep(PAUSE)
        print(seen.pop(wanted), flush=True)


def time_transactions(count: int, address: str) -> None:
    """Print how many seconds each of some transactions took: two comparisons and two puts, on one connection."""
    connection = http.client.HTTPConnection(address, ETCD_PORT)
    times = []
    for number in range(count):
        keys = [base64.b64encode(f"bench/{number}/{each}".encode()).decode() for each in range(2)]
        body = {
            "compare": [{"key": key, "target": "CREATE", "create_revision": "0"} for key in keys],
            "success": [{"request_put": {"key": key, "value": base64.b64encode(bytes(300)).decode()}} for key in keys],
        }
        begun = time.perf_counter()
        connection.request("POST", "/v3/kv/txn", json.dumps(body))
        connection.getresponse().read()
        times.append(time.perf_counter() - begun)
    print(json.dumps(times))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["dns"]:
            watch_names()
        case ["kernel"]:
            watch_kernel()
        case [_, count, address]:
            time_transactions(int(count), address)
