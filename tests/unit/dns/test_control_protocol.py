"""Messages between the daemon and the resolver, well and badly made."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.dns.base import Alias, Explanation, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.dns.control_channel import Channel
from sandnet.dns.control_protocol import (
    BATCH,
    FRAME_LIMIT,
    Apply,
    Counts,
    Done,
    Explain,
    Explained,
    Hello,
    Lack,
    Passed,
    Refused,
    Replace,
    Reply,
    Request,
    Share,
    Shared,
    Stats,
    Stop,
    Welcome,
    batches,
    decoded_reply,
    decoded_request,
    frame,
)
from sandnet.errors import Error, Kind

NAMES = SetNames(
    network_id="n",
    network="front",
    owner="e",
    names=("web",),
    addresses=(ip_address("10.0.0.2"), ip_address("fd00::2")),
)
ASKER = SetClient(
    container_id="c",
    key="/run/c",
    inode=4026531840,
    networks=("n",),
    aliases=(Alias(name="db", addresses=(ip_address("10.0.0.3"),)),),
    upstreams=(ip_address("192.0.2.1"),),
    external=False,
)
REQUESTS: list[Request] = [
    Hello("1.0"),
    Apply((NAMES, ASKER, RemoveNames(network_id="n", owner="e"), RemoveClient(container_id="c"))),
    Apply((), (Passed("c", 7), Passed("@host", 0, listening=True, asking=3))),
    Replace((NAMES,), more=True),
    Explain("c", "web"),
    Stats(),
    Share(50),
    Stop(drain=True),
]
REPLIES: list[Reply] = [
    Welcome("1.0", 1),
    Done(("trouble",)),
    Done((), (Lack("c"), Lack("d", listening=False, asking=(4, 6)))),
    Shared((Passed("c", 7),), more=True),
    Explained(Explanation(name="web", asker="c", answers=(ip_address("10.0.0.2"),), source="network")),
    Counts(queries=1),
    Refused(Kind.NOT_FOUND, "no such sandbox"),
]


class Pair:
    """Two ends of a connection: what is sent at the one, and a channel at the other."""

    def __init__(self) -> None:
        self.far, near = socket.socketpair()
        self.far.setblocking(False)
        self.channel = Channel(near)

    def close(self) -> None:
        self.channel.close()
        self.far.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.far, data)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    made.close()


async def received(pair: Pair) -> bytes:
    body = await asyncio.wait_for(pair.channel.receive(), 20)
    assert body is not None
    return body


async def test_every_message_survives_a_round_trip(pair: Pair) -> None:
    await pair.send(b"".join(map(frame, REQUESTS)))
    assert [decoded_request(await received(pair)) for _ in REQUESTS] == REQUESTS
    await pair.send(b"".join(map(frame, REPLIES)))
    assert [decoded_reply(await received(pair)) for _ in REPLIES] == REPLIES
    pair.far.close()
    assert await pair.channel.receive() is None


async def test_length_beyond_the_limit_is_refused_before_reading_on(pair: Pair) -> None:
    await pair.send((FRAME_LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(Error) as refused:
        await asyncio.wait_for(pair.channel.receive(), 20)
    assert refused.value.code == "message_too_large"


def test_making_a_message_beyond_the_limit_is_refused() -> None:
    with pytest.raises(Error) as refused:
        frame(Explain("c", "x" * FRAME_LIMIT))
    assert refused.value.code == "message_too_large"


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_a_message_or_a_refusal(body: bytes) -> None:
    with suppress(Error):
        decoded_request(body)


@pytest.mark.parametrize("data", [frame(REQUESTS[1])[:-1], os.urandom(2)], ids=["body", "length"])
async def test_truncated_message_counts_as_disconnect(pair: Pair, data: bytes) -> None:
    await pair.send(data)
    pair.far.close()
    assert await asyncio.wait_for(pair.channel.receive(), 20) is None


async def test_each_message_claims_the_sockets_sent_with_it(pair: Pair) -> None:
    other = Channel(pair.far.dup())
    for number in range(40):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(number % 5)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = ",".join(str(each.getsockname()[1]) for each in sockets)
        other.send(frame(Explain(ports, "x" * 20_000)), sockets)
    for number in range(40):
        request = decoded_request(await received(pair))
        assert isinstance(request, Explain)
        came = pair.channel.claim(number % 5)
        assert came is not None
        assert ",".join(str(each.getsockname()[1]) for each in came) == request.container_id
        for each in came:
            each.close()
    assert pair.channel.claim(1) is None
    other.close()


async def test_slow_reader_loses_no_messages(pair: Pair) -> None:
    other = Channel(pair.far.dup())
    for number in range(50):
        other.send(frame(Explain(str(number), "x" * 100_000)))
    for number in range(50):
        assert decoded_request(await received(pair)) == Explain(str(number), "x" * 100_000)
    await asyncio.wait_for(other.flushed(), 20)
    other.close()


async def test_sending_on_a_lost_connection_closes_the_sockets(pair: Pair) -> None:
    other = Channel(pair.far.dup())
    pair.close()
    sent = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for each in sent:
        other.send(frame(Stats()), [each])
    assert [each.fileno() for each in sent] == [-1] * 3
    other.close()


def test_invalid_address_in_message_is_refused() -> None:
    with pytest.raises(Error):
        decoded_request(frame(Apply((NAMES,))).replace(b"10.0.0.2", b"10.0.0.x")[4:])


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 3 * BATCH])
def test_only_the_last_piece_of_split_changes_ends_them(count: int) -> None:
    changes = [RemoveClient(container_id=str(number)) for number in range(count)]
    cut = list(batches(changes))
    assert [change for piece in cut for change in piece.changes] == changes
    assert [piece.more for piece in cut] == [True] * (len(cut) - 1) + [False]
    assert all(len(piece.changes) <= BATCH for piece in cut)
