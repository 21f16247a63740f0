"""Networks without links: ``null`` (only ``lo``), ``host`` (the host's own namespace), and drivers that have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from sandnet.errors import Error, Kind
from sandnet.firewall.base import Fault, RunWith, no_step
from sandnet.kernel.types import NamespaceState, Port
from sandnet.model import Attachment, Endpoint, Network

T = TypeVar("T")


class NullDriver:
    """A driver whose endpoints have neither address nor link; only one network of it can exist."""

    scope: Literal["local", "global"] = "local"

    def __init__(self, name: str) -> None:
        self.name = name

    def unavailable(self) -> str:
        """Return an empty text: it works everywhere."""
        return ""

    def limits(self) -> str:
        """Return an empty text: it has no limits."""
        return ""

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the record as it is, if it is the only one of its driver.

        Raises:
            Error: kind ``PROTECTED``.
        """
        for other in others:
            if other.driver == self.name:
                message = f'only one network of type "{self.name}" is allowed: {other.name}'
                raise Error(Kind.PROTECTED, message, "use that one", "single_instance")
        return net

    async def create_network(self, net: Network) -> Network:
        """Return the record unchanged: there is nothing to make."""
        return net

    async def delete_network(self, net: Network) -> None:
        """Do nothing: nothing was made."""

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Do nothing: nothing was made."""

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> None:
        """Return nothing: the sandbox needs no link."""

    async def join(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Set up the sandbox, which needs no link."""
        return await set_up(no_step)

    async def leave(self, net: Network, gone: Sequence[Attachment], tear_down: RunWith[None]) -> None:
        """Tear down what has no link."""
        await tear_down(no_step)

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return no faults: nothing was made."""
        return []

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return no networks: no parameter was set."""
        return []

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return false: the network has no link."""
        return False


class UnsupportedDriver(NullDriver):
    """A driver that users know from other programs, and that is never available here.

    It is listed with the reason: without that, its name would be taken for a plugin's.

    Args:
        name: the driver's name.
        problem: what the kernel lacks for it; empty: nothing.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name)
        self._reason = f"{problem}, and sandnet does not support it" if problem else f"sandnet does not support {name}"

    def unavailable(self) -> str:
        """Return that sandnet does not support it, and what the kernel lacks."""
        return self._reason
