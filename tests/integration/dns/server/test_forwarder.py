"""Questions to other servers, which are small real ones on addresses of the loopback device."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from sandnet.dns import message
from sandnet.dns.server import upstream_query as race_module
from sandnet.dns.server.forwarder import STREAM_WORK, STREAMS, ForwarderUsage, Options, Upstream
from sandnet.dns.server.host_nameservers import HostNameservers
from sandnet.dns.server.server_liveness import Liveness
from sandnet.dns.server.upstream_query import HOLD_NEGATIVE, HOLD_POSITIVE
from sandnet.dns.server.upstream_sockets import LARGEST
from sandnet.model.address import Address
from tests.support.conditions import until
from tests.support.dns_servers import query, rcode, records, reply_to
from tests.support.time_limits import TRIES

Replying = Callable[[bytes], Sequence[bytes]]
SLACK = 20.0
"""Seconds that a busy machine may add."""
ADDRESSES = [ip_address(f"127.9.9.{number}") for number in range(1, 5)]


class Servers(asyncio.DatagramProtocol):
    """Servers at one port of several addresses; where none is reported to answer, no one listens."""

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


def asks(query: bytes) -> message.Question:
    found = message.parse_question(query)
    assert found is not None
    return found


def good(asked: bytes) -> Sequence[bytes]:
    return [reply_to(asked, "192.0.2.1")]


def silent(_: bytes) -> Sequence[bytes]:
    return []


def failing(asked: bytes) -> Sequence[bytes]:
    return [message.error(asked, asks(asked), message.SERVFAIL)]


def truncated(asked: bytes) -> Sequence[bytes]:
    reply = reply_to(asked)
    return [reply[:2] + bytes([reply[2] | 2]) + reply[3:]]


def nameless(asked: bytes) -> Sequence[bytes]:
    reply = reply_to(asked)
    return [reply[:3] + bytes([reply[3] | message.NXDOMAIN]) + reply[4:]]


async def ask(
    upstream: Upstream,
    asked: bytes,
    servers: Sequence[Address],
    limit: int = 512,
    options: Options | None = None,
    usage: ForwarderUsage | None = None,
) -> bytes | None:
    answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    assert upstream.send(
        asked,
        asks(asked),
        servers,
        limit=limit,
        usage=usage or ForwarderUsage(),
        done=answer.set_result,
        options=options,
    )
    return await answer


async def timed(upstream: Upstream, asked: bytes, count: int, limit: int = 512) -> tuple[bytes | None, float]:
    """The answer of so many servers, and the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await ask(upstream, asked, ADDRESSES[:count], limit), loop.time() - began


async def test_upstream_answer_carries_the_client_query_id(servers: Servers) -> None:
    await servers.udp(0, good)
    asked = query("example.org", payload=1400)
    answer, _ = await timed(Upstream(port=servers.port), asked, 1)
    assert answer is not None
    assert answer[:2] == asked[:2]
    assert records(answer) == ["192.0.2.1"]
    ((_, seen),) = servers.seen
    assert seen[2:] == asked[2:]  # EDNS and all


@pytest.mark.parametrize("reply", [good, nameless], ids=["positive", "negative"])
async def test_answers_of_servers_are_not_kept(servers: Servers, reply: Replying) -> None:
    await servers.udp(0, reply)
    upstream = Upstream(port=servers.port)
    for _ in range(3):
        await timed(upstream, query("example.org"), 1)
    assert len(servers.seen) == 3


async def test_queries_use_different_ids_and_source_ports(servers: Servers) -> None:
    await servers.udp(0, good)
    upstream = Upstream(port=servers.port)
    asked = query("example.org")
    await asyncio.gather(*(ask(upstream, asked, ADDRESSES[:1]) for _ in range(50)))
    assert len({seen[:2] for _, seen in servers.seen}) > 45
    assert len(servers.sources) > 45
    assert upstream.outstanding == 0


@pytest.mark.parametrize("reply", [None, failing])
async def test_failing_servers_fail_over_at_once_to_a_working_one(
    servers: Servers, reply: Replying | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race_module, "STAGGER", 100.0)
    monkeypatch.setattr(race_module, "STAGGERED", 100.0)
    for number in range(2):
        if reply:
            await servers.udp(number, reply)
    await servers.udp(2, good)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 3)
    assert answer
    assert records(answer) == ["192.0.2.1"]


async def test_silent_servers_delay_only_the_first_query(
    servers: Servers,
) -> None:
    for number in range(2):
        await servers.udp(number, silent)
    await servers.udp(2, good)
    upstream = Upstream(port=servers.port)
    answer, took = await timed(upstream, query("example.org"), 3)
    assert answer
    assert records(answer) == ["192.0.2.1"]
    assert HOLD_POSITIVE - 0.1 < took < HOLD_POSITIVE + SLACK
    began = asyncio.get_running_loop().time()
    for _ in range(10):
        answer, _ = await timed(upstream, query("example.org"), 3)
        assert answer
    assert asyncio.get_running_loop().time() - began < HOLD_POSITIVE


@pytest.mark.parametrize("reply", [silent, None])
async def test_silent_server_delays_only_the_first_nonexistent_name(servers: Servers, reply: Replying | None) -> None:
    if reply:
        await servers.udp(0, reply)
    await servers.udp(1, nameless)
    upstream = Upstream(port=servers.port)
    _, took = await timed(upstream, query("example.org"), 2)
    assert (took > HOLD_NEGATIVE - 0.1) is bool(reply)
    began = asyncio.get_running_loop().time()
    for _ in range(10):
        answer, _ = await timed(upstream, query("example.org"), 2)
        assert answer
        assert rcode(answer) == "NXDOMAIN"
    assert asyncio.get_running_loop().time() - began < HOLD_NEGATIVE


async def test_recovered_server_is_used_again_after_a_probe(servers: Servers) -> None:
    alive: list[bool] = []
    await servers.udp(0, lambda asked: good(asked) if alive else [])
    await servers.udp(1, nameless)
    upstream = Upstream(port=servers.port)
    answer, _ = await timed(upstream, query("example.org"), 2)
    assert answer
    assert rcode(answer) == "NXDOMAIN"
    alive.append(True)
    deadline = asyncio.get_running_loop().time() + 20
    while not (answer := (await timed(upstream, query("example.org"), 2))[0]) or not records(answer):
        assert asyncio.get_running_loop().time() < deadline
    for _ in range(5):
        answer, _ = await timed(upstream, query("example.org"), 2)
        assert answer
        assert records(answer) == ["192.0.2.1"]


async def test_nxdomain_answer_is_final_without_asking_other_servers(servers: Servers) -> None:
    await servers.udp(0, nameless)
    await servers.udp(1, good)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 2)
    assert answer
    assert rcode(answer) == "NXDOMAIN"
    assert len(servers.seen) == 1


async def test_first_failure_is_the_answer_if_all_servers_fail(servers: Servers) -> None:
    await servers.udp(0, failing)
    answer, took = await timed(Upstream(port=servers.port), query("example.org"), 2)
    assert answer
    assert rcode(answer) == "SERVFAIL"
    assert took < SLACK


async def test_no_responding_server_gives_no_answer_at_the_deadline(servers: Servers) -> None:
    await servers.udp(0, silent)
    upstream = Upstream(port=servers.port, deadline=0.4)
    answer, took = await timed(upstream, query("example.org"), 1)
    assert answer is None
    assert 0.39 < took < 0.4 + SLACK
    assert await ask(upstream, query("example.org"), ()) is None


def other_id(asked: bytes) -> bytes:
    return bytes([asked[0] ^ 1]) + reply_to(asked, "203.0.113.1")[1:]


def other_question(asked: bytes) -> bytes:
    return asked[:2] + reply_to(query("example.com"), "203.0.113.1")[2:]


@pytest.mark.parametrize("lie", [other_id, other_question, lambda asked: asked, lambda _: b"", lambda _: b"\xff" * 500])
async def test_forged_answers_before_the_true_one_are_ignored(servers: Servers, lie: Callable[[bytes], bytes]) -> None:
    await servers.udp(0, lambda asked: [lie(asked)] * 3 + [reply_to(asked, "192.0.2.1")])
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 1)
    assert answer
    assert records(answer) == ["192.0.2.1"]


async def test_answer_from_another_server_is_ignored(servers: Servers) -> None:
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


async def test_lost_datagram_is_resent_after_the_timeout(servers: Servers) -> None:
    await servers.udp(0, lambda asked: good(asked) if len(servers.seen) > 1 else [])
    answer, took = await timed(Upstream(port=servers.port), query("example.org"), 1)
    assert answer
    assert took > 0.4


def many(asked: bytes) -> Sequence[bytes]:
    return [reply_to(asked, *(f"192.0.2.{number}" for number in range(1, 101)))]


@pytest.mark.parametrize(("limit", "count"), [(4096, 100), (LARGEST, 100), (512, 0)])
async def test_truncated_answer_fitting_the_client_is_fetched_over_tcp(
    servers: Servers, limit: int, count: int
) -> None:
    await servers.udp(0, truncated)
    await servers.tcp(0, many)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 1, limit)
    assert answer
    assert len(records(answer)) == count
    assert message.is_truncated(answer) is (count == 0)


@pytest.mark.parametrize("reply", [None, lambda _: [], lambda _: [b"\0" * 20]])
async def test_truncated_answer_without_tcp_moves_to_the_next_server(servers: Servers, reply: Replying | None) -> None:
    await servers.udp(0, truncated)
    await servers.udp(1, good)
    if reply:
        await servers.tcp(0, reply)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 2, LARGEST)
    assert answer
    assert records(answer) == ["192.0.2.1"]
    udp_answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 1)
    assert udp_answer
    assert message.is_truncated(udp_answer)


async def test_client_at_its_query_limit_does_not_block_others(servers: Servers) -> None:
    await servers.udp(0, silent)
    upstream = Upstream(port=servers.port, deadline=0.2, limit=9, own_limit=6)
    asked = query("a")
    greedy, modest = ForwarderUsage(), ForwarderUsage()
    answers: list[bytes | None] = []

    def sent(usage: ForwarderUsage) -> bool:
        return upstream.send(asked, asks(asked), ADDRESSES[:1], limit=512, usage=usage, done=answers.append)

    assert sum(sent(greedy) for _ in range(20)) == greedy.outstanding == 5  # no more than are left
    assert sent(modest)
    await until(lambda: len(answers) == 6)
    assert answers == [None] * 6
    assert upstream.outstanding == greedy.outstanding == modest.outstanding == 0


def denying(code: int) -> Replying:
    def reply(asked: bytes) -> Sequence[bytes]:
        return [(printed := reply_to(asked))[:3] + bytes([printed[3] & 0xF0 | code]) + printed[4:]]

    return reply


def other(asked: bytes) -> Sequence[bytes]:
    return [reply_to(asked, "203.0.113.1")]


def lame(asked: bytes) -> Sequence[bytes]:
    printed = reply_to(asked)
    return [printed[:2] + b"\x81\x00" + printed[4:]]


SECOND = {
    "NXDOMAIN": denying(message.NXDOMAIN),
    "NODATA": denying(message.NOERROR),
    "SERVFAIL": denying(message.SERVFAIL),
    "REFUSED": denying(message.REFUSED),
    "another address": other,
}


LATE = ("0.35 s", "1 s", "a datagram is lost", "two datagrams are lost")
# two lost datagrams take longer than the second and a half after which records of the second server count
LATE_AND_SECOND = [(late, name) for late in LATE for name in SECOND if (late, name) != (LATE[-1], "another address")]


@pytest.mark.parametrize(("late", "second"), LATE_AND_SECOND)
async def test_late_first_server_wins_over_a_different_second_answer(late: str, second: str) -> None:
    """When the machine stands still, the servers are late too: they get a few tries."""
    found = []
    for _ in range(TRIES):
        found.append(await answers_beside_late_server(late, SECOND[second]))
        if found[-1] == [["192.0.2.1"]] * 2:
            return
    pytest.fail(f"the answers were {found}")


async def answers_beside_late_server(late: str, second: Replying) -> list[list[str] | None]:
    """The records of two answers, of new servers, the first of which is late."""
    loop = asyncio.get_running_loop()
    lost = {"a datagram is lost": 1, "two datagrams are lost": 2}.get(late, 0)
    delay = {"0.35 s": 0.35, "1 s": 1.0}.get(late, 0.0)

    class First(asyncio.DatagramProtocol):
        seen = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.DatagramTransport", transport)

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.seen += 1
            if self.seen > lost:
                loop.call_later(delay, self.transport.sendto, reply_to(data, "192.0.2.1"), addr)

    servers = Servers()
    transport, _ = await loop.create_datagram_endpoint(First, (str(ADDRESSES[0]), servers.port))
    try:
        await servers.udp(1, second)
        upstream = Upstream(port=servers.port)
        answers = [(await timed(upstream, query("example.org"), 2))[0] for _ in range(2)]
        return [records(answer) if answer else None for answer in answers]
    finally:
        transport.close()
        servers.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "first", [denying(2), denying(4), denying(5), lame], ids=["SERVFAIL", "NOTIMP", "REFUSED", "lame"]
)
async def test_unusable_first_server_yields_to_the_second_at_once(
    servers: Servers, first: Replying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race_module, "STAGGER", 100.0)
    monkeypatch.setattr(race_module, "STAGGERED", 100.0)
    await servers.udp(0, first)
    await servers.udp(1, nameless)
    answer, _ = await timed(Upstream(port=servers.port), query("example.org"), 2)
    assert answer
    assert rcode(answer) == "NXDOMAIN"


async def test_rotate_option_alternates_the_first_server(servers: Servers) -> None:
    await servers.udp(0, good)
    await servers.udp(1, other)
    upstream = Upstream(port=servers.port)
    printed = [await ask(upstream, query("example.org"), ADDRESSES[:2], options=Options(rotate=True)) for _ in range(6)]
    assert [records(each or b"")[0] for each in printed] == ["203.0.113.1", "192.0.2.1"] * 3


async def test_one_second_timeout_falls_back_to_the_second_server(
    servers: Servers,
) -> None:
    await servers.udp(0, silent)
    loop = asyncio.get_running_loop()
    upstream, began = Upstream(port=servers.port), loop.time()
    options = Options(timeout=1.0, attempts=1)
    assert await ask(upstream, query("example.org"), ADDRESSES[:1], options=options) is None
    assert 0.9 < loop.time() - began < 1.0 + SLACK
    await servers.udp(1, nameless)
    began = loop.time()
    answer = await ask(upstream, query("example.org"), ADDRESSES[:2], options=options)
    assert answer
    assert rcode(answer) == "NXDOMAIN"
    assert 0.9 < loop.time() - began < 1.0 + SLACK


async def test_truncated_answer_is_passed_on_if_no_tcp_stream_is_free(
    servers: Servers,
) -> None:
    await servers.udp(0, truncated)
    await servers.tcp(0, many)
    upstream, usage = Upstream(port=servers.port), ForwarderUsage()
    usage.streams = STREAMS[1]
    answer = await ask(upstream, query("a"), ADDRESSES[:1], 4096, usage=usage)
    assert answer
    assert message.is_truncated(answer)
    assert usage.streams == STREAMS[1]
    usage.streams = 0
    answer = await ask(upstream, query("a"), ADDRESSES[:1], 4096, usage=usage)
    assert answer
    assert not message.is_truncated(answer)
    assert usage.streams == 0


async def test_answers_to_a_client_over_budget_wait_for_its_time_slot(
    servers: Servers,
) -> None:
    await servers.udp(0, good)
    waiting: list[Callable[[], None]] = []
    upstream, usage, answers = Upstream(port=servers.port), ForwarderUsage(waiting.append), list[bytes | None]()
    asked = query("a")
    assert upstream.send(asked, asks(asked), ADDRESSES[:1], limit=512, usage=usage, done=answers.append)
    await until(lambda: bool(waiting))
    waiting.pop(0)()  # reads what came
    await until(lambda: bool(waiting))
    assert (answers, upstream.outstanding) == ([], 1)
    waiting.pop(0)()
    assert answers[0]
    assert upstream.outstanding == 0


@pytest.mark.parametrize("reply", [good, truncated], ids=["udp", "tcp"])
async def test_finished_question_leaves_no_cyclic_garbage(servers: Servers, reply: Replying) -> None:
    await servers.udp(0, reply)
    await servers.tcp(0, many)
    upstream = Upstream(port=servers.port)
    assert await ask(upstream, query("a"), ADDRESSES[:1], 4096)
    gc.collect()
    gc.disable()
    try:
        assert await ask(upstream, query("b"), ADDRESSES[:1], 4096)
        await until(lambda: not upstream.outstanding)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [each for each in gc.garbage if type(each).__module__.startswith("sandnet.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


async def test_tcp_fetch_is_charged_to_the_client(
    servers: Servers,
) -> None:
    await servers.udp(0, truncated)
    await servers.tcp(0, many)
    paid: list[float] = []
    usage = ForwarderUsage(charge=paid.append)
    assert await ask(Upstream(port=servers.port), query("a"), ADDRESSES[:1], 4096, usage=usage)
    assert paid == [STREAM_WORK]


def test_liveness_memory_stays_bounded_with_many_servers() -> None:
    liveness = Liveness()
    many_servers = [ip_address(number) for number in range(1, 5000)]
    for server in many_servers:
        liveness.note_silent([server], {server: 0.0})
    remembered = liveness.row(many_servers)[1]
    assert 0 < len(remembered) <= 1025
    for server in many_servers:
        liveness.record_answer([server])
    assert len(liveness._answered) <= 1025


async def test_truncated_answer_is_returned_in_time_if_tcp_hangs(
    servers: Servers,
) -> None:
    await servers.udp(0, truncated)
    held = socket.create_server((str(ADDRESSES[0]), servers.port))
    answer, took = await timed(Upstream(port=servers.port), query("example.org"), 1, 4096)
    held.close()
    assert answer
    assert message.is_truncated(answer)
    assert took < race_module.STREAM + SLACK


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", Options()),
        ("options timeout:1 attempts:3 rotate", Options(1.0, 3, True)),
        ("options timeout:99 attempts:99", Options(30.0, 5, False)),
        ("options timeout:0 attempts:0", Options(1.0, 1, False)),
        ("options timeout: attempts:x", Options()),
    ],
)
def test_resolv_conf_options_apply_to_its_servers(tmp_path: Path, text: str, options: Options) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(f"nameserver 192.0.2.1\n{text}\n")
    assert HostNameservers(str(file)).options() == options


def test_resolv_conf_servers_are_returned(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(
        b"# x\nsearch a\nnameserver 192.0.2.1\nnameserver\nnameserver bad\n\xff\nnameserver ::1\nnameserver 192.0.2.1"
    )
    servers = HostNameservers(str(file))
    assert servers.current() == (ip_address("192.0.2.1"), ip_address("::1"))
    assert HostNameservers(str(tmp_path / "none")).current() == (ip_address("127.0.0.1"),)
