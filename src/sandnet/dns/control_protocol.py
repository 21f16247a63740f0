"""What goes over the socket between the daemon and the resolver.

A frame is four bytes of length (big-endian) and that many bytes of MessagePack, one message. The daemon
asks, the resolver answers each message once and in order. The first message of a connection is a
:class:`Hello`. The socket is ``<run-dir>/dns.sock``, mode 0600: whoever may write to it decides on names.

Sockets travel with a message as descriptors (``SCM_RIGHTS``, unix(7)). The message says whose they are.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import msgspec

from sandnet.dns.base import Change, Explanation
from sandnet.errors import Kind, invalid
from sandnet.model.address import decode_hook, encode_hook

M = TypeVar("M")

PROTOCOL: Final = 2
"""Version of these messages. A resolver that speaks another one is of another release."""
SOCKET: Final = "dns.sock"
"""Name of the socket in the run directory."""
FORMER_SOCKET: Final = "dns.sock.former"
"""Where a resolver goes on listening whose successor has started, until that one has all names."""
FRAME_LIMIT: Final = 16 << 20
"""Bytes of a message; a longer one ends the connection before it is read."""
BATCH: Final = 1000
"""Changes in a message: some hundred KiB, decoded in about a millisecond."""
MOST_DESCRIPTORS: Final = 253
"""Descriptors that one message may carry (``SCM_MAX_FD``, linux/include/net/scm.h)."""
HOST: Final = "@host"
"""Stands for the host among the askers; no container's id begins like this."""
LENGTH: Final = 4
"""Bytes of the length before a message."""


class Passed(msgspec.Struct, frozen=True, tag="passed"):
    """Sockets of one asker, among the descriptors that come with the message, in this order."""

    container_id: str
    """Or :data:`HOST`."""
    inode: int
    """Of the namespace that they are in."""
    listening: bool = True
    """A UDP and a listening TCP socket at which it asks."""
    asking: int = 0
    """So many unconnected UDP and TCP sockets, by which its servers are asked."""

    @property
    def count(self) -> int:
        """Descriptors."""
        return 2 * self.listening + self.asking


class Lack(msgspec.Struct, frozen=True, tag="lack"):
    """An asker without the sockets that it needs."""

    container_id: str
    listening: bool = True
    """Those at which it asks."""
    asking: tuple[int, ...] = ()
    """Those by which its servers are asked, of these versions of IP."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who connects; answered by :class:`Welcome`."""

    release: str


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Make changes; answered by :class:`Done` when they are in force."""

    changes: tuple[Change, ...]
    passed: tuple[Passed, ...] = ()
    """Sockets that come with the message. Those of unknown askers are closed."""


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


class Share(msgspec.Struct, frozen=True, tag="share"):
    """Pass on the sockets that you serve, for a successor; answered by :class:`Shared`. Both may read them then."""

    skip: int = 0
    """Askers that were shared already."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Take no more questions and end; answered by :class:`Done` at once."""

    drain: bool = False
    """Answer first what is under way; at most as long as an upstream may take."""


Request = Hello | Apply | Replace | Explain | Stats | Share | Stop


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Who answers."""

    release: str
    pid: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The changes are in force, but for what is told."""

    problems: tuple[str, ...] = ()
    """What is wrong with the resolver, in words."""
    lacking: tuple[Lack, ...] = ()
    """Askers that cannot be served before their sockets are passed; a thousand at most."""


class Shared(msgspec.Struct, frozen=True, tag="shared"):
    """Some of the sockets that are served; they come with the message."""

    passed: tuple[Passed, ...]
    more: bool
    """There are further askers."""


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


Reply = Welcome | Done | Shared | Explained | Counts | Refused

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
    return len(body).to_bytes(LENGTH, "big") + body


def pieces(changes: Sequence[Change]) -> Iterator[Replace]:
    """A whole list of changes in messages of a fair size; at least one."""
    rest = iter(changes)
    piece = tuple(islice(rest, BATCH))
    while following := tuple(islice(rest, BATCH)):
        yield Replace(piece, more=True)
        piece = following
    yield Replace(piece)


def decoded_request(body: bytes) -> Request:
    """A client's message.

    Raises:
        Error: ``INVALID`` it is none of ours.
    """
    return _decoded(body, _requests)


def decoded_reply(body: bytes) -> Reply:
    """An answer of the resolver.

    Raises:
        Error: ``INVALID`` it is none of ours.
    """
    return _decoded(body, _replies)


def checked_length(prefix: bytes | bytearray) -> int:
    """The length of the message that follows.

    Raises:
        Error: ``INVALID`` it is too long.
    """
    length = int.from_bytes(prefix, "big")
    if length > FRAME_LIMIT:
        raise invalid(f"a message of {length} bytes is refused", code="message_too_large")
    return length


def exchange(connection: socket.socket, request: Request, sockets: list[socket.socket] | None = None) -> Reply:
    """Send a request and wait for its answer, for callers without an event loop.

    Args:
        connection: to a resolver; one request at a time.
        request: what to send.
        sockets: those that come with the answer are put here; without it they are closed.

    Raises:
        OSError: the resolver has gone, or does not answer within the socket's timeout.
        Error: ``INVALID`` the answer is none of ours.
    """
    connection.sendall(frame(request))
    received, came = bytearray(), [] if sockets is None else sockets
    while len(received) < LENGTH or len(received) < LENGTH + checked_length(received[:LENGTH]):
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        came += [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if not data:
            raise ConnectionResetError("the resolver has hung up")
        received += data
    if sockets is None:
        for each in came:
            each.close()
    return decoded_reply(bytes(received[LENGTH:]))


def _decoded(body: bytes, decoder: msgspec.msgpack.Decoder[M]) -> M:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise invalid(f"not a message of the resolver's: {failure}", code="invalid_message") from failure
