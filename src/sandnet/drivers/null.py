"""Networks without links: ``null`` (nothing but ``lo``) and ``host`` (the host's own namespace)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sandnet.drivers.base import Gateways
from sandnet.errors import Error, Kind, invalid
from sandnet.firewall.base import Fault, StateOf
from sandnet.kernel.types import NamespaceState
from sandnet.model import Address, Attachment, BoundPort, Endpoint, Network, PortMapping


class NullDriver:
    """A driver whose endpoints have neither address nor link; one network of it exists."""

    scope: Literal["local", "global"] = "local"

    def __init__(self, name: str) -> None:
        self.name = name

    def unavailable(self) -> str:
        """It works everywhere."""
        return ""

    def limits(self) -> str:
        """Return nothing: it has all that there is."""
        return ""

    async def unmet(self) -> list[Fault]:
        """Return nothing: it needs nothing."""
        return []

    async def start(self, state: StateOf) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Nothing to take back."""

    async def network_faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Nothing was made."""
        return []

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return nothing: no parameter was set."""
        return []

    async def parameter_faults(self) -> list[Fault]:
        """None was set."""
        return []

    async def repair_parameters(self) -> None:
        """None was set."""

    async def rule_faults(self) -> list[Fault]:
        """There are none."""
        return []

    async def repair_rules(self) -> None:
        """There are none."""

    def take_repaired(self) -> list[Fault]:
        """Nothing."""
        return []

    async def published(self) -> Sequence[tuple[Address, BoundPort]]:
        """Nothing."""
        return ()

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """The record as it is, if it is the only one of its driver.

        Raises:
            Error: kind ``PROTECTED``.
        """
        for other in others:
            if other.driver == self.name:
                message = f'only one network of type "{self.name}" is allowed: {other.name}'
                raise Error(Kind.PROTECTED, message, "use that one", "single_instance")
        return net

    async def create_network(self, net: Network) -> Network:
        """Nothing to make."""
        return net

    async def delete_network(self, net: Network) -> None:
        """Nothing to unmake."""

    async def create_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Nothing to make."""

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Nothing to unmake."""

    async def bind(self, net: Network, mappings: Sequence[PortMapping]) -> tuple[BoundPort, ...]:
        """Nothing can be published: there is no address to lead to.

        Raises:
            Error: kind ``INVALID`` when a mapping is asked for.
        """
        if mappings:
            hint = "leave port_mapping out: a process there is reached at the host's own ports, or not at all"
            raise invalid(f"network {net.name} ({self.name}) cannot publish ports", hint, "ports_not_supported")
        return ()

    async def rebind(self, net: Network, ports: Sequence[BoundPort]) -> None:
        """Nothing was bound."""

    def unbind(self, ports: Sequence[BoundPort]) -> None:
        """Nothing was bound."""

    async def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Nothing to balance: there is no address."""

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> None:
        """There are none."""

    async def join(self, net: Network, ep: Endpoint, att: Attachment) -> None:
        """The namespace is all there is."""

    async def leave(self, net: Network, gone: Sequence[Attachment]) -> None:
        """The namespace is all there is."""

    def gateways(self, net: Network) -> Gateways:
        """None."""
        return Gateways()
