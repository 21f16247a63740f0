"""The server over real sockets: who gets in, how large and how slow a request may be, how many there may be."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from sandnet.client import Client
from sandnet.config import Config
from sandnet.errors import Error
from sandnet.serving.connection_limits import Gate
from sandnet.serving.http_connection import MAX_HEAD, MAX_MESSAGE, Connection, ConnectionTimeouts
from sandnet.serving.sockets import ListeningSocket
from sandnet.serving.tls import Certificates, certificates
from sandnet.serving.unix_socket import open_unix
from sandnet.transport import Tls
from tests.support.certificates import Authority, Identity
from tests.support.conditions import until
from tests.support.serving import GET, running

HASTY = ConnectionTimeouts(head=0.3, body=0.3, stall=0.3)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> Identity:
    return authority.issue("server", use="serverAuth", addresses=("127.0.0.1",))


@pytest.fixture(scope="module")
def client(authority: Authority) -> Identity:
    return authority.issue("client", use="clientAuth")


def context(authority: Authority, own: Identity) -> Certificates:
    config = Config(tls_cert=str(own.cert), tls_key=str(own.key), tls_ca=str(authority.cert))
    made = certificates(config)
    assert made
    return made


def caller(authority: Authority, shown: Identity, port: int) -> Client:
    """The client of the command line."""
    return Client(f"tcp://127.0.0.1:{port}", 10, Tls(str(authority.cert), str(shown.cert), str(shown.key)))


async def version(client: Client) -> str:
    return (await asyncio.to_thread(client.version)).version


async def refused(client: Client) -> Error:
    with pytest.raises(Error) as caught:
        await version(client)
    return caught.value


# TLS.


async def test_certificate_of_our_ca_is_accepted_over_tls(
    tmp_path: Path, authority: Authority, own: Identity, client: Identity
) -> None:
    async with running(tmp_path, tls=context(authority, own), whole=True) as there:
        assert await version(caller(authority, client, there.port)) == "0.1.0"


async def test_foreign_or_missing_client_certificate_is_refused(
    tmp_path: Path, authority: Authority, stranger: Authority, own: Identity, client: Identity
) -> None:
    wrong = {
        "another CA's": stranger.issue("client", use="clientAuth"),
        "expired": authority.issue("late", use="clientAuth", days=0),
        "a server's": own,
    }
    async with running(tmp_path, tls=context(authority, own)) as there:
        for shown in wrong.values():
            assert (await refused(caller(authority, shown, there.port))).code == "daemon_unreachable"
        nothing = ssl.create_default_context(cafile=str(authority.cert))
        with suppress(OSError):  # ssl.SSLError, or a connection that was reset
            assert await there.reported(GET, tls=nothing) == b""
        assert await version(caller(authority, client, there.port))


async def test_client_sends_nothing_to_a_daemon_of_another_ca(
    tmp_path: Path, authority: Authority, stranger: Authority, own: Identity, client: Identity
) -> None:
    async with running(tmp_path, tls=context(authority, own)) as there:
        assert "certificate verify failed" in (await refused(caller(stranger, client, there.port))).message


async def test_client_refuses_a_certificate_for_another_address(
    tmp_path: Path, authority: Authority, client: Identity
) -> None:
    elsewhere = authority.issue("elsewhere", use="serverAuth", addresses=("192.0.2.1",))
    async with running(tmp_path, tls=context(authority, elsewhere)) as there:
        assert "mismatch" in (await refused(caller(authority, client, there.port))).message


class Files:
    """The three files that the daemon was given."""

    def __init__(self, folder: Path, authority: Authority, own: Identity) -> None:
        folder.mkdir()
        self.cert, self.key, self.ca = (folder / name for name in ("server.pem", "server.key", "ca.pem"))
        self.put(authority, own)

    def put(self, authority: Authority, own: Identity) -> None:
        """Replace them, as a program that renews certificates does: one after the other."""
        for source, target in ((authority.cert, self.ca), (own.cert, self.cert), (own.key, self.key)):
            new = target.with_suffix(".new")
            new.write_bytes(source.read_bytes())
            new.chmod(0o600)
            new.rename(target)

    def certificates(self) -> Certificates:
        return Certificates(str(self.cert), str(self.key), str(self.ca))


async def test_renewed_tls_files_apply_to_new_connections(
    tmp_path: Path, authority: Authority, stranger: Authority, own: Identity, client: Identity
) -> None:
    files = Files(tmp_path / "tls", authority, own)
    other = stranger.issue("renewed", use="serverAuth", addresses=("127.0.0.1",))
    new = stranger.issue("newcomer", use="clientAuth")
    tls = files.certificates()
    async with running(tmp_path, tls=tls) as there:
        assert await version(caller(authority, client, there.port))
        before = tls.context
        files.put(stranger, other)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: tls.context is not before and not tls.problem)
        assert await version(caller(stranger, new, there.port))
        assert (await refused(caller(authority, client, there.port))).code == "daemon_unreachable"


@pytest.mark.parametrize("breach", ["garbage", "gone", "another's key", "readable by others"])
async def test_unusable_renewed_tls_files_leave_old_and_show_in_health(
    tmp_path: Path, authority: Authority, own: Identity, client: Identity, breach: str
) -> None:
    files = Files(tmp_path / "tls", authority, own)
    tls = files.certificates()
    async with running(tmp_path, tls=tls) as there:
        if breach == "garbage":
            files.cert.write_text("-----BEGIN CERTIFICATE-----")
        elif breach == "gone":
            files.ca.unlink()
        elif breach == "another's key":
            files.key.write_bytes(client.key.read_bytes())
        else:
            files.key.chmod(0o644)
        tls.request_check()
        await until(lambda: bool(tls.problem))
        assert await version(caller(authority, client, there.port))
        health = there.server._controller.health()
        assert any("those read before stay in force" in problem for problem in health.problems)

        files.put(authority, own)
        await until(lambda: not tls.problem)  # without being asked
        assert there.server._controller.health().status == "ok"


def test_temporarily_unreadable_tls_files_are_applied_on_retry(
    tmp_path: Path, authority: Authority, stranger: Authority, own: Identity
) -> None:
    files = Files(tmp_path / "tls", authority, own)
    tls = files.certificates()
    before = tls.context
    files.put(stranger, own)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        tls.renew()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "Too many open files" in tls.problem
    assert tls.context is before
    tls.renew()
    assert not tls.problem
    assert tls.context is not before


async def test_reload_without_tls_keeps_the_daemon_running(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        os.kill(os.getpid(), signal.SIGHUP)
        assert b"200 OK" in await there.reported(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


async def test_plain_http_on_the_tls_port_is_not_answered(
    tmp_path: Path, authority: Authority, own: Identity, client: Identity
) -> None:
    async with running(tmp_path, tls=context(authority, own)) as there:
        assert b"HTTP" not in await there.reported(GET)
        plain = Client(f"tcp://127.0.0.1:{there.port}", 10)
        assert "--tls-ca" in (await refused(plain)).hint
        assert await version(caller(authority, client, there.port))


async def test_tls_older_than_1_2_is_refused(
    tmp_path: Path, authority: Authority, own: Identity, client: Identity
) -> None:
    old = Tls(str(authority.cert), str(client.cert), str(client.key)).context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with running(tmp_path, tls=context(authority, own)) as there:
        with pytest.raises(OSError):  # ssl.SSLError, or a connection that was reset
            await there.reported(GET, tls=old)
        new = Tls(str(authority.cert), str(client.cert), str(client.key)).context()
        assert new.minimum_version >= ssl.TLSVersion.TLSv1_2
        async with there.connected(new) as (_, writer):
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"


async def test_excess_unfinished_handshakes_are_cut_off(
    tmp_path: Path, authority: Authority, own: Identity, client: Identity
) -> None:
    async with running(tmp_path, tls=context(authority, own)) as there:
        there.server._tcp_gate = Gate(3)
        silent = [await asyncio.open_connection("127.0.0.1", there.port) for _ in range(3)]
        await until(lambda: there.server._tcp_gate.connections == 3)
        assert await there.reported(b"") == b""
        for _, writer in silent:
            writer.transport.abort()
        await until(lambda: there.server._tcp_gate.connections == 0)
        assert await version(caller(authority, client, there.port))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_tls_key_readable_by_others_is_refused(authority: Authority, own: Identity, mode: int, tmp_path: Path) -> None:
    key = tmp_path / "server.key"
    key.write_bytes(own.key.read_bytes())
    key.chmod(mode)
    with pytest.raises(Error) as caught:
        context(authority, Identity(own.cert, key))
    assert caught.value.code == "tls_key_exposed"
    assert f"chmod 600 {key}" in caught.value.hint


def test_unusable_tls_files_are_refused_at_daemon_start(
    authority: Authority, own: Identity, client: Identity, tmp_path: Path
) -> None:
    for cert, key in ((own.cert, client.key), (tmp_path / "none", own.key), (own.cert, tmp_path), (own.key, own.key)):
        with pytest.raises(Error) as caught:
            context(authority, Identity(cert, key))
        assert caught.value.code == "tls_files"
    with pytest.raises(Error) as caught:
        certificates(Config(tls_cert=str(own.cert)))
    assert caught.value.code == "tls_incomplete"


# Sizes, times and numbers.


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandnet.serving.http_connection.Connection.timeouts", HASTY)


def status(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"]


async def test_foreign_host_header_over_tcp_is_403(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        asked = GET.replace(b"localhost", b"evil.example").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert status(await there.reported(asked)) == (403, "forbidden_host")


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (b"GET /version HTTP/1.1\r\nHost: loc", (408, "too_slow")),
        (b"G", (408, "too_slow")),
        (
            b"POST /networks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"name": ',
            (408, "too_slow"),
        ),
    ],
    ids=["headers", "first byte", "body"],
)
async def test_request_that_does_not_arrive_is_408(tmp_path: Path, part: bytes, expected: tuple[int, str]) -> None:
    async with running(tmp_path) as there:
        assert status(await there.reported(part)) == expected
        await until(lambda: not there.server.server_state.tasks)


@pytest.mark.usefixtures("hasty")
async def test_request_arriving_byte_by_byte_too_slowly_is_408(tmp_path: Path) -> None:
    async with running(tmp_path) as there, there.connected() as (reader, writer):

        async def trickle() -> None:
            for byte in GET * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(trickle())
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 20)  # not to the end: what drips on may reset it
        dripping.cancel()
        assert status(answer) == (408, "too_slow")


@pytest.mark.usefixtures("hasty")
async def test_connection_without_a_request_is_closed_after_timeout(tmp_path: Path) -> None:
    async with running(tmp_path) as there:
        assert await there.reported(b"") == b""


async def test_idle_event_reader_is_not_treated_as_stalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sandnet.serving.http_connection.Connection.timeouts", ConnectionTimeouts(head=1, body=1, stall=1)
    )
    async with running(tmp_path) as there, there.connected() as (reader, writer):
        writer.write(GET.replace(b"/version", b"/events"))
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 2.5)


async def test_oversized_headers_end_the_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as there, there.connected() as (reader, writer):
        writer.write(GET[:-2] + b"X: ")
        with suppress(ConnectionError):  # what was sent and not read resets the connection
            async with asyncio.timeout(20):
                while not reader.at_eof() and not reader._buffer:  # type: ignore[attr-defined]
                    writer.write(b"x" * MAX_HEAD)
                    await writer.drain()
            assert status(await reader.read()) == (431, "headers_too_large")


async def test_refused_endless_body_is_cut_off(tmp_path: Path) -> None:
    head = b"POST /networks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with running(tmp_path) as there, there.connected() as (_, writer):
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with suppress(ConnectionError):
            while sent < 4 * MAX_MESSAGE:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
                sent += 0x10000
        assert sent < 4 * MAX_MESSAGE


async def test_connection_over_the_limit_is_503_until_one_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandnet.serving.http_server.TCP_CONNECTIONS", 2)
    async with running(tmp_path) as there, there.connected():
        async with there.connected():
            await until(lambda: there.server._tcp_gate.connections == 2)
            answer = await there.reported(b"")
            assert status(answer) == (503, "overloaded")
            assert b"\r\nretry-after: 1\r\n" in answer
        await until(lambda: there.server._tcp_gate.connections == 1)
        async with there.connected() as (reader, writer):
            writer.write(GET)
            assert b" 200 " in await reader.readline()


async def test_unix_and_tcp_connections_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("TCP", "UNIX"):
        monkeypatch.setattr(f"sandnet.serving.http_server.{kind}_CONNECTIONS", 1)
    path = str(tmp_path / "other.sock")
    other = ListeningSocket(f"unix://{path}", open_unix(path, 16), ours=True)
    async with running(tmp_path, also=[other]) as there, there.connected():
        await until(lambda: there.server._tcp_gate.connections == 1)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET)
        assert b" 200 " in await reader.readline()
        refused, second = await asyncio.open_unix_connection(path)
        assert status(await refused.read()) == (503, "overloaded")
        assert status(await there.reported(b"")) == (503, "overloaded")
        for each in (writer, second):
            each.transport.abort()


@pytest.mark.usefixtures("hasty")
async def test_client_that_does_not_read_its_answers_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path) as there, there.connected() as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        connections = there.server.server_state.connections
        await until(lambda: len(connections) == 1)
        (connection,) = connections
        assert isinstance(connection, Connection)
        state = there.server.server_state
        while not connection.flow.write_paused:
            asked = state.total_requests
            writer.write(GET.replace(b"/version", b"/openapi.json"))
            await until(partial(lambda before: state.total_requests > before or connection.flow.write_paused, asked))
        writer.write(GET)  # whose answer cannot even begin
        await until(lambda: not connections)
