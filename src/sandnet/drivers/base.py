"""The protocol of network drivers, and the capabilities that a driver may have besides.

Every verb is idempotent: the same record again converges. What networks of all drivers share on the host is made by
``HostNetwork`` and its ``PacketFilter``; a driver makes its own links and uses those two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from sandnet.firewall.base import Fault
from sandnet.kernel.types import Link, NamespaceState, Port, Veth
from sandnet.model import Attachment, Endpoint, Network
from sandnet.model.link_alias import AttachmentAlias, NetworkAlias


class Driver(Protocol):
    """One kind of network."""

    name: str
    scope: Literal["local", "global"]

    def unavailable(self) -> str:
        """Return why this driver cannot work on this host, in words; empty: it can."""
        ...

    def limits(self) -> str:
        """Return what its networks cannot have on this host, in words; empty: they can have everything."""
        ...

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the record with its choices made (subnets, gateway, link), before anything is recorded or made.

        Raises:
            Error: the network cannot be made beside the others, or on this host.
        """
        ...

    async def create_network(self, net: Network) -> Network:
        """Make the planned network in the kernel; return the record, with what was found while making it."""
        ...

    async def delete_network(self, net: Network) -> None:
        """Remove it; absent is success."""
        ...

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Remove what the driver keeps of an endpoint without attachments; absent is success."""
        ...

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> Veth | None:
        """Return the link of an attachment as it should be; ``None``: it has none."""
        ...

    async def join(self, net: Network, ep: Endpoint, att: Attachment) -> Veth | None:
        """Prepare what the attachment needs outside the sandbox; return the link to plug into it, if any.

        The sandbox's side is the core's work, the same for every driver.
        """
        ...

    async def leave(self, net: Network, gone: Sequence[Attachment]) -> None:
        """Undo :meth:`join` of attachments whose links are down, which is the core's work; absent is success."""
        ...

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return how these networks differ on the host from their records; :meth:`create_network` repairs them.

        Args:
            nets: networks of this driver.
            host: what was read there, of these networks' links at least.
        """
        ...

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return the ids of networks with a kernel parameter that another program changed, which the kernel reports to
        no listener; cheap. :meth:`faults` returns what exactly."""
        ...

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return whether a network's own link, of which the kernel just reported a change, may not be as it should be.

        Called on the event loop, many times a second: it compares only what the report contains.
        """
        ...


@runtime_checkable
class PortPublisher(Protocol):
    """A driver whose endpoints can be reached at ports of the host."""

    def check_publishable(self, net: Network) -> None:
        """Refuse a network whose ports cannot be published.

        Raises:
            Error: ``INVALID``.
        """
        ...

    async def publish(self, net: Network, ep: Endpoint) -> None:
        """Publish the endpoint's ports (``ep.ports``), which are held."""
        ...

    async def unpublish(self, net: Network, ep: Endpoint) -> None:
        """Withdraw them; absent is success."""
        ...


@runtime_checkable
class LoadBalancing(Protocol):
    """A driver that spreads flows to an endpoint's address over several backends."""

    async def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Spread new flows over these backends; see :meth:`sandnet.firewall.packet_filter.PacketFilter.balance`."""
        ...


class Recognised(NamedTuple):
    """Links of the host that a driver made, as their aliases say, in the order in which they were made."""

    networks: Sequence[tuple[Link, NetworkAlias]]
    attachments: Sequence[tuple[Link, AttachmentAlias]]


@runtime_checkable
class Recoverable(Protocol):
    """A driver whose records can be made again from what the kernel has, after the state was lost."""

    def recognise(self, links: Sequence[Link]) -> Recognised:
        """Return those of the host's links that this driver made."""
        ...
