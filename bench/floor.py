"""The kernel's floor: the least that an attach and a network cost, in raw netlink.

Written apart from the program's own netlink code, so that the floor does not move when that does.
Layouts are those of ``linux/netlink.h``, ``linux/rtnetlink.h`` and ``linux/if_link.h``.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from sandnet.kernel.syscalls import OWN_NAMESPACE, in_namespace, restoring_namespace, unshare_network

_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_REQUEST_ACK, _CREATE = 0x5, 0x600
_IFNAME, _MASTER, _LINKINFO, _NET_NS_FD = 3, 10, 18, 28
_UP = 1
_SUBNET = "10.9"
"""Its first two bytes; no other process is in these namespaces."""
_LOOPBACK, _INTERFACE, _BRIDGE, _PORTS, _NETWORKS = 1, 10, 20, 100_000, 200_000
"""Link indices. They are chosen here, which saves asking for them."""


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _name(name: str) -> bytes:
    return _attribute(_IFNAME, name.encode() + b"\0")


def _link(index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _kind(kind: bytes, *data: bytes) -> bytes:
    return _attribute(_LINKINFO, _attribute(1, kind + b"\0") + (_attribute(2, b"".join(data)) if data else b""))


_NO_LINK_LOCAL = _attribute(26, _attribute(socket.AF_INET6, _attribute(8, b"\1")))
"""``IFLA_AF_SPEC`` with the address generation mode "none"."""


class _Netlink:
    """A socket of the namespace it was made in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def ask(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, 1, 0) + body)
        code = struct.unpack_from("=i", self._socket.recv(65536), 16)[0]
        if code:
            raise OSError(-code, os.strerror(-code))

    def address(self, index: int, address: str, length: int) -> None:
        packed = socket.inet_aton(address)
        header = struct.pack("=BBBBi", socket.AF_INET, length, 0, 0, index)
        self.ask(_NEWADDR, _CREATE, header + _attribute(2, packed) + _attribute(1, packed))

    def up(self, index: int) -> None:
        self.ask(_NEWLINK, 0, _link(index, _UP))

    def quiet(self, index: int) -> None:
        """No IPv6 address of the link's own accord: a link announces one to every port of its bridge, which by
        the thousandth attach costs ten times the attach. Has to be done before the link is up.
        """
        self.ask(_NEWLINK, 0, _link(index) + _NO_LINK_LOCAL)

    def default_route(self, gateway: str) -> None:
        header = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0)
        self.ask(_NEWROUTE, _CREATE, header + _attribute(5, socket.inet_aton(gateway)))

    def close(self) -> None:
        self._socket.close()


class Floor:
    """A host namespace with one bridge, and what is attached to it."""

    def __init__(self) -> None:
        with restoring_namespace():
            unshare_network()
            self._place = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
            self._host = _Netlink()
        self._make_bridge(_BRIDGE, "bridge", f"{_SUBNET}.0.1", 16)
        self._sandboxes: list[int] = []

    def attach(self, number: int) -> None:
        """Make a namespace with an interface, an address and a default route; ``number`` is 0 to 65,000."""
        with restoring_namespace():
            unshare_network()
            namespace = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
            inside = _Netlink()
        self._sandboxes.append(namespace)
        inside.up(_LOOPBACK)
        peer = _link(_INTERFACE) + _name("eth0") + _attribute(_NET_NS_FD, struct.pack("=I", namespace))
        pair = _kind(b"veth", _attribute(1, peer)) + _attribute(_MASTER, struct.pack("=I", _BRIDGE))
        self._host.ask(_NEWLINK, _CREATE, _link(_PORTS + number) + _name(f"v{number}") + pair)
        self._host.quiet(_PORTS + number)
        self._host.up(_PORTS + number)
        high, low = divmod(number + 2, 256)
        inside.address(_INTERFACE, f"{_SUBNET}.{high}.{low}", 16)
        inside.quiet(_INTERFACE)
        inside.up(_INTERFACE)
        inside.default_route(f"{_SUBNET}.0.1")
        inside.close()

    def network(self, number: int) -> None:
        """Make a bridge that is up and has an address; ``number`` is 0 to 65,000."""
        high, low = divmod(number, 256)
        self._make_bridge(_NETWORKS + number, f"n{number}", f"11.{high}.{low}.1", 24)

    def _make_bridge(self, index: int, name: str, address: str, length: int) -> None:
        self._host.ask(_NEWLINK, _CREATE, _link(index, _UP) + _name(name) + _kind(b"bridge"))
        self._host.address(index, address, length)

    def links(self) -> int:
        """How many links the host has."""
        with in_namespace(self._place):
            return len(Path("/proc/thread-self/net/dev").read_text().splitlines()) - 2

    def release(self) -> None:
        """Release what is attached; its links are deleted with it, in the background."""
        for namespace in self._sandboxes:
            os.close(namespace)
        self._sandboxes.clear()

    def close(self) -> None:
        """Release everything: the kernel deletes it in the background."""
        self.release()
        self._host.close()
        os.close(self._place)
