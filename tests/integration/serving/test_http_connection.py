"""What a connection answers by itself: every refusal is JSON, in its turn, and none is silence."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sandnet.api.middleware.normalization import MAX_BODY, MAX_TARGET
from sandnet.serving.http_connection import MAX_HEAD, MAX_PIPELINE, ConnectionTimeouts
from tests.support.conditions import until
from tests.support.serving import GET, Running, running

CLOSING = GET[:-2] + b"Connection: close\r\n\r\n"
POST = b"POST /networks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SLOW = GET.replace(b"/version", b"/events")
"""A request whose answer begins at once and never ends."""

both = pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])


class Answer:
    """One answer of a stream of them."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.status = int(head.split()[1])
        self.headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        self.body = body

    @property
    def refusal(self) -> tuple[int, str]:
        assert self.headers[b"content-type"] == b"application/json"
        reported = json.loads(self.body)
        assert list(reported) == ["message", "code", "hint"]
        assert reported["message"]
        return self.status, reported["code"]


def answers(stream: bytes) -> list[Answer]:
    """All answers of a stream, which must hold nothing else."""
    found = []
    while stream:
        head, blank, stream = stream.partition(b"\r\n\r\n")
        assert blank, head
        length = int(re.search(rb"content-length: ([0-9]+)", head)[1])  # type: ignore[index]
        assert len(stream) >= length, head
        found.append(Answer(head, stream[:length]))
        stream = stream[length:]
    return found


def only(stream: bytes) -> Answer:
    (found,) = answers(stream)
    return found


async def half_closed(there: Running, request: bytes) -> bytes:
    """All that comes back to a client that sends no more after its request."""
    async with there.connected() as (reader, writer):
        writer.write(request)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)


@asynccontextmanager
async def patient(monkeypatch: pytest.MonkeyPatch, folder: Path, unix: bool) -> AsyncIterator[Running]:
    """A server that waits 0.3 s for requests."""
    deadline = ConnectionTimeouts(head=0.3, body=0.3, stall=5)
    monkeypatch.setattr("sandnet.serving.http_connection.Connection.timeouts", deadline)
    async with running(folder, unix=unix) as there:
        yield there


# Requests that are none.


@both
@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET version HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"FETCH /version HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: localhost\r\nX\0Y: 1\r\n\r\n",
        b"GET /version HTTP/1.1\r\n Host: localhost\r\n\r\n",
        b"GET /version HTTP/9.9\r\nHost: localhost\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    ],
)
async def test_invalid_request_is_400_in_json(tmp_path: Path, unix: bool, request_: bytes) -> None:
    async with running(tmp_path, unix=unix) as there:
        assert only(await there.reported(request_)).refusal == (400, "malformed_request")
        await until(lambda: not there.server.server_state.tasks)
        assert only(await there.reported(CLOSING)).status == 200


async def test_repeated_header_accepted_by_the_parser_is_400(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        twice = POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        status, code = answers(await half_closed(there, twice))[0].refusal
        assert (status, code) in {(400, "repeated_header"), (400, "malformed_request")}


@both
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /" + b"x" * (MAX_TARGET + 1) + GET[12:-2] + b"Connection: close\r\n\r\n", (414, "target_too_long")),
        (b"GET /" + b"x" * (2 * MAX_HEAD), (414, "target_too_long")),
        (b"GET /" + b"x" * (MAX_HEAD + 100) + GET[12:-2] + b"Connection: close\r\n\r\n", (414, "target_too_long")),
        (GET[:-2] + b"X: " + b"x" * (2 * MAX_HEAD), (431, "headers_too_large")),
        (GET[:-2] + b"X: x\r\n" * 101 + b"Connection: close\r\n\r\n", (431, "headers_too_large")),
        (POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), (413, "body_too_large")),
    ],
    ids=["target", "endless target", "target beyond the parser", "endless headers", "many headers", "body"],
)
async def test_too_large_request_is_refused_in_json(
    tmp_path: Path, unix: bool, request_: bytes, expected: tuple[int, str]
) -> None:
    async with running(tmp_path, unix=unix) as there:
        assert only(await there.reported(request_)).refusal == expected


async def test_unknown_path_or_method_over_tcp_is_404_or_405_first(
    tmp_path: Path,
) -> None:
    form = b"Host: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    bodies = (b"Content-Length: 2\r\n\r\n{}", b"Content-Length: %d\r\n\r\n" % (2 * MAX_BODY), b"\r\n")
    async with running(tmp_path) as there:
        for body in bodies:
            for method, path, expected in (
                (b"POST", b"/nope", (404, "path_not_found")),
                (b"PUT", b"/nope/x?force=maybe", (404, "path_not_found")),
                (b"POST", b"/v1.21/networks", (400, "unsupported_api_version")),
                (b"PUT", b"/networks", (405, "method_not_allowed")),
                (b"POST", b"/version?x=y", (405, "method_not_allowed")),
                (b"PUT", b"/services/x", (405, "method_not_allowed")),
            ):
                asked = b"%s %s HTTP/1.1\r\n%s%s" % (method, path, form, body)
                assert only(await there.reported(asked)).refusal == expected, asked


@pytest.mark.parametrize(
    "kind",
    [b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"text/json",
     b"text/plain; application/json"],
)  # fmt: skip
async def test_form_content_type_posted_over_tcp_is_415(tmp_path: Path, kind: bytes) -> None:
    header = b"Content-Type: " + kind + b"\r\n" if kind else b""
    async with running(tmp_path) as there:
        for method, path in (
            (b"POST", b"/networks"),
            (b"POST", b"/services?x=y"),
            (b"PATCH", b"/services/x/backend/y"),
        ):
            asked = b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: 2\r\n\r\n{}"
            assert only(await there.reported(asked % (method, path, header))).refusal == (415, "not_json")


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON; charset=utf-8", b"application/x+json"])
async def test_json_posted_over_tcp_is_answered(tmp_path: Path, kind: bytes) -> None:
    asked = POST.replace(b"application/json", kind) + b"Connection: close\r\nContent-Length: 13\r\n\r\n"
    async with running(tmp_path) as there:
        assert only(await there.reported(asked + b'{"name": "a"}')).status == 200


@pytest.mark.parametrize(
    "host",
    [b"Host: /run/sandnet/sandnet.sock", b"Host: %2Frun%2Fsandnet%2Fsandnet.sock", b"Host:",
     b"Host: evil.example:99999", b"Host: a b", b"Host: \xff\xfe", b"Host: " + b"x" * 5000, b"Accept: */*"],
)  # fmt: skip
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
async def test_unix_socket_request_is_answered_with_any_host_or_none(
    tmp_path: Path, host: bytes, version: bytes
) -> None:
    end = b"\r\nConnection: close\r\n"
    async with running(tmp_path, unix=True) as there:
        assert only(await there.reported(b"GET /networks %s\r\n%s%s\r\n" % (version, host, end))).status == 200
        body = b'{"name": "a"}'
        asked = b"POST /networks %s\r\n%s%sContent-Length: 13\r\n\r\n%s" % (version, host, end, body)
        assert only(await there.reported(asked)).status == 200


# Clients that send no more.


@both
@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"])
async def test_half_closed_client_is_answered(tmp_path: Path, unix: bool, ending: bytes) -> None:
    body = b'{"name": "a"}'
    create = POST + ending + b"Content-Length: 13\r\n\r\n" + body
    async with running(tmp_path, unix=unix) as there:
        assert only(await half_closed(there, GET[:-2] + ending + b"\r\n")).status == 200
        assert only(await half_closed(there, create)).status == 200
        assert [each.status for each in answers(await half_closed(there, GET * 5))] == [200] * 5
        await until(lambda: there.server._tcp_gate.connections == 0)


@both
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"G", (400, "malformed_request")),
        (GET[:-2], (400, "malformed_request")),
        (POST + b"Content-Length: 13\r\n\r\n{", (400, "incomplete_body")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", (400, "incomplete_body")),
    ],
)
async def test_client_closing_mid_request_gets_400(
    tmp_path: Path, unix: bool, request_: bytes, expected: tuple[int, str]
) -> None:
    async with running(tmp_path, unix=unix) as there:
        assert only(await half_closed(there, request_)).refusal == expected
        first, second = answers(await half_closed(there, GET + request_))
        assert (first.status, second.refusal) == (200, expected)
        await until(lambda: not there.server.server_state.tasks)


@both
async def test_client_closing_without_a_request_is_disconnected(tmp_path: Path, unix: bool) -> None:
    async with running(tmp_path, unix=unix) as there:
        assert await half_closed(there, b"") == b""


@both
async def test_half_closed_event_reader_still_receives_events(tmp_path: Path, unix: bool) -> None:
    async with running(tmp_path, unix=unix) as there, there.connected() as (reader, writer):
        writer.write(SLOW)
        writer.write_eof()
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        create = POST + b"Connection: close\r\nContent-Length: 13\r\n\r\n" + b'{"name": "a"}'
        assert only(await there.reported(create)).status == 200
        assert b'"created"' in await asyncio.wait_for(reader.readuntil(b"}\n"), 10)


async def test_event_stream_of_a_disconnected_unix_client_ends_at_once(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, unix=True) as there:
        async with there.connected() as (reader, writer):
            writer.write(SLOW)
            await reader.readuntil(b"\r\n\r\n")
        await until(lambda: not there.server.server_state.tasks)


# Requests sent ahead.


@both
async def test_excess_pipelined_request_is_503_after_earlier_answers(tmp_path: Path, unix: bool) -> None:
    async with running(tmp_path, unix=unix) as there:
        for number in (MAX_PIPELINE + 2, 1000, 20_000):
            *good, last = answers(await there.reported(GET * number))
            assert [each.status for each in good] == [200] * (MAX_PIPELINE + 1)
            assert last.refusal == (503, "overloaded")
            assert last.headers[b"retry-after"] == b"1"
        assert [each.status for each in answers(await there.reported(GET * MAX_PIPELINE + CLOSING))] == [200] * 17


@both
async def test_broken_request_behind_good_ones_is_answered_in_order(tmp_path: Path, unix: bool) -> None:
    async with running(tmp_path, unix=unix) as there:
        *good, last = answers(await there.reported(GET * 3 + b"nonsense\r\n\r\n" + GET))
        assert ([each.status for each in good], last.refusal) == ([200] * 3, (400, "malformed_request"))
        broken = POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
        *good, last = answers(await there.reported(GET * 3 + broken))
        assert ([each.status for each in good], last.refusal) == ([200] * 3, (400, "malformed_request"))


@both
@pytest.mark.parametrize("part", [b"GET /vers", POST + b"Content-Length: 9\r\n\r\n{"], ids=["headers", "body"])
async def test_request_timing_out_behind_a_good_one_both_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unix: bool, part: bytes
) -> None:
    async with patient(monkeypatch, tmp_path, unix) as there:
        good, late = answers(await there.reported(GET + part))
        assert (good.status, late.refusal) == (200, (408, "too_slow"))


async def test_upgrade_request_is_answered_and_closes_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in (b"websocket", b"h2c", b"tcp"):
        upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: " + kind + b"\r\n\r\n"
        async with running(tmp_path / kind.decode()) as there:
            assert only(await there.reported(upgrade + b"\x81\x85frames")).status == 200
            assert only(await half_closed(there, upgrade)).status == 200
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


# Bytes under way.


async def test_requests_over_the_byte_limit_are_503_until_others_end(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as there:
        gate = there.server._tcp_gate
        gate._requests = 1 << 20
        part = POST + b"Content-Length: 800000\r\n\r\n" + b" " * 600_000
        async with there.connected() as (_, writer):
            writer.write(part)
            await until(lambda: gate.request_bytes > 600_000)
            assert only(await there.reported(part)).refusal == (503, "overloaded")
            assert gate.request_bytes < 700_000
            gate._requests = 500_000
            assert only(await there.reported(GET)).refusal == (503, "overloaded")
        await until(lambda: gate.request_bytes == 0)
        assert only(await there.reported(CLOSING)).status == 200
        await until(lambda: gate.request_bytes == 0)


async def test_unread_answers_make_further_requests_503_until_read(
    tmp_path: Path,
) -> None:
    asked = GET.replace(b"/version", b"/openapi.json")
    async with running(tmp_path) as there:
        gate = there.server._tcp_gate
        gate._answers = 1 << 15
        async with there.connected() as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not gate.is_full:
                before = there.server.server_state.total_requests
                writer.write(asked)
                await until(lambda seen=before: gate.is_full or there.server.server_state.total_requests > seen)  # type: ignore[misc]
            assert only(await there.reported(GET)).refusal == (503, "overloaded")
        await until(lambda: gate.unread_bytes == 0)
        assert only(await there.reported(CLOSING)).status == 200
