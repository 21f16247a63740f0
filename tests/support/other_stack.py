"""A network stack of its own behind an interface: as a virtual machine's behind a tap, or gVisor's behind a veth.

It is a namespace with a tap, whose frames a thread carries from and to the interface. So it has its own loopback.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import ExitStack, suppress
from typing import Final

from tests.support.network_host import Container, Host
from tests.support.taps import open_tap

_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_ETH_P_ALL = 3
_LARGEST: Final = 1 << 17


class OtherStack:
    """The stack, with ``eth0``.

    Args:
        host: the host.
        descriptor: the other end, which has a ``struct virtio_net_hdr`` before each frame; closed in the end.
        mac: of ``eth0``.
        addresses: of ``eth0``, in CIDR notation.
    """

    def __init__(self, host: Host, descriptor: int, mac: str, *addresses: str) -> None:
        self._host = host
        self._stack = ExitStack()
        self._stack.callback(os.close, descriptor)
        self.inside: Container = host.container()
        own = self.inside.run(open_tap, "eth0")
        self._stack.callback(os.close, own)
        self.sh("ip", "link", "set", "lo", "up")
        self.sh("ip", "link", "set", "eth0", "address", mac, "up")
        for address in addresses:
            self.sh("ip", "address", "add", address, "dev", "eth0", *(("nodad",) if ":" in address else ()))
        self._end, self._ended = os.pipe()
        self._stack.callback(os.close, self._end)
        self._thread = threading.Thread(target=self._carry, args=(descriptor, own))
        self._thread.start()

    def sh(self, *command: str) -> str:
        """The output of a command inside."""
        return self._host.sh(*command, namespace=self.inside.path)

    def close(self) -> None:
        """End it, as if the machine lost its power."""
        os.close(self._ended)
        self._thread.join()
        self._stack.close()

    def _carry(self, one: int, other: int) -> None:
        targets = {one: other, other: one}
        while True:
            ready = select.select([one, other, self._end], [], [])[0]
            if self._end in ready:
                return
            for each in ready:
                with suppress(OSError):  # a link that is down, or a full queue, loses frames
                    os.write(targets[each], os.read(each, _LARGEST))


def packet_socket(host: Host, namespace: str, interface: str) -> int:
    """A descriptor of an interface's frames, each with its header, as gVisor takes them."""

    def made() -> int:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL))
        opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        opened.bind((interface, _ETH_P_ALL))
        return opened.detach()

    return host.inside(namespace, made)
