"""Puts a sandbox right that somebody broke, by the verbs that made it. Called with its locks held."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from msgspec.structs import replace

from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.reconcile.sandbox_diff import TOO_MUCH, Wrong
from sandnet.core.runtime.context import Parts
from sandnet.errors import Error, Kind, collected
from sandnet.model import Attachment, Origin, Sandbox

GONE: Final = "namespace_gone"
"""Code of the refusal to repair a sandbox whose namespace was not of our making, and is no more."""


class Mending:
    """Repairs of one sandbox at a time."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes) -> None:
        self._parts = parts
        self._records = parts.records
        self._sandboxes = sandboxes

    async def sandbox(self, box: Sandbox, wrong: Sequence[Wrong]) -> None:
        """Give it its namespace, links and routes back.

        Raises:
            Error: ``CONFLICT`` another namespace is at its key; ``NOT_FOUND`` (code ``GONE``) a namespace that was
                not of our making is gone; ``UNAVAILABLE`` there is too much in it to compare; or what the kernel
                refuses.
        """
        if crowded := any(each.reason == TOO_MUCH for each in wrong):
            wrong = [each for each in wrong if each.reason != TOO_MUCH]
        before = box
        box = await self._with_namespace(box)
        affected = {each.attachment.endpoint_id for each in wrong if each.attachment}
        if len(affected) < len(wrong):  # something is wrong with the sandbox itself
            affected = {each.endpoint_id for each in self._attachments(box)}
        await self._connect(box, affected)
        if box.inode != before.inode:  # the resolver's sockets are in the one that is gone
            for attachment in self._attachments(box):
                await self._parts.naming.attachment_came(box, attachment)
        if crowded:
            hint = "remove what fills it (ip route, ip address, ip rule, ip link), or make the container leave"
            raise Error(Kind.UNAVAILABLE, f"sandbox {box.container_id} cannot be compared", hint)

    async def files(self, box: Sandbox) -> None:
        """Write its files again.

        Raises:
            Error: a path has become one that must not be written.
        """
        digests = await self._parts.workers.run(self._parts.files.writing(box))
        if (after := digests.on(box)) != box:
            await self._records.commit(put=[after])

    async def _connect(self, box: Sandbox, endpoints: Collection[str]) -> None:
        failures: list[Exception] = []
        for attachment in self._attachments(box):
            if attachment.endpoint_id in endpoints:
                try:
                    await self._sandboxes.ensure(self._records.sandbox(box.container_id) or box, attachment)
                except Error as failure:
                    failures.append(failure)
        if failures:
            raise collected(f"sandbox {box.container_id} is not whole", failures)

    def _attachments(self, box: Sandbox) -> Sequence[Attachment]:
        return self._sandboxes.attachments(box)

    async def _with_namespace(self, box: Sandbox) -> Sandbox:
        namespaces = self._parts.kernel.namespaces
        found = await self._parts.workers.run(namespaces.find, box.key)
        if found is None or box.inode == 0:
            return await self._pinned_again(box)
        if found.inode != box.inode:
            message = f"another namespace is pinned at {box.key}"
            raise Error(Kind.CONFLICT, message, f"unmount it (umount {box.key}), or leave the container's networks")
        if not found.loopback_was_up:
            await self._parts.workers.run(namespaces.make, box.key)
        return box

    async def _pinned_again(self, box: Sandbox) -> Sandbox:
        """The same namespace, if it is anywhere; else a new one, where it was we who made it."""
        namespaces, run = self._parts.kernel.namespaces, self._parts.workers.run
        if box.origin is Origin.HOST:
            await run(namespaces.pin, box.key)
            return box
        if await self._found_again(box):
            return box
        if box.origin is Origin.JOINED:
            message = f"the namespace that container {box.container_id} came with is gone"
            raise Error(Kind.NOT_FOUND, message, "the container is made to leave at the next look", GONE)
        # whoever is killed in between leaves a record that says: whatever is at the key is ours
        await self._records.commit(put=[replace(box, inode=0)])
        box = replace(box, inode=(await run(namespaces.make, box.key)).inode)
        await self._records.commit(put=[box])
        return box

    async def _found_again(self, box: Sandbox) -> bool:
        """Pin the namespace of a process in it, or from another place where it is mounted, if there is either.

        Should it be elsewhere by now, this fails, and the next try looks again.
        """
        survey, run = self._parts.kernel.survey, self._parts.workers.run
        pid = await run(survey.lives_in, box.inode) if box.inode else 0
        path = await run(survey.mounted_at, box.inode) if box.inode and not pid else ""
        if pid or path:
            await run(self._parts.kernel.namespaces.pin, box.key, pid=pid, path=path, inode=box.inode)
        return bool(pid or path)
