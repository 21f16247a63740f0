"""The route by which questions at gateways over IPv6 reach the resolver's sockets on the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sandnet.kernel.base import Host, Sysctl
from sandnet.kernel.workers import Workers
from sandnet.model import Network
from sandnet.model.name_server import GATEWAY_SOCKETS_IPV6
from sandnet.model.network import dns_gateways

_DISABLED: Final = "net/ipv6/conf/lo/disable_ipv6"
NO_ANSWER: Final = "gateways answer no questions for names over IPv6"


class GatewayQuestions:
    """The local route to :data:`GATEWAY_SOCKETS_IPV6`, which is there while a network may need it.

    IPv4 needs none: each address of 127.0.0.0/8 is the host's. Where IPv6 is disabled on the host's loopback interface,
    as administrators do for all links at once, the kernel refuses the route. Networks do without it then.

    Args:
        host: the host.
        sysctl: its kernel parameters.
        workers: threads for calls.
    """

    def __init__(self, host: Host, sysctl: Sysctl, workers: Workers) -> None:
        self._host = host
        self._sysctl = sysctl
        self._workers = workers

    async def is_ensured(self, nets: Iterable[Network]) -> bool:
        """Return whether the route is there, if one of these networks needs it and the kernel accepts it."""
        return not _is_needed(nets) or await self._workers.run(self._is_there)

    async def ensure(self, nets: Iterable[Network]) -> None:
        """Add the route, if one of these networks needs it and the kernel accepts it.

        Raises:
            Error: the kernel refuses.
        """
        if _is_needed(nets):
            await self._workers.run(self._add)

    def _is_there(self) -> bool:
        return not self._is_possible() or self._host.is_local_prefix(GATEWAY_SOCKETS_IPV6)

    def _add(self) -> None:
        if self._is_possible():
            self._host.add_local_prefix(GATEWAY_SOCKETS_IPV6)

    def _is_possible(self) -> bool:
        return self._sysctl.get(_DISABLED) == "0"

    async def remove(self) -> None:
        """Remove the route.

        Raises:
            Error: the kernel refuses.
        """
        await self._workers.run(self._host.remove_local_prefix, GATEWAY_SOCKETS_IPV6)


def _is_needed(nets: Iterable[Network]) -> bool:
    return any(gateway.version == 6 for net in nets for gateway in dns_gateways(net, is_machine=True))
