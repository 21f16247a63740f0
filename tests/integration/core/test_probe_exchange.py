"""Probes between two hosts on the loopback device: who gets an answer, and how much."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address

import pytest

from sandnet.core.cluster.shared_values import HostRecord
from sandnet.core.reachability.answer_limits import BURST
from sandnet.core.reachability.probe_exchange import ProbeExchange, bound_socket
from sandnet.core.reachability.probe_frames import ANSWER, QUESTION, SMALLEST, Probe, decode, digest, encode
from sandnet.errors import Error, Kind
from sandnet.model import Address

VXLAN = 8
ASKER, ANSWERER = IPv4Address("127.0.0.2"), IPv4Address("127.0.0.3")
HOSTS = [HostRecord(name="h1", underlay=ASKER), HostRecord(name="h2", underlay=ANSWERER)]
QUESTION_OF_H1 = Probe(QUESTION, digest("h1"), b"n" * 16, 0)


class Answerer:
    """The exchange of h2; what it sends to h1 arrives at a socket of the test."""

    def __init__(self, stack: ExitStack) -> None:
        self.wire, self._inner = (
            stack.enter_context(each) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        )
        self._inner.setblocking(False)
        self.port_of_asker = stack.enter_context(bound_socket(ASKER))
        self.port_of_asker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.exchange = ProbeExchange("h2", lambda: HOSTS, self._open, self.port_of_asker.getsockname()[1])

    async def _open(self, local: Address, port: int) -> socket.socket:
        return self._inner

    def answers(self) -> list[bytes]:
        """What has arrived at h1."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.port_of_asker.recv(65536))
        return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def asked(stack: ExitStack, *frames: bytes) -> list[bytes]:
    """What h1 gets when these frames have arrived at h2."""
    answerer = Answerer(stack)

    async def run() -> None:
        await answerer.exchange.ensure(ANSWERER)
        for frame in frames:
            answerer.exchange.received(frame)
        answerer.exchange.close()

    asyncio.run(run())
    return answerer.answers()


@pytest.mark.parametrize("size", [SMALLEST[4], 1500])
def test_member_gets_an_answer_of_the_same_size(stack: ExitStack, size: int) -> None:
    question = encode(QUESTION_OF_H1, size, 4)
    (answer,) = asked(stack, question[VXLAN:])
    assert len(answer) == len(question)
    found = decode(answer[VXLAN:])
    assert found
    assert (found.kind, found.sender, found.nonce) == (ANSWER, digest("h2"), b"n" * 16)
    assert found.clock > 0


@pytest.mark.parametrize(
    "probe",
    [
        QUESTION_OF_H1._replace(sender=digest("h9")),
        QUESTION_OF_H1._replace(sender=digest("h2")),
        QUESTION_OF_H1._replace(kind=ANSWER),
        QUESTION_OF_H1._replace(kind=7),
    ],
    ids=["of a stranger", "of itself", "an answer", "of another kind"],
)
def test_nobody_gets_an_answer_to_another_probe(stack: ExitStack, probe: Probe) -> None:
    assert asked(stack, encode(probe, SMALLEST[4], 4)[VXLAN:]) == []


def test_flood_in_the_name_of_a_member_is_not_answered(stack: ExitStack) -> None:
    question = encode(QUESTION_OF_H1, SMALLEST[4], 4)[VXLAN:]
    assert BURST <= len(asked(stack, *[question] * 5 * int(BURST))) < 2 * BURST


def test_frames_of_a_flood_leave_time_for_others(stack: ExitStack) -> None:
    """After a batch the socket rests."""
    answerer = Answerer(stack)
    question = encode(QUESTION_OF_H1, SMALLEST[4], 4)[VXLAN:]

    async def run() -> int:
        await answerer.exchange.ensure(ANSWERER)
        answerer.wire.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 1000:
                answerer.wire.send(question)
                sent += 1
        for _ in range(20):
            await asyncio.sleep(0)
        received = len(answerer.answers())
        answerer.exchange.close()
        return received

    assert asyncio.run(asyncio.wait_for(run(), 20)) <= 64


def test_own_question_gets_its_answer_once(stack: ExitStack) -> None:
    answerer = Answerer(stack)
    found: list[Probe] = []

    async def run() -> None:
        await answerer.exchange.ensure(ANSWERER)
        content, nonce = answerer.exchange.question(200, 4, found.append)
        asked_for = decode(content[VXLAN:])
        assert asked_for
        assert asked_for.nonce == nonce
        answer = encode(Probe(ANSWER, digest("h1"), nonce, 5), 200, 4)[VXLAN:]
        guess = encode(Probe(ANSWER, digest("h1"), bytes(16), 5), 200, 4)[VXLAN:]
        for frame in (guess, answer, answer):
            answerer.exchange.received(frame)
        answerer.exchange.close()

    asyncio.run(run())
    assert [probe.clock for probe in found] == [5]


def test_refused_link_is_the_problem_until_it_is_made(stack: ExitStack) -> None:
    answerer = Answerer(stack)
    refused = [True]

    async def open_receiver(local: Address, port: int) -> socket.socket:
        if refused:
            refused.clear()
            raise Error(Kind.CONFLICT, "another link has the VNI")
        return await answerer._open(local, port)

    async def run() -> list[str]:
        exchange = ProbeExchange("h2", lambda: HOSTS, open_receiver, 1)
        found = []
        for _ in range(2):
            await exchange.ensure(ANSWERER)
            found.append(exchange.problem)
        exchange.close()
        return found

    assert asyncio.run(run()) == ["another link has the VNI", ""]
