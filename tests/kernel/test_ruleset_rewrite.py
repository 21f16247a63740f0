"""A table that is put in place again while packets pass: none of them misses a rule or an element."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from sandnet.firewall.ruleset.tables import in_place
from sandnet.kernel.linux.nftables import Nftables
from sandnet.kernel.nft_types import link_name
from sandnet.kernel.types import ElementSet, Value
from tests.support.network_host import Host

TABLE = "inet rewritten"
SETS = """\
  set ours { type ifname; }
  map where { type ifname . ifname : verdict; }
  set ranges { type ifname . ipv4_addr; flags interval; }
"""
CHAINS = """\
  chain passed {
    accept
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname @ours goto checked
  }
  chain checked {
    oifname . ip daddr != @ranges drop
    oifname . oifname vmap @where
    drop
  }
"""
LO = link_name("lo")
ELEMENTS: dict[ElementSet, dict[bytes, Value]] = {
    ElementSet(TABLE, "ours"): {LO: b""},
    ElementSet(TABLE, "where"): {LO + LO: "goto passed"},
    ElementSet(TABLE, "ranges", ranges=True): {
        LO + IPv4Address("127.0.0.0").packed + LO + IPv4Address("127.255.255.255").packed: b""
    },
}
REWRITES = 60
"""Each of a table that was deleted lost packets (see ``ruleset.tables``), in 98 of 100 cases."""


@pytest.fixture
def firewall(host: Host) -> Iterator[Nftables]:
    made = Nftables()
    host.run(made.run, in_place(TABLE, SETS, CHAINS), ELEMENTS)
    yield made
    made.close()


def test_rewritten_table_drops_no_packet_it_accepts(host: Host, firewall: Nftables) -> None:
    sender = _Sender(host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
    sender.start()
    for _ in range(REWRITES):
        before = sender.sent
        host.run(firewall.run, in_place(TABLE, SETS, CHAINS), ELEMENTS)
        sender.wait_beyond(before)
    sender.stop()
    assert sender.sent > REWRITES
    assert sender.refused == 0


def test_table_without_an_element_drops_what_the_sender_sends(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, in_place(TABLE, SETS, CHAINS), {**ELEMENTS, ElementSet(TABLE, "where"): {}})
    sender = _Sender(host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
    sender.start()
    sender.wait_beyond(sender.sent)
    sender.stop()
    assert sender.refused == sender.sent > 0


class _Sender(threading.Thread):
    """Sends datagrams to the loopback as fast as it can, and counts those that a rule dropped (``EPERM``)."""

    def __init__(self, udp: socket.socket) -> None:
        super().__init__(daemon=True)
        self._udp = udp
        self._ended = threading.Event()
        self._progress = threading.Condition()
        self.sent = 0
        self.refused = 0

    def run(self) -> None:
        while not self._ended.is_set():
            for _ in range(20):
                try:
                    self._udp.sendto(b"x", ("127.0.0.1", 9))
                except PermissionError:
                    self.refused += 1
                self.sent += 1
            with self._progress:
                self._progress.notify_all()

    def wait_beyond(self, count: int) -> None:
        """Wait until more than ``count`` datagrams were sent."""
        with self._progress:
            assert self._progress.wait_for(lambda: self.sent > count, timeout=10)

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._udp.close()
