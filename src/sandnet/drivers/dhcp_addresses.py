"""Addresses from the DHCP server of an Ethernet segment, by a client in each sandbox."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.dhcp.base import DhcpClient, DhcpClients, DhcpRequest
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network, Sandbox
from sandnet.model.ids import bare
from sandnet.model.interfaces.dhcp_lease import DhcpLease

TIMEOUT: Final = 15
"""Seconds that a join waits for a lease. A client asks every three seconds, and a busy server tries an address first
(RFC 2131, 3.1)."""
UNUSABLE: Final = "dhcp_offer_unusable"
"""Error code: the server gave an address that the sandbox must not have."""
_POLL: Final = 0.05
_HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class DhcpAddresses:
    """The leases of the endpoints of one driver.

    Args:
        clients: the clients of this host.
        workers: threads for its calls.
        timeout: seconds that a join waits for a lease.
    """

    def __init__(self, clients: DhcpClients, workers: Workers, timeout: float = TIMEOUT) -> None:
        self._clients = clients
        self._workers = workers
        self._timeout = timeout

    def problem(self) -> str:
        """Return why there are no such addresses on this host; empty: there are."""
        return self._clients.problem()

    async def obtain(self, net: Network, ep: Endpoint, att: Attachment, sandbox: Sandbox) -> DhcpLease:
        """Start a client in a sandbox whose interface is up, and wait for its lease.

        Raises:
            Error: ``UNAVAILABLE``, with the code ``no_dhcp_answer`` if no server answers in time.
        """
        deadline = time.monotonic() + self._timeout
        await self.ensure(net, ep, att, sandbox)
        while True:
            client = (await self.states([ep.id]))[ep.id]
            if client.report and client.report.lease:
                return client.report.lease
            if client.report and client.report.problem:
                raise unusable(net, client.report.problem)
            if not client.running:
                message = f"the DHCP client of endpoint {ep.name} ended before it had an address"
                raise Error(Kind.UNAVAILABLE, message, "see the system's log (journalctl -t udhcpc)", "no_dhcp")
            if time.monotonic() >= deadline:
                raise self._no_answer(net, ep)
            await asyncio.sleep(_POLL)

    async def ensure(self, net: Network, ep: Endpoint, att: Attachment, sandbox: Sandbox) -> None:
        """Start the client of an endpoint if none runs; it asks for the address that the endpoint has."""
        name = bare(ep.name).lower()
        request = DhcpRequest(
            id=ep.id,
            namespace=sandbox.key,
            inode=sandbox.inode,
            interface=att.interface,
            host_name=name if _HOST_NAME.fullmatch(name) else "",
            wanted=ep.lease.address.ip if ep.lease else None,
        )
        await self._workers.run(self._clients.start, request)

    async def states(self, ids: Collection[str]) -> Mapping[str, DhcpClient]:
        """Return the states of the clients of these endpoints."""
        return await self._workers.run(self._clients.states, ids)

    async def stop(self, ids: Collection[str], *, release: bool = True) -> None:
        """End the clients of these endpoints; absent ones are success."""
        await self._workers.run(partial(self._clients.stop, ids, release=release))

    async def stop_others(self, ids: Collection[str]) -> None:
        """End the clients of all but these endpoints."""
        found = await self._workers.run(self._clients.endpoints)
        await self.stop([each for each in found if each not in ids])

    def _no_answer(self, net: Network, ep: Endpoint) -> Error:
        where = f"on link {net.options.parent} (network {net.name}, MAC {ep.mac})"
        message = f"no DHCP server answered {where} within {self._timeout:g} s"
        hint = "check that its segment has one, with an address left, and that its switch admits further MACs"
        return Error(Kind.UNAVAILABLE, message, hint, "no_dhcp_answer")


def unusable(net: Network, problem: str) -> Error:
    """Return the error for an offer that the sandbox must not use."""
    message = f"network {net.name}: what the DHCP server on link {net.options.parent} gives cannot be used: {problem}"
    return Error(Kind.UNAVAILABLE, message, "correct the server, or find the one that should not be there", UNUSABLE)
