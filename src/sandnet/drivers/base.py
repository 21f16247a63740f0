"""The protocol of network drivers, and the optional capabilities of a driver.

Every operation is idempotent: repeated with the same record, it converges to the same state. ``HostNetwork`` and its
``PacketFilter`` make what networks of all drivers share on the host; a driver makes its own links and uses those two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from sandnet.firewall.base import Fault, RunBetween, RunWith
from sandnet.kernel.dhcp.base import DhcpClient
from sandnet.kernel.types import Link, NamespaceState, Port, PortLimits, Veth
from sandnet.model import Attachment, Endpoint, Network, Peer, Sandbox
from sandnet.model.interfaces.dhcp_lease import DhcpLease
from sandnet.model.link_alias import AttachmentAlias, NetworkAlias
from sandnet.model.supplied_link import SuppliedLink
from sandnet.model.tunnel import HostTunnel, TunnelHost

T = TypeVar("T")

PLUGIN_AWAY: Final = "plugin_away"
"""Error code: another program that a driver needs cannot be reached, or is silent. It may have done what it was asked.
"""
PLUGIN_REFUSED: Final = "plugin_refused"
"""Error code: that program answered with a reason why not."""


class Driver(Protocol):
    """One kind of network."""

    name: str
    scope: Literal["local", "global"]

    def unavailable(self) -> str:
        """Return why this driver cannot work on this host, as text; empty: it can."""
        ...

    def limits(self) -> str:
        """Return which features its networks cannot have on this host, as text; empty: they can have all."""
        ...

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the record with its choices made (subnets, gateway, link), before anything is recorded or made.

        Raises:
            Error: the network cannot coexist with the others, or cannot be made on this host.
        """
        ...

    async def create_network(self, net: Network) -> Network:
        """Make the planned network in the kernel; return the record, with what was found while making it."""
        ...

    async def delete_network(self, net: Network) -> None:
        """Delete the network; an absent one is success."""
        ...

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Delete the driver's state of an endpoint without attachments; an absent one is success."""
        ...

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> Veth | None:
        """Return the desired link of an attachment; ``None``: it has none."""
        ...

    async def join(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Prepare what the attachment needs outside the sandbox, and run ``set_up`` with the last step of that.

        Args:
            net: the network.
            ep: the endpoint.
            att: the attachment to make, or to change (its holder).
            set_up: runs the step on a worker thread and then makes the attachment's :meth:`link`, in the same way for
                every driver.

        Returns:
            What ``set_up`` returns.
        """
        ...

    async def leave(self, net: Network, gone: Sequence[Attachment], tear_down: RunWith[None]) -> None:
        """Run ``tear_down``, and undo :meth:`join` of these attachments; absent ones are success.

        Args:
            net: the network.
            gone: the attachments, without addresses that other ones have by now.
            tear_down: sets their links down on a worker thread, and then runs the step.
        """
        ...

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return how these networks differ on the host from their records; :meth:`create_network` repairs them.

        Args:
            nets: networks of this driver.
            host: the state read from the host, at least of these networks' links.
        """
        ...

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return the ids of networks with a kernel parameter that another program changed; cheap.

        The kernel sends no notification of such a change. :meth:`faults` returns the details.
        """
        ...

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return whether a network's own link, of which the kernel sent a notification, may differ from its record.

        Called on the event loop, many times a second: it compares only what the notification contains.
        """
        ...


@runtime_checkable
class Updatable(Protocol):
    """A driver whose networks can change while containers use them."""

    async def plan_update(self, net: Network, others: Sequence[Network]) -> Network:
        """Return a network that has new options with what follows from them, before it is recorded.

        :meth:`Driver.create_network` then brings the kernel into line with it, and :meth:`Driver.join` the links.

        Raises:
            Error: the network cannot have these options here.
        """
        ...

    async def create_network(self, net: Network) -> Network:
        """Do as :meth:`Driver.create_network`."""
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
        """Publish the endpoint's ports (``ep.ports``), which are bound already."""
        ...

    async def unpublish(self, net: Network, ep: Endpoint) -> None:
        """Withdraw the endpoint's ports; absent ones are success."""
        ...


@runtime_checkable
class TrafficShaping(Protocol):
    """A driver that can limit the traffic of an endpoint's ports."""

    def port_limits(self, net: Network, ep: Endpoint) -> PortLimits:
        """Return the limits of each port of an endpoint."""
        ...


@runtime_checkable
class LoadBalancing(Protocol):
    """A driver that spreads flows to an endpoint's address over several backends."""

    async def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Spread new flows over these backends; see :meth:`sandnet.firewall.packet_filter.PacketFilter.balance`."""
        ...

    async def join_backend(
        self, net: Network, ep: Endpoint, att: Attachment, backends: Sequence[Attachment], set_up: RunBetween[T]
    ) -> T:
        """Do as :meth:`Driver.join`; the second step of ``set_up`` is :meth:`balance` over these backends."""
        ...

    async def leave_backend(
        self, net: Network, ep: Endpoint, att: Attachment, backends: Sequence[Attachment], tear_down: RunBetween[None]
    ) -> None:
        """Do as :meth:`Driver.leave`; the first step of ``tear_down`` is :meth:`balance` over the remaining backends.

        A refusal of that step is logged, and the rest is done.
        """
        ...


@runtime_checkable
class PeerAware(Protocol):
    """A driver whose networks have attachments on other hosts. It keeps the peers of each network in memory.

    Peers are identified by their MACs. Until :meth:`set_peers` was called for a network since the start of the daemon,
    the entries in the kernel stay as an earlier run left them. Callers serialize the calls for one network.
    """

    async def set_peers(self, net: Network, peers: Sequence[Peer]) -> list[Fault]:
        """Make the kernel's entries exactly those of these peers.

        Returns:
            What differed from the peers that were known before the call: entries that another program changed. It is
            repaired.
        """
        ...

    async def change_peers(self, net: Network, put: Sequence[Peer], drop: Sequence[str]) -> None:
        """Add or replace some peers and remove others; the work is for these alone.

        Args:
            net: the network.
            put: peers that are new, or that changed.
            drop: MACs of peers to remove; absent ones are success. One that is also in ``put`` stays.
        """
        ...

    async def has_peers(self, net: Network, peers: Sequence[Peer]) -> bool:
        """Return whether the peers of the network are these. The kernel is not looked at."""
        ...


@runtime_checkable
class HostAware(Protocol):
    """A driver whose networks reach other hosts by something that the hosts have to know of each other."""

    async def announce(self, published: HostTunnel | None) -> HostTunnel | None:
        """Return what the other hosts need to know of this one; ``None``: it takes no part.

        Args:
            published: what they can read of it.
        """
        ...

    def refuse_impossible(self, net: Network) -> None:
        """Refuse a network that this host cannot have, though others have it.

        Raises:
            Error: ``UNAVAILABLE``, with the reason.
        """
        ...

    async def set_hosts(self, hosts: Sequence[TunnelHost]) -> None:
        """Set what the other hosts have published, all of them.

        Raises:
            Error: the kernel refuses.
        """
        ...


class Supply(NamedTuple):
    """The link that another program made for an attachment."""

    link: SuppliedLink
    prefix: str
    """The beginning of its name inside, without the number."""


@runtime_checkable
class ExternalDriver(Protocol):
    """A driver whose endpoints and links another program makes. That program can be away at any time."""

    async def create_endpoint(self, net: Network, ep: Endpoint) -> Endpoint:
        """Make a recorded endpoint with that program; return the record, with the addresses that it chose.

        Raises:
            Error: ``UNAVAILABLE``, code ``PLUGIN_AWAY`` or ``PLUGIN_REFUSED``; the same from the other verbs.
        """
        ...

    async def supply_link(self, net: Network, ep: Endpoint, key: str, *, again: bool) -> Supply | None:
        """Ask that program for the link of an attachment; ``None``: it has none.

        Args:
            net: the network.
            ep: the endpoint.
            key: where the sandbox's namespace is, or will be.
            again: the link that it supplied before no longer exists.
        """
        ...


@runtime_checkable
class AddressLeasing(Protocol):
    """A driver of networks whose addresses a server on their segment can give (:attr:`Network.leases_addresses`).

    :meth:`Driver.leave` returns the address to the server.
    """

    async def obtain_lease(self, net: Network, ep: Endpoint, att: Attachment, sandbox: Sandbox) -> DhcpLease:
        """Have a server give an address to an interface that is up.

        From then on a client keeps the lease, also while the daemon is stopped.

        Raises:
            Error: ``UNAVAILABLE``: no server answers in time, or what it gives cannot be used.
        """
        ...

    async def ensure_client(self, net: Network, ep: Endpoint, att: Attachment, sandbox: Sandbox) -> None:
        """Start the client of a lease again if it has ended.

        Raises:
            Error: ``UNAVAILABLE``: it cannot be started.
        """
        ...

    async def clients(self, endpoints: Collection[str]) -> Mapping[str, DhcpClient]:
        """Return the states of the clients of these endpoints."""
        ...

    async def stop_other_clients(self, endpoints: Collection[str]) -> None:
        """End the clients of all endpoints but these: no attachment has them any more."""
        ...


class Recognised(NamedTuple):
    """Links of the host that a driver made, by their aliases, in the order in which they were made."""

    networks: Sequence[tuple[Link, NetworkAlias]]
    attachments: Sequence[tuple[Link, AttachmentAlias]]


@runtime_checkable
class Recoverable(Protocol):
    """A driver whose records can be restored from the kernel's links after the store was lost."""

    def recognise(self, links: Sequence[Link]) -> Recognised:
        """Return the links of the host that this driver made."""
        ...

    def network_of(self, link: Link, alias: NetworkAlias, sequence: int) -> Network | None:
        """Return the record of a network from one of these links; ``None``: its alias is not valid.

        Args:
            link: the link of the network.
            alias: the link's alias.
            sequence: the number of the record in creation order.
        """
        ...
