"""One request to a plugin: deadlines, limits, and who listens."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sandnet.drivers.remote.discovery import PluginAddress
from sandnet.drivers.remote.plugin_exchange import MOST_BYTES, exchange
from tests.support.privileges import needs_other_users

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

LISTEN = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
os.setuid(65534)
listener.listen()
print("ready", flush=True)
sys.stdin.read()
"""
"""A program that listens as another user, until its input ends."""


def asked(serve: Callable[[socket.socket], None], seconds: float = 30.0, path: Path | None = None) -> tuple[int, bytes]:
    """What a server answers on the host's loopback, or at a path."""
    family = socket.AF_UNIX if path else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(str(path) if path else ("127.0.0.1", 0))
        listener.listen()
        address = PluginAddress(path=str(path)) if path else PluginAddress("", *listener.getsockname())

        def run() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        answer = exchange(address, "Plugin.Activate", b"{}", time.monotonic() + seconds)
        return answer.status, answer.body


def test_answer_is_returned_with_its_status() -> None:
    assert asked(lambda connection: connection.sendall(ANSWER)) == (200, b"{}")
    assert asked(lambda connection: connection.sendall(b"HTTP/1.1 404 No\r\n\r\nno such page\n"))[0] == 404


def test_answer_that_trickles_in_ends_at_the_deadline() -> None:
    end = threading.Event()

    def slow_head(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not end.wait(0.02):
            connection.sendall(b"X-Header: y\r\n")

    try:
        with pytest.raises(TimeoutError):
            asked(slow_head, 0.3)
    finally:
        end.set()


def test_answer_beyond_the_limit_is_refused() -> None:
    with pytest.raises(OSError, match="longer than"):
        asked(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MOST_BYTES + 1)))


def test_plugin_that_is_this_daemon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="this daemon itself"):
        asked(lambda connection: connection.sendall(ANSWER), path=tmp_path / "one.sock")


@needs_other_users
def test_listener_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        command = [sys.executable, "-Ic", LISTEN, str(listener.fileno())]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=[listener.fileno()]) as other:
            assert other.stdout
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(OSError, match="belongs to user 65534"):
                exchange(PluginAddress(str(path)), "Plugin.Activate", b"", time.monotonic() + 30)
