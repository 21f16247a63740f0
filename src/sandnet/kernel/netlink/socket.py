"""Raw netlink: encodes and decodes attributes, and sends requests to the kernel and reads its replies.

With pyroute2 one attach takes 3.4 ms, most of it in Python; with these requests 1.4 ms, most of it the kernel's own
work (docs/design.md). Layouts are those of ``linux/netlink.h``; ``struct`` uses the machine's byte order, as netlink
does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Collection, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, Self

from sandnet.errors import Error, Kind
from sandnet.kernel.syscalls import in_namespace

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_ACK_TLVS: Final = 0x200

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSGERR_ATTR_MSG: Final = 1
NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF

SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_IFREQ: Final = struct.Struct("=16si20x")
"""``struct ifreq`` with an index (``linux/if.h``)."""
_SIOCGIFINDEX: Final = 0x8933
_ERROR: Final = struct.Struct("=i")
_SO_SNDBUFFORCE: Final = 32
_BUFFER: Final = 1 << 16
"""The kernel fills at most 32 KiB of a dump at a time."""
_DUMP_TRIES: Final = 3
MOST_INSIDE: Final = 1 << 20
"""Bytes of dumps that one socket inside a sandbox reads: about 15,000 routes, and a twentieth of a second. Root in a
sandbox can fill its namespace without end, and must not keep a worker reading."""


class NetlinkError(OSError):
    """The kernel refused: ``errno``, and in ``strerror`` its own message where it sent one."""


class TooMuchError(NetlinkError):
    """The reply is larger than the socket may read (``E2BIG``)."""

    def __init__(self, most: int) -> None:
        super().__init__(errno.E2BIG, f"there are more than {most} bytes of links, addresses, routes and rules")


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to four bytes. An empty one is a flag."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *children: bytes) -> bytes:
    """Encode an attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(children))


def u32(kind: int, value: int) -> bytes:
    """Encode an attribute of type u32."""
    return attribute(kind, struct.pack("=I", value))


def string(kind: int, value: str) -> bytes:
    """Encode an attribute that is a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the attributes in ``data`` from ``offset``, by their type; of equal ones the last.

    Data after an attribute with an impossible length is not read.
    """
    found: dict[int, bytes] = {}
    unpack, end = _ATTRIBUTE.unpack_from, len(data)
    while offset + 4 <= end:  # the size of a header; local names and numbers, as a link has 50 attributes
        length, kind = unpack(data, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def to_number(payload: bytes | None) -> int:
    """Return an attribute's u32; 0 when it is absent."""
    return int.from_bytes(payload, sys.byteorder) if payload else 0


def to_text(payload: bytes | None) -> str:
    """Return an attribute's string; empty when it is absent."""
    return payload.split(b"\0", 1)[0].decode(errors="replace") if payload else ""


class Message(NamedTuple):
    """One message to the kernel."""

    kind: int
    flags: int
    """In addition to ``NLM_F_REQUEST``."""
    body: bytes

    def packed(self, sequence: int) -> bytes:
        """Encode the message, without padding to four bytes: bodies of attributes are padded already."""
        length = _HEADER.size + len(self.body)
        return _HEADER.pack(length, self.kind, self.flags | NLM_F_REQUEST, sequence, 0) + self.body


class Request(NamedTuple):
    """One of several requests that are sent together."""

    kind: int
    body: bytes
    flags: int = 0
    """In addition to ``NLM_F_REQUEST``."""
    accept: Collection[int] = ()
    """Errnos that are no failure."""


class Reply(NamedTuple):
    """One message from the kernel."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def replies(data: bytes) -> Iterator[Reply]:
    """Yield the messages in one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            break
        yield Reply(kind, flags, sequence, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def error_of(reply: Reply) -> NetlinkError | None:
    """Return the error that an error or end-of-dump message reports; ``None``: success."""
    code = -_ERROR.unpack_from(reply.body)[0]
    if not code:
        return None
    # With NETLINK_CAP_ACK only the header of our own request stands between the code and the attributes.
    offset = _ERROR.size + (_HEADER.size if reply.kind == _NLMSG_ERROR else 0)
    details = attributes(reply.body, offset) if reply.flags & _NLM_F_ACK_TLVS else {}
    return NetlinkError(code, to_text(details.get(_NLMSGERR_ATTR_MSG)) or os.strerror(code))


class Netlink:
    """A netlink socket of the network namespace that the calling thread is in at the moment.

    ``protocol`` names the kernel's part that listens. Opening a socket takes 0.02 ms, so every task opens its own:
    threads never share one.
    """

    _sendable = 1 << 16
    """Bytes that the socket can send at once."""
    _left: int | None = None
    """Bytes of dumps that may still be read; ``None``: any number."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._sequence = 0

    @classmethod
    def inside(cls, namespace: int) -> Self:
        """Open a socket of another namespace, given by its descriptor. The thread enters it and returns.

        All its dumps together read at most ``MOST_INSIDE`` bytes.
        """
        with in_namespace(namespace):
            socket_inside = cls()
        socket_inside._left = MOST_INSIDE
        return socket_inside

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def call(self, kind: int, body: bytes, flags: int = 0, accept: Collection[int] = ()) -> bool:
        """Send a request and return whether the kernel carried it out.

        Args:
            kind: the message's type, ``RTM_NEWLINK`` and the like.
            body: all that follows the netlink header.
            flags: in addition to ``NLM_F_REQUEST`` and ``NLM_F_ACK``.
            accept: errnos that are no failure; the result is then ``False``.

        Raises:
            NetlinkError: any other errno.
        """
        sequence = self._send(kind, body, flags | NLM_F_ACK)
        refused = next(error_of(reply) for reply in self._answers((sequence,)) if reply.kind == _NLMSG_ERROR)
        if refused and refused.errno not in accept:
            raise refused
        return refused is None

    def transact(self, messages: Sequence[Message]) -> None:
        """Send messages in one datagram, as nfnetlink requires for batches, and wait until they are processed.

        Args:
            messages: at least one of them requests an acknowledgement (``NLM_F_ACK``), and none before it does. The
                kernel answers a refused message in any case, and before those that follow it.

        Raises:
            NetlinkError: the first refusal.
        """
        first = self._sequence + 1
        acknowledged = first + next(at for at, message in enumerate(messages) if message.flags & NLM_F_ACK)
        self._sequence += len(messages)
        self._socket.send(b"".join(message.packed(first + at) for at, message in enumerate(messages)))
        for reply in self._answers(range(first, self._sequence + 1)):
            if refused := error_of(reply):
                raise refused
            if reply.sequence == acknowledged:
                return

    def batch(self, requests: Sequence[Request]) -> None:
        """Send independent requests in one datagram, and wait until the kernel has carried out all of them in order.

        A refused request does not keep the kernel from the following ones. Only the last one is acknowledged, so a
        batch without failures costs two system calls.

        Raises:
            NetlinkError: the first refusal that the request does not accept.
        """
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(requests)
        flags = [NLM_F_ACK if sequence == last else 0 for sequence in range(first, last + 1)]
        messages = (Message(each.kind, each.flags | ack, each.body) for each, ack in zip(requests, flags, strict=True))
        self._socket.send(b"".join(message.packed(first + at) for at, message in enumerate(messages)))
        refusals = []
        for reply in self._answers(range(first, last + 1)):
            refused = error_of(reply)
            if refused and refused.errno not in requests[reply.sequence - first].accept:
                refusals.append(refused)
            if reply.sequence == last:
                break
        if refusals:
            raise refusals[0]

    def reserve(self, size: int) -> None:
        """Let the socket send a datagram of this many bytes.

        Root of a user namespace can have no more than ``net.core.wmem_max`` (socket(7)); sending fails then
        (``EMSGSIZE``).
        """
        if size <= self._sendable:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        self._sendable = size

    def get(self, kind: int, body: bytes, absent: Collection[int] = (errno.ENODEV,)) -> bytes | None:
        """Return one object; ``None`` when the kernel answers with one of the errnos in ``absent``."""
        sequence = self._send(kind, body, 0)
        reply = next(self._answers((sequence,)))
        if reply.kind != _NLMSG_ERROR:
            return reply.body
        refused = error_of(reply)
        if refused and refused.errno not in absent:
            raise refused
        return None

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """List all objects that match. When they change too fast for the kernel, a few may be missing.

        Raises:
            TooMuchError: they are more than the socket may read. The socket cannot be used for another request then.
            NetlinkError: the kernel refuses.
        """
        for _ in range(_DUMP_TRIES):
            found, whole = self._dump(kind, body)
            if whole:
                break
        return found

    def index(self, name: str) -> int:
        """Return the index of the link of that name in the socket's namespace; 0: there is none.

        A complete link message costs the kernel 0.06 to 0.1 ms to write and us to read; this takes 0.003 ms.
        """
        request = bytearray(_IFREQ.pack(name.encode(), 0))
        try:
            fcntl.ioctl(self._socket, _SIOCGIFINDEX, request)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return 0
        return int(_IFREQ.unpack(request)[1])

    def _dump(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        sequence = self._send(kind, body, NLM_F_DUMP)
        found, whole = [], True
        for reply in self._answers((sequence,)):
            whole = whole and not reply.flags & _NLM_F_DUMP_INTR
            if reply.kind in (_NLMSG_DONE, _NLMSG_ERROR):
                if refused := error_of(reply):
                    raise refused
                break
            self._count(len(reply.body))
            found.append(reply.body)
        return found, whole

    def _count(self, size: int) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise TooMuchError(MOST_INSIDE)

    def _send(self, kind: int, body: bytes, flags: int) -> int:
        self._sequence += 1
        self._socket.send(Message(kind, flags, body).packed(self._sequence))
        return self._sequence

    def _answers(self, sequences: Container[int]) -> Iterator[Reply]:
        """Yield the messages that answer these requests.

        Any process may write to our socket: only messages from the kernel, port 0, count.
        """
        while True:
            data, (port, _groups) = self._socket.recvfrom(_BUFFER)
            if port == 0:
                yield from (reply for reply in replies(data) if reply.sequence in sequences)


_KINDS: Final = {
    errno.EEXIST: Kind.CONFLICT,
    errno.EBUSY: Kind.CONFLICT,
    errno.ENODEV: Kind.NOT_FOUND,
    errno.ENOENT: Kind.NOT_FOUND,
    errno.ESRCH: Kind.NOT_FOUND,
    errno.ENOSPC: Kind.EXHAUSTED,
    errno.EINVAL: Kind.INVALID,
    errno.ERANGE: Kind.INVALID,
    errno.EPERM: Kind.UNAVAILABLE,
    errno.EACCES: Kind.UNAVAILABLE,
    errno.EOPNOTSUPP: Kind.UNAVAILABLE,
    errno.EAFNOSUPPORT: Kind.UNAVAILABLE,
    errno.ENOMEM: Kind.UNAVAILABLE,
    errno.E2BIG: Kind.UNAVAILABLE,
    errno.ENOBUFS: Kind.UNAVAILABLE,
    errno.EMFILE: Kind.UNAVAILABLE,
    errno.ENFILE: Kind.UNAVAILABLE,
}
_HINTS: Final = {
    errno.EPERM: "it takes CAP_NET_ADMIN and CAP_SYS_ADMIN",
    errno.EACCES: "it takes CAP_NET_ADMIN and CAP_SYS_ADMIN; for an IPv6 address, IPv6 switched on in the namespace",
    errno.EOPNOTSUPP: "the kernel lacks a feature: see what the daemon reported as missing when it started",
}


def mapped_error(what: str, error: OSError) -> Error:
    """Return the failure as our own error: what was tried, the kernel's message, what the operator can do."""
    code = error.errno or 0
    reason = error.strerror or str(error)
    return Error(_KINDS.get(code, Kind.INTERNAL), f"cannot {what}: {reason}", _HINTS.get(code, ""))


@contextmanager
def map_errors(what: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into an :class:`Error` with the message "cannot ``what``"."""
    try:
        yield
    except OSError as error:
        raise mapped_error(what, error) from error
