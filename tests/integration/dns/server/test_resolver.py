"""Listeners on the loopback device: streams that come in pieces, stand still or ask too much."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from sandnet.dns.control_protocol import Lack
from sandnet.dns.server import resolver as server_resolver
from sandnet.dns.server import tcp as stream
from sandnet.dns.server.fair_share import Shares
from sandnet.dns.server.query_handler import ClientState, Peer, Send
from tests.support.conditions import until
from tests.support.dns_servers import names, query, records
from tests.support.local_name_servers import LocalResolver, asker


@pytest.fixture
async def resolver(tmp_path: Path) -> AsyncIterator[LocalResolver]:
    made = LocalResolver(tmp_path)
    many = [f"10.1.{number // 200}.{number % 200 + 1}" for number in range(1000)]
    made.serve(asker("box", "front"), names("front", "e1", "web", "10.0.0.2"))
    made.serve(names("front", "e2", "many", *many))
    yield made
    made.close()


async def connected(resolver: LocalResolver) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await resolver.connect("box")


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def answer(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


async def test_query_sent_byte_by_byte_is_answered_once_complete(resolver: LocalResolver) -> None:
    reader, writer = await connected(resolver)
    for byte in framed(query("web")):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert records(await answer(reader)) == ["10.0.0.2"]
    writer.close()


async def test_half_closed_client_still_gets_its_answers(
    resolver: LocalResolver,
) -> None:
    reader, writer = await connected(resolver)
    writer.write(framed(query("web")) * 100 + framed(query("example.org")))
    writer.write_eof()
    for _ in range(100):
        assert records(await answer(reader)) == ["10.0.0.2"]
    assert await answer(reader)
    assert await reader.read() == b""
    writer.close()


class Slow:
    """A handler that works a fifth of a millisecond on each question, and notes the iteration of the event loop."""

    def __init__(self) -> None:
        self.iteration = 0
        self.seen: list[int] = []
        self._count()

    def answer(self, client: ClientState, query: bytes, send: Send, peer: Peer, *, tcp: bool) -> bool:
        end = time.monotonic() + 0.0002
        while time.monotonic() < end:
            pass
        self.seen.append(self.iteration)
        send(peer, query)
        return True

    def refused(self) -> None:
        """Count nothing."""

    unsent = refused

    def _count(self) -> None:
        self.iteration += 1
        asyncio.get_running_loop().call_soon(self._count)


async def test_questions_of_one_tcp_segment_are_spread_over_iterations() -> None:
    near, far = socket.socketpair()
    far.sendall(framed(bytes(12)) * 100)
    far.shutdown(socket.SHUT_WR)
    slow, client, peers = Slow(), ClientState(asker("box", "front")), set[stream.TcpConnection]()
    slots = Shares(10, 10)
    slots.take(0)
    stream.TcpConnection(client, slow, near, peers, slots)
    await until(lambda: not peers)
    far.close()
    assert len(slow.seen) == 100
    assert max(map(slow.seen.count, slow.seen)) <= 4


async def test_idle_dns_connection_is_closed_after_the_timeout(
    resolver: LocalResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "IDLE", 0.1)
    reader, writer = await connected(resolver)
    for _ in range(5):
        writer.write(b"\0")  # never a whole question
        await asyncio.sleep(0.03)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(answer(reader), 20)
    writer.close()
    await until(lambda: resolver.server.counts().connections == 0)


async def test_querying_client_that_does_not_read_is_not_read_from(resolver: LocalResolver) -> None:
    total = 5000
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", resolver.ports["box"]))
        stalled.setblocking(False)
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(stalled, framed(query("many")) * total))  # 80 MB of answers
        await until(lambda: resolver.answers.queries)
        reader, writer = await connected(resolver)
        alone = 0  # how many questions in a row came from this connection only
        async with asyncio.timeout(60):
            while alone < 10:
                before = resolver.answers.queries
                writer.write(framed(query("web")))
                assert records(await answer(reader)) == ["10.0.0.2"]
                alone = alone + 1 if resolver.answers.queries == before + 1 else 0
        assert resolver.answers.queries < total
        assert resolver.server.counts().connections == 2  # neither was cut off
        sending.cancel()


@pytest.mark.parametrize("announced", [0, 11, 1233, 65535])
async def test_overlong_message_closes_the_connection_unread(resolver: LocalResolver, announced: int) -> None:
    reader, writer = await connected(resolver)
    writer.write(framed(query("web")) + announced.to_bytes(2, "big"))
    assert records(await answer(reader)) == ["10.0.0.2"]
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    assert resolver.server.counts().limited == 1


async def test_client_not_reading_its_late_answers_is_cut_off(
    resolver: LocalResolver,
) -> None:
    here, there = socket.socketpair()
    client, peers, slots = ClientState(asker("slow")), set[stream.TcpConnection](), Shares(10, 10)
    assert slots.take(client.connections)
    client.connections += 1
    later: list[Callable[[bytes], None]] = []

    class Late:
        def answer(self, _: ClientState, __: bytes, send: Send, peer: Peer, *, tcp: bool) -> bool:
            later.append(partial(send, peer))
            return tcp

        def refused(self) -> None: ...

        def unsent(self) -> None: ...

    stream.TcpConnection(client, Late(), here, peers, slots)
    there.sendall(framed(query("web")) * 60)
    await until(lambda: len(later) == 60)
    for send in later:
        send(bytes(60_000))
    assert (peers, client.connections, slots.taken, here.fileno()) == (set(), 0, 0, -1)
    there.close()


async def test_connection_over_the_client_limit_is_closed_and_counted(
    resolver: LocalResolver,
) -> None:
    held = [await connected(resolver) for _ in range(4)]
    reader, writer = await connected(resolver)
    assert await asyncio.wait_for(reader.read(), 20) == b""
    counts = resolver.server.counts()
    assert (counts.limited, counts.connections) == (1, 4)
    for _, each in [*held, (reader, writer)]:
        each.close()
        await each.wait_closed()


async def test_changed_client_in_the_same_namespace_keeps_its_sockets(resolver: LocalResolver) -> None:
    port = resolver.ports["box"]
    reader, writer = await connected(resolver)
    resolver.server.apply([asker("box", "front", "back"), names("back", "e1", "db", "10.1.0.9")])
    writer.write(framed(query("db")))
    assert records(await answer(reader)) == ["10.1.0.9"]
    assert resolver.ports["box"] == port
    writer.close()


async def test_successor_answers_on_the_sockets_of_a_drained_resolver(resolver: LocalResolver, tmp_path: Path) -> None:
    successor = LocalResolver(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", resolver.ports["box"]))
        out.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(out, query("web"))
        assert records(await asyncio.wait_for(loop.sock_recv(out, 512), 20)) == ["10.0.0.2"]
        passed, sockets, more = resolver.server.share(0)
        assert not more
        await resolver.server.drain()
        await loop.sock_sendall(out, query("web"))  # it waits in the socket
        resolver.server.close()
        successor.server.apply([asker("box", "front"), names("front", "e1", "web", "10.0.0.3")])
        successor.server.provide(passed, sockets)
        assert records(await asyncio.wait_for(loop.sock_recv(out, 512), 20)) == ["10.0.0.3"]
        reader, writer = await connected(resolver)
        writer.write(framed(query("web")))
        assert records(await asyncio.wait_for(answer(reader), 20)) == ["10.0.0.3"]
        writer.close()
    successor.server.close()


async def test_drained_resolver_answers_those_who_have_just_connected(resolver: LocalResolver) -> None:
    idle = await connected(resolver)
    idle[1].write(framed(query("web")))
    assert records(await answer(idle[0])) == ["10.0.0.2"]
    reader, writer = await connected(resolver)
    await until(lambda: resolver.server.counts().connections == 2)
    drained = asyncio.create_task(resolver.server.drain())
    await asyncio.sleep(0)
    writer.write(framed(query("web")))
    assert records(await asyncio.wait_for(answer(reader), 20)) == ["10.0.0.2"]
    await drained
    resolver.server.close()
    assert await asyncio.wait_for(reader.read(), 20) == b""
    for each in (writer, idle[1]):
        each.close()


async def test_connection_without_a_question_delays_a_successor_little(
    resolver: LocalResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_resolver, "FIRST_QUESTION", 0.05)
    _, writer = await connected(resolver)
    await until(lambda: resolver.server.counts().connections == 1)
    await asyncio.wait_for(resolver.server.drain(), 10)
    writer.close()


async def test_sharing_many_clients_passes_each_exactly_once(resolver: LocalResolver) -> None:
    resolver.serve(*(asker(f"box{number}", "front") for number in range(120)))
    found: list[str] = []
    more = True
    while more:
        passed, sockets, more = resolver.server.share(len(found))
        found += [each.container_id for each in passed]
        assert len(sockets) == 2 * len(passed)
        for each in sockets:
            each.close()
    assert sorted(found) == sorted(["box", *(f"box{number}" for number in range(120))])


async def test_passed_sockets_that_are_not_needed_are_closed(resolver: LocalResolver) -> None:
    before = resolver.ports["box"]
    for container_id, inode in (("box", 1), ("nobody", 1), ("late", 2)):
        resolver.server.apply([asker("late", "front")])
        opened = resolver.open(container_id, inode, Lack(container_id))
        resolver.server.provide([opened.passed(container_id)], opened.listening)
        assert [each.fileno() for each in opened.listening] == [-1, -1]
    assert [lack.container_id for lack in resolver.server.missing_sockets()] == ["late"]
    assert before
