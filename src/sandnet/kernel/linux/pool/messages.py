"""The messages between the daemon and the process that prepares sandboxes, over a pair of sockets.

Both ends are of one release, and each datagram is one message (``SOCK_SEQPACKET``, unix(7)). The daemon sends a
:data:`REQUEST`; the answer is a prepared sandbox with its descriptors, or an errno and a text.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

from sandnet import passed_descriptors
from sandnet.kernel.types import PreparedSandbox

REQUEST: Final = b"1"
"""Prepare one sandbox."""
_PREPARED: Final = b"P"
_REFUSED: Final = b"E"
_LINKS: Final = struct.Struct("=II16s16s")
"""Indexes of the link on the host and of the one inside, and their names (``IFNAMSIZ``)."""
_ERRNO: Final = struct.Struct("=i")
_LONGEST: Final = 1024
_MOST_DESCRIPTORS: Final = 3


def send_prepared(control: socket.socket, prepared: PreparedSandbox) -> None:
    """Send a sandbox with its descriptors; the sender's own remain open.

    Raises:
        OSError: the other end is closed.
    """
    names = prepared.host_link.encode(), prepared.interface.encode()
    message = _PREPARED + _LINKS.pack(prepared.host_index, prepared.inner_index, *names)
    descriptors = [prepared.namespace, *(each.fileno() for each in prepared.sockets or ())]
    socket.send_fds(control, [message], descriptors, socket.MSG_NOSIGNAL)


def send_refusal(control: socket.socket, failure: OSError) -> None:
    """Send why no sandbox can be prepared.

    Raises:
        OSError: the other end is closed.
    """
    text = (failure.strerror or str(failure)).encode()[: _LONGEST // 2]
    control.send(_REFUSED + _ERRNO.pack(failure.errno or errno.EIO) + text, socket.MSG_NOSIGNAL)


def receive(control: socket.socket) -> PreparedSandbox:
    """Return the sandbox of one answer; the caller owns its descriptors.

    Raises:
        EOFError: the other end is closed.
        BlockingIOError: there is no answer yet.
        OSError: the answer is a refusal; ``EMFILE`` this process has too few free descriptors to take it.
    """
    received = passed_descriptors.receive(control, _LONGEST, _MOST_DESCRIPTORS)
    if not received.data:
        raise EOFError
    try:
        return _decoded(received.data, received.descriptors, truncated=received.truncated)
    except BaseException:
        for descriptor in received.descriptors:
            os.close(descriptor)
        raise


def _decoded(data: bytes, descriptors: list[int], *, truncated: bool) -> PreparedSandbox:
    if data[:1] == _REFUSED:
        code = _ERRNO.unpack_from(data, 1)[0]
        raise OSError(code, data[1 + _ERRNO.size :].decode(errors="replace"))
    if truncated:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if data[:1] != _PREPARED or len(descriptors) not in (1, _MOST_DESCRIPTORS):
        raise OSError(errno.EBADMSG, "the process that prepares sandboxes sent something else")
    host_index, inner_index, host_link, interface = _LINKS.unpack_from(data, 1)
    namespace, *listening = descriptors
    inode = os.fstat(namespace).st_ino
    return PreparedSandbox(
        namespace, inode, _text(host_link), host_index, _text(interface), inner_index, _sockets(listening)
    )


def _sockets(descriptors: list[int]) -> tuple[socket.socket, socket.socket] | None:
    if not descriptors:
        return None
    udp, tcp = descriptors
    kinds = socket.SOCK_DGRAM, socket.SOCK_STREAM
    return socket.socket(socket.AF_INET, kinds[0], 0, udp), socket.socket(socket.AF_INET, kinds[1], 0, tcp)


def _text(padded: bytes) -> str:
    return padded.split(b"\0", 1)[0].decode()
