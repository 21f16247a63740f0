"""What goes over the socket between the daemon and the resolver.

A frame is four bytes of length (big-endian) and that many bytes of MessagePack, one message. The daemon
asks, the resolver answers each message once and in order. The first message of a connection is a
:class:`Hello`. The socket is ``<run-dir>/dns.sock``, mode 0600: whoever may write to it decides on names.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import msgspec

from sandnet.dns.base import Change, Explanation
from sandnet.errors import Kind, invalid
from sandnet.model.address import decode_hook, encode_hook

M = TypeVar("M")

SOCKET: Final = "dns.sock"
"""Name of the socket in the run directory."""
FORMER_SOCKET: Final = "dns.sock.former"
"""Where a resolver goes on listening whose successor has started, until that one has all names."""
FRAME_LIMIT: Final = 16 << 20
"""Bytes of a message; a longer one ends the connection before it is read."""
BATCH: Final = 1000
"""Changes in a message: some hundred KiB, decoded in about a millisecond."""
_LENGTH: Final = 4


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who connects; answered by :class:`Welcome`."""

    release: str


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Make changes; answered by :class:`Done` when they are in force."""

    changes: tuple[Change, ...]


class Replace(msgspec.Struct, frozen=True, tag="replace"):
    """Make exactly these the names and askers there are; answered by :class:`Done`."""

    changes: tuple[Change, ...]
    more: bool = False
    """The next message goes on with the list; nothing is in force before the last."""


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """Answered by :class:`Explained`, or :class:`Refused` when the asker is not known."""

    container_id: str
    name: str


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Answered by :class:`Counts`."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Take no more questions and end; answered by :class:`Done` at once."""

    drain: bool = False
    """Answer first what is under way; at most as long as an upstream may take."""


Request = Hello | Apply | Replace | Explain | Stats | Stop


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Who answers."""

    release: str
    pid: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The changes are in force, but for what is told."""

    problems: tuple[str, ...] = ()
    """Of every asker that is not served as it should, in words."""


class Explained(msgspec.Struct, frozen=True, tag="explained"):
    """What would be answered."""

    explanation: Explanation


class Counts(msgspec.Struct, frozen=True, kw_only=True, tag="counts"):
    """What the resolver has done since it started, and what it holds."""

    queries: int = 0
    local: int = 0
    """Answered from the names, errors in the question included."""
    upstream: int = 0
    """Handed to a server."""
    servfail: int = 0
    """Asked upstream in vain."""
    limited: int = 0
    """Answered SERVFAIL, or a connection closed, because a limit was reached."""
    dropped: int = 0
    """Not answered: no DNS message, or the asker does not take its answers."""
    askers: int = 0
    outstanding: int = 0
    """Questions now under way upstream."""
    connections: int = 0
    """TCP connections now open."""
    seconds: float = 0.0
    """Since the start."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The request cannot be served."""

    kind: Kind
    message: str
    hint: str = ""
    code: str = ""


Reply = Welcome | Done | Explained | Counts | Refused

_encoder = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request, dec_hook=decode_hook)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply, dec_hook=decode_hook)


def frame(message: Request | Reply) -> bytes:
    """The message as it goes over the socket.

    Raises:
        Error: ``INVALID`` it is larger than a frame may be.
    """
    body = _encoder.encode(message)
    if len(body) > FRAME_LIMIT:
        raise invalid(f"a message of {len(body)} bytes is too large for the resolver", code="message_too_large")
    return len(body).to_bytes(_LENGTH, "big") + body


def pieces(changes: Sequence[Change]) -> Iterator[Replace]:
    """A whole list of changes in messages of a fair size; at least one."""
    rest = iter(changes)
    piece = tuple(islice(rest, BATCH))
    while following := tuple(islice(rest, BATCH)):
        yield Replace(piece, more=True)
        piece = following
    yield Replace(piece)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next message of a client; ``None`` when it has hung up.

    Raises:
        Error: ``INVALID`` it is none of ours, or too long.
    """
    return await _read(reader, _requests)


async def read_reply(reader: asyncio.StreamReader) -> Reply | None:
    """The next answer of the resolver; ``None`` when it is gone.

    Raises:
        Error: ``INVALID`` it is none of ours, or too long.
    """
    return await _read(reader, _replies)


def exchange(connection: socket.socket, request: Request) -> Reply:
    """Send a request and wait for its answer, for callers without an event loop.

    Raises:
        OSError: the resolver has gone, or does not answer within the socket's timeout.
        Error: ``INVALID`` the answer is none of ours.
    """
    connection.sendall(frame(request))
    with connection.makefile("rb") as file:
        body = file.read(_checked(file.read(_LENGTH)))
    if not body:
        raise ConnectionResetError("the resolver has hung up")
    return _decoded(body, _replies)


async def _read(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[M]) -> M | None:
    try:
        body = await reader.readexactly(_checked(await reader.readexactly(_LENGTH)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _decoded(body, decoder)


def _checked(prefix: bytes) -> int:
    length = int.from_bytes(prefix, "big")
    if length > FRAME_LIMIT:
        raise invalid(f"a message of {length} bytes is refused", code="message_too_large")
    return length


def _decoded(body: bytes, decoder: msgspec.msgpack.Decoder[M]) -> M:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise invalid(f"not a message of the resolver's: {failure}", code="invalid_message") from failure
