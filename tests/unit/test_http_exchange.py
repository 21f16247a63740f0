"""A request and its answer on a connection, whatever the other side sends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sandnet.http_exchange import Answer, request

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's and the daemon's end."""
    client, daemon = socket.socketpair()
    client.settimeout(10)
    with client, daemon:
        yield client, daemon


Ends = tuple[socket.socket, socket.socket]


def answered(ends: Ends, *pieces: bytes) -> Answer:
    """The answer to what the daemon sends before it closes."""
    client, daemon = ends

    def send() -> None:
        with suppress(OSError):  # a client that refuses the answer closes
            for piece in pieces:
                daemon.sendall(piece)
            daemon.shutdown(socket.SHUT_WR)

    threading.Thread(target=send).start()
    return Answer(client)


class InterruptedReadError(Exception):
    """What the handler of a signal raises."""


def test_signal_that_does_not_end_the_system_call_ends_the_read() -> None:
    """As one that arrives just before the call: here, another thread takes it."""
    ours, theirs = socket.socketpair()
    ended, taken = threading.Event(), signal.SIGUSR1

    def handle(*_: object) -> None:
        raise InterruptedReadError

    other = threading.Thread(target=ended.wait)
    other.start()
    former = signal.signal(taken, handle)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {taken})
    later = threading.Timer(0.2, os.kill, (os.getpid(), taken))
    ours.settimeout(40)
    try:
        with ours, theirs:
            theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            answer = Answer(ours)
            later.start()
            began = time.monotonic()
            with pytest.raises(InterruptedReadError):
                answer.readline()
            assert time.monotonic() - began < 20
            assert ours.gettimeout() == 40
    finally:
        later.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(taken, former)
        ended.set()
        other.join()


def test_wait_for_an_answer_ends_with_the_timeout() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.05)
    with ours, theirs, pytest.raises(TimeoutError):
        Answer(ours)


def test_request_with_a_body_has_its_length_and_type() -> None:
    assert request("POST", "/networks", "localhost", b"{}") == (
        b"POST /networks HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_request_without_a_body_ends_with_its_headers() -> None:
    assert request("GET", "/networks?name=a", "[::1]:2375", None) == (
        b"GET /networks?name=a HTTP/1.1\r\nHost: [::1]:2375\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize("target", ["/a b", "/a\r\nHost: other", "/a\n", "/\u00e4", "/\x7f"])
def test_target_that_would_end_its_line_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="invalid target"):
        request("GET", target, "localhost", None)


def test_answer_with_a_length_is_read_to_its_end(ends: Ends) -> None:
    answer = answered(ends, OK + b"Content-Length: 5\r\nSandnet-Sequence: 7\r\n\r\nhello")
    assert (answer.status, answer.headers["sandnet-sequence"], answer.read()) == (200, "7", b"hello")


def test_answer_that_arrives_byte_by_byte_is_read(ends: Ends) -> None:
    whole = OK + b"Content-Length: 5\r\n\r\nhello"
    assert answered(ends, *(bytes([each]) for each in whole)).read() == b"hello"


def test_chunked_answer_is_read_by_lines(ends: Ends) -> None:
    answer = answered(
        ends, OK + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\na\nb\r\n", b"4\r\nc\n\nd\r\n", b"0\r\n\r\n"
    )
    assert [answer.readline() for _ in range(6)] == [b"a\n", b"bc\n", b"\n", b"d", b"", b""]


def test_answer_without_a_length_ends_with_its_connection(ends: Ends) -> None:
    assert answered(ends, OK + b"\r\n", b"wor", b"ld").read() == b"world"


def test_long_answer_is_read_whole(ends: Ends) -> None:
    body = b"x" * 3_000_000
    assert answered(ends, OK + f"Content-Length: {len(body)}\r\n\r\n".encode(), body).read() == body


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"Content-Length: 5\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",  # a TLS alert
        b"SSH-2.0-OpenSSH_9.2\r\n",
        OK + b"X: " + b"y" * 200_000,
    ],
)
def test_other_than_an_answer_is_a_lost_connection(ends: Ends, sent: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        answered(ends, sent)


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nwor",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nwor",
        b"Transfer-Encoding: chunked\r\n\r\nnonsense",
    ],
)
def test_answer_that_is_cut_is_a_lost_connection(ends: Ends, body: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        answered(ends, OK, body).read()


def test_connection_that_the_kernel_gives_up_is_lost() -> None:
    """The kernel reports that once; after that, the connection looks as if the other side had closed it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, (theirs, _) = socket.create_connection(server.getsockname()), server.accept()
    with ours, theirs:
        theirs.sendall(OK + b"\r\nwor")
        ours.settimeout(40)
        answer = Answer(ours)
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:  # more than the other side takes: the kernel waits in vain until there is room
                ours.send(bytes(1 << 16))
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1)  # milliseconds, tcp(7)
        ours.settimeout(40)
        with pytest.raises(ConnectionResetError, match="no longer responds"):
            answer.read()


def test_answer_that_does_not_come_times_out(ends: Ends) -> None:
    ends[0].settimeout(0.05)
    with pytest.raises(TimeoutError):
        Answer(ends[0])
