"""Hosts joined by a switch, each with a kernel and an overlay driver of its own: a network over all of them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address
from typing import Any, Final, cast

from msgspec.structs import replace

from sandnet.drivers.bridge.driver import BridgeDriver
from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.overlay.driver import OverlayDriver, OverlaySettings
from sandnet.drivers.overlay.encryption import Encryption, TunnelSettings
from sandnet.drivers.sysctls import SysctlManager
from sandnet.firewall.base import EndpointState, NetworkState
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.linux.kernel import LinuxKernel
from sandnet.model import Address, Attachment, Endpoint, Network, NetworkOptions, Peer, Phase
from sandnet.model.address import mac_for
from sandnet.model.link_names import vxlan_name
from sandnet.model.tunnel import TUNNEL_LINK, TUNNEL_RANGE, TunnelHost, tunnel_address
from sandnet.stores.memory import MemoryStore
from tests.support.balanced_services import SANDBOXES, HostWorkers
from tests.support.jobs import run_step
from tests.support.network_host import Host
from tests.support.traffic import Place

POOLS: Final = (IPv4Network("10.60.0.0/16"),)
ALL_FRAMES: Final = 0x0003
SO_RCVBUFFORCE: Final = 33
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
VXLAN_UDP: Final = 4789
SWITCH: Final = "192.0.2.254"
STATE: Final = "/var/lib/sandnet"


class OverlayHost:
    """A host of the underlay: ``192.0.2.N`` and ``2001:db8::N`` on ``up0``."""

    def __init__(self, number: int, switch: Switch, stack: ExitStack, *, ipv6: bool = False, mtu: int = 1500) -> None:
        self.number = number
        self.host = stack.enter_context(Host())
        self._stack = stack
        self._runner = stack.enter_context(asyncio.Runner())
        switch.connect(self.host, number, mtu)
        self.address: Address = ip_address(f"2001:db8::{number}" if ipv6 else f"192.0.2.{number}")
        self.kernel = LinuxKernel(SANDBOXES, userspace_wireguard=True)
        stack.callback(self.host.run, self.kernel.tunnels.delete, TUNNEL_LINK, TUNNEL_RANGE)
        stack.callback(self.kernel.close)
        self.states: dict[str, tuple[Network, list[EndpointState]]] = {}
        self.start()

    def start(self) -> None:
        """Start a driver with nothing but the records, as a daemon does that starts again."""
        workers = HostWorkers(self.host)
        self.host_network = HostNetwork(self.kernel, workers, SysctlManager(self.kernel.sysctl, MemoryStore(), workers))
        reaper = LinkReaper(self.kernel.links, workers)
        shared = BridgeDriver(self.kernel, workers, reaper, self.host_network, POOLS, shared=True)
        self.encryption = Encryption(self.kernel.tunnels, workers, TunnelSettings(STATE))
        settings = OverlaySettings(self.address)
        self.driver = OverlayDriver(self.kernel, workers, self.host_network, shared, self.encryption, settings)
        self.done(self.host_network.start(lambda _: self.state(), lambda _: [net for net, _ in self.states.values()]))

    def state(self) -> list[NetworkState]:
        """What is recorded."""
        return [NetworkState(net, endpoints) for net, endpoints in self.states.values()]

    def done(self, work: Any) -> Any:
        """The result of a coroutine."""
        return self._runner.run(work)

    def make(self, net: Network) -> None:
        """Make the network here."""
        self.states[net.id] = net, []
        self.done(self.driver.create_network(net))

    def join(self, net: Network, number: int, service: Endpoint | None = None, **options: Any) -> tuple[Place, Peer]:
        """Attach a sandbox with the network's address of that number; where it is, and what others know of it.

        Args:
            net: the network.
            number: of the address, and of the sandbox.
            service: the endpoint that it is a further backend of, which has another address; ``None``: a new endpoint.
            options: of the new endpoint.
        """
        key = f"{SANDBOXES}/{net.name}{number}"
        assert net.ipv4
        own = IPv4Interface((net.ipv4.prefix[number], net.ipv4.prefix.prefixlen))
        own6 = IPv6Interface((net.ipv6.prefix[number], 64)) if net.ipv6 else None
        ep = service or Endpoint(
            id=f"{number:064x}", name=f"e{number}", network_id=net.id, phase=Phase.READY, sequence=2, created=0.0,
            address=own, address_ipv6=own6, mac=mac_for(own.ip), **options,
        )  # fmt: skip
        att = Attachment(
            endpoint_id=ep.id, network_id=net.id, container_id=f"c{number}", phase=Phase.READY, sequence=3,
            interface="eth0", host_link=f"snv{net.id[:4]}{number:06x}", holder=service is None, address=own,
            address_ipv6=own6, mac=mac_for(own.ip),
        )  # fmt: skip
        self.host.run(self.kernel.namespaces.make, key)

        async def set_up(step: Any) -> None:
            step()
            link = self.driver.link(net, ep, att)
            assert link
            self.host.run(self.kernel.links.plug, key, link)

        self.done(self.driver.join(net, ep, att, set_up))
        self._record(net, ep, att)
        place = Place(self.host, self._stack, key)
        if net.ipv4.gateway:
            place.sh("ip", "route", "add", "default", "via", str(net.ipv4.gateway))
        addresses = (own.ip, *((own6.ip,) if own6 else ()))
        shared = [each.ip for each in (ep.address, ep.address_ipv6) if service and each]
        return place, self.peer(net, Peer(att.mac, self.address, addresses, tuple(shared)))

    def _record(self, net: Network, ep: Endpoint, att: Attachment) -> None:
        states = self.states[net.id][1]
        known = next((each for each in states if each.endpoint.id == ep.id), None)
        if known is None:
            states.append(EndpointState(ep, [att]))
        else:
            states[states.index(known)] = EndpointState(ep, [*known.backends, att])

    def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Spread flows of this host over backends; those of other hosts have no link here."""
        own = [att for each in self.states[net.id][1] for att in each.backends]
        here = [att if att in own else replace(att, host_link="") for att in backends]
        self.done(self.driver.balance(net, ep, here))

    def peer(self, net: Network, peer: Peer) -> Peer:
        """A sandbox of this host, as the others know it."""
        if not net.options.encrypted:
            return peer
        here, *further = map(tunnel_address, self.announced().tunnel.keys)
        return peer._replace(host_address=here, further_hosts=tuple(further))

    def announced(self) -> TunnelHost:
        """What the others know of its tunnel."""
        tunnel = self.done(self.driver.announce(None))
        assert tunnel
        return TunnelHost(self.address, tunnel)

    def leave(self, net: Network, number: int) -> None:
        """Detach the sandbox with that number."""
        endpoints = self.states[net.id][1]
        at = next(at for at, each in enumerate(endpoints) if each.endpoint.name == f"e{number}")
        att = endpoints.pop(at).backends[0]
        self.host.run(self.kernel.links.retire, [att.host_link])
        self.done(self.driver.leave(net, [att], run_step))

    def know(self, net: Network, *peers: Peer) -> list[Any]:
        """Set the peers; what was repaired."""
        return cast(list[Any], self.done(self.driver.set_peers(net, peers)))

    def faults(self, net: Network) -> list[str]:
        """What differs here."""
        found = self.done(self.driver.faults([net], self.host.run(self.kernel.state_reader.host)))
        found += self.done(self.host_network.packet_filter.faults())
        return [fault.problem for fault in found]

    def place(self) -> Place:
        """The host itself."""
        return Place(self.host, self._stack)


class Switch:
    """A bridge in a namespace of its own, which all hosts are connected to."""

    def __init__(self, stack: ExitStack) -> None:
        self.host = stack.enter_context(Host())
        self._pid = self.host.popen("sleep", "1000").pid
        self.host.sh("ip", "link", "add", "sw0", "type", "bridge")
        self.host.sh("ip", "link", "set", "sw0", "up", "mtu", "9000")
        self.host.sh("ip", "address", "add", f"{SWITCH}/24", "dev", "sw0")

    def connect(self, host: Host, number: int, mtu: int) -> None:
        """Give a host its uplink."""
        port = f"p{number}"
        host.sh("ip", "link", "add", "up0", "mtu", str(mtu), "type", "veth", "peer", "name", port, "mtu", str(mtu))
        host.sh("ip", "link", "set", port, "netns", str(self._pid))
        host.sh("ip", "address", "add", f"192.0.2.{number}/24", "dev", "up0")
        host.sh("ip", "address", "add", f"2001:db8::{number}/64", "dev", "up0", "nodad")
        host.sh("ip", "link", "set", "up0", "up")
        self.host.sh("ip", "link", "set", port, "master", "sw0", "up")
        assert host.reaches(SWITCH, seconds=10)

    @contextmanager
    def capture(self) -> Iterator[list[bytes]]:
        """The encapsulated packets that pass the switch within the block, from the outer Ethernet header on."""
        found: list[bytes] = []
        with self.capture_all() as frames:
            yield found
        found += filter(is_encapsulated, frames)

    @contextmanager
    def capture_all(self) -> Iterator[list[bytes]]:
        """All frames that reach the switch within the block."""
        found: list[bytes] = []
        listener = self.host.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
        with listener:
            try:
                listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
            except PermissionError:  # in a user namespace; the host's limit has to suffice
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
            listener.setblocking(False)
            yield found
            while True:
                try:
                    frame, (_, _, direction, *_) = listener.recvfrom(65536)
                except BlockingIOError:
                    break
                if direction != socket.PACKET_OUTGOING:
                    found.append(frame)
            _packets, dropped = struct.unpack("=II", listener.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            assert not dropped, "frames passed that were not captured"


def is_encapsulated(frame: bytes) -> bool:
    """Whether a frame is a UDP packet to the VXLAN port."""
    kind = frame[12:14]
    protocol, port = (frame[23], frame[36:38]) if kind == b"\x08\x00" else (frame[20], frame[56:58])
    return kind in (b"\x08\x00", b"\x86\xdd") and protocol == 17 and port == struct.pack("!H", VXLAN_UDP)


def planned(host: OverlayHost, others: Sequence[Network] = (), name: str = "net", **options: Any) -> Network:
    """A network as its first host plans it, and as all of them record it."""
    identity = f"{len(others) + 0xA0:02x}" * 32
    draft = Network(
        id=identity, name=name, driver="overlay", phase=Phase.READY, sequence=1, created=0.0,
        options=NetworkOptions(ipv6=True, subnet_ipv6=IPv6Network(f"fd60:{len(others)}::/64"), **options),
    )  # fmt: skip
    return replace(cast(Network, host.done(host.driver.plan(draft, others))), phase=Phase.READY)


def encapsulated(vni: int, frame: bytes) -> bytes:
    """The content of a UDP packet that carries a frame (RFC 7348, 5)."""
    return struct.pack("!BxxxI", 0x08, vni << 8) + frame


def link_of(net: Network) -> str:
    """The VXLAN link's name."""
    return vxlan_name(net.id)
