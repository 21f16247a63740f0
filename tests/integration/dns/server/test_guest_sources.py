"""A virtual machine's sockets are on the host: they answer questions from its own address only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from sandnet.dns.base import SetClient
from sandnet.dns.server.fair_share import Shares
from sandnet.dns.server.listener import Listener
from sandnet.dns.server.query_handler import ClientState, Peer, Send

OWN, OTHER = "127.0.0.77", "127.0.0.78"


class Echo:
    """Answers each message with itself."""

    def answer(self, client: ClientState, query: bytes, send: Send, peer: Peer, *, tcp: bool) -> bool:
        send(peer, query)
        return True

    def refused(self) -> None:
        """Nothing is counted."""

    def unsent(self) -> None:
        """Nothing is counted."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def bound(stack: ExitStack, kind: socket.SocketKind, address: str) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_INET, kind))
    made.setblocking(False)
    made.bind((address, 0))
    return made


async def test_sockets_of_a_guest_answer_its_own_address_only(stack: ExitStack) -> None:
    loop = asyncio.get_running_loop()
    udp, tcp = bound(stack, socket.SOCK_DGRAM, "127.64.0.1"), bound(stack, socket.SOCK_STREAM, "127.64.0.1")
    tcp.listen()
    place, door = udp.getsockname(), tcp.getsockname()
    settings = SetClient(container_id="vm", key="", inode=0, networks=(), sources=(ip_address(OWN),))
    listener = Listener(ClientState(settings), udp, tcp, Echo(), Shares(8, 8))
    stack.callback(listener.close)

    guest, stranger = bound(stack, socket.SOCK_DGRAM, OWN), bound(stack, socket.SOCK_DGRAM, OTHER)
    stranger.sendto(b"first", place)
    guest.sendto(b"second", place)  # read after the other one
    assert await asyncio.wait_for(loop.sock_recv(guest, 64), 30) == b"second"
    with pytest.raises(BlockingIOError):
        stranger.recv(64)

    connection = bound(stack, socket.SOCK_STREAM, OTHER)
    await loop.sock_connect(connection, door)
    assert await asyncio.wait_for(loop.sock_recv(connection, 64), 30) == b""
    own = bound(stack, socket.SOCK_STREAM, OWN)
    await loop.sock_connect(own, door)
    query = bytes(12)
    await loop.sock_sendall(own, len(query).to_bytes(2, "big") + query)
    assert (await asyncio.wait_for(loop.sock_recv(own, 64), 30))[2:] == query
