"""Questions to other servers, which are small real ones on addresses of the loopback device."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from sandnet.dns import packet
from sandnet.dns import upstream as upstream_module
from sandnet.dns.hostservers import HostServers
from sandnet.dns.upstream import LARGEST, STAGGER, STAGGERED, Upstream
from tests.dns_world import query, rcode, records, reply_to

Replying = Callable[[bytes], Sequence[bytes]]
SLACK = 3.0
"""Seconds that a busy machine may add."""
ADDRESSES = [ip_address(f"127.9.9.{number}") for number in range(1, 5)]


class Servers(asyncio.DatagramProtocol):
    """Servers at one port of several addresses; where none is told to answer, nobody listens."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.9.9.9", 0))
            self.port: int = probe.getsockname()[1]
        self.seen: list[tuple[str, bytes]] = []
        self.sources: set[int] = set()
        self._open: list[asyncio.DatagramTransport | asyncio.Server] = []

    async def udp(self, number: int, reply: Replying) -> None:
        """Serve at the address of that number."""
        host = str(ADDRESSES[number])
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self, host, reply), (host, self.port))
        self._open.append(transport)

    async def tcp(self, number: int, reply: Replying) -> None:
        """Serve connections at the address of that number."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):
                asked = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                self.seen.append(("tcp", asked))
                for each in reply(asked):
                    writer.write(len(each).to_bytes(2, "big") + each)
            writer.close()

        self._open.append(await asyncio.start_server(serve, str(ADDRESSES[number]), self.port))

    def close(self) -> None:
        for each in self._open:
            each.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, servers: Servers, host: str, reply: Replying) -> None:
        self._servers = servers
        self._host = host
        self._reply = reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._servers.seen.append((self._host, data))
        self._servers.sources.add(addr[1])
        for each in self._reply(data):
            self._transport.sendto(each, addr)


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    made = Servers()
    yield made
    made.close()
    await asyncio.sleep(0)


def asks(query: bytes) -> packet.Question:
    found = packet.parse_question(query)
    assert found is not None
    return found


def good(asked: bytes) -> Sequence[bytes]:
    return [reply_to(asked, "192.0.2.1")]


def silent(_: bytes) -> Sequence[bytes]:
    return []


def failing(asked: bytes) -> Sequence[bytes]:
    return [packet.error(asked, asks(asked), packet.SERVFAIL)]


def truncated(asked: bytes) -> Sequence[bytes]:
    reply = reply_to(asked)
    return [reply[:2] + bytes([reply[2] | 2]) + reply[3:]]


def nameless(asked: bytes) -> Sequence[bytes]:
    reply = reply_to(asked)
    return [reply[:3] + bytes([reply[3] | packet.NXDOMAIN]) + reply[4:]]


async def timed(upstream: Upstream, asked: bytes, count: int, limit: int = 512) -> tuple[bytes | None, float]:
    """The answer of so many servers, and the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await upstream.ask(asked, asks(asked), ADDRESSES[:count], limit=limit), loop.time() - began


async def test_given_a_living_server_when_asked_then_the_answer_bears_the_askers_id(servers: Servers) -> None:
    await servers.udp(0, good)
    asked = query("example.org", payload=1400)
    answer, _ = await timed(Upstream(port=servers.port), asked, 1)
    assert answer is not None
    assert answer[:2] == asked[:2]
    assert records(answer) == ["192.0.2.1"]
    ((_, seen),) = servers.seen
    assert seen[2:] == asked[2:]  # EDNS and all


async def test_given_many_questions_when_asked_then_ids_and_ports_differ(servers: Servers) -> None:
    await servers.udp(0, good)
    upstream = Upstream(port=servers.port)
    asked = query("example.org")
    await asyncio.gather(*(upstream.ask(asked, asks(asked), ADDRESSES[:1], limit=512) for _ in range(50)))
    assert len({seen[:2] for _, seen in servers.seen}) > 45
    assert len(servers.sources) > 45
    assert upstream.outstanding == 0


@pytest.mark.parametrize("reply", [None, failing])
async def test_given_servers_that_fail_before_a_living_one_when_asked_then_it_is_asked_at_once(
    servers: Servers, reply: Replying | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_module, "STAGGER", 100.0)
    monkeypatch.setattr(upstream_module, "STAGGERED", 100.0)
    for number in range(2):
        if reply:
            await servers.udp(number, reply)
    await servers.udp(2, good)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 3)
    assert answer
    assert records(answer) == ["192.0.2.1"]


async def test_given_silent_servers_before_a_living_one_when_asked_then_under_a_second(servers: Servers) -> None:
    for number in range(2):
        await servers.udp(number, silent)
    await servers.udp(2, good)
    answer, took = await timed(Upstream(port=servers.port), query("example.org"), 3)
    assert answer
    assert records(answer) == ["192.0.2.1"]
    assert 2 * STAGGER <= STAGGERED < 1.0
    assert took < 1.0 + SLACK


async def test_given_a_silent_first_server_when_asked_again_then_it_is_asked_last(servers: Servers) -> None:
    await servers.udp(0, silent)
    await servers.udp(1, good)
    upstream = Upstream(port=servers.port)
    await timed(upstream, query("example.org"), 2)
    servers.seen.clear()
    await timed(upstream, query("example.org"), 2)
    assert servers.seen[0][0] == str(ADDRESSES[1])


async def test_given_a_name_that_does_not_exist_when_told_then_no_other_server_is_asked(servers: Servers) -> None:
    await servers.udp(0, nameless)
    await servers.udp(1, good)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 2)
    assert answer
    assert rcode(answer) == "NXDOMAIN"
    assert len(servers.seen) == 1


async def test_given_only_failures_when_asked_then_the_first_failure_is_the_answer(servers: Servers) -> None:
    await servers.udp(0, failing)
    answer, took = await timed(Upstream(port=servers.port), query("example.org"), 2)
    assert answer
    assert rcode(answer) == "SERVFAIL"
    assert took < SLACK


async def test_given_nobody_when_asked_then_no_answer_at_the_deadline(servers: Servers) -> None:
    await servers.udp(0, silent)
    upstream = Upstream(port=servers.port, deadline=0.4)
    answer, took = await timed(upstream, query("example.org"), 1)
    assert answer is None
    assert 0.39 < took < 0.4 + SLACK
    assert await upstream.ask(query("example.org"), asks(query("example.org")), (), limit=512) is None


def other_id(asked: bytes) -> bytes:
    return bytes([asked[0] ^ 1]) + reply_to(asked, "203.0.113.1")[1:]


def other_question(asked: bytes) -> bytes:
    return asked[:2] + reply_to(query("example.com"), "203.0.113.1")[2:]


@pytest.mark.parametrize("lie", [other_id, other_question, lambda asked: asked, lambda _: b"", lambda _: b"\xff" * 500])
async def test_given_lies_when_the_true_answer_follows_then_it_alone_counts(
    servers: Servers, lie: Callable[[bytes], bytes]
) -> None:
    await servers.udp(0, lambda asked: [lie(asked)] * 3 + [reply_to(asked, "192.0.2.1")])
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 1)
    assert answer
    assert records(answer) == ["192.0.2.1"]


async def test_given_an_answer_from_another_server_when_it_comes_then_it_is_ignored(servers: Servers) -> None:
    loop = asyncio.get_running_loop()

    class Spoofed(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
                liar.bind(("127.9.9.77", 0))
                liar.sendto(reply_to(data, "203.0.113.1"), addr)

    transport, _ = await loop.create_datagram_endpoint(Spoofed, (str(ADDRESSES[0]), servers.port))
    answer, _ = await timed(Upstream(port=servers.port, deadline=0.3), query("example.org"), 1)
    transport.close()
    assert answer is None


async def test_given_a_lost_datagram_when_time_has_passed_then_it_is_sent_again(servers: Servers) -> None:
    await servers.udp(0, lambda asked: good(asked) if len(servers.seen) > 1 else [])
    answer, took = await timed(Upstream(port=servers.port), query("example.org"), 1)
    assert answer
    assert took > 1.0


def many(asked: bytes) -> Sequence[bytes]:
    return [reply_to(asked, *(f"192.0.2.{number}" for number in range(1, 101)))]


@pytest.mark.parametrize(("limit", "count"), [(4096, 100), (LARGEST, 100), (512, 0)])
async def test_given_a_truncated_answer_when_it_fits_the_asker_then_it_is_fetched_over_tcp(
    servers: Servers, limit: int, count: int
) -> None:
    await servers.udp(0, truncated)
    await servers.tcp(0, many)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 1, limit)
    assert answer
    assert len(records(answer)) == count
    assert packet.is_truncated(answer) is (count == 0)


@pytest.mark.parametrize("reply", [None, lambda _: [], lambda _: [b"\0" * 20]])
async def test_given_a_truncated_answer_and_no_tcp_when_the_asker_is_on_tcp_then_the_next_server_is_asked(
    servers: Servers, reply: Replying | None
) -> None:
    await servers.udp(0, truncated)
    await servers.udp(1, good)
    if reply:
        await servers.tcp(0, reply)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 2, LARGEST)
    assert answer
    assert records(answer) == ["192.0.2.1"]
    udp_answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 1)
    assert udp_answer
    assert packet.is_truncated(udp_answer)


async def test_given_the_limit_when_reached_then_full(servers: Servers) -> None:
    await servers.udp(0, silent)
    upstream = Upstream(port=servers.port, deadline=0.2, limit=2)
    asking = [
        asyncio.create_task(upstream.ask(query("a"), asks(query("a")), ADDRESSES[:1], limit=512)) for _ in range(2)
    ]
    await asyncio.sleep(0)  # both begin
    assert upstream.full
    await asyncio.gather(*asking)
    assert not upstream.full


def test_given_a_resolv_conf_when_read_then_its_servers_are_told(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(
        b"# x\nsearch a\nnameserver 192.0.2.1\nnameserver\nnameserver bad\n\xff\nnameserver ::1\nnameserver 192.0.2.1"
    )
    servers = HostServers(str(file))
    assert servers.current() == (ip_address("192.0.2.1"), ip_address("::1"))
    assert HostServers(str(tmp_path / "none")).current() == (ip_address("127.0.0.1"),)
