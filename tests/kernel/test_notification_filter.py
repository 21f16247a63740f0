"""Notifications that no reader uses are dropped in the kernel, and no others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial

import pytest

from sandnet.kernel.netlink.notification_filter import attach
from sandnet.kernel.netlink.notifications import subscribed
from sandnet.kernel.netlink.rtnetlink import to_port
from sandnet.kernel.netlink.socket import Reply, replies
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from tests.support.network_host import Host

PREFIXES = ("snb", "snv")
LINKS = (RTM_NEWLINK, RTM_DELLINK)


def received(subscription: socket.socket) -> Iterator[Reply]:
    """What has gathered."""
    while True:
        try:
            data = subscription.recv(1 << 16)
        except BlockingIOError:
            return
        yield from replies(data)


def links(subscription: socket.socket) -> list[tuple[int, str]]:
    """The gathered messages about links themselves."""
    found = [reply for reply in received(subscription) if reply.kind in LINKS]
    assert all(reply.body[0] != socket.AF_BRIDGE for reply in found)
    return [(reply.kind, to_port(reply.body).link.name) for reply in found]


def test_messages_about_bridge_ports_do_not_arrive(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = host.run(partial(subscribed, 1 << 20))
    with monkeypatch.context() as patched:
        patched.setattr("sandnet.kernel.netlink.notifications.attach", lambda *_, **__: None)
        whole = host.run(partial(subscribed, 1 << 20))
    with filtered, whole:
        host.sh("ip", "link", "add", "br0", "type", "bridge")
        host.sh("ip", "link", "add", "port0", "type", "veth", "peer", "name", "peer0")
        host.sh("ip", "link", "set", "port0", "master", "br0", "up")
        host.sh("ip", "link", "set", "port0", "nomaster")
        host.sh("ip", "link", "del", "port0")
        host.sh("ip", "link", "del", "br0")
        everything = [*received(whole)]
        own = [each for each in everything if not (each.kind in LINKS and each.body[0] == socket.AF_BRIDGE)]
        assert len(own) < len(everything)
        kinds = {RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE}
        assert [each.body for each in received(filtered)] == [each.body for each in own if each.kind in kinds]


def test_only_the_wanted_kinds_arrive(host: Host) -> None:
    with host.run(partial(subscribed, 1 << 20, (RTM_DELADDR, RTM_NEWROUTE))) as subscription:
        host.sh("ip", "link", "add", "one", "type", "bridge")
        host.sh("ip", "link", "set", "one", "up")
        host.sh("ip", "address", "add", "192.0.2.1/24", "dev", "one")
        host.sh("ip", "route", "add", "198.51.100.0/24", "dev", "one")
        host.sh("ip", "address", "del", "192.0.2.1/24", "dev", "one")
        host.sh("ip", "link", "del", "one")
        assert {reply.kind for reply in received(subscription)} == {RTM_DELADDR, RTM_NEWROUTE}


def test_changes_of_links_with_an_unwanted_prefix_do_not_arrive(host: Host) -> None:
    with host.run(partial(subscribed, 1 << 20, LINKS, without=PREFIXES)) as subscription:
        for name in ("snv0123456789", "snb0123456789", "sn", "snx", "xsnv", "eth7"):
            host.sh("ip", "link", "add", name, "type", "bridge")
            host.sh("ip", "link", "set", name, "mtu", "1400")
        assert {name for _, name in links(subscription)} == {"sn", "snx", "xsnv", "eth7"}
        host.sh("ip", "link", "del", "snv0123456789")
        assert links(subscription) == [(RTM_DELLINK, "snv0123456789")]


def test_subscription_works_where_the_kernel_takes_no_filter(host: Host) -> None:
    with host.run(partial(subscribed, 1 << 20)) as subscription:
        subscription.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER: a further filter is refused
        attach(subscription, ())
        host.sh("ip", "link", "add", "one", "type", "bridge")
        assert (RTM_NEWLINK, "one") in links(subscription)
