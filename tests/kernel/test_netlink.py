"""The netlink socket against the real kernel."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from sandnet.errors import Error
from sandnet.kernel.linux.neighbour_stats import overflows
from sandnet.kernel.netlink.routes import dump_routes
from sandnet.kernel.netlink.rtnetlink import get_link, link_header, list_addresses, list_links
from sandnet.kernel.netlink.socket import Netlink, NetlinkError, TooMuchError, map_errors
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELLINK, RTM_SETLINK
from sandnet.kernel.syscalls import in_namespace, open_namespace, restoring_namespace, unshare_network
from tests.support.network_host import Host


def own_inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_new_namespace_lists_only_lo(host: Host) -> None:
    def names() -> list[str]:
        with Netlink() as netlink:
            return [link.name for link in list_links(netlink)]

    assert host.run(names) == ["lo"]


def test_addresses_of_a_deleted_link_are_empty(host: Host) -> None:
    def look() -> object:
        with Netlink() as netlink:
            return list_addresses(netlink, 4711)

    assert host.run(look) == []


def test_absent_link_is_none_with_index_zero(host: Host) -> None:
    def look() -> tuple[object, int]:
        with Netlink() as netlink:
            return get_link(netlink, "nothing"), netlink.index("nothing")

    assert host.run(look) == (None, 0)


def test_link_index_matches_the_kernel(host: Host) -> None:
    host.sh("ip", "link", "add", "br0", "type", "bridge")

    def look() -> tuple[int, int]:
        with Netlink() as netlink:
            return netlink.index("br0"), socket.if_nametoindex("br0")

    ours, kernels = host.run(look)
    assert ours == kernels > 1


def test_refused_call_raises_errno_and_message(host: Host) -> None:
    with pytest.raises(NetlinkError) as caught:
        host.run(remove_loopback)
    assert caught.value.errno == errno.EOPNOTSUPP


def remove_loopback() -> None:
    with Netlink() as netlink:
        netlink.call(RTM_DELLINK, link_header(1))


def test_accepted_errno_returns_false(host: Host) -> None:
    def call() -> bool:
        with Netlink() as netlink:
            return netlink.call(RTM_DELLINK, link_header(99), accept=(errno.ENODEV,))

    assert host.run(call) is False


def test_link_dump_larger_than_one_datagram_is_complete(host: Host) -> None:
    for i in range(60):
        host.sh("ip", "link", "add", f"br{i}", "type", "bridge")

    def count() -> int:
        with Netlink() as netlink:
            return len(list_links(netlink))

    assert host.run(count) == 61


def test_messages_from_other_processes_are_ignored(host: Host) -> None:
    def ask() -> bool:
        with Netlink() as netlink, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as stranger:
            netlink.call(RTM_SETLINK, link_header(1))
            port = netlink._socket.getsockname()[0]
            forged = (36).to_bytes(4, "little") + b"\x02\0\0\0\x02\0\0\0" + bytes(4) + b"\xff\xff\xff\xff" + bytes(16)
            stranger.sendto(forged, (port, 0))
            return netlink.call(RTM_SETLINK, link_header(1))

    assert host.run(ask)


@pytest.mark.parametrize("goes_on", [False, True], ids=["buffer filled once", "flood that goes on"])
def test_filled_receive_buffer_fails_in_time(host: Host, goes_on: bool) -> None:
    """Root in a sandbox can write to our socket there, so that the kernel has no room for its answer."""

    def attack() -> tuple[int | None, float]:
        ended = threading.Event()
        with Netlink() as ours, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as theirs:
            ours.call(RTM_SETLINK, link_header(1))
            target = (ours._socket.getsockname()[0], 0)
            theirs.setblocking(False)

            def fill() -> None:
                with suppress(BlockingIOError):
                    while not ended.is_set():
                        theirs.sendto(bytes(16), target)

            def flood() -> None:
                while goes_on and not ended.is_set():
                    fill()

            def ask() -> None:
                while True:  # a read may make room before the kernel answers
                    fill()
                    ours.call(RTM_SETLINK, link_header(1))

            attacker = threading.Thread(target=flood)
            attacker.start()
            began = time.monotonic()
            try:
                with pytest.raises(OSError, match="buffer") as failure:
                    ask()
            finally:
                ended.set()
                attacker.join()
            return failure.value.errno, time.monotonic() - began

    code, seconds = host.run(attack)
    assert code == errno.ENOBUFS
    assert seconds < 40


def test_thread_returns_after_opening_a_socket_in_a_namespace(host: Host) -> None:
    container = host.container()
    container.run(make_inner_link)

    def look() -> tuple[bool, list[str]]:
        before = own_inode()
        namespace = open_namespace(container.path, follow=True)
        with Netlink.inside(namespace) as netlink:
            names = [link.name for link in list_links(netlink)]
        os.close(namespace)
        return own_inode() == before, names

    assert host.run(look) == (True, ["lo", "inner"])


def make_inner_link() -> None:
    subprocess.run(["ip", "link", "add", "inner", "type", "bridge"], check=True)


def test_thread_returns_to_its_namespace_after_an_error(host: Host) -> None:
    def work() -> bool:
        before = own_inode()
        with pytest.raises(RuntimeError, match="inside"):
            fail_elsewhere()
        return own_inode() == before

    assert host.run(work)


def fail_elsewhere() -> None:
    before = own_inode()
    with restoring_namespace():
        unshare_network()
        raise RuntimeError("inside" if own_inode() != before else "still at home")


def test_process_exits_if_its_namespace_cannot_be_restored(host: Host) -> None:
    code = (
        "from sandnet.kernel import syscalls\n"
        "import errno, ctypes\n"
        "class Broken:\n"
        "    def setns(self, *_):\n"
        "        ctypes.set_errno(errno.EPERM)\n"
        "        return -1\n"
        "syscalls._libc = Broken()\n"
        "try:\n"
        "    with syscalls.restoring_namespace():\n"
        "        pass\n"
        "finally:\n"
        "    print('went on')\n"
    )
    process = host.popen(sys.executable, "-c", code)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (71, "")
    assert "cannot return" in err


def test_namespace_switch_affects_only_its_own_thread(host: Host) -> None:
    container = host.container()
    seen: list[int] = []

    def other() -> None:
        host.enter()
        seen.append(own_inode())

    def work() -> tuple[int, int]:
        namespace = open_namespace(container.path, follow=True)
        home = own_inode()
        with in_namespace(namespace):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        os.close(namespace)
        return home, seen[0]

    home, others = host.run(work)
    assert home == others


def test_mapped_errors_carry_no_errno() -> None:
    with pytest.raises(Error, match="cannot try: No such device"), map_errors("try"):
        raise NetlinkError(errno.ENODEV, "No such device")


def test_route_dump_beyond_the_limit_stops_with_an_error(host: Host) -> None:
    container = host.container()
    routes = "".join(f"route add 10.0.{n >> 8}.{n & 255} dev lo\n" for n in range(30_000))

    def look() -> tuple[int, int]:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-batch", "-"], input=routes, text=True, check=True)
        with Netlink() as netlink:
            unbounded = len([*dump_routes(netlink, socket.AF_INET)])
        with Netlink.inside(container.descriptor) as netlink, pytest.raises(TooMuchError) as refused:
            [*dump_routes(netlink, socket.AF_INET)]
        return unbounded, refused.value.errno or 0

    assert container.run(look) == (30_000, errno.E2BIG)


def test_overflows_of_neighbour_tables_are_the_machines(host: Host) -> None:
    """In a namespace other than the first one, where ``/proc/net/stat`` has no such file."""

    def shown() -> dict[int, int]:
        found = {}
        for version, name in (4, "arp_cache"), (6, "ndisc_cache"):
            tables = json.loads(host.sh("ip", "-s", "-j", "ntable", "show", "name", name))
            found[version] = next(int(each["table_fulls"]) for each in tables if "table_fulls" in each)
        return found

    before, found, after = shown(), host.run(overflows), shown()
    assert found.keys() == {4, 6}
    assert all(before[version] <= count <= after[version] for version, count in found.items())
