"""Rebuild records of objects that are in the kernel and in no record.

That is the case after the state was lost, all of it or since the last copy. Bridges and veths are described by their
aliases (``model/link_alias``), published host ports by the packet filter. For networks, and attachments on bridges of
the daemon, the kernel is authoritative: those of a copy that no longer exist were removed after it was made. For
everything else the copy is authoritative. A host without a single alias was rebooted since, or is new: there the copy
is kept as it is.

The objects found are recorded in one commit, after the records of the copy that contradict them are deleted. If the
daemon is interrupted before that commit, the next start does the same again. After the rebuild, restore brings the
kernel into line with the records, as at every start.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from posixpath import join as join_path
from typing import TypeVar

from msgspec.structs import replace

from sandnet.core.recovery.link_records import (
    NOT_RECOVERABLE,
    attachment_from_alias,
    endpoint_from_alias,
    sandbox_from_alias,
)
from sandnet.core.runtime.context import Settings
from sandnet.core.state.records import Records
from sandnet.core.state.schema import Record, claims_of
from sandnet.drivers.base import Driver, Recoverable
from sandnet.drivers.host_network import HostNetwork
from sandnet.errors import Error
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Link
from sandnet.kernel.workers import Workers
from sandnet.model import Address, Attachment, BoundPort, Endpoint, Network, Origin, Phase, Sandbox
from sandnet.model.link_alias import AttachmentAlias, NetworkAlias

_log = logging.getLogger(__name__)

LISTED = 20
"""The number of names in one message."""

R = TypeVar("R", Network, Endpoint, Sandbox, Attachment)
Ports = Mapping[Address, Sequence[BoundPort]]


class Rebuild:
    """Finds lost records again."""

    def __init__(
        self,
        records: Records,
        drivers: Mapping[str, Driver],
        host_network: HostNetwork,
        kernel: Kernel,
        workers: Workers,
        settings: Settings,
    ) -> None:
        self._records = records
        self._drivers = drivers
        self._host_network = host_network
        self._kernel = kernel
        self._workers = workers
        self._settings = settings
        self.problems: list[str] = []
        """What was found, and what could not be, as texts for health."""
        self._networks: dict[int, Network] = {}
        """The networks found, by the index of their bridge."""
        self._endpoints: dict[str, Endpoint] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._attachments: dict[str, Attachment] = {}
        """The attachments found, by their link on the host."""
        self._recovered: list[str] = []
        self._unrecovered: list[str] = []

    async def run(self) -> None:
        """Run once, after the records are loaded and before restore; do nothing if the records are complete."""
        if not self._records.incomplete:
            return
        links = await self._workers.run(self._kernel.links.list)
        recoverable = [each for each in self._drivers.values() if isinstance(each, Recoverable)]
        found = [(driver, driver.recognise(links)) for driver in recoverable]
        if any(each.networks or each.attachments for _, each in found):
            await self._records.begin_rebuild()
            ports = await self._published()
            for driver, recognised in found:
                for link, alias in recognised.networks:
                    self._network(driver, link, alias)
            for _, recognised in found:
                for end, attachment_alias in recognised.attachments:
                    await self._attachment(end, attachment_alias, ports)
            await self._delete_stale()
            self._report_ports(ports)
        await self._records.commit(put=[*self._found()], complete=True)
        message = f"rebuilt from the kernel, without what the kernel does not hold ({NOT_RECOVERABLE})"
        self._report(message, self._recovered)
        self._report("in the kernel, and not found again, or not in full", self._unrecovered)

    async def _published(self) -> Ports:
        found: dict[Address, list[BoundPort]] = {}
        for target, port in await self._host_network.published_ports():
            found.setdefault(target, []).append(port)
        return found

    def _found(self) -> Iterator[Record]:
        yield from self._networks.values()
        yield from self._endpoints.values()
        yield from self._sandboxes.values()
        yield from self._attachments.values()

    # Records from link aliases.

    def _network(self, driver: Recoverable, link: Link, alias: NetworkAlias) -> None:
        known = self._records.network(alias.id)
        net = known or driver.network_of(link, alias, self._records.next_sequence())
        if net is None or any(alias.name == other.name for other in self._networks.values()):
            self._unrecovered.append(f"network {alias.name}")
            return
        self._networks[link.ifindex] = self._ready(known, net)
        if not known and not alias.whole:
            self._unrecovered.append(_name(net))

    async def _attachment(self, link: Link, alias: AttachmentAlias, ports: Ports) -> None:
        """Rebuild an attachment, with its endpoint and its sandbox."""
        known = self._records.attachment(alias.container_id, alias.endpoint_id)
        net = self._networks.get(link.master) or (known and self._records.network(known.network_id))
        if not net:
            self._unrecovered.append(f"endpoint {alias.endpoint_name}")
            return
        self._endpoint(net, alias, ports)
        att = known or attachment_from_alias(link, alias, net, self._records.next_sequence())
        if att is None or not await self._sandbox(alias):
            self._unrecovered.append(f"sandbox {alias.container_id}")
            return
        self._attachments[link.name] = self._ready(known, att)

    def _endpoint(self, net: Network, alias: AttachmentAlias, ports: Ports) -> None:
        if alias.endpoint_id in self._endpoints:
            return
        known = self._records.endpoint(alias.endpoint_id)
        made = known or endpoint_from_alias(alias, net, self._records.next_sequence())
        if not known:
            own = [interface.ip for interface in (made.address, made.address_ipv6) if interface]
            found = (port for address in own for port in ports.get(address, ()))
            made = replace(made, ports=tuple(replace(port, shared=bool(made.owner)) for port in found))
            if not alias.whole:
                self._unrecovered.append(_name(made))
        self._endpoints[made.id] = self._ready(known, made)

    async def _sandbox(self, alias: AttachmentAlias) -> bool:
        """Rebuild a sandbox; return whether the container's namespace is still pinned, so that it exists."""
        known = self._records.sandbox(alias.container_id)
        earlier = self._sandboxes.get(alias.container_id)
        if earlier and known:
            return True
        key = known.key if known else join_path(self._settings.sandbox_dir, alias.key)
        if alias.is_tap:
            made = known or sandbox_from_alias(alias, key, 0, "", self._records.next_sequence())
            self._sandboxes[alias.container_id] = self._ready(known or earlier, made)
            return True
        try:
            pinned = await self._workers.run(self._kernel.namespaces.find, key)
        except Error as failure:
            _log.warning("rebuild: sandbox %s: %s", alias.container_id, failure)
            return False
        if pinned is None or (known and known.inode not in (0, pinned.inode)):
            return False
        folder = join_path(self._settings.files_dir, alias.container_id)
        # of several links, the one that was made last has the most recent options
        made = known or sandbox_from_alias(alias, key, pinned.inode, folder, self._records.next_sequence())
        inode = 0 if made.origin is Origin.EXTERNAL else pinned.inode
        self._sandboxes[alias.container_id] = replace(self._ready(known or earlier, made), inode=inode)
        return True

    def _ready(self, known: R | None, record: R) -> R:
        """Return the record as ready: its link is in use, in whichever phase the copy was made."""
        if known is None:
            self._recovered.append(_name(record))
        return replace(record, phase=Phase.READY)

    # Records of the copy that are no longer true.

    async def _delete_stale(self) -> None:
        """Delete records whose links no longer exist, and those whose claims other records hold now."""
        ours = {net.id for net in self._networks.values()}
        taken = {claim for record in self._found() for claim in claims_of(record)}
        records = self._records
        nets = [
            net
            for net in records.networks()
            if net.id not in ours and (taken & {*claims_of(net)} or (net.link and not net.link_adopted))
        ]
        lost = {net.id for net in nets}
        ends = [
            ep
            for ep in records.endpoints()
            if ep.network_id in lost or (ep.id not in self._endpoints and taken & {*claims_of(ep)})
        ]
        lost |= {ep.id for ep in ends}
        atts = [
            att
            for att in records.attachments()
            if att.endpoint_id in lost or (att.host_link and att.host_link not in self._attachments)
        ]
        if nets or ends or atts:
            stale: list[Record] = [*nets, *ends, *atts]
            message = "of the copy, removed after it was made, or in the way of what came after"
            self._report(message, [_name(record) for record in stale])
            await records.commit(delete=[*atts, *ends, *nets])

    # Reports.

    def _report_ports(self, ports: Ports) -> None:
        known = {
            replace(port, shared=False)
            for endpoint in (*self._records.endpoints(), *self._endpoints.values())
            for port in endpoint.ports
        }
        lost = [f"{port.host_port} to {target}" for target, some in ports.items() for port in some if port not in known]
        self._report("published ports that lead to no endpoint that is known, closed", lost)

    def _report(self, what: str, names: Sequence[str]) -> None:
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            self.problems.append(f"{what}: {', '.join(names[:LISTED])}{more}")


def _name(record: Record) -> str:
    match record:
        case Network():
            return f"network {record.name}"
        case Endpoint():
            return f"endpoint {record.name}"
        case Sandbox():
            return f"sandbox {record.container_id}"
        case Attachment():
            return f"attachment of {record.container_id}"
