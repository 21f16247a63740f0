"""The CNI plugin's two programs: the native one does what the one in Python does, whatever daemon and runtime do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

import pytest

from sandnet.cni import MAX_INPUT

NATIVE = Path(sys.executable).with_name("sandnet-cni")
IN_PYTHON = NATIVE.with_name("sandnet-cni-python")
CONFIGURATION = b'{"cniVersion": "0.4.0", "name": "web", "type": "sandnet-cni"}'
RESULT = b"HTTP/1.1 200 OK\r\nContent-Type: application/cni+json\r\nContent-Length: 3\r\n\r\n{ }"
OVERLOADED = b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 23\r\n\r\n" + b'{"message": "overload"}'
REFUSED = RESULT.replace(b"200 OK", b"400 Bad Request")

pytestmark = pytest.mark.skipif(
    not NATIVE.read_bytes().startswith(b"\x7fELF"), reason="sandnet was installed without a C compiler"
)


class Daemon:
    """Answers each request with the same pieces, and keeps the requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pieces: tuple[bytes, ...] = (RESULT,)
        self.requests: list[bytes] = []
        self.refusals = 0
        """How many requests are refused before that."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                with self._listening.accept()[0] as connection, suppress(ConnectionError):
                    self.requests.append(_whole(connection))
                    for piece in (OVERLOADED,) if self.refusals else self.pieces:
                        connection.sendall(piece)
                    self.refusals = max(0, self.refusals - 1)

    def close(self) -> None:
        """End the thread."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(30)


def _whole(connection: socket.socket) -> bytes:
    """The request: its head, and as much of a body as that announces."""
    received = b""
    while some := connection.recv(65536):
        received += some
        head, separator, body = received.partition(b"\r\n\r\n")
        if separator and len(body) >= int(head.rpartition(b"Content-Length: ")[2]):
            break
    return received


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that answers with an empty result."""
    started = Daemon(tmp_path / "socket")
    yield started
    started.close()


class Outcome(NamedTuple):
    """What a program printed, and its status."""

    status: int
    printed: bytes
    complained: bytes


def call(program: Path, configuration: bytes = CONFIGURATION, **variables: str) -> Outcome:
    """Run the program once."""
    done = subprocess.run([program], input=configuration, env=variables, capture_output=True, check=False, timeout=60)
    return Outcome(done.returncode, done.stdout, done.stderr)


def both(configuration: bytes = CONFIGURATION, **variables: str) -> Outcome:
    """The outcome of a call, which is the same for both programs."""
    native = call(NATIVE, configuration, **variables)
    assert native == call(IN_PYTHON, configuration, **variables)
    return native


def add(daemon: Daemon, configuration: bytes = CONFIGURATION, **variables: str) -> Outcome:
    """The outcome of an ``ADD``."""
    return both(configuration, SANDNET_HOST=f"unix://{daemon.path}", CNI_COMMAND="ADD", **variables)


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_each_command_is_one_request(daemon: Daemon, command: str) -> None:
    host = f"unix://{daemon.path}"
    outcome = both(
        CNI_COMMAND=command, SANDNET_HOST=host, CNI_CONTAINERID="c1", CNI_NETNS="/run/netns/a", CNI_IFNAME="eth0"
    )
    assert outcome == (0, b"{ }", b"")
    native, in_python = daemon.requests
    assert native == in_python
    target = f"/cni/{command.lower()}?container=c1&netns=/run/netns/a&ifname=eth0&args="
    assert native.startswith(f"POST {target} HTTP/1.1\r\n".encode())
    assert native.endswith(b"\r\n\r\n" + CONFIGURATION)


@pytest.mark.parametrize("text", ["a b&c=d#%?", "IP=10.1.1.1;MAC=02:00", "é", "\udcff", "1\r\n2", "x" * 100_000])
def test_value_of_a_variable_arrives_as_it_is(daemon: Daemon, text: str) -> None:
    assert add(daemon, CNI_ARGS=text).status == 0
    for request in daemon.requests:
        query = request.split(b" ")[1].partition(b"?")[2].decode("ascii")
        assert dict(parse_qsl(query, errors="surrogateescape"))["args"] == text


@pytest.mark.parametrize("size", [0, 1, 65536, MAX_INPUT])
def test_configuration_of_any_size_arrives(daemon: Daemon, size: int) -> None:
    assert add(daemon, b"\0" * size).status == 0
    assert {request.partition(b"\r\n\r\n")[2] for request in daemon.requests} == {b"\0" * size}


def test_configuration_that_is_too_large_is_refused(daemon: Daemon) -> None:
    outcome = add(daemon, b" " * (MAX_INPUT + 1))
    assert (outcome.status, b'"code": 6' in outcome.printed, daemon.requests) == (1, True, [])


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ((REFUSED,), 1),
        ((RESULT[:9], RESULT[9:70], RESULT[70:]), 0),
        ((RESULT.replace(b"Length: 3", b"Length: 2000003"), b"x" * 2_000_000), 0),
        ((RESULT.replace(b"Content-", b"content-"),), 0),
        ((b"HTTP/1.1 200 OK\r\ncontent-type:application/cni+json\r\n\r\n",), 0),
    ],
)
def test_answer_is_printed(daemon: Daemon, pieces: tuple[bytes, ...], status: int) -> None:
    daemon.pieces = pieces
    assert add(daemon) == (status, b"".join(pieces).partition(b"\r\n\r\n")[2], b"")


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"HTTP/1.1 20",),
        (b"HTTP/1.1\r\n\r\n",),
        (b"\0\r\n\r\n" * 5,),
        (RESULT.replace(b"Length: 3", b"Length: 5"),),
        (RESULT.replace(b"Length: 3", b"Length: 99999999999999999999999"),),
    ],
)
def test_half_an_answer_may_be_tried_again(daemon: Daemon, pieces: tuple[bytes, ...]) -> None:
    daemon.pieces = pieces
    outcome = add(daemon)
    assert (outcome.status, b'"cniVersion": "0.4.0", "code": 11' in outcome.printed) == (1, True)


@pytest.mark.parametrize(("status", "code"), [(404, 100), (429, 11), (503, 11), (200, 100)])
def test_answer_of_another_dialect_is_an_error(daemon: Daemon, status: int, code: int) -> None:
    body = b'{"message": "no path"}'
    daemon.pieces = (b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n" % status + body,)
    outcome = add(daemon)
    assert (outcome.status, f'"code": {code}'.encode() in outcome.printed) == (1, True)
    assert b"no path" in outcome.printed


@pytest.mark.parametrize("program", [NATIVE, IN_PYTHON], ids=["native", "python"])
def test_request_is_repeated_while_the_daemon_has_too_many(daemon: Daemon, program: Path) -> None:
    daemon.refusals = 2
    host = f"unix://{daemon.path}"
    assert call(program, CNI_COMMAND="ADD", SANDNET_HOST=host) == (0, b"{ }", b"")
    assert len(daemon.requests) == 3
    assert len(set(daemon.requests)) == 1


def test_status_of_a_daemon_with_too_many_requests_is_an_error(daemon: Daemon) -> None:
    daemon.refusals = 4
    assert both(CNI_COMMAND="STATUS", SANDNET_HOST=f"unix://{daemon.path}").status == 1


def test_socket_of_the_configuration_is_asked(daemon: Daemon) -> None:
    configuration = b'{"cniVersion": "1.0.0", "socket": "unix://%s"}' % os.fsencode(daemon.path)
    assert both(configuration, CNI_COMMAND="ADD", SANDNET_HOST="unix:///nowhere") == (0, b"{ }", b"")


@pytest.mark.parametrize(
    ("command", "host", "code"),
    [
        ("ADD", "unix:///nowhere", 11),
        ("STATUS", "unix:///nowhere", 50),
        ("ADD", "unix:///" + "x" * 200, 11),
        ("ADD", "tcp://127.0.0.1:1", 4),
        ("ADD", "unix://relative", 4),
        ("", "unix:///nowhere", 4),
        ("add", "unix:///nowhere", 4),
    ],
)
def test_call_without_a_daemon_is_an_error(command: str, host: str, code: int) -> None:
    outcome = both(CNI_COMMAND=command, SANDNET_HOST=host)
    assert (outcome.status, f'"code": {code},'.encode() in outcome.printed) == (1, True)


def test_version_needs_no_daemon() -> None:
    outcome = both(CNI_COMMAND="VERSION", SANDNET_HOST="unix:///nowhere")
    assert (outcome.status, b'"cniVersion": "0.4.0"' in outcome.printed) == (0, True)


def test_input_that_never_ends_is_given_up(daemon: Daemon) -> None:
    """Both wait for ten seconds, at the same time."""
    with ThreadPoolExecutor() as threads:
        native, in_python = threads.map(_unended_call(daemon), (NATIVE, IN_PYTHON))
    assert {(each.status, b'"code": 5' in each.printed) for each in (native, in_python)} == {(1, True)}
    assert daemon.requests == []


def _unended_call(daemon: Daemon) -> Callable[[Path], Outcome]:
    def call_without_end(program: Path) -> Outcome:
        reading, writing = os.pipe()
        try:
            variables = {"CNI_COMMAND": "ADD", "SANDNET_HOST": f"unix://{daemon.path}"}
            os.write(writing, CONFIGURATION)
            done = subprocess.run([program], stdin=reading, env=variables, capture_output=True, check=False, timeout=60)
        finally:
            os.close(reading)
            os.close(writing)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call_without_end


def test_native_program_needs_the_other_for_failures_only(daemon: Daemon, tmp_path: Path) -> None:
    alone, host = tmp_path / "sandnet-cni", f"unix://{daemon.path}"
    shutil.copy(NATIVE, alone)
    assert call(alone, CNI_COMMAND="ADD", SANDNET_HOST=host) == (0, b"{ }", b"")
    daemon.pieces = ()
    outcome = call(alone, CNI_COMMAND="ADD", SANDNET_HOST=host)
    assert (outcome.status, b"sandnet-cni-python" in outcome.printed) == (1, True)


def test_link_to_the_native_program_finds_the_other(tmp_path: Path) -> None:
    link = tmp_path / "sandnet-cni"
    link.symlink_to(NATIVE)
    assert call(link, CNI_COMMAND="VERSION") == call(NATIVE, CNI_COMMAND="VERSION")
