"""Real traffic: small servers in sandboxes, and clients anywhere, who tell what they saw of each other.

A socket belongs for good to the network namespace of the thread that made it, so only the making happens
inside; everything else is done from the thread of the test.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from tests.support.network_host import Host, eventually

TCP, UDP, SCTP = 6, 17, 132
DEADLINE = 15.0
"""Seconds a client waits for an answer that should come."""
SLICE = 0.1
"""Seconds of one wait in a flow that must not pause. A machine that stands still for longer uses up one slice."""
SLICES = 30
"""How many slices such a flow may pause: 3 s of running time, as the threads of a test share two cores with much else.
"""
DOUBT = 0.4
"""Seconds a client waits for an answer that should not come."""


class Seen(NamedTuple):
    """An answer of a server: who it is, and whom it thinks it talks to."""

    server: str
    address: str
    port: int


class Place:
    """A network namespace that traffic starts or ends in: the host's own, or one at a path."""

    def __init__(self, host: Host, stack: ExitStack, namespace: str = "") -> None:
        self._host = host
        self._stack = stack
        self.namespace = namespace

    def sh(self, *command: str) -> str:
        """The output of a command run here."""
        return self._host.sh(*command, namespace=self.namespace)

    def reaches(self, address: str, seconds: float = DEADLINE) -> bool:
        """Whether ``address`` answers an ICMP echo."""
        return self._host.reaches(address, namespace=self.namespace, seconds=seconds)

    def bound(self, address: str, proto: int, port: int = 0) -> socket.socket:
        """A socket made here, bound to an address and port; closed when the test ends."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if proto == TCP else socket.SOCK_DGRAM
        made = self._stack.enter_context(self._made(family, kind))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.settimeout(DEADLINE)
        return made

    def _made(self, family: int, kind: int) -> socket.socket:
        if self.namespace:
            return self._host.inside(self.namespace, _socket, family, kind)
        return self._host.run(_socket, family, kind)

    def serve(self, name: str, port: int, proto: int = TCP, address: str = "0.0.0.0") -> Server:
        """A server that answers everything with its name and the client's address."""
        server = Server(name, self.bound(address, proto, port), proto)
        self._stack.callback(server.close)
        return server

    def ask(self, address: str, port: int, proto: int = TCP, *, source: str = "", source_port: int = 0) -> Seen:
        """Talk to a server once.

        Raises:
            OSError: no one answers in time, or the port is closed.
        """
        with self.client(address, port, proto, source=source, source_port=source_port) as client:
            return ask_again(client)

    def client(
        self, address: str, port: int, proto: int = TCP, *, source: str = "", source_port: int = 0
    ) -> socket.socket:
        """A connected socket."""
        client = self.bound(source or ("::" if ":" in address else "0.0.0.0"), proto, source_port)
        client.connect((address, port))
        return client

    def is_refused(self, address: str, port: int, proto: int = TCP, source: str = "") -> bool:
        """Whether no one answers there: refused at once, or silence."""
        with self.bound(source or ("::" if ":" in address else "0.0.0.0"), proto) as client:
            client.settimeout(DOUBT)
            try:
                client.connect((address, port))
                ask_again(client)
            except OSError:
                return True
            return False


def ask_again(client: socket.socket) -> Seen:
    """One question and its answer on a connected socket."""
    client.send(b"?")
    return _seen(client.recv(2048))


def ask_promptly(client: socket.socket) -> Seen:
    """One question and its answer in a flow that must not pause.

    Raises:
        OSError: it pauses, or has ended.
    """
    client.send(b"?")
    return _seen(received_promptly(client))


def received_promptly(client: socket.socket) -> bytes:
    """What comes next in a flow that must not pause.

    Raises:
        TimeoutError: nothing comes while the machine runs for as long as a flow may pause.
    """
    client.settimeout(SLICE)
    for _ in range(SLICES):
        with suppress(TimeoutError):
            return client.recv(4096)
    raise TimeoutError(f"no answer in {SLICES} slices of {SLICE} s")


def _seen(answer: bytes) -> Seen:
    if not answer:
        raise ConnectionResetError("the server closed the connection")
    name, address, port = answer.decode().split()
    return Seen(name, address, int(port))


def _socket(family: int, kind: int) -> socket.socket:
    return socket.socket(family, kind)


class Server:
    """Answers in threads of its own until it is closed."""

    def __init__(self, name: str, bound: socket.socket, proto: int) -> None:
        self._name = name
        self._socket = bound
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closed = False
        bound.settimeout(None)
        if proto == TCP:
            bound.listen(64)
        self._start(self._accept if proto == TCP else self._datagrams)

    def close(self) -> None:
        """Stop, and cut the connections that are open."""
        self._closed = True
        for each in [self._socket, *self._open]:
            _silence(each)
        for thread in self._threads:
            thread.join(DEADLINE)
        for each in self._open:
            each.close()
        self._socket.close()

    def _start(self, job: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=job, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, peer = self._socket.accept()
            except OSError:
                return
            self._open.append(client)
            self._start(self._stream, client, peer)

    def _stream(self, client: socket.socket, peer: tuple[str, int]) -> None:
        try:
            while client.recv(2048):
                client.sendall(self._answer(peer))
        except OSError:
            return
        finally:
            client.close()

    def _datagrams(self) -> None:
        while not self._closed:
            try:
                _, peer = self._socket.recvfrom(2048)
                if not self._closed:
                    self._socket.sendto(self._answer(peer), peer)
            except OSError:
                return

    def _answer(self, peer: tuple[str, int]) -> bytes:
        return f"{self._name} {peer[0]} {peer[1]}".encode()


def _silence(each: socket.socket) -> None:
    """Wake whoever waits on the socket. A datagram socket reports ENOTCONN and wakes all the same (shutdown(2))."""
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until ``condition`` is true; an OSError counts as not yet."""

    def quiet() -> object:
        try:
            return condition()
        except OSError:
            return False

    eventually(quiet, seconds)
