"""Addresses are taken in as soon as the call that gives them has returned, and for as long as they move about.

An IPv6 address is there at once; the route by which the kernel takes in what comes to it is made by a work queue.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface

import pytest

from sandnet.kernel.linux.links import LinuxLinks
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.kernel.netlink.socket import Netlink, attribute
from sandnet.kernel.netlink.uapi.message_numbers import RTM_GETROUTE
from sandnet.kernel.syscalls import opened_namespace
from sandnet.kernel.types import Bridge, Veth
from sandnet.model.address import Address, Interface
from tests.support.network_host import Host, eventually

KEY = "/run/netns-test/box"
BRIDGE = Bridge("snb0", 0, (IPv4Interface("10.9.0.1/24"), IPv6Interface("fd09::1/64")))
VETH = Veth(
    host_link="snv0",
    master="snb0",
    interface="eth0",
    mac="02:42:0a:09:00:02",
    mtu=0,
    address=IPv4Interface("10.9.0.2/24"),
    address_ipv6=IPv6Interface("fd09::2/64"),
    isolated=False,
    hairpin=False,
    service=IPv4Interface("10.9.0.100/24"),
    service_ipv6=IPv6Interface("fd09::100/64"),
)
LOCAL = 2
"""``RTN_LOCAL`` (``linux/rtnetlink.h``): what is sent there is ours."""
NOWHERE = -1
MOVES = 200
SANDBOXES = 40

links = LinuxLinks()
namespaces = LinuxNamespaces("/run/netns-test")


def route_kind(netlink: Netlink, address: Address) -> int:
    """What the kernel does with a packet to the address that comes now."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    header = struct.pack("=BBBBBBBBI", family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body = netlink.get(RTM_GETROUTE, header + attribute(1, address.packed), absent=(errno.ENETUNREACH,))
    return body[7] if body else NOWHERE


class Watch:
    """Asks for the route of an address in the sandbox, on a thread of its own, over and over."""

    def __init__(self, host: Host, address: Address) -> None:
        self.kinds: set[int] = set()
        self.looks = 0
        self._address = address
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(1, initializer=host.enter)
        self._looking: Future[None] = self._pool.submit(self._look)

    def _look(self) -> None:
        with opened_namespace(KEY) as descriptor, Netlink.inside(descriptor) as netlink:
            while not self._ended.is_set():
                self.kinds.add(route_kind(netlink, self._address))
                self.looks += 1

    def close(self) -> None:
        self._ended.set()
        self._looking.result()
        self._pool.shutdown()


@contextmanager
def watched(host: Host, address: Address) -> Iterator[Watch]:
    watch = Watch(host, address)
    try:
        eventually(lambda: watch.looks)
        yield watch
    finally:
        watch.close()


@pytest.fixture
def sandbox(host: Host) -> Host:
    """A host with a bridge and a sandbox that is on no network."""
    host.run(links.ensure_bridge, BRIDGE)
    host.run(namespaces.make, KEY)
    return host


@pytest.mark.parametrize("service", [VETH.service, VETH.service_ipv6], ids=["ipv4", "ipv6"])
def test_service_address_stays_local_while_its_holder_changes(sandbox: Host, service: Interface) -> None:
    sandbox.run(links.plug, KEY, VETH)
    with watched(sandbox, service.ip) as watch:
        for move in range(MOVES):
            sandbox.run(links.plug, KEY, VETH._replace(holder=move % 2 == 0))
        assert watch.looks >= MOVES
    assert watch.kinds == {LOCAL}


def test_ipv6_addresses_of_plugged_sandboxes_are_local_at_once(host: Host) -> None:
    host.run(links.ensure_bridge, BRIDGE)
    assert [host.run(plugged_route, number) for number in range(SANDBOXES)] == [LOCAL] * SANDBOXES


def plugged_route(number: int) -> int:
    """Make a sandbox; what its kernel does with what comes to its IPv6 address next."""
    key, address = f"{KEY}{number}", IPv6Interface(f"fd09::{number + 16:x}/64")
    veth = VETH._replace(
        host_link=f"snv{number}", mac=f"02:42:0a:09:01:{number:02x}", address=IPv4Interface(f"10.9.0.{number + 16}/24"),
        address_ipv6=address, service=None, service_ipv6=None,
    )  # fmt: skip
    namespaces.make(key)
    with opened_namespace(key) as descriptor, Netlink.inside(descriptor) as netlink:
        links.plug(key, veth)
        return route_kind(netlink, address.ip)
