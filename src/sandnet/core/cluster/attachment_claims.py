"""Claim and release attachments in the shared store: an endpoint's address has one holder over all hosts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.record_format import written_format
from sandnet.core.cluster.shared_values import (
    ALIVE,
    AttachmentKey,
    attachment_claims,
    attachment_key,
    encode,
    holder_key,
    is_attachment_key,
    shared_attachment,
)
from sandnet.core.cluster.view import ClusterView, Held
from sandnet.core.state.shared_writer import CHANGED_ELSEWHERE, CLAIMED_ELSEWHERE, joined_elsewhere
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Sandbox
from sandnet.stores.base import Change, Delete, Put
from sandnet.stores.shared import Absent, Condition, ConditionFailed, HasValue, Present

_log = logging.getLogger(__name__)


class SharedTransaction(NamedTuple):
    """What a transaction writes, and what must be true for that."""

    changes: list[Change]
    conditions: list[Condition]

    def claim(self, keys: Iterable[str], holder: str) -> None:
        """Put claims that must be free, or are released in the same transaction."""
        wanted = [*keys]
        released = {change.key for change in self.changes if isinstance(change, Delete)}
        self.changes[:] = [change for change in self.changes if isinstance(change, Put) or change.key not in wanted]
        self.conditions.extend(Absent(key) for key in wanted if key not in released)
        self.changes.extend(Put(key, holder.encode()) for key in wanted)

    def release(self, keys: Iterable[str]) -> None:
        """Delete claims."""
        self.changes.extend(map(Delete, keys))


class AttachmentClaims:
    """This host's attachments to endpoints that all hosts share.

    Args:
        membership: sends the transactions.
        view: what the store holds.
        sandbox: returns the sandbox of a container of this host.
    """

    def __init__(self, membership: HostMembership, view: ClusterView, sandbox: Callable[[str], Sandbox | None]) -> None:
        self._membership, self._view, self._sandbox = membership, view, sandbox
        self.refused_at = 0
        """Revision at which a claim was refused last."""

    def _key(self, attachment: Attachment) -> AttachmentKey:
        return AttachmentKey(attachment.endpoint_id, self._membership.name, attachment.container_id)

    async def claim(self, attachment: Attachment, sandbox: Sandbox | None) -> None:
        """Claim an attachment for this host's lease: a new one, or one whose lease has ended.

        Raises:
            Error: ``INVALID`` (``already_joined``) another host's container has the endpoint's address, ``CONFLICT``,
                ``NOT_FOUND``: the endpoint was deleted.
        """
        key = self._key(attachment)
        known = self._view.attachment(key)
        request = known.attachment.request if known else secrets.token_hex(8)
        name, number = self._membership.name, self._membership.number
        shared = shared_attachment(attachment, sandbox, name, number, request)
        endpoint = self._view.endpoint_entry(attachment.endpoint_id)
        if endpoint is None or not self._is_usable(attachment.endpoint_id):
            raise _endpoint_gone(attachment)
        transaction = SharedTransaction(
            [Put(key.key, encode(shared, written_format(self._view)))], [Present(endpoint.key)]
        )
        transaction.conditions.extend(self._owner_is_alive(attachment.endpoint_id))
        transaction.conditions.append(Present(key.key, known.entry.revision) if known else Absent(key.key))
        held = {*attachment_claims(known.attachment)} if known else set()  # perhaps of an earlier join: other addresses
        new = [claim for claim in attachment_claims(shared) if claim not in held]
        transaction.release(held.difference(attachment_claims(shared)))
        if new:
            self.drop_void(transaction, new)
            transaction.claim(new, key.key)
        if attachment.holder:
            self._claim_holder(transaction, key)
        try:
            await self._membership.transact(*transaction, claims=True)
        except ConditionFailed as refused:
            if refused.at(endpoint.key) is None:
                raise _endpoint_gone(attachment) from refused
            self.refused_at = refused.revision
            raise self._already_joined(attachment, refused) from refused

    def _is_usable(self, endpoint_id: str) -> bool:
        """Return whether the endpoint counts, or is this host's own: the view may not show the new lease yet."""
        shared = self._view.endpoint(endpoint_id)
        return shared is not None and (shared.host == self._membership.name or self._view.counts_endpoint(shared))

    def _owner_is_alive(self, endpoint_id: str) -> Iterator[Condition]:
        """Yield the condition that the endpoint does not end with its owner's host, which is another one."""
        shared = self._view.endpoint(endpoint_id)
        alive = self._view.entry(f"{ALIVE}{shared.host}") if shared and shared.number else None
        if shared and alive and shared.host != self._membership.name:
            yield HasValue(alive.key, alive.value)

    async def claim_address(self, attachment: Attachment) -> bool:
        """Claim the endpoint's address for an attachment that counts; return whether it has it now."""
        key = self._key(attachment)
        held = self._view.attachment(key)
        if held is None or not self._view.counts(held.attachment):
            return False
        transaction = SharedTransaction([], [Present(key.key, held.entry.revision)])
        self._claim_holder(transaction, key)
        transaction.changes.append(Put(key.key, held.entry.value))  # of a new revision: an older release is refused
        try:
            await self._membership.transact(*transaction, claims=True)
        except ConditionFailed:
            return False
        return True

    def _claim_holder(self, transaction: SharedTransaction, key: AttachmentKey) -> None:
        """Claim the address of the endpoint, unless an attachment that counts has it."""
        holder = self._view.holder(key.endpoint_id)
        transaction.changes.append(Put(holder_key(key.endpoint_id), str(key).encode()))
        if holder is None:
            transaction.conditions.append(Absent(holder_key(key.endpoint_id)))
            return
        held = self._view.attachment(attachment_key(holder.value.decode()))
        if held is None or held.key.host == self._membership.name or not self._view.counts(held.attachment):
            transaction.conditions.append(Present(holder.key, holder.revision))
        else:
            transaction.conditions.append(Absent(holder.key))  # refused, with the holder in the refusal

    async def update(self, before: Attachment, after: Attachment) -> None:
        """Write what has changed of an attachment of this host; claim the address for a new holder, free a former's."""
        known = self._view.attachment(self._key(after))
        if known is None:
            return  # deleted by another host: the follower of the watch decides
        was = known.attachment
        sandbox = self._sandbox(after.container_id)
        shared = shared_attachment(after, sandbox, was.host, was.number, was.request)
        put = Put(known.entry.key, encode(shared, written_format(self._view)))
        transaction = SharedTransaction([], [Present(known.entry.key, known.entry.revision)])
        if shared != was:  # first: it is unlike what any other transaction writes
            transaction.changes.append(put)
        if after.holder and not before.holder:
            self._claim_holder(transaction, known.key)
            if shared == was:
                transaction.changes.append(put)  # of a new revision: an older release is refused
        if transaction.changes:
            await self._membership.transact(*transaction)
        if before.holder and not after.holder:
            await self._free_address(known.key)

    async def _free_address(self, key: AttachmentKey) -> None:
        """Let any attachment claim the endpoint's address that this one has, and could not set up."""
        holder = self._view.holder(key.endpoint_id)
        if holder and holder.value.decode() == str(key):
            with suppress(ConditionFailed):  # another host has claimed it since
                await self._membership.transact([Delete(holder.key)], [HasValue(holder.key, holder.value)])

    async def released(self, attachment: Attachment) -> None:
        """Release what a container had. While the store is away this waits for the follower's next audit."""
        held = self._view.attachment(self._key(attachment))
        try:
            await self.release([held] if held else [])
        except Error as failure:
            if failure.kind is not Kind.UNAVAILABLE:
                raise
            _log.info("the attachment of %s is released later: %s", attachment.container_id, failure)

    async def release(self, attachments: Iterable[Held]) -> None:
        """Delete attachments, as they were read, with their claims. One that has changed since is refused."""
        for held in list(attachments):
            transaction = SharedTransaction([], [])
            self.drop(transaction, held)
            try:
                await self._membership.transact(*transaction)
            except ConditionFailed as refused:
                if refused.at(held.key.key):
                    raise Error(
                        Kind.UNAVAILABLE,
                        f"container {held.key.container_id} is being changed by another host",
                        "repeat the request",
                        CHANGED_ELSEWHERE,
                    ) from refused

    def drop(self, transaction: SharedTransaction, held: Held) -> None:
        """Add the deletion of an attachment, as it was read, to a transaction."""
        transaction.conditions.append(Present(held.entry.key, held.entry.revision))
        transaction.changes.append(Delete(held.entry.key))
        transaction.release(attachment_claims(held.attachment))
        holder = self._view.holder(held.key.endpoint_id)
        if holder and holder.value.decode() == str(held.key):
            transaction.conditions.append(HasValue(holder.key, holder.value))
            transaction.changes.append(Delete(holder.key))

    def drop_void(self, transaction: SharedTransaction, claims: Iterable[str]) -> None:
        """Add the deletion of the attachments that have one of these claims and no longer count."""
        dropped = {change.key for change in transaction.changes}
        holders = {entry.value.decode() for entry in map(self._view.entry, claims) if entry}
        for key in sorted(filter(is_attachment_key, holders - dropped)):
            held = self._view.attachment(attachment_key(key))
            if held and not self._view.counts(held.attachment):
                self.drop(transaction, held)

    def is_taken(self, attachment: Attachment) -> bool:
        """Return whether an address that an attachment of this host has for itself was given to another holder."""
        key = self._key(attachment)
        shared = shared_attachment(attachment, None, key.host, 0, "")
        holders = {entry.value.decode() for entry in map(self._view.entry, attachment_claims(shared)) if entry}
        return any(self._counts(holder) for holder in holders - {key.key})

    def _counts(self, key: str) -> bool:
        """Return whether the attachment or endpoint with that key counts."""
        if is_attachment_key(key):
            held = self._view.attachment(attachment_key(key))
            return held is not None and self._view.counts(held.attachment)
        endpoint = self._view.endpoint(key.rpartition("/")[2])
        return endpoint is not None and self._view.counts_endpoint(endpoint)

    def _already_joined(self, attachment: Attachment, refused: ConditionFailed) -> Error:
        holder = refused.at(holder_key(attachment.endpoint_id))
        if holder is None:
            message = "another host has just changed this endpoint, or taken the address"
            return Error(Kind.CONFLICT, message, "repeat the request", CLAIMED_ELSEWHERE)
        _, host, container_id = holder.value.decode().split("/", 2)
        endpoint = self._view.endpoint(attachment.endpoint_id)
        name = endpoint.endpoint.name if endpoint else attachment.endpoint_id
        return joined_elsewhere(name, container_id, host)


def _endpoint_gone(attachment: Attachment) -> Error:
    return Error(Kind.NOT_FOUND, f"endpoint {attachment.endpoint_id} was deleted by another host")
