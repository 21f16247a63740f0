"""One HTTP request to the daemon, over its unix socket, without the standard library's client: that takes 60 ms."""

from __future__ import annotations

import _socket  # the module socket costs as much as the rest of the plugin
import os

CONNECT_TIMEOUT = 1.0
"""Seconds until a daemon that does not accept the connection counts as away."""
TIMEOUT = 70.0
"""Seconds until the request counts as failed. The daemon answers after 60 s at the latest."""
RETRY_TIMEOUT = 60.0
"""Seconds during which a request is repeated that the daemon refuses for the moment: it has too many others."""
MEDIA_TYPE = b"application/cni+json"


class DaemonAwayError(Exception):
    """The daemon did not answer. Its request may be repeated."""


def exchange(path: str, target: str, body: bytes, retry_timeout: float = RETRY_TIMEOUT) -> tuple[int, bool, bytes]:
    """Send a request; return the status, whether the answer is one of the CNI dialect, and the answer's body.

    Args:
        path: the path of the daemon's socket.
        target: path and query of the request.
        body: a JSON document.
        retry_timeout: seconds during which it is sent again if the daemon asks for that, by ``Retry-After``.

    Raises:
        DaemonAwayError: no daemon listens, or it broke off.
    """
    answer = _exchanged(path, target, body)
    if answer.retry_after and retry_timeout > 0:
        import time

        deadline = time.monotonic() + retry_timeout
        while answer.retry_after and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(answer.retry_after * (0.5 + os.urandom(1)[0] / 255), left))  # not all at the same moment
            answer = _exchanged(path, target, body)
    return answer.status, answer.is_cni, answer.body


def _exchanged(path: str, target: str, body: bytes) -> _Answer:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        return _answer(_sent(connection, path, target, body))
    except TimeoutError:
        raise DaemonAwayError(f"the daemon at {path} did not answer in time") from None
    except OSError as failure:
        raise DaemonAwayError(f"cannot reach the daemon at {path}: {failure.strerror or failure}") from None
    finally:
        connection.close()


def _sent(connection: _socket.socket, path: str, target: str, body: bytes) -> bytes:
    connection.settimeout(CONNECT_TIMEOUT)
    connection.connect(path)
    head = (
        f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.settimeout(TIMEOUT)
    connection.sendall(head.encode() + body)
    received = []
    while some := connection.recv(1 << 16):
        received.append(some)
    return b"".join(received)


class _Answer:
    """An answer of the daemon."""

    def __init__(self, status: int, fields: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.body = body
        self.is_cni = fields.get(b"content-type", b"").startswith(MEDIA_TYPE)
        """Whether it is one of the CNI dialect."""
        after = fields.get(b"retry-after", b"")
        self.retry_after = int(after) if status == 503 and after.isdigit() and len(after) < 4 else 0
        """Seconds after which to send the request again; 0: never."""


def _answer(received: bytes) -> _Answer:
    head, separator, body = received.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    status = lines[0].split(b" ")[1:2]
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    length = fields.get(b"content-length", b"0")
    if not separator or not status or not status[0].isdigit() or not length.isdigit() or len(body) < int(length):
        raise DaemonAwayError("the daemon broke off without an answer; the call can be repeated")
    return _Answer(int(status[0]), fields, body)
