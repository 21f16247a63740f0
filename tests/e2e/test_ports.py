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
    Box,
    RefusedError,
    World,
    mapping,
)
from tests.support.traffic import DOUBT, TCP, UDP, Place, ask_again, until

BOTH = pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
SCTP = 132


def published(world: World, proto: int = TCP, host_port: int = 8080, network: str = "foo", **more: object) -> Box:
    """A box on a new network, serving at port 80, published at a host port."""
    world.api.network(network, ipv6=True)
    box = world.box(network, "web", mapping(80, host_port, proto, **more))
    box.serve("web", 80, proto)
    box.serve("web", 80, proto, address="::")
    return box


@BOTH
def test_given_a_published_port_when_asked_from_outside_then_it_sees_the_clients_own_address(
    world: World, proto: int
) -> None:
    published(world, proto)
    assert world.outside.ask(HOST_ADDRESS, 8080, proto, source_port=5555) == ("web", OUTSIDE_ADDRESS, 5555)
    assert world.outside.ask(HOST_ADDRESS6, 8080, proto, source_port=5555) == ("web", OUTSIDE_ADDRESS6, 5555)


@BOTH
def test_given_a_published_port_when_asked_from_the_host_then_it_answers_on_every_address(
    world: World, proto: int
) -> None:
    box = published(world, proto)
    for address in (HOST_ADDRESS, HOST_ADDRESS6, "127.0.0.1"):
        assert world.here.ask(address, 8080, proto).server == "web"
    assert world.here.ask(box.address, 80, proto).server == "web"
    assert world.here.ask(box.address6, 80, proto).server == "web"


@BOTH
def test_given_a_published_port_when_asked_from_another_network_then_it_sees_the_clients_own_address(
    world: World, proto: int
) -> None:
    published(world, proto)
    world.api.network("bar", ipv6=True)
    other = world.box("bar", "client")
    assert other.ask(HOST_ADDRESS, 8080, proto).address == other.address
    assert other.ask(HOST_ADDRESS6, 8080, proto).address == other.address6


@BOTH
def test_given_a_published_port_when_asked_from_its_own_network_then_it_answers(world: World, proto: int) -> None:
    published(world, proto)
    neighbour = world.box("foo", "neighbour")
    assert neighbour.ask(HOST_ADDRESS, 8080, proto).server == "web"
    assert neighbour.ask(HOST_ADDRESS6, 8080, proto).server == "web"


@BOTH
def test_given_a_published_port_when_the_container_calls_itself_then_it_answers(world: World, proto: int) -> None:
    box = published(world, proto)
    assert box.ask(HOST_ADDRESS, 8080, proto).server == "web"
    assert box.ask(HOST_ADDRESS6, 8080, proto).server == "web"


@BOTH
def test_given_a_published_port_when_another_process_binds_it_then_it_is_in_use(world: World, proto: int) -> None:
    published(world, proto)
    for address in ("0.0.0.0", HOST_ADDRESS, "127.0.0.1", "::", HOST_ADDRESS6):
        with pytest.raises(OSError) as failure:
            world.here.bound(address, proto, 8080)
        assert failure.value.errno == errno.EADDRINUSE
    world.api.clear()
    world.here.bound("0.0.0.0", proto, 8080)


@BOTH
def test_given_a_port_another_process_holds_when_published_then_409_naming_it_and_nothing_is_left(
    world: World, proto: int
) -> None:
    world.api.network("foo")
    with world.here.bound("0.0.0.0", proto, 8081) as held:
        if proto == TCP:
            held.listen()
        with pytest.raises(RefusedError, match="python") as refused:
            world.api.endpoint("foo", "web", mapping(79, 8079, proto), mapping(80, 8081, proto))
    assert refused.value.status == 409
    assert world.api.get("/networks/foo")["endpoints"] == []
    world.api.endpoint("foo", "web", mapping(79, 8079, proto), mapping(80, 8081, proto))


def test_given_a_port_another_endpoint_holds_when_published_then_409_naming_the_endpoint(world: World) -> None:
    published(world)
    world.api.network("bar")
    for address in ("", "127.0.0.1", HOST_ADDRESS):
        with pytest.raises(RefusedError, match="endpoint web on network foo") as refused:
            world.api.endpoint("bar", "late", mapping(80, 8080, host_ip=address))
        assert refused.value.status == 409
    world.api.endpoint("bar", "late", mapping(80, 8080, UDP))


def test_given_a_range_when_published_then_the_first_free_port_of_it_is_taken(world: World) -> None:
    world.api.network("foo")
    world.here.bound("0.0.0.0", TCP, 9000)
    first = world.box("foo", "one", mapping(80, 9000, host_port_end=9002))
    second = world.box("foo", "two", mapping(80, 9000, host_port_end=9002))
    assert (first.host_ports, second.host_ports) == ([9001], [9002])
    second.serve("two", 80)
    assert world.outside.ask(HOST_ADDRESS, 9002).server == "two"
    with pytest.raises(RefusedError) as refused:
        world.api.endpoint("foo", "three", mapping(80, 9000, host_port_end=9002))
    assert refused.value.status == 409


@BOTH
def test_given_port_0_when_published_then_one_of_the_local_range_is_told_and_answers(world: World, proto: int) -> None:
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_local_port_range=41000 41003")
    world.here.bound("0.0.0.0", proto, 41001)
    box = published(world, proto, host_port=0)
    (port,) = set(box.host_ports)
    assert port in (41000, 41002, 41003)
    assert world.outside.ask(HOST_ADDRESS, port, proto).server == "web"
    assert world.outside.ask(HOST_ADDRESS6, port, proto).server == "web"
    ports = {port}
    for name in ("two", "three"):
        ports |= set(world.box("foo", name, mapping(80, 0, proto)).host_ports)
    assert ports == {41000, 41002, 41003}
    with pytest.raises(RefusedError) as refused:
        world.api.endpoint("foo", "four", mapping(80, 0, proto))
    assert refused.value.status == 409
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")


@BOTH
def test_given_reserved_ports_when_published_then_only_who_names_one_gets_it(world: World, proto: int) -> None:
    """Reserved while the daemon runs, as an operator does who adds a program."""
    world.api.network("foo")
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_local_port_range=41000 41003")
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=41000-41001,9000,9002")
    ports = [world.box("foo", name, mapping(80, 0, proto)).host_ports for name in ("one", "two")]
    assert ports == [[41002], [41003]]
    with pytest.raises(RefusedError) as refused:
        world.api.endpoint("foo", "three", mapping(80, 0, proto))
    assert refused.value.status == 409
    assert world.box("foo", "four", mapping(80, 9000, proto, host_port_end=9002)).host_ports == [9001]
    assert world.box("foo", "five", mapping(80, 9000, proto)).host_ports == [9000]
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=")
    assert world.box("foo", "six", mapping(80, 9001, proto, host_port_end=9002)).host_ports == [9002]
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")


def test_given_a_port_on_127_0_0_1_when_asked_then_only_the_host_reaches_it(world: World) -> None:
    published(world, host_ip="127.0.0.1")
    assert world.here.ask("127.0.0.1", 8080).server == "web"
    assert world.outside.is_refused(HOST_ADDRESS, 8080)
    with routed_loopback(world):
        assert world.outside.is_refused("127.0.0.1", 8080, source=OUTSIDE_ADDRESS)


@contextmanager
def routed_loopback(world: World) -> Iterator[None]:
    """The outside sends what is for 127.0.0.1 to the host, as an attacker on the same link may."""
    sh = world.outside.sh
    sh("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    sh("ip", "route", "add", "127.0.0.1/32", "via", HOST_ADDRESS)
    try:
        yield
    finally:
        sh("ip", "route", "delete", "127.0.0.1/32", "via", HOST_ADDRESS)


def test_given_a_box_when_it_calls_the_hosts_loopback_by_its_gateway_then_nothing_answers(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one")
    world.here.serve("private", 7000, address="127.0.0.1")
    box.sh("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    box.sh("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
    gateway = world.api.told("foo")["gateways"][0]
    box.sh("ip", "route", "add", "127.0.0.1/32", "via", gateway)
    assert box.is_refused("127.0.0.1", 7000, source=box.address)


def test_given_a_host_address_when_published_there_then_other_addresses_stay_closed(world: World) -> None:
    published(world, host_ip=HOST_ADDRESS)
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert world.here.is_refused("127.0.0.1", 8080)
    assert world.outside.is_refused(HOST_ADDRESS6, 8080)
    world.here.serve("own", 8080, address="127.0.0.1")
    assert world.here.ask("127.0.0.1", 8080).server == "own"


def test_given_an_ipv6_host_address_when_published_there_then_only_it_answers(world: World) -> None:
    published(world, host_ip=HOST_ADDRESS6)
    assert world.outside.ask(HOST_ADDRESS6, 8080).server == "web"
    assert world.outside.is_refused(HOST_ADDRESS, 8080)


def test_given_an_address_the_host_has_not_when_published_there_then_409(world: World) -> None:
    world.api.network("foo")
    with pytest.raises(RefusedError, match=r"192\.0\.2\.1") as refused:
        world.api.endpoint("foo", "web", mapping(80, 8080, host_ip="192.0.2.1"))
    assert refused.value.status == 409
    assert world.api.get("/networks/foo")["endpoints"] == []


def test_given_unpublished_ports_when_asked_from_outside_then_closed(world: World) -> None:
    box = published(world)
    box.serve("secret", 81)
    assert world.outside.is_refused(HOST_ADDRESS, 81)
    assert world.outside.is_refused(box.address, 81)
    assert world.outside.is_refused(box.address6, 80)
    assert not world.outside.reaches(box.address, DOUBT)


def test_given_a_new_network_when_its_published_port_is_asked_over_ipv6_then_it_answers_at_once(world: World) -> None:
    published(world)
    with world.outside.bound("::", TCP) as client:
        client.settimeout(0.5)
        client.connect((HOST_ADDRESS6, 8080))
        assert ask_again(client).server == "web"


def test_given_nobody_attached_when_a_published_port_is_asked_then_refused_and_answers_after_the_join(
    world: World,
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "web", mapping(80, 8080))
    assert world.outside.is_refused(HOST_ADDRESS, 8080)
    box = world.attach("foo", "web", "c1")
    box.serve("web", 80)
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "web"


def test_given_a_deleted_endpoint_when_its_port_is_asked_then_the_hosts_own_process_answers(world: World) -> None:
    published(world)
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "web"
    world.api.clear()
    world.here.serve("own", 8080)
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "own"


@pytest.mark.parametrize("address", [HOST_ADDRESS, HOST_ADDRESS6], ids=["ipv4", "ipv6"])
def test_given_a_udp_client_when_the_port_moves_to_another_endpoint_then_it_reaches_the_new_one_at_once(
    world: World, address: str
) -> None:
    old = published(world, UDP)
    client = world.outside.client(address, 8080, UDP, source_port=5555)
    assert ask_again(client).server == "web"
    world.api.leave("foo", "web", old.container)
    world.api.delete("/networks/foo/endpoints/web")
    world.api.endpoint("foo", "new", mapping(81, 8080, UDP))
    new = world.attach("foo", "new", "c2")
    new.serve("new", 81, UDP)
    new.serve("new", 81, UDP, address="::")
    client.settimeout(0.2)
    until(lambda: ask_again(client) == ("new", OUTSIDE_ADDRESS if "." in address else OUTSIDE_ADDRESS6, 5555), 1)


def test_given_a_udp_client_that_talked_to_the_host_when_the_port_is_published_then_it_reaches_the_box(
    world: World,
) -> None:
    world.api.network("foo")
    world.host.sh("nft", "add table ip probe; add chain ip probe c { type filter hook input priority 0; };"
                         "add rule ip probe c ct state new counter")  # fmt: skip
    client = world.outside.client(HOST_ADDRESS, 8080, UDP, source_port=5555)
    client.send(b"early")
    box = world.box("foo", "web", mapping(80, 8080, UDP))
    box.serve("web", 80, UDP)
    client.settimeout(0.2)
    until(lambda: ask_again(client).server == "web", 1)
    world.host.sh("nft", "delete table ip probe")


def test_given_two_mappings_of_one_port_when_asked_then_both_lead_to_it(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "web", mapping(80, 8080), mapping(80, 8090), mapping(53, 5300, UDP))
    box.serve("web", 80)
    box.serve("dns", 53, UDP, address=box.address)
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert world.outside.ask(HOST_ADDRESS, 8090).server == "web"
    assert world.outside.ask(HOST_ADDRESS, 5300, UDP).server == "dns"


@pytest.mark.parametrize("network", ["host", "none"])
def test_given_a_network_without_links_when_a_port_is_to_be_published_then_400(world: World, network: str) -> None:
    with pytest.raises(RefusedError) as refused:
        world.api.endpoint(network, "web", mapping(80, 8080))
    assert refused.value.status == 400


def test_given_an_internal_network_when_a_port_is_to_be_published_then_400(world: World) -> None:
    world.api.network("foo", internal=True)
    with pytest.raises(RefusedError, match="internal") as refused:
        world.api.endpoint("foo", "web", mapping(80, 8080))
    assert refused.value.status == 400


def test_given_sctp_when_published_then_a_packet_from_outside_arrives_with_its_source(world: World) -> None:
    """The kernel here may have no SCTP sockets, so an INIT (RFC 9260, 3.3.2) is sent and read raw."""
    world.api.network("foo")
    box = world.box("foo", "web", mapping(3868, 3868, SCTP))
    with pytest.raises(RefusedError, match="3868"):
        world.api.endpoint("foo", "late", mapping(3868, 3868, SCTP))
    reader = raw_socket(world, box)
    with raw_socket(world, world.outside) as client:
        client.sendto(init_chunk(5555, 3868), (HOST_ADDRESS, 0))
        packet, peer = reader.recvfrom(2048)
    assert peer[0] == OUTSIDE_ADDRESS
    header = (packet[0] & 15) * 4
    assert struct.unpack_from("!HH", packet, header) == (5555, 3868)
    assert IPv4Address(packet[16:20]) == IPv4Address(box.address)


def raw_socket(world: World, place: Place) -> socket.socket:
    made = world.host.inside(place.namespace, socket.socket, socket.AF_INET, socket.SOCK_RAW, SCTP)
    made.settimeout(3)
    return world.stack.enter_context(made)


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


def test_given_a_link_local_client_when_it_calls_a_published_port_then_it_is_refused_at_once(world: World) -> None:
    world.api.network("foo", ipv6=True)
    world.box("foo", "web", mapping(80, 8080)).serve("web", 80, address="::")
    told = world.host.sh("ip", "-6", "-br", "address", "show", "uplink", "scope", "link").split()
    own = next(word.partition("/")[0] for word in told if word.startswith("fe80:"))
    with world.outside.bound("::", TCP) as client, pytest.raises(ConnectionRefusedError):
        client.connect((own, 8080, 0, json.loads(world.outside.sh("ip", "-j", "link", "show", "eth0"))[0]["ifindex"]))
