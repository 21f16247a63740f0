"""The control protocol: messages over the socket between the daemon and the resolver.

A frame is four bytes of length (big-endian) and that many bytes of MessagePack, one message. The daemon sends
requests; the resolver answers each one once and in order. The first message of a connection is a :class:`Hello`.
The socket is ``<run-dir>/dns.sock``, mode 0600: a process that may write to it controls all names.

Sockets are sent with a message as file descriptors (``SCM_RIGHTS``, unix(7)). The message contains their owners.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import msgspec

from sandnet import passed_descriptors
from sandnet.dns.base import Change, Explanation
from sandnet.errors import Kind, invalid
from sandnet.model.address import decode_hook, encode_hook

M = TypeVar("M")

PROTOCOL: Final = 2
"""Version of these messages. A resolver that speaks another one is of another release."""
SOCKET: Final = "dns.sock"
"""Name of the socket in the run directory."""
FORMER_SOCKET: Final = "dns.sock.former"
"""Name of the socket of a resolver that is being replaced: it listens there until its successor has all names."""
FRAME_LIMIT: Final = 16 << 20
"""Bytes of a message; a longer one closes the connection before it is read."""
BATCH: Final = 1000
"""Changes in a message: a few hundred KiB, decoded in about 1 ms."""
MOST_DESCRIPTORS: Final = 253
"""Descriptors that one message may carry (``SCM_MAX_FD``, linux/include/net/scm.h)."""
HOST: Final = "@host"
"""Id of the host among the clients; no container's id begins with this character."""
LENGTH: Final = 4
"""Bytes of the length before a message."""


class Passed(msgspec.Struct, frozen=True, tag="passed"):
    """Sockets of one client, among the descriptors that are sent with the message, in this order."""

    container_id: str
    """Container id, or :data:`HOST`."""
    inode: int
    """Inode of the namespace of the sockets."""
    listening: bool = True
    """Whether there are a UDP and a listening TCP socket that receive its questions."""
    asking: int = 0
    """Number of unconnected UDP and TCP sockets for questions to its upstream servers."""

    @property
    def count(self) -> int:
        """Number of descriptors."""
        return 2 * self.listening + self.asking


class Lack(msgspec.Struct, frozen=True, tag="lack"):
    """A client without the sockets that it needs."""

    container_id: str
    listening: bool = True
    """Whether the sockets that receive its questions are missing."""
    asking: tuple[int, ...] = ()
    """IP versions (4, 6) of the missing sockets for questions to its upstream servers."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Greeting of the caller; answered by :class:`Welcome`."""

    release: str


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Request to apply changes; answered by :class:`Done` when they are in force."""

    changes: tuple[Change, ...]
    passed: tuple[Passed, ...] = ()
    """Owners of the sockets that are sent with the message. Sockets of unknown clients are closed."""


class Replace(msgspec.Struct, frozen=True, tag="replace"):
    """Request to replace all names and clients by these; answered by :class:`Done`."""

    changes: tuple[Change, ...]
    more: bool = False
    """Whether the next message continues the list; nothing is in force before the last message."""


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """Request for an explanation; answered by :class:`Explained`, or :class:`Refused` for an unknown client."""

    container_id: str
    name: str


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Request for the counters; answered by :class:`Counts`."""


class Share(msgspec.Struct, frozen=True, tag="share"):
    """Request to share the served sockets with a successor; answered by :class:`Shared`. Both may read them then."""

    skip: int = 0
    """Number of clients whose sockets were shared already."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Request to accept no more questions and exit; answered by :class:`Done` at once."""

    drain: bool = False
    """Whether to answer pending questions first; at most as long as an upstream server may take."""


Request = Hello | Apply | Replace | Explain | Stats | Share | Stop


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Greeting of the resolver."""

    release: str
    pid: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Confirmation: the changes are in force, apart from the reported problems."""

    problems: tuple[str, ...] = ()
    """Descriptions of what is wrong with the resolver, for people."""
    lacking: tuple[Lack, ...] = ()
    """Clients that cannot be served before their sockets are passed; at most a thousand."""


class Shared(msgspec.Struct, frozen=True, tag="shared"):
    """Owners of some of the served sockets, which are sent with the message."""

    passed: tuple[Passed, ...]
    more: bool
    """Whether there are further clients."""


class Explained(msgspec.Struct, frozen=True, tag="explained"):
    """The answer that a question would get."""

    explanation: Explanation


class Counts(msgspec.Struct, frozen=True, kw_only=True, tag="counts"):
    """The resolver's counters since its start, and its current numbers."""

    queries: int = 0
    local: int = 0
    """Questions answered from the name table, erroneous questions included."""
    upstream: int = 0
    """Questions forwarded to a server."""
    servfail: int = 0
    """Questions forwarded without getting an answer."""
    limited: int = 0
    """Questions answered SERVFAIL and connections closed because a limit was reached."""
    dropped: int = 0
    """Questions not answered: no DNS message, or the client does not receive its answers."""
    askers: int = 0
    outstanding: int = 0
    """Forwarded questions that are pending now."""
    connections: int = 0
    """TCP connections now open."""
    seconds: float = 0.0
    """Seconds since the start."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The error answer to a request that cannot be served."""

    kind: Kind
    message: str
    hint: str = ""
    code: str = ""


Reply = Welcome | Done | Shared | Explained | Counts | Refused

_encoder = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request, dec_hook=decode_hook)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply, dec_hook=decode_hook)


def frame(message: Request | Reply) -> bytes:
    """Return the frame of a message.

    Raises:
        Error: ``INVALID`` the message is larger than a frame may be.
    """
    body = _encoder.encode(message)
    if len(body) > FRAME_LIMIT:
        raise invalid(f"a message of {len(body)} bytes is too large for the resolver", code="message_too_large")
    return len(body).to_bytes(LENGTH, "big") + body


def batches(changes: Sequence[Change]) -> Iterator[Replace]:
    """Yield a list of changes as messages of at most :data:`BATCH` changes; at least one message."""
    rest = iter(changes)
    batch = tuple(islice(rest, BATCH))
    while following := tuple(islice(rest, BATCH)):
        yield Replace(batch, more=True)
        batch = following
    yield Replace(batch)


def decoded_request(body: bytes) -> Request:
    """Decode a request.

    Raises:
        Error: ``INVALID`` it is no message of this protocol.
    """
    return _decoded(body, _requests)


def decoded_reply(body: bytes) -> Reply:
    """Decode an answer of the resolver.

    Raises:
        Error: ``INVALID`` it is no message of this protocol.
    """
    return _decoded(body, _replies)


def checked_length(prefix: bytes | bytearray) -> int:
    """Return the length in bytes of the message that follows this prefix.

    Raises:
        Error: ``INVALID`` it is too long.
    """
    length = int.from_bytes(prefix, "big")
    if length > FRAME_LIMIT:
        raise invalid(f"a message of {length} bytes is refused", code="message_too_large")
    return length


def exchange(connection: socket.socket, request: Request, sockets: list[socket.socket] | None = None) -> Reply:
    """Send a request, wait for its answer and return it; for callers without an event loop.

    Args:
        connection: to a resolver; one request at a time.
        request: what to send.
        sockets: list to which the sockets of the answer are appended; ``None``: they are closed.

    Raises:
        OSError: the resolver has exited, or does not answer within the socket's timeout.
        Error: ``INVALID`` the answer is no message of this protocol.
    """
    connection.sendall(frame(request))
    received, arrived = bytearray(), [] if sockets is None else sockets
    while len(received) < LENGTH or len(received) < LENGTH + checked_length(received[:LENGTH]):
        data, descriptors, _ = passed_descriptors.receive(connection, 1 << 16, MOST_DESCRIPTORS)
        arrived += [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if not data:
            raise ConnectionResetError("the resolver has hung up")
        received += data
    if sockets is None:
        for each in arrived:
            each.close()
    return decoded_reply(bytes(received[LENGTH:]))


def _decoded(body: bytes, decoder: msgspec.msgpack.Decoder[M]) -> M:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise invalid(f"not a message of the resolver's: {failure}", code="invalid_message") from failure
