"""A network plugin to try: each network is a bridge without an address, each endpoint a veth pair.

It speaks the network driver protocol of container engines at the socket that is its argument. See
docs/remote-drivers.md. It serves one request after the other, and forgets nothing: what it made is in the kernel.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

Message = dict[str, Any]


def ip(*words: str) -> None:
    """Run ``ip``; what exists already, and what is absent already, is success.

    Raises:
        ValueError: it failed.
    """
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode and "File exists" not in done.stderr and "Cannot find device" not in done.stderr:
        raise ValueError(done.stderr.strip())


def create_network(message: Message) -> Message:
    """Make the bridge."""
    bridge = f"bp{message['NetworkID'][:10]}"
    ip("link", "add", bridge, "type", "bridge")
    ip("link", "set", bridge, "up")
    return {}


def delete_network(message: Message) -> Message:
    """Delete the bridge."""
    ip("link", "delete", f"bp{message['NetworkID'][:10]}")
    return {}


def join(message: Message) -> Message:
    """Make the pair; the engine moves the end that is named in the answer."""
    outer, inner = f"bo{message['EndpointID'][:10]}", f"bi{message['EndpointID'][:10]}"
    ip("link", "add", outer, "type", "veth", "peer", "name", inner)
    ip("link", "set", outer, "master", f"bp{message['NetworkID'][:10]}", "up")
    return {"InterfaceName": {"SrcName": inner, "DstPrefix": "eth"}}


def leave(message: Message) -> Message:
    """Delete the pair."""
    ip("link", "delete", f"bo{message['EndpointID'][:10]}")
    return {}


VERBS: dict[str, Callable[[Message], Message]] = {
    "/Plugin.Activate": lambda message: {"Implements": ["NetworkDriver"]},
    "/NetworkDriver.GetCapabilities": lambda message: {"Scope": "local"},
    "/NetworkDriver.CreateNetwork": create_network,
    "/NetworkDriver.DeleteNetwork": delete_network,
    "/NetworkDriver.CreateEndpoint": lambda message: {},
    "/NetworkDriver.DeleteEndpoint": leave,
    "/NetworkDriver.Join": join,
    "/NetworkDriver.Leave": leave,
}


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    def do_POST(self) -> None:
        """Answer with the verb's result, or the reason of its failure."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 200
        answer: Message = {}
        try:
            answer = VERBS[self.path](json.loads(body or b"{}"))
        except KeyError:
            status = 404
        except ValueError as failure:
            answer = {"Err": str(failure)}
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self) -> str:
        """Return a name for the other end, which has no address."""
        return "engine"

    def log_message(self, *_: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    path = sys.argv[1]
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with socketserver.UnixStreamServer(path, Handler) as server:
        server.serve_forever()
