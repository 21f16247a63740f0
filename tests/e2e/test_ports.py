"""Published ports: from everywhere, in both families, with the client's own address where the route allows."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    RunningDaemon,
    Sandbox,
    mapping,
)
from tests.support.traffic import DEADLINE, DOUBT, TCP, UDP, Place, ask_again, until

BOTH = pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
SCTP = 132


def published(
    daemon: RunningDaemon, proto: int = TCP, host_port: int = 8080, network: str = "foo", **more: object
) -> Sandbox:
    """A sandbox on a new network, serving at port 80, published at a host port."""
    daemon.api.network(network, ipv6=True)
    sandbox = daemon.sandbox(network, "web", mapping(80, host_port, proto, **more))
    sandbox.serve("web", 80, proto)
    sandbox.serve("web", 80, proto, address="::")
    return sandbox


@BOTH
def test_published_port_sees_the_outside_client_address(daemon: RunningDaemon, proto: int) -> None:
    published(daemon, proto)
    assert daemon.outside.ask(HOST_ADDRESS, 8080, proto, source_port=5555) == ("web", OUTSIDE_ADDRESS, 5555)
    assert daemon.outside.ask(HOST_ADDRESS6, 8080, proto, source_port=5555) == ("web", OUTSIDE_ADDRESS6, 5555)


@BOTH
def test_published_port_answers_the_host_on_every_address(daemon: RunningDaemon, proto: int) -> None:
    sandbox = published(daemon, proto)
    for address in (HOST_ADDRESS, HOST_ADDRESS6, "127.0.0.1"):
        assert daemon.here.ask(address, 8080, proto).server == "web"
    assert daemon.here.ask(sandbox.address, 80, proto).server == "web"
    assert daemon.here.ask(sandbox.address6, 80, proto).server == "web"


@BOTH
def test_published_port_sees_client_address_of_another_network(daemon: RunningDaemon, proto: int) -> None:
    published(daemon, proto)
    daemon.api.network("bar", ipv6=True)
    other = daemon.sandbox("bar", "client")
    assert other.ask(HOST_ADDRESS, 8080, proto).address == other.address
    assert other.ask(HOST_ADDRESS6, 8080, proto).address == other.address6


@BOTH
def test_published_port_answers_its_own_network(daemon: RunningDaemon, proto: int) -> None:
    published(daemon, proto)
    neighbour = daemon.sandbox("foo", "neighbour")
    assert neighbour.ask(HOST_ADDRESS, 8080, proto).server == "web"
    assert neighbour.ask(HOST_ADDRESS6, 8080, proto).server == "web"


@BOTH
def test_published_port_answers_the_container_itself(daemon: RunningDaemon, proto: int) -> None:
    sandbox = published(daemon, proto)
    assert sandbox.ask(HOST_ADDRESS, 8080, proto).server == "web"
    assert sandbox.ask(HOST_ADDRESS6, 8080, proto).server == "web"


@BOTH
def test_published_port_is_in_use_for_other_processes(daemon: RunningDaemon, proto: int) -> None:
    published(daemon, proto)
    for address in ("0.0.0.0", HOST_ADDRESS, "127.0.0.1", "::", HOST_ADDRESS6):
        with pytest.raises(OSError) as failure:
            daemon.here.bound(address, proto, 8080)
        assert failure.value.errno == errno.EADDRINUSE
    daemon.api.clear()
    daemon.here.bound("0.0.0.0", proto, 8080)


@BOTH
def test_port_held_by_a_process_returns_409_naming_it(daemon: RunningDaemon, proto: int) -> None:
    daemon.api.network("foo")
    with daemon.here.bound("0.0.0.0", proto, 8081) as held:
        if proto == TCP:
            held.listen()
        with pytest.raises(RefusedError, match="python") as refused:
            daemon.api.endpoint("foo", "web", mapping(79, 8079, proto), mapping(80, 8081, proto))
    assert refused.value.status == 409
    assert daemon.api.get("/networks/foo")["endpoints"] == []
    daemon.api.endpoint("foo", "web", mapping(79, 8079, proto), mapping(80, 8081, proto))


def test_port_of_another_endpoint_returns_409_naming_it(daemon: RunningDaemon) -> None:
    published(daemon)
    daemon.api.network("bar")
    for address in ("", "127.0.0.1", HOST_ADDRESS):
        with pytest.raises(RefusedError, match="endpoint web on network foo") as refused:
            daemon.api.endpoint("bar", "late", mapping(80, 8080, host_ip=address))
        assert refused.value.status == 409
    daemon.api.endpoint("bar", "late", mapping(80, 8080, UDP))


def test_first_free_port_of_a_range_is_published(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.here.bound("0.0.0.0", TCP, 9000)
    first = daemon.sandbox("foo", "one", mapping(80, 9000, host_port_end=9002))
    second = daemon.sandbox("foo", "two", mapping(80, 9000, host_port_end=9002))
    assert (first.host_ports, second.host_ports) == ([9001], [9002])
    second.serve("two", 80)
    assert daemon.outside.ask(HOST_ADDRESS, 9002).server == "two"
    with pytest.raises(RefusedError) as refused:
        daemon.api.endpoint("foo", "three", mapping(80, 9000, host_port_end=9002))
    assert refused.value.status == 409


def few_local_ports(daemon: RunningDaemon) -> None:
    """Let the host choose from four ports, until the test ends, however it ends."""
    daemon.host.sh("sysctl", "-qw", "net.ipv4.ip_local_port_range=41000 41003")
    for usual in ("ip_local_port_range=32768 60999", "ip_local_reserved_ports="):
        daemon.stack.callback(daemon.host.sh, "sysctl", "-qw", f"net.ipv4.{usual}")


@BOTH
def test_port_0_publishes_a_reported_port_of_the_local_range(daemon: RunningDaemon, proto: int) -> None:
    few_local_ports(daemon)
    daemon.here.bound("0.0.0.0", proto, 41001)
    sandbox = published(daemon, proto, host_port=0)
    (port,) = set(sandbox.host_ports)
    assert port in (41000, 41002, 41003)
    assert daemon.outside.ask(HOST_ADDRESS, port, proto).server == "web"
    assert daemon.outside.ask(HOST_ADDRESS6, port, proto).server == "web"
    ports = {port}
    for name in ("two", "three"):
        ports |= set(daemon.sandbox("foo", name, mapping(80, 0, proto)).host_ports)
    assert ports == {41000, 41002, 41003}
    with pytest.raises(RefusedError) as refused:
        daemon.api.endpoint("foo", "four", mapping(80, 0, proto))
    assert refused.value.status == 409


@BOTH
def test_reserved_ports_are_assigned_only_by_number(daemon: RunningDaemon, proto: int) -> None:
    """Reserved while the daemon runs, as an operator does who adds a program."""
    daemon.api.network("foo")
    few_local_ports(daemon)
    daemon.host.sh("sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=41000-41001,9000,9002")
    ports = [daemon.sandbox("foo", name, mapping(80, 0, proto)).host_ports for name in ("one", "two")]
    assert ports == [[41002], [41003]]
    with pytest.raises(RefusedError) as refused:
        daemon.api.endpoint("foo", "three", mapping(80, 0, proto))
    assert refused.value.status == 409
    assert daemon.sandbox("foo", "four", mapping(80, 9000, proto, host_port_end=9002)).host_ports == [9001]
    assert daemon.sandbox("foo", "five", mapping(80, 9000, proto)).host_ports == [9000]
    daemon.host.sh("sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=")
    assert daemon.sandbox("foo", "six", mapping(80, 9001, proto, host_port_end=9002)).host_ports == [9002]


def test_port_published_on_127_0_0_1_is_reached_only_by_the_host(daemon: RunningDaemon) -> None:
    published(daemon, host_ip="127.0.0.1")
    assert daemon.here.ask("127.0.0.1", 8080).server == "web"
    assert daemon.outside.is_refused(HOST_ADDRESS, 8080)
    with routed_loopback(daemon):
        assert daemon.outside.is_refused("127.0.0.1", 8080, source=OUTSIDE_ADDRESS)


@contextmanager
def routed_loopback(daemon: RunningDaemon) -> Iterator[None]:
    """The outside sends what is for 127.0.0.1 to the host, as an attacker on the same link may."""
    sh = daemon.outside.sh
    sh("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    sh("ip", "route", "add", "127.0.0.1/32", "via", HOST_ADDRESS)
    try:
        yield
    finally:
        sh("ip", "route", "delete", "127.0.0.1/32", "via", HOST_ADDRESS)


def test_host_loopback_is_not_reachable_through_the_gateway(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    daemon.here.serve("private", 7000, address="127.0.0.1")
    sandbox.sh("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    sandbox.sh("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
    gateway = daemon.api.reported("foo")["gateways"][0]
    sandbox.sh("ip", "route", "add", "127.0.0.1/32", "via", gateway)
    assert sandbox.is_refused("127.0.0.1", 7000, source=sandbox.address)


def test_port_published_on_one_host_address_is_closed_on_others(daemon: RunningDaemon) -> None:
    published(daemon, host_ip=HOST_ADDRESS)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert daemon.here.is_refused("127.0.0.1", 8080)
    assert daemon.outside.is_refused(HOST_ADDRESS6, 8080)
    daemon.here.serve("own", 8080, address="127.0.0.1")
    assert daemon.here.ask("127.0.0.1", 8080).server == "own"


def test_port_published_on_an_ipv6_address_answers_only_there(daemon: RunningDaemon) -> None:
    published(daemon, host_ip=HOST_ADDRESS6)
    assert daemon.outside.ask(HOST_ADDRESS6, 8080).server == "web"
    assert daemon.outside.is_refused(HOST_ADDRESS, 8080)


def test_publishing_on_a_foreign_address_returns_409(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    with pytest.raises(RefusedError, match=r"192\.0\.2\.1") as refused:
        daemon.api.endpoint("foo", "web", mapping(80, 8080, host_ip="192.0.2.1"))
    assert refused.value.status == 409
    assert daemon.api.get("/networks/foo")["endpoints"] == []


def test_unpublished_ports_are_closed_to_outside(daemon: RunningDaemon) -> None:
    sandbox = published(daemon)
    sandbox.serve("secret", 81)
    assert daemon.outside.is_refused(HOST_ADDRESS, 81)
    assert daemon.outside.is_refused(sandbox.address, 81)
    assert daemon.outside.is_refused(sandbox.address6, 80)
    assert not daemon.outside.reaches(sandbox.address, DOUBT)


def test_published_port_of_a_new_network_answers_ipv6_at_once(daemon: RunningDaemon) -> None:
    published(daemon)
    with daemon.outside.bound("::", TCP) as client:
        client.settimeout(0.5)
        client.connect((HOST_ADDRESS6, 8080))
        assert ask_again(client).server == "web"


def test_published_port_refuses_until_a_container_is_joined(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "web", mapping(80, 8080))
    assert daemon.outside.is_refused(HOST_ADDRESS, 8080)
    sandbox = daemon.attach("foo", "web", "c1")
    sandbox.serve("web", 80)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"


def test_port_of_a_deleted_endpoint_goes_to_the_host_process(daemon: RunningDaemon) -> None:
    published(daemon)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    daemon.api.clear()
    daemon.here.serve("own", 8080)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "own"


@pytest.mark.parametrize("address", [HOST_ADDRESS, HOST_ADDRESS6], ids=["ipv4", "ipv6"])
def test_udp_client_follows_a_moved_port_at_once(daemon: RunningDaemon, address: str) -> None:
    old = published(daemon, UDP)
    client = daemon.outside.client(address, 8080, UDP, source_port=5555)
    assert ask_again(client).server == "web"
    daemon.api.leave("foo", "web", old.container)
    daemon.api.delete("/networks/foo/endpoints/web")
    daemon.api.endpoint("foo", "new", mapping(81, 8080, UDP))
    new = daemon.attach("foo", "new", "c2")
    new.serve("new", 81, UDP)
    new.serve("new", 81, UDP, address="::")
    client.settimeout(0.2)
    until(lambda: ask_again(client) == ("new", OUTSIDE_ADDRESS if "." in address else OUTSIDE_ADDRESS6, 5555))


def test_udp_client_of_the_host_reaches_a_newly_published_port(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    daemon.host.sh("nft", "add table ip probe; add chain ip probe c { type filter hook input priority 0; };"
                         "add rule ip probe c ct state new counter")  # fmt: skip
    client = daemon.outside.client(HOST_ADDRESS, 8080, UDP, source_port=5555)
    client.send(b"early")
    sandbox = daemon.sandbox("foo", "web", mapping(80, 8080, UDP))
    sandbox.serve("web", 80, UDP)
    client.settimeout(0.2)
    until(lambda: ask_again(client).server == "web")
    daemon.host.sh("nft", "delete table ip probe")


def test_two_mappings_of_one_port_both_lead_to_it(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "web", mapping(80, 8080), mapping(80, 8090), mapping(53, 5300, UDP))
    sandbox.serve("web", 80)
    sandbox.serve("dns", 53, UDP, address=sandbox.address)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert daemon.outside.ask(HOST_ADDRESS, 8090).server == "web"
    assert daemon.outside.ask(HOST_ADDRESS, 5300, UDP).server == "dns"


@pytest.mark.parametrize("network", ["host", "none"])
def test_publishing_on_a_network_without_links_returns_400(daemon: RunningDaemon, network: str) -> None:
    with pytest.raises(RefusedError) as refused:
        daemon.api.endpoint(network, "web", mapping(80, 8080))
    assert refused.value.status == 400


def test_publishing_on_an_internal_network_returns_400(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", internal=True)
    with pytest.raises(RefusedError, match="internal") as refused:
        daemon.api.endpoint("foo", "web", mapping(80, 8080))
    assert refused.value.status == 400


def test_published_sctp_port_keeps_the_source_address(daemon: RunningDaemon) -> None:
    """The kernel here may have no SCTP sockets, so an INIT (RFC 9260, 3.3.2) is sent and read raw."""
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "web", mapping(3868, 3868, SCTP))
    with pytest.raises(RefusedError, match="3868"):
        daemon.api.endpoint("foo", "late", mapping(3868, 3868, SCTP))
    reader = raw_socket(daemon, sandbox)
    with raw_socket(daemon, daemon.outside) as client:
        client.sendto(init_chunk(5555, 3868), (HOST_ADDRESS, 0))
        packet, peer = reader.recvfrom(2048)
    assert peer[0] == OUTSIDE_ADDRESS
    header = (packet[0] & 15) * 4
    assert struct.unpack_from("!HH", packet, header) == (5555, 3868)
    assert IPv4Address(packet[16:20]) == IPv4Address(sandbox.address)


def raw_socket(daemon: RunningDaemon, place: Place) -> socket.socket:
    made = daemon.host.inside(place.namespace, socket.socket, socket.AF_INET, socket.SOCK_RAW, SCTP)
    made.settimeout(DEADLINE)
    return daemon.stack.enter_context(made)


def init_chunk(source: int, target: int) -> bytes:
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x1234, 65536, 1, 1, 0x5678)
    packet = struct.pack("!HHII", source, target, 0, 0) + chunk
    return packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_link_local_client_of_a_published_port_is_refused(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    daemon.sandbox("foo", "web", mapping(80, 8080)).serve("web", 80, address="::")
    reported = daemon.host.sh("ip", "-6", "-br", "address", "show", "uplink", "scope", "link").split()
    own = next(word.partition("/")[0] for word in reported if word.startswith("fe80:"))
    with daemon.outside.bound("::", TCP) as client, pytest.raises(ConnectionRefusedError):
        client.connect((own, 8080, 0, json.loads(daemon.outside.sh("ip", "-j", "link", "show", "eth0"))[0]["ifindex"]))
