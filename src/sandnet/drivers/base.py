"""What a network driver does. Every verb is idempotent: the same record again converges."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple, Protocol

from sandnet.firewall.base import Fault, StateOf
from sandnet.kernel.types import NamespaceState, Veth
from sandnet.model import Address, Attachment, BoundPort, Endpoint, Network, PortMapping


class Gateways(NamedTuple):
    """Next hops a network offers its sandboxes."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None


class Driver(Protocol):
    """One kind of network."""

    name: str
    scope: Literal["local", "global"]

    def unavailable(self) -> str:
        """Why this driver cannot work on this host, in words; empty when it can."""
        ...

    def limits(self) -> str:
        """Return what its networks cannot have on this host, in words; empty: they can have everything."""
        ...

    async def unmet(self) -> list[Fault]:
        """Return what each network needs of the host and cannot get, as others must set it."""
        ...

    async def start(self, state: StateOf) -> None:
        """Prepare the host at start-up for what the records say; once, before any other verb."""
        ...

    async def stop(self) -> None:
        """Take back from the host what :meth:`start` put there, once no network is left."""
        ...

    async def network_faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """What is wrong with these networks on the host; :meth:`create_network` puts it right.

        Args:
            nets: those to look at.
            host: what was found there, of these networks' links at least.
        """
        ...

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return the ids of those with a kernel parameter that others changed and the kernel reports to no listener;
        cheap. :meth:`network_faults` says which."""
        ...

    async def parameter_faults(self) -> list[Fault]:
        """Kernel parameters of the whole host that somebody changed; cheap. :meth:`mend_parameters` sets them again."""
        ...

    async def repair_parameters(self) -> None:
        """Set again what :meth:`parameter_faults` tells."""
        ...

    async def rule_faults(self) -> list[Fault]:
        """What is wrong with the rules that all its networks share; :meth:`mend_rules` puts it right."""
        ...

    async def repair_rules(self) -> None:
        """Make the rules as they should be, while no verb changes them. Flows that are known stay."""
        ...

    def take_repaired(self) -> list[Fault]:
        """What verbs found wrong with the rules, and put right, since the last call."""
        ...

    async def published(self) -> Sequence[tuple[Address, BoundPort]]:
        """What the kernel publishes before :meth:`start`: each port of the host with the address it leads to."""
        ...

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """The record with its choices made (subnets, gateway, link), before anything is recorded or made.

        Raises:
            Error: the network cannot be made beside the others, or on this host.
        """
        ...

    async def create_network(self, net: Network) -> Network:
        """Make the planned network in the kernel; the record, with what was found while making it."""
        ...

    async def delete_network(self, net: Network) -> None:
        """Unmake it; already gone is success."""
        ...

    async def create_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Make what the endpoint needs apart from any sandbox: its published ports (``ep.ports``)."""
        ...

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Unmake it; already gone is success."""
        ...

    async def bind(self, net: Network, mappings: Sequence[PortMapping]) -> tuple[BoundPort, ...]:
        """Take the host ports that the mappings ask for: all of them or none."""
        ...

    async def rebind(self, net: Network, ports: Sequence[BoundPort]) -> None:
        """Take again, after a restart, host ports that a record says are bound.

        Raises:
            Error: ``CONFLICT`` when somebody took one meanwhile; the others are held all the same.
        """
        ...

    def unbind(self, ports: Sequence[BoundPort]) -> None:
        """Give the host ports back."""
        ...

    async def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Spread new flows to the endpoint's address over these backends by their weights.

        Flows that are established stay where they are, but for those of a backend that is no longer among
        ``backends``. One or none: nothing is balanced. Drained and unhealthy ones take no new flows, unless there
        are no others.
        """
        ...

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> Veth | None:
        """The link of an attachment as it should be, if it has any."""
        ...

    async def join(self, net: Network, ep: Endpoint, att: Attachment) -> Veth | None:
        """Make ready what the attachment needs outside the sandbox; the link to plug into it, if any.

        The sandbox's side is the core's work, the same for every driver.
        """
        ...

    async def leave(self, net: Network, gone: Sequence[Attachment]) -> None:
        """Undo :meth:`join` of those whose links are silent, which is the core's work; already gone is success."""
        ...

    def gateways(self, net: Network) -> Gateways:
        """The next hops that a sandbox on this network may use."""
        ...
