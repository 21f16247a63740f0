"""Records for what is in the kernel and in no record: after the state was lost, in whole or since its last copy.

Bridges and veths say what they are (``model/marks``), the packet filter says which host ports lead where. Of networks
and attachments on bridges of ours the kernel knows best: those of a copy that are not there any more were removed
after it was made. Of everything else the copy does. A host without a single mark was rebooted since, or is new: there
the copy stands as it is.

What is found is recorded in one commit, after those records of the copy that contradict it are gone; interrupted
before that, the next start does the same again. Then restore makes it true, as ever.
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
    network_from_alias,
    sandbox_from_alias,
)
from sandnet.core.runtime.context import Context
from sandnet.core.state.index import Record, claims_of
from sandnet.drivers.base import Recoverable
from sandnet.errors import Error
from sandnet.kernel.types import Link
from sandnet.model import Address, Attachment, BoundPort, Endpoint, Network, Phase, Sandbox
from sandnet.model.link_alias import AttachmentAlias, NetworkAlias

_log = logging.getLogger(__name__)

LISTED = 20
"""Names that one message lists."""

R = TypeVar("R", Network, Endpoint, Sandbox, Attachment)
Ports = Mapping[Address, Sequence[BoundPort]]


class Rebuild:
    """Finds lost records again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records
        self.problems: list[str] = []
        """What was found, and what could not be, in words."""
        self._networks: dict[int, Network] = {}
        """By the index of the bridge."""
        self._endpoints: dict[str, Endpoint] = {}
        self._boxes: dict[str, Sandbox] = {}
        self._attachments: dict[str, Attachment] = {}
        """By the link on the host."""
        self._made: list[str] = []
        self._unknown: list[str] = []

    async def run(self) -> None:
        """Once, after the records are loaded and before anything is made true; nothing where nothing is missing."""
        if not self._records.incomplete:
            return
        links = await self._context.workers.run(self._context.kernel.links.list)
        recoverable = [each for each in self._context.drivers.values() if isinstance(each, Recoverable)]
        found = [(driver.name, driver.recognise(links)) for driver in recoverable]
        if any(each.networks or each.attachments for _, each in found):
            await self._records.begin_rebuild()
            ports = await self._published()
            for driver, recognised in found:
                for link, alias in recognised.networks:
                    self._network(driver, link, alias)
            for _, recognised in found:
                for end, alias_of_end in recognised.attachments:
                    await self._attachment(end, alias_of_end, ports)
            await self._forget()
            self._report_ports(ports)
        await self._records.commit(put=[*self._found()], complete=True)
        told = f"found again by what is in the kernel, but for what nothing there tells ({NOT_RECOVERABLE})"
        self._report(told, self._made)
        self._report("in the kernel, and not found again, or not in full", self._unknown)

    async def _published(self) -> Ports:
        found: dict[Address, list[BoundPort]] = {}
        for target, port in await self._context.host_network.published_ports():
            found.setdefault(target, []).append(port)
        return found

    def _found(self) -> Iterator[Record]:
        yield from self._networks.values()
        yield from self._endpoints.values()
        yield from self._boxes.values()
        yield from self._attachments.values()

    # What the links say.

    def _network(self, driver: str, link: Link, mark: NetworkAlias) -> None:
        known = self._records.network(mark.id)
        net = known or network_from_alias(driver, link, mark, self._records.next_sequence())
        if net is None or any(mark.name == other.name for other in self._networks.values()):
            self._unknown.append(f"network {mark.name}")
            return
        self._networks[link.ifindex] = self._kept(known, net)
        if not known and not mark.whole:
            self._unknown.append(_name(net))

    async def _attachment(self, link: Link, mark: AttachmentAlias, ports: Ports) -> None:
        """An attachment, with the endpoint and the sandbox at its ends."""
        known = self._records.attachment(mark.container_id, mark.endpoint_id)
        net = self._networks.get(link.master) or (known and self._records.network(known.network_id))
        if not net:
            self._unknown.append(f"endpoint {mark.endpoint_name}")
            return
        self._endpoint(net, mark, ports)
        att = known or attachment_from_alias(link, mark, net, self._records.next_sequence())
        if att is None or not await self._sandbox(mark):
            self._unknown.append(f"sandbox {mark.container_id}")
            return
        self._attachments[link.name] = self._kept(known, att)

    def _endpoint(self, net: Network, mark: AttachmentAlias, ports: Ports) -> None:
        if mark.endpoint_id in self._endpoints:
            return
        known = self._records.endpoint(mark.endpoint_id)
        made = known or endpoint_from_alias(mark, net, self._records.next_sequence())
        if not known:
            own = [interface.ip for interface in (made.address, made.address_ipv6) if interface]
            made = replace(made, ports=tuple(port for address in own for port in ports.get(address, ())))
        self._endpoints[made.id] = self._kept(known, made)

    async def _sandbox(self, mark: AttachmentAlias) -> bool:
        """Whether the container's namespace is where it was pinned, so that there is a sandbox."""
        known = self._records.sandbox(mark.container_id)
        earlier = self._boxes.get(mark.container_id)
        if earlier and known:
            return True
        key = known.key if known else join_path(self._context.settings.sandbox_dir, mark.key)
        try:
            pinned = await self._context.workers.run(self._context.kernel.namespaces.find, key)
        except Error as failure:
            _log.warning("rebuild: sandbox %s: %s", mark.container_id, failure)
            return False
        if pinned is None or (known and known.inode not in (0, pinned.inode)):
            return False
        folder = join_path(self._context.settings.files_dir, mark.container_id)
        # of several links the one that was made last says most
        made = known or sandbox_from_alias(mark, key, pinned.inode, folder, self._records.next_sequence())
        self._boxes[mark.container_id] = replace(self._kept(known or earlier, made), inode=pinned.inode)
        return True

    def _kept(self, known: R | None, record: R) -> R:
        """The record, ready: what its link says is in use, whatever the copy was made in the middle of."""
        if known is None:
            self._made.append(_name(record))
        return replace(record, phase=Phase.READY)

    # What the copy says and is so no longer.

    async def _forget(self) -> None:
        """Drop records whose links are gone, and those that hold what is somebody else's now."""
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
            gone: list[Record] = [*nets, *ends, *atts]
            told = "of the copy, removed after it was made, or in the way of what came after"
            self._report(told, [_name(record) for record in gone])
            await records.commit(delete=[*atts, *ends, *nets])

    # What is told.

    def _report_ports(self, ports: Ports) -> None:
        known = {
            port for endpoint in (*self._records.endpoints(), *self._endpoints.values()) for port in endpoint.ports
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
