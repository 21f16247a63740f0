"""A host keeps the default route that routers advertise, although it forwards IPv6 for our networks."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.network_host import Container
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(120)

SOLICITATION, ADVERTISEMENT = 133, 134


class Router:
    """Advertises itself on the link ``r0`` of a namespace, when instructed to and when asked."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._daemon = daemon
        self.namespace: Container = daemon.host.container()
        self.place = daemon.place(self.namespace.path)
        self._stop = threading.Event()

    def begin(self) -> None:
        self.place.sh("sysctl", "-qw", "net.ipv6.conf.r0.accept_dad=0")
        self.place.sh("ip", "link", "set", "r0", "up")
        until(self._has_address, 10)
        self._socket = self._daemon.host.inside(self.namespace.path, _icmp, "r0")
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _has_address(self) -> bool:
        """Return whether the link-local address can be used: it is tentative for a moment even without a check."""
        shown = self.place.sh("ip", "-6", "address", "show", "dev", "r0")
        return "fe80::" in shown and "tentative" not in shown

    def advertise(self) -> None:
        """Say: I am a default router for half an hour."""
        self._socket.sendto(struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0))

    def _answer(self) -> None:
        while not self._stop.is_set():
            try:
                asked = self._socket.recv(2048)[0]
            except TimeoutError:
                continue
            if asked == SOLICITATION:
                self.advertise()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._socket.close()


def _icmp(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    index = socket.if_nametoindex(interface)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    group = socket.inet_pton(socket.AF_INET6, "ff02::2") + struct.pack("@I", index)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    made.settimeout(0.2)
    return made


def _veth(sh: Callable[..., str], router: str) -> str:
    sh("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "r0", "netns", router)
    return "lan0"


def _bridge(sh: Callable[..., str], router: str) -> str:
    _veth(sh, router)
    sh("ip", "link", "add", "lanbr", "type", "bridge")
    sh("ip", "link", "set", "lan0", "master", "lanbr", "up")
    return "lanbr"


class Uplink(NamedTuple):
    daemon: RunningDaemon
    router: Router
    link: str

    def has_route(self) -> bool:
        return "default" in self.daemon.host.sh("ip", "-6", "route", "show", "default", "dev", self.link)

    def accepts(self) -> str:
        return self.daemon.host.sh("cat", f"/proc/sys/net/ipv6/conf/{self.link}/accept_ra").strip()


@pytest.fixture
def router(fresh_daemon: RunningDaemon) -> Iterator[Router]:
    made = Router(fresh_daemon)
    yield made
    made.close()


def uplink(daemon: RunningDaemon, router: Router, make: Callable[[Callable[..., str], str], str]) -> Uplink:
    link = make(daemon.host.sh, router.namespace.path)
    daemon.host.sh("ip", "link", "set", link, "up")
    router.begin()
    return Uplink(daemon, router, link)


@pytest.mark.parametrize("make", [_veth, _bridge])
def test_advertised_route_survives_ipv6_and_down_restores_all(
    fresh_daemon: RunningDaemon, router: Router, make: Callable[[Callable[..., str], str], str]
) -> None:
    found = uplink(fresh_daemon, router, make)
    router.advertise()
    until(found.has_route, 10)
    fresh_daemon.start()
    fresh_daemon.api.network("foo", ipv6=True)
    assert found.has_route()
    found.daemon.host.sh("ip", "-6", "route", "del", "default", "dev", found.link)
    router.advertise()
    until(found.has_route, 10)
    fresh_daemon.stop()
    fresh_daemon.down()
    assert found.accepts() == "1"
    assert fresh_daemon.host.sh("cat", "/proc/sys/net/ipv6/conf/default/accept_ra").strip() == "1"


def test_new_link_accepts_router_advertisements(fresh_daemon: RunningDaemon, router: Router) -> None:
    fresh_daemon.start()
    fresh_daemon.api.network("foo", ipv6=True)
    found = uplink(fresh_daemon, router, _veth)
    router.advertise()
    until(found.has_route, 10)


def test_accept_ra_1_set_by_others_is_raised_and_route_restored(fresh_daemon: RunningDaemon, router: Router) -> None:
    fresh_daemon.start()
    fresh_daemon.api.network("foo", ipv6=True)
    fresh_daemon.host.sh("sysctl", "-qw", "net.ipv6.conf.default.accept_ra=1")
    found = uplink(fresh_daemon, router, _veth)
    fresh_daemon.host.sh("sysctl", "-qw", f"net.ipv6.conf.{found.link}.accept_ra=1")
    until(found.has_route, 30)
    assert found.accepts() == "2"


def test_accept_ra_is_left_alone_on_a_forwarding_host(fresh_daemon: RunningDaemon, router: Router) -> None:
    fresh_daemon.host.sh("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    found = uplink(fresh_daemon, router, _veth)
    fresh_daemon.start()
    fresh_daemon.api.network("foo", ipv6=True)
    assert found.accepts() == "1"
