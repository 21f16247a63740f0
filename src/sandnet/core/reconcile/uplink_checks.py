"""Report links of the host that carry a default route and do not forward packets.

Such a parameter of one link belongs to the link's owner, so it is not repaired.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandnet.core.reconcile.desired_state import DesiredState
from sandnet.core.reconcile.drift import Drift
from sandnet.kernel.base import Sysctl
from sandnet.kernel.observation import StateReader
from sandnet.kernel.workers import Workers

_HARM: Final = {
    4: "the kernel drops what comes in by it for sandboxes: they get no answers, and no published port does",
    6: "the kernel reports there that the host is no router: machines that reach sandboxes by it give that way up",
}
"""The effect by IP version: for IPv6 the parameter does not stop packets (ip-sysctl, ``forwarding``)."""


class Uplinks:
    """The links with a default route, and those among them that did not forward at the latest check."""

    def __init__(self, sysctl: Sysctl, state_reader: StateReader, workers: Workers, desired: DesiredState) -> None:
        self._sysctl = sysctl
        self._state_reader = state_reader
        self._workers = workers
        self._desired = desired
        self._parameters: frozenset[str] = frozenset()
        """Parameters, one for each link and family."""
        self._not_forwarding: list[str] = []

    @property
    def problems(self) -> list[str]:
        """One text for each link, with the remedy."""
        return [f"{_problem(name)}: {_harm(name)}; {_remedy(name)}" for name in self._not_forwarding]

    async def list_links(self) -> None:
        """Find the links with a default route, from a list of all routes.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not return it.
        """
        self._parameters = await self._workers.run(lambda: frozenset(self._list()))

    async def check(self) -> None:
        """Read the ``forwarding`` parameters of those links.

        Raises:
            Error: ``UNAVAILABLE`` a parameter cannot be read.
        """
        nets = [net for net in self._desired.networks() if net.link]
        families = {family for net in nets for family, subnet in (("ipv4", net.ipv4), ("ipv6", net.ipv6)) if subnet}
        names = sorted(name for name in self._parameters if name.split("/")[1] in families)
        self._not_forwarding = await self._workers.run(
            lambda: [name for name in names if self._sysctl.get(name) == "0"]
        )

    async def drift(self) -> list[Drift]:
        """Check again, and return the differences.

        Raises:
            Error: as :meth:`list_links` and :meth:`check`.
        """
        await self.list_links()
        await self.check()
        done = "not repaired: it is its owner's"
        return [
            Drift("parameter", name, _problem(name), _harm(name), f"{done}; {_remedy(name)}")
            for name in self._not_forwarding
        ]

    def _list(self) -> Iterator[str]:
        for version, name in self._state_reader.uplinks():
            yield f"net/ipv{version}/conf/{name}/forwarding"


def _problem(name: str) -> str:
    return f"{name} is 0, and the link carries a default route"


def _harm(name: str) -> str:
    return _HARM[6 if name.startswith("net/ipv6/") else 4]


def _remedy(name: str) -> str:
    return f"set it: sysctl -w {name}=1"
