"""Records of endpoints (services are endpoints too)."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final

import msgspec

from sandnet.model.address import Address, Interface, all_addresses
from sandnet.model.interfaces.bandwidth import Bandwidth
from sandnet.model.interfaces.dhcp_lease import DhcpLease
from sandnet.model.network import Network, Phase
from sandnet.model.ports import BoundPort, DirectPort, ExposedPort, PortMapping
from sandnet.model.process import Process


class Affinity(StrEnum):
    """The session affinity of a service: the traffic that always reaches the same backend."""

    FLOW = "flow"
    """One flow: the same addresses and ports."""
    CLIENT = "client"
    """All flows of a client's address: for protocols that open a second connection (FTP, iperf3)."""


class ProbeKind(StrEnum):
    """The kind of a health check."""

    TCP = "tcp"
    """The backend accepts a connection."""
    HTTP = "http"
    """The backend answers GET with a status below 400."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The health check of a service's backends; each is probed from inside its own sandbox.

    A failed probe is repeated at once. A backend that fails both is removed from the rotation. With a timeout of at
    most half the interval, this takes at most two intervals.
    """

    kind: ProbeKind
    port: int
    """1 to 65535, at the backend's own address."""
    path: str = "/"
    """Path of the request to an HTTP backend."""
    interval: float = 2.0
    """Seconds between two probes, 0.1 to 3600."""
    timeout: float = 1.0
    """Seconds that a probe may take, at most half the interval."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A network's attachment point for sandboxes. It keeps its address, MAC and host ports from create to delete."""

    id: str
    name: str
    """Name as requested, a leading slash included; unique in its network."""
    network_id: str
    phase: Phase
    sequence: int
    created: float
    address: IPv4Interface | None = None
    address_ipv6: IPv6Interface | None = None
    additional_addresses: tuple[Interface, ...] = ()
    """Further addresses of its one container: it can have no second one."""
    mac: str = ""
    """Lower-case, colon-separated; empty for drivers without links."""
    exposed_ports: tuple[ExposedPort, ...] = ()
    ports: tuple[BoundPort, ...] = ()
    """Ports bound on the host, held from create to delete."""
    direct_ports: tuple[DirectPort, ...] = ()
    """Ports that other hosts and networks reach at its own address."""
    ports_withdrawn: bool = False
    """Whether its ports were withdrawn on this host, which created it, and other hosts may not know that yet."""
    labels: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    """Further names of it on its network."""
    affinity: Affinity = Affinity.FLOW
    probe: Probe | None = None
    process: Process | None = None
    """Process whose exit deletes the endpoint and detaches its sandboxes."""
    orphaned: bool = False
    """Whether its last container exited without a leave, and no other has joined since."""
    owner: str = ""
    """The attachment of a container runtime for which alone it exists (:func:`runtime_owner`): it is deleted with its
    last container. Empty: it is kept."""
    bandwidth: Bandwidth | None = None
    """Limits of each of its interfaces. A direction without one has the network's."""
    lease: DhcpLease | None = None
    """Where a server on the segment gives the addresses: its lease, while a container is attached."""

    @property
    def addresses(self) -> tuple[Interface, ...]:
        """All its addresses, the primary ones first."""
        return all_addresses(self.address, self.address_ipv6, self.additional_addresses)

    @property
    def has_owner(self) -> bool:
        """Whether it ends with a container runtime's attachment, or with a process."""
        return self.owner != "" or self.process is not None

    def gateway(self, network: Network, version: int = 4) -> Address | None:
        """Return the next hop of default routes by its interfaces, for that version of IP; ``None``: there is none."""
        subnet = network.ipv4 if version == 4 else network.ipv6
        if subnet:
            return subnet.gateway
        return self.lease.router if self.lease and version == 4 else None

    @property
    def is_published(self) -> bool:
        """Whether any port of it is open, at the host's addresses or at its own."""
        return bool(self.ports or self.direct_ports)


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request to create an endpoint."""

    name: str
    id: str = ""
    """64 hex digits; empty: the daemon chooses."""
    exposed_ports: tuple[ExposedPort, ...] = ()
    port_mapping: tuple[PortMapping, ...] = ()
    address: IPv4Address | None = None
    address_ipv6: IPv6Address | None = None
    additional_addresses: tuple[Address, ...] = ()
    """See :attr:`Endpoint.additional_addresses`."""
    claimed: bool = False
    """Whether a container engine has claimed the addresses before, so that they are not free and nevertheless its own.
    """
    mac: str = ""
    labels: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    affinity: Affinity = Affinity.FLOW
    probe: Probe | None = None
    watch_pid: int = 0
    """Process whose exit deletes the endpoint; 0: none."""
    owner: str = ""
    """See :attr:`Endpoint.owner`."""
    bandwidth: Bandwidth | None = None


RUNTIME_OWNER: Final = "cni/"
"""Beginning of the owners that are attachments of a container runtime."""


def runtime_owner(container_id: str, interface: str) -> str:
    """Return the owner of the endpoint that a container runtime's attachment has: the CNI specification's key of it."""
    return f"{RUNTIME_OWNER}{container_id}/{interface}"
