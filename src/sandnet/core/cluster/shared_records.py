"""Write the records of global networks to the shared store, each with its claims in one transaction.

A change counts once the shared store has it. Only then it is written to the host's own store, which has a copy of all
records of global networks: so a daemon starts with them while the shared store is away.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from sandnet.core.cluster.attachment_claims import AttachmentClaims, SharedTransaction
from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.record_format import raising, refuse_older_hosts, written_format
from sandnet.core.cluster.refusals import (
    changed_elsewhere,
    endpoint_in_use,
    endpoint_taken,
    network_in_use,
    network_taken,
)
from sandnet.core.cluster.shared_values import (
    OWNER_ENDED,
    SharedEndpoint,
    attached_prefix,
    claimed_subnet,
    encode,
    endpoint_claims,
    format_of,
    holder_key,
    is_release,
    network_claims,
    shared_endpoint,
    shared_network,
)
from sandnet.core.cluster.subnet_claims import SubnetClaims
from sandnet.core.cluster.view import ClusterView, Held
from sandnet.core.state.events import Transition
from sandnet.core.state.schema import ENDPOINTS, endpoint_key, endpoints_prefix, network_key
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox
from sandnet.stores.base import Delete, Entry, Put
from sandnet.stores.shared import Absent, Condition, ConditionFailed, EmptyRange, Present

_log = logging.getLogger(__name__)


class SharedRecords:
    """The part of the records that all hosts share.

    Args:
        membership: sends the transactions.
        view: what the store holds.
        is_global: returns whether all hosts share the networks of a driver.
        network: returns the network with that id, as this host has it.
        sandbox: returns the sandbox of a container of this host.
    """

    def __init__(
        self,
        membership: HostMembership,
        view: ClusterView,
        is_global: Callable[[str], bool],
        network: Callable[[str], Network | None],
        sandbox: Callable[[str], Sandbox | None],
    ) -> None:
        self._membership, self._view = membership, view
        self._is_global, self._network, self._sandbox = is_global, network, sandbox
        self.attachments = AttachmentClaims(membership, view, sandbox)
        self._subnets = SubnetClaims(membership, view)
        self._copies: set[str] = set()
        """Endpoints of which this host removes its copy alone."""
        self._refused_at = 0
        """Revision at which a claim was refused last."""
        self.caught_up: Callable[[int], Awaitable[None]] = _no_wait
        """Waits until this host is in line with the store as it was at a revision, or for a while."""
        self.refreshed: Callable[[Iterable[str]], Awaitable[bool]] = _not_refreshed
        """Does what :meth:`refresh` promises."""
        self.changed: Callable[[Iterable[str], BaseException | None], None] = _ignore
        """Gets the keys of what this host has just changed, for another one may have changed it, too, in between; and
        why its own store does not have that change."""

    # Records.

    async def write(self, transitions: Sequence[Transition]) -> None:
        """Write what the hosts share of a commit; nothing, if that is nothing.

        Raises:
            Error: ``NAME_TAKEN``, ``CONFLICT``, ``IN_USE``: another host was first; ``UNAVAILABLE``.
        """
        try:
            await self._write(transitions)
        except (ConditionFailed, Error) as refused:
            self.written([each for each in transitions if each.after is None])  # it may exist on, and is not removing
            if isinstance(refused, ConditionFailed):
                self._refused_at = refused.revision
                raise changed_elsewhere() from refused
            raise

    async def _write(self, transitions: Sequence[Transition]) -> None:
        for each in transitions:
            match each.before, each.after:
                case (Network() | None as before, Network() as after) if self._is_global(after.driver):
                    await self._network_changed(before, after)
                case (Network() as before, None) if self._is_global(before.driver):
                    await self._delete_network(before)
                case (Endpoint() | None as before, Endpoint() as after) if self._is_on_global(after):
                    await self._endpoint_changed(before, after)
                case (Endpoint() as before, None) if self._is_on_global(before) and not self._may_return(before):
                    await self.delete_endpoint(before)
                case (Attachment() | None as before, Attachment() as after) if self._is_on_global(after):
                    await self._attachment_changed(before, after, transitions)
                case (Attachment() as before, None) if self._is_on_global(before):
                    await self.attachments.released(before)
                case _:
                    pass

    def _may_return(self, endpoint: Endpoint) -> bool:
        """Return whether the endpoint ended with the lease of another host, which claims it when it is back.

        What needs its name or address until then, or deletes its network, deletes it for all hosts.
        """
        shared = self._view.endpoint(endpoint.id)
        ended = shared is not None and shared.host != self._membership.name and not self._view.counts_endpoint(shared)
        return ended or endpoint.id in self._copies

    @contextmanager
    def only_here(self, endpoint_id: str) -> Iterator[None]:
        """Remove only this host's copy of an endpoint within the block: its owner's host may be back by now."""
        self._copies.add(endpoint_id)
        try:
            yield
        finally:
            self._copies.discard(endpoint_id)

    def written(self, transitions: Sequence[Transition], failure: BaseException | None = None) -> None:
        """See ``SharedWriter.written``."""
        subjects = [each.after or each.before for each in transitions]
        networks = [each for each in subjects if isinstance(each, Network) and self._is_global(each.driver)]
        endpoints = [each.id for each in subjects if isinstance(each, Endpoint) and self._is_on_global(each)]
        endpoints += [
            each.endpoint_id for each in subjects if isinstance(each, Attachment) and self._is_on_global(each)
        ]
        keys = [*(network_key(each.id) for each in networks), *(f"{ENDPOINTS}{each}" for each in endpoints)]
        if keys:  # most commits concern this host alone
            self.changed(keys, failure)

    async def catch_up(self) -> None:
        """See ``SharedWriter.catch_up``."""
        await self.caught_up(max(self._refused_at, self.attachments.refused_at))

    async def refresh(self, endpoint_ids: Iterable[str]) -> bool:
        """See ``SharedWriter.refresh``."""
        return await self.refreshed(endpoint_ids)

    def _is_on_global(self, record: Endpoint | Attachment) -> bool:
        network = self._network(record.network_id)
        return network is not None and self._is_global(network.driver)

    async def _network_changed(self, before: Network | None, after: Network) -> None:
        """Create a network that this host has made, change it, or delete it before this host removes it."""
        was_ready = before is not None and before.phase is Phase.READY
        key = network_key(after.id)
        known = self._view.entry(key)
        if after.phase is Phase.READY and not known and not was_ready:
            await self._create_network(after)
        elif after.phase is Phase.READY and known:
            if before and was_ready and shared_network(before) != self._view.network(after.id):
                self._refused_at = known.revision
                raise changed_elsewhere()  # what this host has not looked at would be undone
            await self._change_network(after, known)
        elif after.phase is Phase.REMOVING and was_ready and not self._view.endpoint_ids(after.id):
            await self._delete_network(after)

    async def _delete_network(self, network: Network) -> None:
        """Delete a network for all hosts: before this host removes it, or after its own endpoints."""
        self._require_view()
        shared, key = self._view.network(network.id), network_key(network.id)
        known = self._view.entry(key)
        if shared is None or known is None:
            return
        conditions: list[Condition] = [Present(key, known.revision), EmptyRange(endpoints_prefix(network.id))]
        transaction = SharedTransaction([Delete(key)], conditions)  # of that revision: a later one may have more claims
        transaction.release(network_claims(shared.network))
        for void in self._void_endpoints(network.id):
            await self._delete_void(void)
        try:
            await self._membership.transact(*transaction)
        except ConditionFailed as refused:
            found = refused.at(key)
            if found and found.revision != known.revision:
                raise
            if found:
                raise network_in_use(network, self._endpoint_names(network.id)) from refused

    async def _create_network(self, network: Network) -> None:
        key = network_key(network.id)
        value = encode(shared_network(network), written_format(self._view))
        transaction = SharedTransaction([Put(key, value)], [Absent(key)])
        transaction.claim(network_claims(network), network.id)
        try:
            await self._subnets.transact(transaction)
        except ConditionFailed as refused:
            self._refused_at = refused.revision
            raise network_taken(network, refused) from refused

    async def _change_network(self, network: Network, known: Entry) -> None:
        """Write what has changed of a network, and claim the subnets that it did not have."""
        value = encode(shared_network(network), written_format(self._view))
        if value == known.value:
            return
        shared = self._view.network(network.id)
        before = {*network_claims(shared.network)} if shared else set()
        new = [claim for claim in network_claims(network) if claim not in before]
        transaction = SharedTransaction([Put(known.key, value)], [Present(known.key, known.revision)])
        transaction.claim(new, network.id)
        transaction.release(before.difference(network_claims(network)))
        try:
            await self._subnets.transact(transaction)
        except ConditionFailed as refused:
            if not any(claimed_subnet(each.key) for each in refused.found):
                raise
            self._refused_at = refused.revision
            raise network_taken(network, refused) from refused

    async def _endpoint_changed(self, before: Endpoint | None, after: Endpoint) -> None:
        """Create an endpoint, or change what all hosts know of it."""
        if after.phase is not Phase.READY:
            return
        key = endpoint_key(after)
        known = self._view.endpoint(after.id)
        entry = self._view.entry(key)
        if known is None or entry is None:
            if before is None or before.phase is not Phase.READY:
                await self._create_endpoint(after)
            return
        changed = shared_endpoint(after, known.host, self._membership.number)
        if before and before.bandwidth == after.bandwidth:  # this host may not have looked at a change of another one
            changed = replace(changed, endpoint=replace(changed.endpoint, bandwidth=known.endpoint.bandwidth))
        if known.host != self._membership.name:  # that host ends it with its owner or its last container
            endpoint = replace(changed.endpoint, owner=known.endpoint.owner, orphaned=known.endpoint.orphaned)
            changed = SharedEndpoint(endpoint=endpoint, host=known.host, number=known.number, ports=known.ports)
        elif before and not (before.ports or after.ports or after.ports_withdrawn):  # this host has lost its state
            changed = replace(changed, ports=known.ports)
        value = encode(changed, written_format(self._view))
        if value == entry.value:
            return
        try:
            await self._membership.transact([Put(key, value)], [Present(key, entry.revision)])
        except Error as failure:
            if failure.kind is not Kind.UNAVAILABLE or not is_release(before, after):
                raise  # a container's end waits for no store
            _log.info("endpoint %s: other hosts do not know yet what it has lost: %s", after.name, failure)

    async def withdraw_ports(self, endpoint_id: str) -> None:
        """Let no host publish the ports of an endpoint any more; without any, nothing is written.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        await self._rewrite(endpoint_id, lambda known: replace(known, ports=()))

    async def end_owned_endpoint(self, endpoint_id: str) -> None:
        """Let an endpoint whose owner has ended count on no host: each detaches its containers, the last deletes it.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        await self._rewrite(endpoint_id, lambda known: replace(known, number=OWNER_ENDED))

    async def _rewrite(self, endpoint_id: str, changed: Callable[[SharedEndpoint], SharedEndpoint]) -> None:
        known, entry = self._view.endpoint(endpoint_id), self._view.endpoint_entry(endpoint_id)
        if known is None or entry is None or changed(known) == known:
            return
        value = encode(changed(known), written_format(self._view))
        try:
            await self._membership.transact([Put(entry.key, value)], [Present(entry.key, entry.revision)])
        except ConditionFailed as refused:
            raise changed_elsewhere() from refused

    async def _create_endpoint(self, endpoint: Endpoint) -> None:
        await self._require_readers(endpoint)
        key = endpoint_key(endpoint)
        shared = shared_endpoint(endpoint, self._membership.name, self._membership.number)
        value = encode(shared, written_format(self._view))
        transaction = SharedTransaction([Put(key, value)], [Present(network_key(endpoint.network_id)), Absent(key)])
        for void in self._void_claimants(endpoint_claims(endpoint)):
            self._remove_void(transaction, void)
        self.attachments.drop_void(transaction, endpoint_claims(endpoint))
        transaction.claim(endpoint_claims(endpoint), key)
        try:
            await self._membership.transact(*transaction, claims=endpoint.has_owner)
        except ConditionFailed as refused:
            self._refused_at = refused.revision
            raise endpoint_taken(endpoint, refused) from refused

    async def _require_readers(self, endpoint: Endpoint) -> None:
        """Refuse an endpoint that another host would read as another one.

        Raises:
            Error: ``CONFLICT``.
        """
        refuse_older_hosts(endpoint, self._view)
        needed = format_of(endpoint)
        if written_format(self._view) < needed and (raised := raising(self._view, self._membership.host.formats)):
            await self._membership.transact(*raised)

    def _void_claimants(self, claims: Iterable[str]) -> list[Endpoint]:
        """Return the endpoints that have one of these claims and no longer count."""
        keys = {entry.value.decode() for entry in map(self._view.entry, claims) if entry}
        found = [self._view.endpoint(key.rpartition("/")[2]) for key in sorted(keys) if key.startswith(ENDPOINTS)]
        return [shared.endpoint for shared in found if shared and not self._view.counts_endpoint(shared)]

    def _void_endpoints(self, network_id: str) -> list[Endpoint]:
        """Return the endpoints of a network that no longer count."""
        found = map(self._view.endpoint, self._view.endpoint_ids(network_id))
        return [shared.endpoint for shared in found if shared and not self._view.counts_endpoint(shared)]

    def _remove_void(self, transaction: SharedTransaction, endpoint: Endpoint) -> None:
        entry = self._view.entry(endpoint_key(endpoint))
        if entry is None:
            return
        transaction.conditions.append(Present(entry.key, entry.revision))
        transaction.changes.append(Delete(entry.key))
        transaction.release(endpoint_claims(endpoint))
        for held in self._view.attachments(endpoint.id):
            self.attachments.drop(transaction, held)

    async def _delete_void(self, endpoint: Endpoint) -> None:
        transaction = SharedTransaction([], [])
        self._remove_void(transaction, endpoint)
        await self._membership.transact(*transaction)

    async def delete_endpoint(self, endpoint: Endpoint) -> None:
        """Delete an endpoint for all hosts, unless a container of another host is attached."""
        self._require_view()
        shared, entry = self._view.endpoint(endpoint.id), self._view.endpoint_entry(endpoint.id)
        if shared is None or entry is None:
            return
        await self.attachments.release(
            held for held in self._view.attachments(endpoint.id) if self._is_releasable(held)
        )
        conditions: list[Condition] = [Present(entry.key), EmptyRange(attached_prefix(endpoint.id))]
        transaction = SharedTransaction([Delete(entry.key), Delete(holder_key(endpoint.id))], conditions)
        transaction.release(endpoint_claims(shared.endpoint))
        try:
            await self._membership.transact(*transaction)
        except ConditionFailed as refused:
            if refused.at(entry.key) is None:
                return  # another host deleted it at the same time
            raise endpoint_in_use(endpoint, self._view.counted(endpoint.id)) from refused

    def _is_releasable(self, held: Held) -> bool:
        return held.key.host == self._membership.name or not self._view.counts(held.attachment)

    # Attachments.

    async def _attachment_changed(
        self, before: Attachment | None, after: Attachment, transitions: Sequence[Transition]
    ) -> None:
        """Claim an attachment before anything is made of it, and write what changes of it later."""
        if before is None:
            sandbox = self._sandbox(after.container_id)
            for each in transitions:
                if isinstance(each.after, Sandbox) and each.after.container_id == after.container_id:
                    sandbox = each.after
            await self.attachments.claim(after, sandbox)
        elif after.phase is Phase.READY:
            await self.attachments.update(before, after)

    # Refusals.

    def _require_view(self) -> None:
        """Refuse a deletion of which it is not known what it would delete.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        if not self._view.revision:
            message = "this host has not reached the shared store yet"
            raise Error(Kind.UNAVAILABLE, message, "repeat the request when it can be reached", "store_unavailable")

    def _endpoint_names(self, network_id: str) -> list[str]:
        return [each.endpoint.name for each in map(self._view.endpoint, self._view.endpoint_ids(network_id)) if each]


def _ignore(keys: Iterable[str], failure: BaseException | None) -> None:
    """Do nothing, while no follower runs."""


async def _not_refreshed(endpoint_ids: Iterable[str]) -> bool:
    """Return that nothing was found out, while no follower runs."""
    return False


async def _no_wait(revision: int) -> None:
    """Return at once, while no follower runs."""
