"""One port cannot take the room for learned flows from others, whatever it sends and however long."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from sandnet.core.reconcile.flow_tables import ServiceFlows
from sandnet.firewall.balancing.flow_learning import Room
from sandnet.firewall.balancing.service_rules import bridge_ruleset
from tests.support.balanced_services import PORT, SERVICE, SERVICE6, BalancedHost, HostWorkers, asked, names
from tests.support.network_host import Host, eventually

SMALL = Room(flows=1024, shares=(128, 64), reported="1s")
MOST = sum(SMALL.shares)
UDP = socket.SOCK_DGRAM
TCP = socket.SOCK_STREAM
SYN, RST, ACK, FIN = 2, 4, 16, 17
CLOSED = PORT + 1
"""No program listens there, so none is kept busy."""
KINDS = {"tcp": (6, TCP), "udp": (17, UDP), "sctp": (132, TCP)}
FRAGMENTS = 20_000


@pytest.fixture
def small(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[BalancedHost]:
    """A host whose maps hold little, so that a test can fill them."""
    monkeypatch.setattr("sandnet.firewall.balancing.load_balancer.bridge_ruleset", partial(bridge_ruleset, SMALL))
    made = BalancedHost(host)
    yield made
    made.close()


@pytest.fixture
def usual(host: Host) -> Iterator[BalancedHost]:
    """A host with the usual room."""
    made = BalancedHost(host)
    yield made
    made.close()


def _tcp(flags: int) -> bytes:
    return struct.pack("!IIBBHHH", 1, 0, 5 << 4, flags, 1000, 0, 0)


_DATAGRAM = struct.pack("!HH", 9, 0) + b"x"
_INIT, _DATA = (struct.pack("!IIBBH", 1, 0, kind, 0, 20) + bytes(16) for kind in (1, 0))
_ROUNDS = {
    # as flows that are opened and go on; as flows that are closed and go on
    "tcp": ((_tcp(SYN), _tcp(ACK)), (_tcp(SYN), _tcp(ACK), _tcp(FIN), _tcp(ACK))),
    "udp": ((_DATAGRAM, _DATAGRAM),),
    "sctp": ((_INIT, _DATA),),
}


def _send(
    case: BalancedHost, where: str, proto: str, packets: Sequence[bytes], ports: range, target: str = SERVICE
) -> None:
    """Send so many packets from each of the ports."""

    def send() -> None:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with socket.socket(family, socket.SOCK_RAW, KINDS[proto][0]) as raw:
            for port in ports:
                for packet in packets:
                    raw.sendto(struct.pack("!HH", port, CLOSED) + packet, (target, 0))

    case.host.inside(where, send)


def _counted(case: BalancedHost, *found: str, kind: str = "map") -> int:
    return sum(case.host.sh("nft", "list", kind, "bridge", "sandnet", each).count("expires") for each in found)


def _learned(case: BalancedHost, proto: str, version: int = 4) -> int:
    kinds = ("tcp_flows", "closing_flows") if proto == "tcp" else (f"{proto}_flows",)
    return _counted(case, *(f"{kind}{stage}{version}" for kind in kinds for stage in ("", "_second")))


@pytest.mark.parametrize(
    ("proto", "target"), [("tcp", SERVICE), ("udp", SERVICE), ("sctp", SERVICE), ("tcp", SERVICE6), ("udp", SERVICE6)]
)
def test_port_at_its_flow_share_leaves_room_for_other_flows(small: BalancedHost, proto: str, target: str) -> None:
    ep = small.service()
    first, version = small.attach(ep, 11), 6 if ":" in target else 4
    small.attach(ep, 12)
    flooding, client = small.client(201), small.client()
    for packets in _ROUNDS[proto] * 2:
        _send(small, flooding, proto, packets, range(1, 3000), target)
        assert MOST * 0.9 < _learned(small, proto, version) <= MOST
    assert _counted(small, "full", kind="set") == 0
    if proto == "sctp":  # no program speaks it here
        _send(small, client, proto, (_INIT,), range(1, 31), target)
        eventually(lambda: _learned(small, proto, version) > MOST * 0.9 + 28)
        return
    flows = small.sockets(client, 30, KINDS[proto][1], target)
    before = [asked(flow)[0] for flow in flows]
    assert set(before) == {"b11", "b12"}
    assert _learned(small, proto, version) > MOST * 0.9 + 28
    small.change(ep, first, drained=True)
    _send(small, flooding, proto, _ROUNDS[proto][0], range(1, 3000), target)
    assert [asked(flow)[0] for flow in flows] == before
    assert set(names(small.ask(client, 30, KINDS[proto][1], target))) == {"b12"}


def _all_expire(host: BalancedHost, kind: str, name: str, when: str) -> bool:
    """Whether more than ten elements expire, each of them then; a busy kernel handles the last frames later."""
    listed = host.host.sh("nft", "list", kind, "bridge", "sandnet", name)
    return listed.count("expires") == len(re.findall(when, listed)) > 10


@pytest.mark.parametrize("proto", ["tcp", "sctp"])
def test_thousands_of_flows_of_one_client_are_tracked_separately(usual: BalancedHost, proto: str) -> None:
    ep = usual.service()
    usual.attach(ep, 11)
    usual.attach(ep, 12)
    client = usual.key("c200") if usual.clients else usual.client()

    def learned() -> int:
        _send(usual, client, proto, _ROUNDS[proto][0], range(1, 3001))  # what is sent again has its place already
        return _learned(usual, proto)

    learned()
    eventually(lambda: learned() >= 2_990)  # a busy machine drops frames that wait for its processors
    assert _counted(usual, f"{proto}_flows_spill4") <= 10


def test_closed_flow_frees_its_entry(small: BalancedHost) -> None:
    ep = small.service()
    small.attach(ep, 11)
    small.attach(ep, 12)
    client = small.client()
    _send(small, client, "tcp", (_tcp(SYN), _tcp(ACK), _tcp(FIN)), range(1, 21))
    eventually(lambda: _all_expire(small, "set", "tcp_places4", r"expires (2m|1m5)"))


@pytest.mark.parametrize(("target", "version"), [(SERVICE, 4), (SERVICE6, 6)])
def test_reset_flow_is_forgotten_soon_unless_it_goes_on(small: BalancedHost, target: str, version: int) -> None:
    ep = small.service()
    small.attach(ep, 11)
    small.attach(ep, 12)
    client = small.client()
    soon = r"expires (2m|1m[345])"
    _send(small, client, "tcp", (_tcp(SYN), _tcp(ACK), _tcp(RST)), range(1, 21), target)
    for kind, name in (("map", f"tcp_flows{version}"), ("set", f"tcp_places{version}")):
        eventually(lambda: _all_expire(small, kind, name, soon))  # noqa: B023

    def go_on() -> bool:
        _send(small, client, "tcp", (_tcp(ACK),), range(1, 21), target)
        flows, places = (
            small.host.sh("nft", "list", kind, "bridge", "sandnet", f"tcp_{name}{version}")
            for kind, name in (("map", "flows"), ("set", "places"))
        )
        return not re.search(soon, flows + places)

    eventually(go_on)


def test_endless_fragments_to_a_service_use_bounded_memory(usual: BalancedHost) -> None:
    ep = usual.service()
    usual.attach(ep, 11)
    usual.attach(ep, 12)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 7, 0x2000, 64, 17, 0, bytes(4), socket.inet_aton(SERVICE))

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for port in range(1, 1 + FRAGMENTS):
                raw.sendto(header + struct.pack("!HHHH", port, PORT, 1000, 0) + bytes(16), (SERVICE, 0))

    usual.host.inside(usual.client(201), send)
    assert 3_000 < _counted(usual, "udp_answers4", kind="set") < FRAGMENTS / 2


def test_full_flow_map_is_reported_until_there_is_room(small: BalancedHost) -> None:
    """The map is filled by more ports than share it."""
    ep = small.service()
    small.attach(ep, 11)
    small.attach(ep, 12)
    for number in range(201, 211):
        _send(small, small.client(number), "tcp", (_tcp(SYN),), range(1, 2000))
    reports = ServiceFlows(small.kernel.firewall, HostWorkers(small.host))

    def reported() -> list[str]:
        for _ in range(ServiceFlows.EVERY):
            asyncio.run(reports.check())
        return reports.problems

    client = small.client()

    def is_reported() -> bool:  # for a second after the last flow without room
        assert set(names(small.ask(client, 30))) == {"b11", "b12"}
        return any("tcp services" in each for each in reported())

    eventually(is_reported)
    for stage in ("", "_second"):  # as if they had been silent for long enough
        small.host.sh("nft", "flush", "map", "bridge", "sandnet", f"tcp_flows{stage}4")
        small.host.sh("nft", "flush", "set", "bridge", "sandnet", f"tcp_places{stage}4")
    eventually(lambda: not reported())
    small.ask(client, 30)
    assert not reported()
