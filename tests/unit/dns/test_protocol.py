"""Messages between the daemon and the resolver, well and badly made."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.dns.base import Alias, Asker, Explanation, Names, NoAsker, NoNames
from sandnet.dns.protocol import (
    BATCH,
    FRAME_LIMIT,
    Apply,
    Counts,
    Done,
    Explain,
    Explained,
    Hello,
    Refused,
    Replace,
    Reply,
    Request,
    Stats,
    Stop,
    Welcome,
    frame,
    pieces,
    read_reply,
    read_request,
)
from sandnet.errors import Error, Kind

NAMES = Names(
    network_id="n",
    network="front",
    owner="e",
    names=("web",),
    addresses=(ip_address("10.0.0.2"), ip_address("fd00::2")),
)
ASKER = Asker(
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
    Apply((NAMES, ASKER, NoNames(network_id="n", owner="e"), NoAsker(container_id="c"))),
    Replace((NAMES,), more=True),
    Explain("c", "web"),
    Stats(),
    Stop(drain=True),
]
REPLIES: list[Reply] = [
    Welcome("1.0", 1),
    Done(("trouble",)),
    Explained(Explanation(name="web", asker="c", answers=(ip_address("10.0.0.2"),), source="network")),
    Counts(queries=1),
    Refused(Kind.NOT_FOUND, "no such sandbox"),
]


def fed(data: bytes) -> asyncio.StreamReader:
    """A stream of exactly this."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def test_given_every_request_when_sent_then_the_same_is_read() -> None:
    reader = fed(b"".join(map(frame, REQUESTS)))
    assert [await read_request(reader) for _ in REQUESTS] == REQUESTS
    assert await read_request(reader) is None


async def test_given_every_reply_when_sent_then_the_same_is_read() -> None:
    reader = fed(b"".join(map(frame, REPLIES)))
    assert [await read_reply(reader) for _ in REPLIES] == REPLIES
    assert await read_reply(reader) is None


async def test_given_a_length_beyond_the_limit_when_read_then_refused_before_the_rest() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data((FRAME_LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(Error) as refused:
        await asyncio.wait_for(read_request(reader), 20)
    assert refused.value.code == "message_too_large"


def test_given_a_message_beyond_the_limit_when_made_then_refused() -> None:
    with pytest.raises(Error) as refused:
        frame(Explain("c", "x" * FRAME_LIMIT))
    assert refused.value.code == "message_too_large"


@given(st.binary(max_size=200))
def test_given_any_bytes_when_read_then_a_message_or_a_refusal(body: bytes) -> None:
    async def read() -> None:
        await read_request(fed(len(body).to_bytes(4, "big") + body))

    with suppress(Error):
        asyncio.run(read())


async def test_given_a_cut_message_when_read_then_it_counts_as_hung_up() -> None:
    assert await read_request(fed(frame(REQUESTS[1])[:-1])) is None
    assert await read_request(fed(os.urandom(2))) is None


async def test_given_a_wrong_address_when_read_then_refused() -> None:
    with pytest.raises(Error):
        await read_request(fed(frame(Apply((NAMES,))).replace(b"10.0.0.2", b"10.0.0.x")))


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 3 * BATCH])
def test_given_many_changes_when_cut_then_the_last_piece_alone_ends_them(count: int) -> None:
    changes = [NoAsker(container_id=str(number)) for number in range(count)]
    cut = list(pieces(changes))
    assert [change for piece in cut for change in piece.changes] == changes
    assert [piece.more for piece in cut] == [True] * (len(cut) - 1) + [False]
    assert all(len(piece.changes) <= BATCH for piece in cut)
