"""What a connection makes of the bytes that arrive, over a transport in memory."""

from __future__ import annotations

import asyncio
import errno

import pytest

from sandnet.stores.etcd import member_connection
from sandnet.stores.etcd.member_connection import HttpAnswer, MemberConnection

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class MemoryTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
async def connection() -> MemberConnection:
    made = MemberConnection()
    made.connection_made(MemoryTransport())
    return made


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def begun(connection: MemberConnection) -> asyncio.Task[HttpAnswer]:
    task = asyncio.create_task(connection.exchange(b"request"))
    await asyncio.sleep(0)
    return task


async def test_answers_come_one_after_another(connection: MemberConnection) -> None:
    for body in (b"first", b"second"):
        task = await begun(connection)
        assert not connection.is_usable
        for byte in CHUNKED + chunk(body) + b"0\r\nGrpc-Trailer: x\r\n\r\n":
            connection.data_received(bytes([byte]))

        assert await task == HttpAnswer(200, body)
        assert connection.is_usable


async def test_answer_that_closes_leaves_no_usable_connection(connection: MemberConnection) -> None:
    task = await begun(connection)
    connection.data_received(b"HTTP/1.1 503 x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{")

    assert await task == HttpAnswer(503, b"{")
    assert not connection.is_usable


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CHUNKED + b"5\r\nha"])
async def test_end_before_the_answer_is_complete_is_a_failure(connection: MemberConnection, data: bytes) -> None:
    task = await begun(connection)
    if data:
        connection.data_received(data)
    connection.eof_received()

    with pytest.raises(OSError):
        await task
    assert not connection.is_usable


async def test_bytes_that_are_no_http_are_a_failure(connection: MemberConnection) -> None:
    task = await begun(connection)
    connection.data_received(b"\x00\x00\x12\x04")

    with pytest.raises(OSError, match="no HTTP"):
        await task


async def test_answer_beyond_the_limit_is_a_failure(
    connection: MemberConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_connection, "MOST_BYTES", 10)
    task = await begun(connection)
    connection.data_received(CHUNKED + chunk(b"eleven byte"))

    with pytest.raises(OSError, match="too long"):
        await task


async def test_cancelled_exchange_closes_the_connection(connection: MemberConnection) -> None:
    task = await begun(connection)
    task.cancel()
    await asyncio.wait([task])

    assert not connection.is_usable


async def test_stream_yields_lines_however_they_are_divided(connection: MemberConnection) -> None:
    connection.open_stream(b"request")
    connection.data_received(CHUNKED + chunk(b"one\ntw") + chunk(b"o\n") + chunk(b"three"))
    connection.data_received(b"0\r\n\r\n")

    assert [await connection.line() for _ in range(3)] == [b"one", b"two", b"three"]
    with pytest.raises(OSError):
        await connection.line()


async def test_untaken_lines_of_a_stream_are_bounded(
    connection: MemberConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_connection, "MOST_BYTES", 10)
    connection.open_stream(b"request")
    connection.data_received(CHUNKED + chunk(b"12345\n") + chunk(b"123456\n"))

    assert await connection.line() == b"12345"
    with pytest.raises(OSError, match="too long"):
        await connection.line()


async def test_timeout_of_tcp_is_a_lost_connection(connection: MemberConnection) -> None:
    connection.open_stream(b"request")
    connection.connection_lost(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))

    with pytest.raises(ConnectionResetError):
        await connection.line()


async def test_waiting_for_a_line_can_be_given_up(connection: MemberConnection) -> None:
    connection.open_stream(b"request")
    connection.data_received(CHUNKED)
    waiting = asyncio.create_task(connection.line())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    connection.data_received(chunk(b"later\n"))

    assert await connection.line() == b"later"
