"""A bridge network on a host of its own, with services, their backends and clients: real flows for the tests."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, ParamSpec, TypeVar

from msgspec.structs import replace

from sandnet.drivers.bridge.driver import BridgeDriver
from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.sysctls import SysctlManager
from sandnet.firewall.base import EndpointState, NetworkState
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.linux.kernel import LinuxKernel
from sandnet.kernel.workers import Workers
from sandnet.model import Affinity, Attachment, BoundPort, Endpoint, Network, Phase, Subnet
from sandnet.model.network import NetworkOptions
from sandnet.stores.memory import MemoryStore
from tests.support.jobs import run_step
from tests.support.network_host import Host

P = ParamSpec("P")
T = TypeVar("T")

SANDBOXES = "/run/sandboxes"
SERVICE = "10.9.0.100"
SERVICE6 = "fd09::100"
PORT = 8000
PATIENCE = 10.0
"""Seconds for an answer: machines of tests stand still for seconds."""
PUBLISHED = 18000
SERVER = f"""
import asyncio, socket, sys
name = sys.argv[1]
async def serve(reader, writer):
    try:
        while await reader.readline():
            writer.write((name + " " + writer.get_extra_info("peername")[0] + "\\n").encode())
            await writer.drain()
    except OSError:
        pass
    writer.close()
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, peer):
        self.transport.sendto((name + " " + peer[0] + "\\n").encode().ljust(len(data)), peer)
async def main():
    loop = asyncio.get_running_loop()
    for address in ("0.0.0.0", "::"):
        await asyncio.start_server(serve, address, {PORT}, backlog=1024)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        datagrams.bind((address, {PORT}))
        datagrams.setblocking(False)
        await loop.create_datagram_endpoint(Datagrams, sock=datagrams)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class HostWorkers(Workers):
    """Kernel jobs run on the test's host."""

    def __init__(self, host: Host) -> None:
        super().__init__(1)
        self._host = host

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._host.run(job, *args, **kwargs)


class BalancedHost:
    """One network, one driver, and whoever is on it."""

    def __init__(self, host: Host, **options: Any) -> None:
        self.host = host
        self.kernel = LinuxKernel(SANDBOXES)
        self.net = Network(
            id="0a" * 32,
            name="net",
            driver="bridge",
            phase=Phase.READY,
            sequence=1,
            created=0.0,
            options=NetworkOptions(ipv6=True, **options),
            link="snb0",
            ipv4=Subnet(
                prefix=IPv4Network("10.9.0.0/24"),
                host_address=IPv4Interface("10.9.0.1/24"),
                gateway=IPv4Address("10.9.0.1"),
            ),
            ipv6=Subnet(
                prefix=IPv6Network("fd09::/64"),
                host_address=IPv6Interface("fd09::1/64"),
                gateway=IPv6Address("fd09::1"),
            ),
        )
        self.driver = self.new_driver()
        self._sockets: list[socket.socket] = []
        self.endpoints: dict[str, Endpoint] = {}
        self.backends: dict[str, list[Attachment]] = {}
        self.clients: list[EndpointState] = []
        asyncio.run(self.host_network.start(lambda _: [], lambda _: []))
        asyncio.run(self.driver.create_network(self.net))

    def new_driver(self) -> BridgeDriver:
        workers = HostWorkers(self.host)
        sysctls = SysctlManager(self.kernel.sysctl, MemoryStore(), workers)
        self.host_network = HostNetwork(self.kernel, workers, sysctls)
        return BridgeDriver(self.kernel, workers, LinkReaper(self.kernel.links, workers), self.host_network, [])

    def close(self) -> None:
        """Close what the test left open."""
        for left in self._sockets:
            left.close()
        self.kernel.close()

    def restart(self) -> None:
        """A new driver with nothing but the records."""
        self.driver = self.new_driver()
        states = [EndpointState(ep, self.backends[ep.id]) for ep in self.endpoints.values()]
        states += self.clients
        asyncio.run(self.host_network.start(lambda _: [NetworkState(self.net, states)], lambda _: [self.net]))
        asyncio.run(self.driver.create_network(self.net))

    def service(self, *, ports: bool = False, affinity: Affinity = Affinity.FLOW) -> Endpoint:
        bound = tuple(
            BoundPort(proto=proto, port=PORT, host_ip=address, host_port=PUBLISHED)
            for proto in (6, 17)
            for address in (IPv4Address("0.0.0.0"), IPv6Address("::"))
        )
        ep = Endpoint(
            id="service", name="service", network_id=self.net.id, phase=Phase.READY, sequence=2, created=0.0,
            address=IPv4Interface(f"{SERVICE}/24"), address_ipv6=IPv6Interface(f"{SERVICE6}/64"),
            mac="02:42:0a:09:00:64", ports=bound if ports else (), affinity=affinity,
        )  # fmt: skip
        self.endpoints[ep.id], self.backends[ep.id] = ep, []
        asyncio.run(self.driver.publish(self.net, ep))
        return ep

    def attach(self, ep: Endpoint, number: int, *, weight: int = 1) -> Attachment:
        """A backend named ``bN``, serving when this returns; the first gets the endpoint's own address."""
        first = not self.backends[ep.id]
        att = Attachment(
            endpoint_id=ep.id, network_id=self.net.id, container_id=f"b{number}", phase=Phase.READY, sequence=number,
            interface="eth0", host_link=f"snv{number}", holder=first, weight=weight,
            address=ep.address if first else IPv4Interface(f"10.9.0.{number}/24"),
            address_ipv6=ep.address_ipv6 if first else IPv6Interface(f"fd09::{number}/64"),
            mac=ep.mac if first else f"02:42:0a:09:00:{number:02x}",
        )  # fmt: skip
        self.host.run(self.kernel.namespaces.make, self.key(att.container_id))
        self.plug(ep, att)
        server = self.host.inside(
            self.key(att.container_id), self.host.start_here, sys.executable, "-c", SERVER, att.container_id
        )
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        self.backends[ep.id].append(att)
        self.balance(ep)
        return att

    def detach(self, ep: Endpoint, att: Attachment) -> None:
        """In the order of the core: another holder first, then the rotation, then the link."""
        rest = [backend for backend in self.backends[ep.id] if backend.container_id != att.container_id]
        if att.holder and rest:
            rest[0] = replace(rest[0], holder=True)
            self.plug(ep, rest[0])
        self.backends[ep.id] = rest
        self.balance(ep)
        self.host.run(self.kernel.links.retire, [att.host_link])
        asyncio.run(self.driver.leave(self.net, [att], run_step))

    def change(self, ep: Endpoint, att: Attachment, **changes: Any) -> Attachment:
        changed = replace(att, **changes)
        others = self.backends[ep.id]
        self.backends[ep.id] = [changed if one.container_id == att.container_id else one for one in others]
        self.balance(ep)
        return changed

    def balance(self, ep: Endpoint) -> None:
        asyncio.run(self.driver.balance(self.net, ep, self.backends[ep.id]))

    def plug(self, ep: Endpoint, att: Attachment) -> None:
        asyncio.run(self.driver.join(self.net, ep, att, run_step))
        veth = self.driver.link(self.net, ep, att)
        key = self.key(att.container_id)
        self.host.run(self.kernel.links.plug, key, veth)
        self.host.sh("ip", "route", "replace", "default", "via", "10.9.0.1", namespace=key)
        self.host.sh("ip", "-6", "route", "replace", "default", "via", "fd09::1", namespace=key)

    def client(self, number: int = 200) -> str:
        """A container on the network without a service; the path of its namespace."""
        key = self.key(f"c{number}")
        ep = Endpoint(
            id=f"c{number}", name=f"c{number}", network_id=self.net.id, phase=Phase.READY, sequence=number, created=0.0,
            address=IPv4Interface(f"10.9.0.{number}/24"), address_ipv6=IPv6Interface(f"fd09::{number}/64"),
            mac=f"02:42:0a:09:00:{number:02x}",
        )  # fmt: skip
        att = Attachment(
            endpoint_id=ep.id, network_id=self.net.id, container_id=ep.id, phase=Phase.READY, sequence=number,
            interface="eth0", host_link=f"snv{number}", mac=ep.mac, address=ep.address, address_ipv6=ep.address_ipv6,
        )  # fmt: skip
        self.host.run(self.kernel.namespaces.make, key)
        self.plug(ep, att)
        self.clients.append(EndpointState(ep, [att]))
        return key

    def outsider(self) -> str:
        """A machine beyond the host, 192.0.2.2 and 2001:db8::2 (the host is .1 and ::1); its namespace."""
        key = self.key("outside")
        self.host.run(self.kernel.namespaces.make, key)
        waiting = self.host.inside(key, self.host.start_here, "sleep", "600")
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(waiting.pid))
        self.host.sh("ip", "link", "add", "out0", *peer)
        for name, where, last in (("out0", "", 1), ("eth0", key, 2)):
            self.host.sh("ip", "addr", "add", f"192.0.2.{last}/24", "dev", name, namespace=where)
            self.host.sh("ip", "addr", "add", f"2001:db8::{last}/64", "dev", name, "nodad", namespace=where)
            self.host.sh("ip", "link", "set", name, "up", namespace=where)
        return key

    @staticmethod
    def key(name: str) -> str:
        return f"{SANDBOXES}/{name}"

    def sockets(
        self, where: str, count: int, kind: int = socket.SOCK_STREAM, target: str = SERVICE, port: int = PORT
    ) -> list[socket.socket]:
        """Connected sockets of a namespace (``""``: the host)."""

        def make() -> list[socket.socket]:
            return [_connected(kind, target, port) for _ in range(count)]

        made = self.host.inside(where, make) if where else self.host.run(make)
        self.keep(*made)
        return made

    def keep(self, *made: socket.socket) -> None:
        """Have sockets closed with the daemon."""
        self._sockets += made

    def ask(
        self, where: str, count: int, kind: int = socket.SOCK_STREAM, target: str = SERVICE, port: int = PORT
    ) -> list[tuple[str, str]]:
        """So many fresh flows, each asked once: (backend, address it saw)."""
        made = self.sockets(where, count, kind, target, port)
        printed = [asked(one) for one in made]
        for one in made:
            one.close()
        return printed


def _connected(kind: int, target: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, kind)
    made.settimeout(PATIENCE)
    try:
        made.connect((target, port))
    except OSError:
        made.close()
        raise
    return made


def asked(connected: socket.socket, size: int = 1) -> tuple[str, str]:
    """Who answers on an established flow, and the address it sees."""
    connected.send(b"x" * (size - 1) + b"\n")
    name, peer = connected.recv(65536).decode().split()
    return name, peer.removeprefix("::ffff:")


def names(printed: Sequence[tuple[str, str]]) -> Counter[str]:
    return Counter(name for name, _ in printed)
