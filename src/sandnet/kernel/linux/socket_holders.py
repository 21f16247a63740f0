"""Finds the process that has a port, only after binding it has failed (proc(5), ``/proc/net/tcp``)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from sandnet.model.address import Address

_TABLES: Final = {
    (socket.IPPROTO_TCP, 4): ("tcp", "tcp6"),
    (socket.IPPROTO_TCP, 6): ("tcp6",),
    (socket.IPPROTO_UDP, 4): ("udp", "udp6"),
    (socket.IPPROTO_UDP, 6): ("udp6",),
}
"""An IPv6 socket may hold the port for IPv4 too."""
_UNKNOWN: Final = "by another program"


def holder_of(proto: int, address: Address, port: int) -> str:
    """Return ``by nginx (pid 123)``, or as much of it as can be found.

    Connections that are closing belong to no process, and a bound TCP socket that does not listen is in no list of the
    kernel.
    """
    inodes = {
        inode
        for table in _TABLES.get((proto, address.version), ())
        for local, inode in _entries(table, port)
        if _covers(local, address)
    }
    if inodes == {"0"}:
        return "by connections that are still closing"
    for pid in _processes() if inodes else ():
        if _has_socket(pid, inodes):
            return f"by {_name(pid)} (pid {pid})"
    return _UNKNOWN


def _covers(local: Address, address: Address) -> bool:
    return local == address or local.is_unspecified or address.is_unspecified


def _entries(table: str, port: int) -> Iterator[tuple[Address, str]]:
    """Yield local address and inode of every socket in the table that has the port."""
    try:
        with open(f"/proc/thread-self/net/{table}", encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                host, _, local_port = fields[1].partition(":")
                if int(local_port, 16) == port:
                    yield _parsed(host), fields[9]
    except OSError:
        return


def _parsed(text: str) -> Address:
    """Parse an address: the kernel prints words of 32 bits, each in the machine's byte order."""
    words = (int(text[start : start + 8], 16) for start in range(0, len(text), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if isinstance(mapped, IPv4Address) else address


def _processes() -> Iterator[str]:
    try:
        yield from (name for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return


def _has_socket(pid: str, inodes: set[str]) -> bool:
    targets = {f"socket:[{inode}]" for inode in inodes - {"0"}}
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_target(entry.path) in targets for entry in entries)
    except OSError:  # it has exited, or we may not read it
        return False


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() or "a program"
    except OSError:
        return "a program"
