"""A daemon that gives canned answers over a real unix socket, and commands that run against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from sandnet.cli.root import root

SANDBOX = "b" * 64
SANDNET = [sys.executable, "-c", "from sandnet.cli import main; main()"]

Start = Callable[..., "subprocess.Popen[str]"]


class Request(NamedTuple):
    method: str
    target: str
    body: object = None


class Answer(NamedTuple):
    """What is answered to a request."""

    status: int
    content: bytes
    headers: Mapping[str, str] = {}
    endless: bool = False
    """The connection stays open after the content, until the test is over."""


class Stub:
    """Canned answers by method and target; what was asked, in order."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.requests: list[Request] = []
        self.every_sandbox: object = None
        """The answer about any sandbox; fresh container ids cannot be canned."""
        self.over = threading.Event()
        self._answers: dict[tuple[str, str], list[Answer]] = {}

    def answer(
        self,
        method: str,
        target: str,
        body: object = None,
        status: int = 200,
        headers: Mapping[str, str] = {},
        endless: bool = False,
    ) -> None:
        """The answer to one request; several of them are given in order, the last one for ever."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self._answers.setdefault((method, target), []).append(Answer(status, content, headers, endless))

    def reply(self, method: str, target: str) -> Answer:
        queue = self._answers.get((method, target))
        if queue is None and self.every_sandbox and target.startswith("/sandboxes/"):
            return Answer(200, json.dumps(self.every_sandbox).encode())
        if queue is None:
            message = {"message": f"not canned: {method} {target}", "code": "not_found"}
            return Answer(404, json.dumps(message).encode())
        return queue.pop(0) if len(queue) > 1 else queue[0]

    def asked(self) -> list[tuple[str, str]]:
        return [(request.method, request.target) for request in self.requests]


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    path = tmp_path / "s"
    stub = Stub(path)

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            stub.requests.append(Request(self.command, self.path, json.loads(raw) if raw else None))
            answer = stub.reply(self.command, self.path)
            self.send_response(answer.status)
            if not answer.endless:
                self.send_header("Content-Length", str(len(answer.content)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if answer.content:  # a client that was reported of no content may be gone
                self.wfile.write(answer.content)
            if answer.endless:
                self.wfile.flush()
                stub.over.wait()

        do_GET = do_POST = do_PATCH = do_DELETE = do  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingUnixStreamServer(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield stub
    stub.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sandnet(stub: Stub) -> Callable[..., Result]:
    """Runs a command line, given as a text or in pieces, against the stub and in this process."""

    def call(*pieces: str) -> Result:
        words = " ".join(pieces).split()
        return CliRunner().invoke(root, ["-H", stub.url, *words], prog_name="sandnet")

    return call


@pytest.fixture
def namespace() -> Iterator[int]:
    """A process that holds user, mount and network namespaces of its own; its pid.

    Mounts are shared as systemd has them: what is mounted in a copy of them shows here, unless it is kept from that.
    """
    command = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared", "--net"]
    command += ["sh", "-c", "echo held; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout
        assert holder.stdin
        if holder.stdout.readline() != b"held\n":
            pytest.skip("this kernel lets nobody make user namespaces")
        yield holder.pid
        holder.stdin.close()


@pytest.fixture
def start(stub: Stub, namespace: int) -> Start:
    """Starts a command line inside the user namespace, its network still the test's own."""

    def call(*words: str, terminal: int | None = None) -> subprocess.Popen[str]:
        inside = ["nsenter", "--target", str(namespace), "--user", "--mount", "--preserve-credentials", "--"]
        session = [] if terminal is None else ["setsid", "--ctty"]
        return subprocess.Popen(
            [*session, *inside, *SANDNET, "-H", stub.url, *words],
            stdin=subprocess.PIPE if terminal is None else terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    return call


@pytest.fixture
def sandbox(stub: Stub, namespace: int, tmp_path: Path) -> Path:
    """The namespace reported by the daemon as every container's sandbox; the directory of its files."""
    (tmp_path / "hosts").write_text("10.9.0.2\tbar\n")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.11\n")
    body = {
        "id": SANDBOX,
        "sandbox_key": f"/proc/{namespace}/ns/net",
        "endpoints": [],
        "hosts_path": f"{tmp_path}/hosts",
        "resolv_conf_path": f"{tmp_path}/resolv.conf",
    }
    stub.every_sandbox = body
    return tmp_path


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err
