"""Tracked connections, made by real datagrams and forgotten."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import pytest

from sandnet.errors import Error
from sandnet.kernel.linux.nftables import Nftables
from sandnet.kernel.netlink.conntrack import Conntrack, _Conntrack
from tests.support.network_host import Host

UDP, TCP = 17, 6
BACKENDS = {"127.0.0.2": socket.AF_INET, "127.0.0.3": socket.AF_INET, "::1": socket.AF_INET6}
RULES = """
table inet test {
  chain sending {
    type nat hook output priority -100;
    ip daddr 127.0.0.1 udp dport 5001 dnat ip to 127.0.0.2:9000
    ip daddr 127.0.0.1 udp dport 5002 dnat ip to 127.0.0.3:9000
    ip6 daddr fd00::1 udp dport 5001 dnat ip6 to [::1]:9000
  }
}
"""
V4_ONE = ("127.0.0.1", 5001)
V4_TWO = ("127.0.0.1", 5002)
V4_PLAIN = ("127.0.0.1", 5003)
V6_ONE = ("fd00::1", 5001)


def forget_flows(**what: Any) -> None:
    """Once, on the host of the calling thread."""
    conntrack = Conntrack()
    try:
        conntrack.forget_flows(**what)
    finally:
        conntrack.close()


@pytest.fixture
def nat(host: Host) -> Iterator[Host]:
    """A host whose own datagrams to three ports are translated, each to a backend."""
    firewall = Nftables()
    host.sh("ip", "address", "add", "fd00::1/128", "dev", "lo", "nodad")
    host.run(firewall.run, RULES)
    yield host
    firewall.close()


@pytest.fixture
def sent(nat: Host) -> Iterator[Host]:
    """The host, after a datagram to every port."""
    with ExitStack() as sockets:
        for target in (V4_ONE, V4_TWO, V4_PLAIN, V6_ONE):
            family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
            client = sockets.enter_context(nat.run(socket.socket, family, socket.SOCK_DGRAM))
            nat.run(client.sendto, b"hello", target)
        assert flows(nat) == {V4_ONE, V4_TWO, V4_PLAIN, V6_ONE}
        yield nat


def flows(host: Host) -> set[tuple[str, int]]:
    """Where the tracked datagrams were sent to, as the ``conntrack`` program shows it."""
    found = set()
    for family in ("ipv4", "ipv6"):
        for line in host.sh("conntrack", "-L", "-p", "udp", "-f", family).splitlines():
            first = dict(reversed([word.split("=", 1) for word in line.split() if "=" in word]))
            found.add((str(ip_address(first["dst"])), int(first["dport"])))
    return found


def test_forgetting_a_target_removes_only_its_translated_flows(sent: Host) -> None:
    sent.run(forget_flows, addresses=[ip_address("127.0.0.2")])
    assert flows(sent) == {V4_TWO, V4_PLAIN, V6_ONE}


def test_forgetting_a_target_removes_its_ipv6_flows(sent: Host) -> None:
    sent.run(forget_flows, addresses=[ip_address("::1")])
    assert flows(sent) == {V4_ONE, V4_TWO, V4_PLAIN}


def test_forgetting_bound_ports_keeps_flows_the_mapping_leads_to(sent: Host) -> None:
    bound = [(UDP, 5001), (UDP, 5002), (UDP, 5003)]
    sent.run(forget_flows, bound=bound, live=[ip_address("127.0.0.2"), ip_address("::1")])
    assert flows(sent) == {V4_ONE, V6_ONE}


def test_untranslated_flow_to_a_forgotten_target_stays(sent: Host) -> None:
    sent.run(forget_flows, addresses=[ip_address("127.0.0.1"), ip_address("fd00::1")])
    assert flows(sent) == {V4_ONE, V4_TWO, V4_PLAIN, V6_ONE}


def test_forgetting_a_host_port_removes_flows_of_both_families(sent: Host) -> None:
    sent.run(forget_flows, bound=[(UDP, 5001), (UDP, 5003)])
    assert flows(sent) == {V4_TWO}


def test_forgetting_a_port_keeps_flows_of_another_protocol(sent: Host) -> None:
    sent.run(forget_flows, bound=[(TCP, 5001), (UDP, 9000)])
    assert len(flows(sent)) == 4


def test_forgetting_by_target_or_port_needs_only_one_match(sent: Host) -> None:
    sent.run(forget_flows, addresses=iter([ip_address("127.0.0.3")]), bound=iter([(UDP, 5003)]))
    assert flows(sent) == {V4_ONE, V6_ONE}


def test_forgetting_flows_twice_succeeds(sent: Host) -> None:
    for _ in range(2):
        sent.run(forget_flows, bound=[(UDP, 5001), (UDP, 5002), (UDP, 5003)])
    assert not flows(sent)
    sent.run(forget_flows, bound=[(UDP, 5001)])


def test_deleting_a_flow_that_already_ended_succeeds(sent: Host) -> None:
    def delete_twice() -> None:
        with _Conntrack() as conntrack:
            for flow in list(conntrack.flows(b"")) * 2:
                conntrack.delete(flow)

    sent.run(delete_twice)
    assert not flows(sent)


def test_failed_conntrack_socket_is_replaced_on_the_next_call(sent: Host) -> None:
    conntrack = Conntrack()
    sent.run(conntrack.forget_flows, addresses=[ip_address("127.0.0.2")])
    kept = conntrack._socket._socket
    assert kept
    kept.close()
    with pytest.raises(Error, match="forget tracked connections"):
        sent.run(conntrack.forget_flows, addresses=[ip_address("127.0.0.3")])
    sent.run(conntrack.forget_flows, addresses=[ip_address("127.0.0.3")])
    assert flows(sent) == {V4_PLAIN, V6_ONE}
    conntrack.close()


def test_forgetting_flows_in_another_namespace_keeps_ours(sent: Host) -> None:
    with Host() as other:
        other.run(forget_flows, bound=[(UDP, 5001), (UDP, 5002), (UDP, 5003)])
    assert len(flows(sent)) == 4


def test_forgotten_udp_client_is_translated_at_next_datagram(
    host: Host,
) -> None:
    firewall = Nftables()
    host.run(
        firewall.run,
        "table inet test {\nchain track {\ntype filter hook output priority 0\nct state new accept\n}\n}\n",
    )
    with (
        host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as backend,
        host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        backend.bind(("127.0.0.2", 9000))
        backend.settimeout(5)
        client.sendto(b"too early", V4_ONE)
        host.run(firewall.run, RULES)
        client.sendto(b"on the old track", V4_ONE)
        host.run(forget_flows, bound=[(UDP, 5001)])
        client.sendto(b"translated", V4_ONE)
        assert backend.recv(100) == b"translated"
    firewall.close()
