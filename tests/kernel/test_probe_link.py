"""The socket for probes in a real kernel: what it receives, and that nothing is left of it."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from sandnet.core.reachability.probe_frames import QUESTION, SMALLEST, Probe, decode, digest, encode
from sandnet.errors import VNI_TAKEN, Error
from sandnet.kernel.linux.vxlan.probe_link import open_probe_socket
from tests.support.network_host import Host, eventually, unavailable
from tests.support.traffic import UDP, Place

PORT = 4789
ADDRESSES = {4: "192.0.2.1", 6: "2001:db8::1"}


@pytest.fixture
def host() -> Iterator[Host]:
    if reason := unavailable():
        pytest.skip(reason)
    with Host() as made:
        made.sh("ip", "link", "set", "lo", "up")
        made.sh("ip", "address", "add", ADDRESSES[4], "dev", "lo")
        made.sh("ip", "address", "add", ADDRESSES[6], "dev", "lo", "nodad")  # else it is tentative for a moment
        yield made


def opened(host: Host, stack: ExitStack, version: int = 4) -> socket.socket:
    return stack.enter_context(host.run(open_probe_socket, ip_address(ADDRESSES[version]), PORT))


@pytest.mark.parametrize("version", [4, 6])
def test_probe_to_the_vxlan_port_is_received(host: Host, version: int) -> None:
    probe = Probe(QUESTION, digest("h1"), bytes(16), 7)
    with ExitStack() as stack:
        received = opened(host, stack, version)
        sender = Place(host, stack).bound(ADDRESSES[version], UDP)
        frame = encode(probe, SMALLEST[version], version)

        def arrives() -> bool:  # hosts ask again, too: a busy machine loses datagrams, even its own
            sender.sendto(frame, (ADDRESSES[version], PORT))
            return bool(select.select([received], [], [], 1)[0])

        eventually(arrives)
        assert decode(received.recv(2048)) == probe


def test_host_has_no_further_link_and_none_is_left(host: Host) -> None:
    before = host.sh("ip", "-o", "link")
    with ExitStack() as stack:
        opened(host, stack)
        assert host.sh("ip", "-o", "link") == before
        assert f":{PORT}" in host.sh("ss", "-uln")
    eventually(lambda: f":{PORT}" not in host.sh("ss", "-uln"))


def test_second_socket_is_refused_and_possible_later(host: Host) -> None:
    with ExitStack() as stack:
        opened(host, stack)
        with pytest.raises(Error) as refused:
            opened(host, stack)
        assert refused.value.code == VNI_TAKEN
    eventually(lambda: can_open(host))


def can_open(host: Host) -> bool:
    try:
        host.run(open_probe_socket, ip_address(ADDRESSES[4]), PORT).close()
    except Error:
        return False
    return True


def test_packets_inside_reach_nothing_of_the_host(host: Host) -> None:
    """An IP packet with the VNI of probes, to an address of the host."""
    with ExitStack() as stack:
        opened(host, stack)
        place = Place(host, stack)
        listener = place.bound(ADDRESSES[4], UDP, 9)
        listener.settimeout(0.5)
        inner = place.bound(ADDRESSES[4], UDP)
        header = encode(Probe(QUESTION, digest("h1"), bytes(16), 7), SMALLEST[4], 4)[:8]
        packet = bytes.fromhex("4500001d000000004011f6cdc0000201c0000201000900090009000041")
        inner.sendto(header + b"\xff" * 6 + bytes(6) + b"\x08\x00" + packet, (ADDRESSES[4], PORT))
        with pytest.raises(TimeoutError):
            listener.recv(100)
