"""All records, in memory and in the store. Reads use memory; every change is written to the store.

New records count from the moment they are passed to :meth:`Records.commit`, so two callers never get the same name or
address. Changes and deletions count once the store has them, so nothing is promised that ``kill -9`` could lose. Beside
each record the store has its *claims*: keys that are put only where absent, one for the name and one for each address
and host port. So even a second writer of the same store cannot allocate them again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import aclosing
from math import inf

import msgspec
from msgspec.structs import replace

from sandnet.core.state import schema
from sandnet.core.state.events import PLACES, Events, PendingEvent, Repair, Transition, events_of
from sandnet.core.state.index import R, Table, refuse_too_many
from sandnet.core.state.remote_attachments import RemoteAttachments
from sandnet.core.state.schema import Record, claimed_by, claims_of, key_of
from sandnet.core.state.shared_writer import SharedWriter
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox
from sandnet.model.address import encode_hook
from sandnet.stores.base import REBUILD, Change, Conflict, Delete, Entry, Put, Store

HANGS = 5.0
"""Seconds after which a commit is reported as hanging; a bad disk takes a tenth of one."""

_encoder = msgspec.json.Encoder(enc_hook=encode_hook)


def _last_event_put(events: Sequence[PendingEvent]) -> Put:
    return Put(schema.LAST_EVENT, str(len(events)).encode())


def _outlives_boot(record: Record) -> bool:
    """Return whether a crash of the machine leaves something of the record, so that its commit must be durable.

    The namespace and the links of a sandbox are gone after a crash, with or without their record. Not so the files of
    other programs that it replaced.
    """
    match record:
        case Sandbox():
            return bool(record.kept_files or record.made_dirs)
        case Attachment():
            return False
        case Network() | Endpoint():
            return True


def _puts(before: Iterable[Record | None], after: Iterable[Record]) -> Iterator[Change]:
    """Yield the changes that make the store hold ``after``, with its claims, where it holds ``before``."""
    for was, record in zip(before, after, strict=True):
        key = key_of(record)
        yield Put(key, _encoder.encode(record))
        if was and claimed_by(was) == claimed_by(record):
            continue
        held = set(claims_of(was)) if was else set()
        desired = set(claims_of(record))
        yield from (Put(claim, key.encode(), 0) for claim in sorted(desired - held))
        yield from (Delete(claim) for claim in sorted(held - desired))


def _deletes(records: Iterable[Record]) -> Iterator[Change]:
    for record in records:
        yield Delete(key_of(record))
        yield from (Delete(claim) for claim in claims_of(record))


def _decoded(entry: Entry, table: Table[R]) -> R:
    try:
        return table.decoder.decode(entry.value)
    except msgspec.DecodeError as failure:
        message = f"the store holds a record that cannot be read: {entry.key}: {failure}"
        hint = (
            "its checksum is right, so another version wrote it: start that one; or move the store and its -wal and "
            "-shm files away: its last copy and what is in the kernel are found again"
        )
        raise Error(Kind.UNAVAILABLE, message, hint, "store_unreadable") from failure


class Records:
    """The tables of all records, written through to a store."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self.shared_writer: SharedWriter | None = None
        """Writes what several hosts share, of all commits from now on."""
        self.remote = RemoteAttachments()
        self._events = events
        self._sequence = 0
        self._writing: dict[object, float] = {}
        """The start time of each commit in progress."""
        self._networks = Table(Network)
        self._endpoints = Table(Endpoint)
        self._sandboxes = Table(Sandbox)
        self._attachments = Table(Attachment)
        self._cursors: dict[str, str] = {}
        self.incomplete = False
        """Whether the store is new, or replaces a lost one: there may be objects in the kernel without a record."""

    async def load(self) -> None:
        """Read the whole store; once, before anything else."""
        await self._load(schema.NETWORKS, self._networks)
        await self._load(schema.ENDPOINTS, self._endpoints)
        await self._load(schema.SANDBOXES, self._sandboxes)
        await self._load(schema.ATTACHMENTS, self._attachments)
        for entry in await self._store.list(schema.CURSORS):
            self._cursors[entry.key.removeprefix(schema.CURSORS)] = entry.value.decode()
        await self._resume()
        self.incomplete = self.incomplete or await self._store.get(REBUILD) is not None
        known: list[Record] = [*self.networks(), *self.endpoints(), *self.sandboxes(), *self.attachments()]
        self._sequence = max((record.sequence for record in known), default=0)

    async def begin_rebuild(self) -> None:
        """Record that a search for lost records is in progress, before anything else is written.

        A store that has been written to does not count as new. Without this record, a daemon that is killed before
        :meth:`commit` with ``complete`` would not search again.
        """
        await self._store.commit(Put(REBUILD, b""))

    async def _resume(self) -> None:
        """Continue the numbering of events where an earlier run ended."""
        last = await self._store.get(schema.LAST_EVENT)
        if last and last.value.isdigit():
            self._events.resume_after(last.revision, int(last.value))
            return
        async with aclosing(self._store.watch("")) as entries:  # no event recorded: all earlier ones are missed
            async for first in entries:
                self._events.resume_after(first.revision, 1)
                self.incomplete = first.revision == 0
                break

    async def _load(self, prefix: str, table: Table[R]) -> None:
        found = [_decoded(entry, table) for entry in await self._store.list(prefix)]
        for record in sorted(found, key=lambda record: record.sequence):
            table.put(record)

    def problems(self) -> Sequence[str]:
        """Return the problems of the store, as texts for health; empty when there are none."""
        age = time.monotonic() - min(self._writing.values(), default=inf)
        hanging = [f"the store has not answered a commit for {age:.0f} s"] if age > HANGS else []
        return [*self._store.problems(), *hanging]

    async def repair_store(self) -> None:
        """Repair the store's files where another process changed them, and publish the repairs."""
        repairs = await self._store.verify()
        await self.publish_repairs([Repair("state", each.place, each.problem, None) for each in repairs])

    def next_sequence(self) -> int:
        """Return the next number in creation order."""
        self._sequence += 1
        return self._sequence

    # Look-ups. Lists are in creation order.

    def networks(self) -> list[Network]:
        """Return all networks, in any phase."""
        return self._networks.all()

    def network(self, network_id: str) -> Network | None:
        """Return the network with that full id."""
        return self._networks.get(schema.network_key(network_id))

    def network_of_link(self, name: str) -> Network | None:
        """Return the network that a link of the host belongs to, as its bridge does."""
        return next(iter(self._networks.group(f"link/{name}")), None)

    def networks_named(self, name: str) -> list[Network]:
        """Return the networks with that name: at most one."""
        return self._networks.group(f"name/{name}")

    def endpoints(self) -> list[Endpoint]:
        """Return all endpoints of all networks."""
        return self._endpoints.all()

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """Return the endpoint with that full id."""
        return next(iter(self._endpoints.group(f"id/{endpoint_id}")), None)

    def endpoints_of(self, network_id: str) -> list[Endpoint]:
        """Return the endpoints of a network."""
        return self._endpoints.group(f"network/{network_id}")

    def endpoints_named(self, name: str, network_id: str = "") -> list[Endpoint]:
        """Return the endpoints with that name, of one network or of all."""
        return self._endpoints.group(f"network/{network_id}/{name}" if network_id else f"name/{name}")

    def endpoints_owned(self, owner: str) -> list[Endpoint]:
        """Return the endpoints of that owner."""
        return self._endpoints.group(f"owner/{owner}")

    def sandboxes(self, inode: int | None = None) -> list[Sandbox]:
        """Return all sandboxes, or those whose namespace has that inode."""
        return self._sandboxes.all() if inode is None else self._sandboxes.group(f"inode/{inode}")

    def sandbox(self, container_id: str) -> Sandbox | None:
        """Return the container's sandbox."""
        return self._sandboxes.get(schema.sandbox_key(container_id))

    def sandbox_at(self, key: str) -> Sandbox | None:
        """Return the sandbox whose namespace is pinned at ``key``."""
        return next(iter(self._sandboxes.group(f"key/{key}")), None)

    def attachments(self) -> list[Attachment]:
        """Return all attachments."""
        return self._attachments.all()

    def attachment(self, container_id: str, endpoint_id: str) -> Attachment | None:
        """Return the attachment of one container to one endpoint."""
        return self._attachments.get(schema.attachment_key(container_id, endpoint_id))

    def attachments_of_endpoint(self, endpoint_id: str) -> list[Attachment]:
        """Return the attachments to an endpoint."""
        return self._attachments.group(f"endpoint/{endpoint_id}")

    def attachments_of_container(self, container_id: str) -> list[Attachment]:
        """Return the attachments of a container."""
        return self._attachments.group(f"container/{container_id}")

    def attachment_of_link(self, name: str) -> Attachment | None:
        """Return the attachment that a link of the host belongs to."""
        return next(iter(self._attachments.group(f"link/{name}")), None)

    def attachments_of_network(self, network_id: str) -> list[Attachment]:
        """Return the attachments to all endpoints of a network."""
        return self._attachments.group(f"network/{network_id}")

    def cursor(self, network_id: str) -> str:
        """Return the last IPv4 address that was allocated automatically in a network, or the empty string."""
        return self._cursors.get(network_id, "")

    # Changes.

    def commit(
        self,
        *,
        put: Sequence[Record] = (),
        delete: Sequence[Record] = (),
        cursor: tuple[str, str] | None = None,
        complete: bool = False,
        shared: bool = True,
    ) -> Awaitable[None]:
        """Write records, all or none. New ones are reserved before this returns; await the result for durability.

        A new record counts as ``creating`` until then, whatever its phase.

        Args:
            put: records to insert or replace.
            delete: records to remove, with their claims.
            cursor: (network id, address): the last address that the network allocated.
            complete: the search for lost records ends with this commit.
            shared: whether other hosts are to have it; else it is a copy of their records.

        Raises:
            Error: as :meth:`SharedWriter.write`; ``UNAVAILABLE`` when the store is away or another process wrote first.
                Nothing is written and reserved records are dropped. ``EXHAUSTED`` when there is no room for new
                records; recovered records (``complete``) always have room.
        """
        before = [self._current(record) for record in put]
        fresh = [record for record, present in zip(put, before, strict=True) if present is None]
        if fresh and not complete:
            refuse_too_many((self._networks, self._endpoints, self._sandboxes, self._attachments), fresh)
        transitions = [*map(self._transition, before, put)]
        transitions += [self._transition(self._current(record), None) for record in delete]
        changes = [*_puts(before, put), *_deletes(delete)]
        for record in fresh:
            self._insert(replace(record, phase=Phase.CREATING))  # visible once it is durable
        if cursor is not None:
            network_id, address = cursor
            self._cursors[network_id] = address
            changes.append(Put(schema.cursor_key(network_id), address.encode()))
        if complete:
            changes.append(Delete(REBUILD))
        for network in (record for record in delete if isinstance(record, Network)):
            self._cursors.pop(network.id, None)
            changes.append(Delete(schema.cursor_key(network.id)))
        if events := events_of(transitions):
            changes.append(_last_event_put(events))
        final = [*(record for record in put if record.phase is Phase.READY), *delete]  # the others are intents
        writer = self.shared_writer if shared else None
        return self._write(changes, any(map(_outlives_boot, final)), fresh, transitions, writer)

    async def catch_up(self) -> None:
        """Wait until this host knows what another one has claimed before it; see ``SharedWriter.catch_up``."""
        if self.shared_writer:
            await self.shared_writer.catch_up()

    async def refresh(self, endpoint_ids: Iterable[str]) -> bool:
        """Look again at what other hosts have of some endpoints; see ``SharedWriter.refresh``."""
        return self.shared_writer is not None and await self.shared_writer.refresh(endpoint_ids)

    async def publish_repairs(self, repairs: Sequence[Repair]) -> None:
        """Publish repairs as events, up to :data:`PLACES` in one commit, whose revision numbers them."""
        await self._publish(
            [
                PendingEvent("repaired", each.subject, *self._network_and_endpoint_names(each.subject), each)
                for each in repairs
            ]
        )

    async def publish_warnings(self, warnings: Sequence[tuple[Network, str]]) -> None:
        """Publish warnings for the operator as events."""
        await self._publish([PendingEvent("warning", network, "", "", None, text) for network, text in warnings])

    async def _publish(self, pending: Sequence[PendingEvent]) -> None:
        for start in range(0, len(pending), PLACES):
            events = pending[start : start + PLACES]
            revision = await self._store.commit(_last_event_put(events), durable=False)
            self._events.publish(revision, events)

    async def _write(
        self,
        changes: Sequence[Change],
        durable: bool,
        fresh: Sequence[Record],
        transitions: Sequence[Transition],
        writer: SharedWriter | None,
    ) -> None:
        """Write a commit: first what several hosts share, as it counts only if none of them objects."""
        try:
            if writer:
                await writer.write(transitions)
            try:
                revision = await self._commit(changes, durable)
            except BaseException as failure:
                if writer:
                    writer.written(transitions, failure)
                raise
        except BaseException:
            for record in fresh:
                self._remove(record)
            raise
        for each in transitions:
            if each.after:
                self._insert(each.after)
            elif each.before:
                self._remove(each.before)
        self._events.publish(revision, events_of(transitions))
        if writer:
            writer.written(transitions, None)

    async def _commit(self, changes: Sequence[Change], durable: bool) -> int:
        token = object()
        self._writing[token] = time.monotonic()
        try:
            return await self._store.commit(*changes, durable=durable)
        except Conflict as failure:
            hint = "repeat the request; if it persists, another process writes this store"
            raise Error(Kind.UNAVAILABLE, f"the store refused: {failure}", hint, "store_conflict") from failure
        finally:
            del self._writing[token]

    def _transition(self, before: Record | None, after: Record | None) -> Transition:
        return Transition(before, after, *self._network_and_endpoint_names(after or before))

    def _network_and_endpoint_names(self, record: Record | None) -> tuple[str, str]:
        """Return the names of the record's network and endpoint: both may be deleted before a reader gets the event."""
        network = self.network(record.network_id) if isinstance(record, Endpoint | Attachment) else None
        endpoint = self.endpoint(record.endpoint_id) if isinstance(record, Attachment) else None
        return network.name if network else "", endpoint.name if endpoint else ""

    def _current(self, record: Record) -> Record | None:
        match record:
            case Network():
                return self._networks.get(key_of(record))
            case Endpoint():
                return self._endpoints.get(key_of(record))
            case Sandbox():
                return self._sandboxes.get(key_of(record))
            case Attachment():
                return self._attachments.get(key_of(record))

    def _insert(self, record: Record) -> None:
        match record:
            case Network():
                self._networks.put(record)
            case Endpoint():
                self._endpoints.put(record)
            case Sandbox():
                self._sandboxes.put(record)
            case Attachment():
                self._attachments.put(record)

    def _remove(self, record: Record) -> None:
        match record:
            case Network():
                self._networks.drop(record)
            case Endpoint():
                self._endpoints.drop(record)
            case Sandbox():
                self._sandboxes.drop(record)
            case Attachment():
                self._attachments.drop(record)
