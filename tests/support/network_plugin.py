"""Network plugins for the daemon to use: one of any answers, and sandnet itself on another host."""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.support.daemon import RunningDaemon

Message = dict[str, Any]
Reply = Callable[[Message], Any]


class PluginServer:
    """A plugin at a socket. What it answers to each verb can be changed at any time; unknown verbs are 404.

    Args:
        path: of the socket; with the extension ``spec``, of a file with the plugin's address on the loopback.
        replies: by verb, as ``NetworkDriver.Join``: what is answered, or a function of the request. Bytes are the whole
            answer, with status and headers; an answer of None is never sent.
    """

    def __init__(self, path: Path, replies: dict[str, Any]) -> None:
        self.path = path
        self.replies = replies
        self.calls: list[tuple[str, Message]] = []
        self._closing = threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                plugin._answer(self)

            def address_string(self) -> str:
                return "engine"

            def log_message(self, *_: object) -> None:
                pass

        self._server: socketserver.ThreadingTCPServer | socketserver.ThreadingUnixStreamServer
        if path.suffix == ".spec":
            self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
            path.write_text(f"tcp://127.0.0.1:{self._server.server_address[1]}")
        else:
            self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        verb = request.path.removeprefix("/")
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        message = json.loads(body or b"{}") or {}
        self.calls.append((verb, message))
        reply = self.replies.get(verb, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        reply = reply(message) if callable(reply) else reply
        if reply is None:
            self._closing.wait(60)
        elif isinstance(reply, bytes):
            request.wfile.write(reply)
        else:
            text = json.dumps(reply).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
            request.wfile.write(head.encode() + text)

    def verbs(self) -> list[str]:
        """The verbs of the network driver that were called, without the prefix."""
        return [verb.removeprefix("NetworkDriver.") for verb, _ in self.calls if verb.startswith("NetworkDriver.")]

    def close(self) -> None:
        """Stop, and remove the socket."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)
        self._thread.join()


def present() -> dict[str, Any]:
    """Answers of a plugin of today that makes nothing."""
    verbs = ("CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Leave")
    return {
        "Plugin.Activate": {"Implements": ["NetworkDriver"]},
        "NetworkDriver.GetCapabilities": {"Scope": "local"},
        "NetworkDriver.Join": {"InterfaceName": {"SrcName": "", "DstPrefix": ""}},
        **{f"NetworkDriver.{verb}": {} for verb in verbs},
    }


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("plugin", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class SandnetAsPlugin:
    """The plugin of a daemon on another host, which the first host sees as its own.

    The other host stands for the part of the machine that belongs to the plugin, so that both daemons can have the
    links and rules that each needs for itself. The links that it supplies are moved to the first host; nothing else is
    changed on the way.
    """

    def __init__(self, daemon: RunningDaemon, other: RunningDaemon, path: Path) -> None:
        self.other = other
        self._target = f"/proc/{os.getpid()}/fd/{daemon.host.net}"
        self._socket = other.folder / "plugin.sock"
        verbs = ("CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Leave", "GetCapabilities")
        replies: dict[str, Any] = {f"NetworkDriver.{verb}": self._passed(f"NetworkDriver.{verb}") for verb in verbs}
        replies["Plugin.Activate"] = self._passed("Plugin.Activate")
        replies["NetworkDriver.Join"] = self._join
        self.server = PluginServer(path, replies)

    def _passed(self, verb: str) -> Reply:
        def ask(message: Message) -> Any:
            connection = _UnixConnection(self._socket)
            try:
                connection.request("POST", f"/{verb}", json.dumps(message))
                return json.loads(connection.getresponse().read())
            finally:
                connection.close()

        return ask

    def _join(self, message: Message) -> Any:
        answer = self._passed("NetworkDriver.Join")(message)
        if name := answer.get("InterfaceName", {}).get("SrcName"):
            self.other.host.sh("ip", "link", "set", name, "netns", self._target)
        return answer

    def close(self) -> None:
        """Stop relaying."""
        self.server.close()
