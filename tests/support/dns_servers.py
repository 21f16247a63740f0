"""Resolvers on hosts for tests, sandboxes that ask them, and upstream servers that answer well or badly."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import dns.message
import dns.rrset

from sandnet.composition import socket_opener, start_resolver
from sandnet.dns.base import Alias, SetClient, SetNames
from sandnet.dns.client import NameClient
from sandnet.dns.control_protocol import SOCKET
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.model.address import socket_address
from sandnet.resolver import FALLBACK, USER
from tests.support.conditions import until
from tests.support.network_host import Host, eventually

SANDBOXES: Final = "/run/sandboxes"
RELEASE: Final = "1.0"
DEADLINE: Final = 10.0
"""Seconds a client waits for an answer that should come."""
Answering = Callable[[bytes], Sequence[bytes]]
"""What a fake server sends back, in order, for a query."""


def query(name: str, kind: str = "A", **more: Any) -> bytes:
    """A DNS message that asks; ``payload=`` adds EDNS."""
    return dns.message.make_query(name, kind, **more).to_wire()


def records(reply: bytes) -> list[str]:
    """What the records of an answer say, in order."""
    message = dns.message.from_wire(reply)
    return [item.to_text() for section in message.answer for item in section]


def rcode(reply: bytes) -> str:
    """The answer's response code in words."""
    return dns.message.from_wire(reply).rcode().name


def reply_to(asked: bytes, *addresses: str) -> bytes:
    """An answer with these IPv4 addresses."""
    question = dns.message.from_wire(asked)
    reply = dns.message.make_response(question)
    if addresses:
        reply.answer.append(dns.rrset.from_text(question.question[0].name, 60, "IN", "A", *addresses))
    return reply.to_wire()


def always(*addresses: str) -> Answering:
    """A server that gives these addresses for everything."""
    return lambda asked: [reply_to(asked, *addresses)]


def names(network: str, owner: str, called: str, *where: str) -> SetNames:
    """The names (apart by blanks) of an owner on a network, whose id is ``id-`` and its name."""
    return SetNames(
        network_id=f"id-{network}",
        network=network,
        owner=owner,
        names=tuple(called.split()),
        addresses=tuple(map(ip_address, where)),
    )


def expected_user() -> int:
    """Whom a resolver becomes where these tests run; an ordinary user's namespace knows root alone."""
    with open("/proc/self/uid_map") as table:
        known = any(int(first) <= FALLBACK < int(first) + int(count) for first, _, count in map(str.split, table))
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:
        return FALLBACK if known else 0


class FakeUpstream:
    """A DNS server at an address of a host, UDP and TCP on port 53, on threads of its own."""

    def __init__(
        self, host: Host, address: str, udp: Answering, tcp: Answering | None = None, namespace: str = ""
    ) -> None:
        self.seen: list[bytes] = []
        """Queries that came, in order."""
        self.ports: list[int] = []
        """Where they came from."""
        self._udp, self._tcp = host.inside(namespace, _bound, address) if namespace else host.run(_bound, address)
        self._threads = [
            threading.Thread(target=self._serve_udp, args=(udp,)),
            threading.Thread(target=self._serve_tcp, args=(tcp or udp,)),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop serving."""
        for each in (self._udp, self._tcp):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._udp, self._tcp):
            each.close()

    def _serve_udp(self, answer: Answering) -> None:
        while True:
            asked, source = self._udp.recvfrom(4096)
            if not asked:  # the socket was shut down
                return
            self.seen.append(asked)
            self.ports.append(source[1])
            with suppress(OSError):  # who asked has gone, or this server was shut down
                for reply in answer(asked):
                    self._udp.sendto(reply, source)

    def _serve_tcp(self, answer: Answering) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                asked = file.read(int.from_bytes(file.read(2), "big"))
                self.seen.append(asked)
                for reply in answer(asked):
                    connection.sendall(len(reply).to_bytes(2, "big") + reply)


def _bound(address: str) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    where = socket_address(ip_address(address), 53)
    udp.bind(where)
    tcp = socket.create_server(where, family=family)
    return udp, tcp


class DnsHost:
    """A host with a run directory for a resolver, and with sandboxes."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.run_dir = folder
        self.resolv_conf = folder / "resolv.conf"
        self.resolv_conf.write_text("")
        if not host.run(os.path.exists, "/etc/resolv.conf"):
            host.sh("touch", "/etc/resolv.conf")
        host.sh("mount", "--bind", str(self.resolv_conf), "/etc/resolv.conf")
        self._namespaces = LinuxNamespaces(SANDBOXES)
        self._clients: list[NameClient] = []
        self._upstreams: list[FakeUpstream] = []
        self.starts = 0

    def client(self, *options: str, release: str = RELEASE) -> NameClient:
        """A client that starts resolvers on this host, not opened yet."""
        command = [sys.executable, "-m", "sandnet.resolver", "--detach", "--run-dir", str(self.run_dir)]
        command += ["--release", release, *options]
        where = options[options.index("--host-listen") + 1].split(":") if "--host-listen" in options else None
        host_listen = (where[0], int(where[1])) if where else None

        async def start() -> None:
            self.starts += 1
            await asyncio.to_thread(self.host.run, start_resolver, str(self.run_dir), release, command)

        async def run(job: Callable[..., Any], /, *arguments: Any) -> Any:
            return await asyncio.to_thread(self.host.run, job, *arguments)

        opener = socket_opener(SANDBOXES, host_listen)
        client = NameClient(str(self.run_dir / SOCKET), release, start, opener, run, host_listen)
        self._clients.append(client)
        return client

    async def opened(self, *options: str, release: str = RELEASE) -> NameClient:
        """A client whose resolver serves and knows nothing."""
        client = self.client(*options, release=release)
        client.open()
        await until(lambda: not client.problem())
        return client

    def upstream(
        self, address: str, udp: Answering, tcp: Answering | None = None, *, sandbox: SetClient | None = None
    ) -> FakeUpstream:
        """Start a server on this host, or in a sandbox; it ends with the test."""
        made = FakeUpstream(self.host, address, udp, tcp, sandbox.key if sandbox else "")
        self._upstreams.append(made)
        return made

    def asker(self, name: str, *networks: str, aliases: Sequence[Alias] = (), **more: Any) -> SetClient:
        """A sandbox, made, as the resolver is reported of it; ``upstreams`` and ``inside`` are given as text."""
        key = f"{SANDBOXES}/{name}"
        inode = self.host.run(self._namespaces.make, key).inode
        ids = tuple(f"id-{network}" for network in networks)
        more |= {kind: tuple(map(ip_address, more.get(kind, ()))) for kind in ("upstreams", "inside")}
        return SetClient(container_id=name, key=key, inode=inode, networks=ids, aliases=tuple(aliases), **more)

    def join(self, one: SetClient, other: SetClient) -> None:
        """Connect two sandboxes: 10.77.0.1 and fd77::1 in the one, 10.77.0.2 and fd77::2 in the other."""
        sh = self.host.sh
        sh("ip", "link", "add", "eth0", "netns", one.key, "type", "veth", "peer", "name", "eth0", "netns", other.key)
        for number, sandbox in enumerate((one, other), 1):
            sh("ip", "address", "add", f"10.77.0.{number}/24", "dev", "eth0", namespace=sandbox.key)
            sh("ip", "address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad", namespace=sandbox.key)
            sh("ip", "link", "set", "eth0", "up", namespace=sandbox.key)

    def release(self, asker: SetClient) -> None:
        """Take a sandbox away."""
        self.host.run(self._namespaces.release, asker.key)

    def socket_in(self, asker: SetClient, *, tcp: bool = False, deadline: float = DEADLINE) -> socket.socket:
        """A socket in a sandbox, connected to its name server."""

        def made() -> socket.socket:
            out = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
            out.settimeout(deadline)
            out.connect(("127.0.0.11", 53))
            return out

        return self.host.inside(asker.key, made)

    async def ask(
        self, asker: SetClient, name: str, kind: str = "A", *, deadline: float = DEADLINE, **more: Any
    ) -> bytes:
        """What a sandbox gets over UDP.

        Raises:
            OSError: nothing, in time, or no one listens.
        """
        with self.socket_in(asker, deadline=deadline) as out:
            out.send(query(name, kind, **more))
            return await asyncio.to_thread(out.recv, 65535)

    async def dig(self, asker: SetClient, *arguments: str) -> str:
        """What dig prints in a sandbox."""
        command = ("dig", "@127.0.0.11", "+tries=1", "+time=10", *arguments)
        return await asyncio.to_thread(self.host.sh, *command, namespace=asker.key)

    def pids(self) -> list[int]:
        """The resolvers of this run directory that are alive."""
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return b"sandnet.resolver" in words and str(self.run_dir).encode() in words
        return False

    def kill(self) -> None:
        """Kill the resolver as a crash would, and see it gone."""
        killed = self.pids()
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(self._is_ours, killed)))

    async def close(self) -> None:
        """End everything."""
        for client in self._clients:
            await client.close()
        for upstream in self._upstreams:
            upstream.close()
        self.kill()
        await asyncio.to_thread(eventually, lambda: not self.pids())
