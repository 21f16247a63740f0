"""Attachments on other hosts, as this host knows them."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import msgspec

from sandnet.model.address import Address
from sandnet.model.network import Phase
from sandnet.model.sandbox import Attachment


class RemoteAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """A container of another host that is attached to an endpoint of a network of all hosts."""

    host: str
    """Name of that host."""
    host_address: Address | None
    """Its underlay address; ``None``: it has none, and cannot be reached."""
    tunnel_addresses: tuple[Address, ...] = ()
    """Its addresses in the tunnel of encrypted networks, the one in use first; empty: it has none."""
    network_id: str
    endpoint_id: str
    container_id: str
    host_name: str = ""
    domain_name: str = ""
    mac: str = ""
    address: IPv4Interface | None = None
    address_ipv6: IPv6Interface | None = None
    leased: bool = False
    """Whether its address is not the endpoint's but a separate lease."""
    holder: bool = False
    """Whether it answers for the endpoint's address."""
    weight: int = 1
    drained: bool = False
    healthy: bool = True

    def as_backend(self) -> Attachment:
        """Return it as one of several backends of a service: without a link on this host."""
        return Attachment(
            endpoint_id=self.endpoint_id,
            network_id=self.network_id,
            container_id=f"{self.host}/{self.container_id}",
            phase=Phase.READY,
            sequence=0,
            address=self.address,
            address_ipv6=self.address_ipv6,
            mac=self.mac,
            holder=self.holder,
            weight=self.weight,
            drained=self.drained,
            healthy=self.healthy,
        )
