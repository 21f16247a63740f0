"""Follow the leases of sandboxes: renewed, changed and lost addresses, and clients that have ended.

The clients renew the leases by themselves. What they report is read each second, and the records, the interface and the
names follow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.names.host_files import HostFiles
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations
from sandnet.core.state.leased_addresses import check_lease, leasing, with_lease
from sandnet.core.state.records import Records
from sandnet.drivers.base import AddressLeasing
from sandnet.drivers.registry import DriverRegistry
from sandnet.errors import Error
from sandnet.kernel.dhcp.base import DhcpClient
from sandnet.kernel.namespace_protocols import SuppliedLinks
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox
from sandnet.model.interfaces.dhcp_lease import DhcpLease
from sandnet.model.supplied_link import supplied_alias

_log = logging.getLogger(__name__)

INTERVAL: Final = 1.0
"""Seconds between two reads of the reports."""
RESTART_INTERVAL: Final = 10.0
"""Seconds between two starts of a client that ends again and again."""


class LeaseWatcher:
    """One background task for all leases.

    Args:
        records: the current records.
        runtime: runs the changes, under the locks.
        drivers: by name.
        sandboxes: set up the interfaces again.
        names: the resolver, and the hosts files.
        kernel: the links inside, and threads for its calls.
    """

    def __init__(
        self,
        records: Records,
        runtime: tuple[Operations, Locks],
        drivers: DriverRegistry,
        sandboxes: Sandboxes,
        names: tuple[ResolverSync, HostFiles],
        kernel: tuple[SuppliedLinks, Workers],
    ) -> None:
        self._records = records
        self._operations, self._locks = runtime
        self._drivers = drivers
        self._sandboxes = sandboxes
        self._resolver_sync, self._host_files = names
        self._supplied_links, self._workers = kernel
        self._task: asyncio.Task[None] | None = None
        self._started: dict[str, float] = {}
        """When a client was started again, by endpoint."""
        self._failures: dict[str, str] = {}
        """Why a lease cannot be followed, by endpoint."""
        self._problems: list[str] = []

    @property
    def problems(self) -> list[str]:
        """Endpoints without an address, and leases that were not renewed, as texts for health."""
        return self._problems

    async def start(self) -> None:
        """End the clients that no attachment has, and follow the others."""
        await self.end_orphans()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def close(self) -> None:
        """Stop following; the clients go on."""
        if self._task:
            self._task.cancel()

    async def end_orphans(self) -> None:
        """End the clients that an earlier daemon left without an attachment."""
        kept = {each.endpoint_id for each in self._records.attachments()}
        for driver in self._drivers.values():
            if isinstance(driver, AddressLeasing):
                try:
                    await driver.stop_other_clients(kept)
                except Error as failure:
                    _log.warning("a DHCP client without a sandbox is left: %s", failure)

    async def _watch(self) -> None:
        while True:
            try:
                await self._round()
            except Error as failure:
                self._problems = [f"leases of addresses are not followed: {failure}"]
            except Exception as failure:
                _log.exception("following leases failed")
                self._problems = [f"leases of addresses are not followed: {failure!r}"]
            await asyncio.sleep(INTERVAL)

    async def _round(self) -> None:
        problems: list[str] = []
        followed: set[str] = set()
        for network in self._records.networks():
            if network.leases_addresses and network.phase is Phase.READY:
                attachments = self._attachments(network)
                followed |= {each.endpoint_id for each in attachments}
                problems += await self._follow_all(network, attachments)
        for kept in (self._started, self._failures):
            for endpoint_id in kept.keys() - followed:
                del kept[endpoint_id]
        self._problems = problems

    def _attachments(self, network: Network) -> list[Attachment]:
        found = self._records.attachments_of_network(network.id)
        return [each for each in found if each.phase is Phase.READY]

    async def _follow_all(self, network: Network, attachments: Sequence[Attachment]) -> list[str]:
        driver = leasing(self._drivers.working(network.driver))
        clients = await driver.clients([each.endpoint_id for each in attachments])
        for attachment in attachments:
            endpoint, client = self._records.endpoint(attachment.endpoint_id), clients[attachment.endpoint_id]
            if endpoint and (not client.running or _is_reported(endpoint, client) or _has_ended(endpoint)):
                await self._try(attachment, client)
        return [problem for each in attachments for problem in self._problems_of(network, each)]

    async def _try(self, attachment: Attachment, client: DhcpClient) -> None:
        try:
            await self._operations.run(self._follow(attachment, client))
            self._failures.pop(attachment.endpoint_id, None)
        except Error as failure:
            self._failures[attachment.endpoint_id] = failure.message

    async def _follow(self, found: Attachment, client: DhcpClient) -> None:
        """Do what a report, or its absence, requires. The records may have changed in between."""
        async with self._locks.hold(f"endpoint/{found.endpoint_id}", f"sandbox/{found.container_id}"):
            attachment = self._records.attachment(found.container_id, found.endpoint_id)
            endpoint, sandbox = self._records.endpoint(found.endpoint_id), self._records.sandbox(found.container_id)
            network = self._records.network(found.network_id)
            current = attachment and attachment.phase is Phase.READY and attachment.sequence == found.sequence
            if not (attachment and current and endpoint and sandbox and network):
                return
            try:
                if _is_reported(endpoint, client):
                    await self._carry_out(network, endpoint, attachment, sandbox, client)
                elif _has_ended(endpoint):
                    await self._change(network, endpoint, attachment, sandbox, None)
            finally:
                if not client.running:
                    await self._restart(network, endpoint, attachment, sandbox)

    async def _carry_out(
        self, network: Network, endpoint: Endpoint, attachment: Attachment, sandbox: Sandbox, client: DhcpClient
    ) -> None:
        lease = client.report.lease if client.report else None
        if (
            lease
            and endpoint.lease
            and replace(lease, seconds=0, obtained=0) == replace(endpoint.lease, seconds=0, obtained=0)
        ):
            await self._records.commit(put=[replace(endpoint, lease=lease)])
            return
        if lease:
            try:
                check_lease(self._records, network, attachment, lease)
            except Error:
                if endpoint.lease:  # the server may have given the former address to another machine
                    await self._change(network, endpoint, attachment, sandbox, None)
                raise
        await self._change(network, endpoint, attachment, sandbox, lease)

    async def _change(
        self, network: Network, endpoint: Endpoint, attachment: Attachment, sandbox: Sandbox, lease: DhcpLease | None
    ) -> None:
        """Give the interface another address, or take its address away; the names follow."""
        before = attachment.address
        _log.info("endpoint %s: address %s, was %s", endpoint.name, lease.address if lease else "lost", before)
        endpoint, attachment = with_lease(endpoint, attachment, lease)
        await self._records.commit(put=[endpoint, attachment])
        await self._change_names(network, endpoint, attachment, sandbox)
        if before and before != attachment.address:
            remove = self._supplied_links.remove_address
            await self._workers.run(remove, sandbox.key, supplied_alias(endpoint.id), before)
        self._host_files.changed(endpoint, network)
        await self._sandboxes.ensure(sandbox, attachment)

    async def _change_names(
        self, network: Network, endpoint: Endpoint, attachment: Attachment, sandbox: Sandbox
    ) -> None:
        if endpoint.address or endpoint.address_ipv6:
            await self._resolver_sync.endpoint_added(network, endpoint)
        else:
            await self._resolver_sync.endpoint_removed(endpoint)
            await self._resolver_sync.attachments_removed([attachment])
        await self._resolver_sync.attachment_added(sandbox, attachment)

    async def _restart(self, network: Network, endpoint: Endpoint, attachment: Attachment, sandbox: Sandbox) -> None:
        now = time.monotonic()
        if now - self._started.get(endpoint.id, -RESTART_INTERVAL) < RESTART_INTERVAL:
            return
        self._started[endpoint.id] = now
        _log.info("the DHCP client of endpoint %s is started again", endpoint.name)
        endpoint = self._records.endpoint(endpoint.id) or endpoint
        await leasing(self._drivers.working(network.driver)).ensure_client(network, endpoint, attachment, sandbox)

    def _problems_of(self, network: Network, attachment: Attachment) -> Iterator[str]:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        if endpoint is None:
            return
        where = f"endpoint {endpoint.name} on network {network.name}"
        failure = self._failures.get(endpoint.id)
        if failure:
            yield f"{where}: {failure}"
        elif endpoint.lease is None:
            link = network.options.parent
            yield f"{where} has no address: its lease has ended, and no DHCP server on link {link} answers"
        elif time.time() > endpoint.lease.overdue:
            left = max(0, round(endpoint.lease.ends - time.time()))
            address, server = endpoint.lease.address.ip, endpoint.lease.server or "the DHCP server"
            yield f"{where}: the lease of {address} is not renewed by {server}, and ends in {left} s"


def _is_reported(endpoint: Endpoint, client: DhcpClient) -> bool:
    """Return whether the client has reported something that the record does not have."""
    report = client.report
    if report is None:
        return False
    if endpoint.lease is None:
        return report.lease is not None
    return report.at > endpoint.lease.obtained and not report.problem


def _has_ended(endpoint: Endpoint) -> bool:
    return endpoint.lease is not None and time.time() > endpoint.lease.ends
