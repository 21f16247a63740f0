"""Repair a sandbox that another process damaged, by the same steps that created it. The caller holds its locks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.names.host_files import HostFiles
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.reconcile.sandbox_diff import TOO_MUCH
from sandnet.core.state.records import Records
from sandnet.errors import Error, Kind, collected
from sandnet.firewall.base import Fault
from sandnet.kernel.base import Kernel, Links
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Origin, Sandbox

ABSENT: Final = "namespace_gone"
"""The error code for a sandbox whose namespace no longer exists and was not made by the daemon, so it is not
repaired.
"""


class SandboxRepair:
    """Repairs of one sandbox at a time."""

    def __init__(
        self,
        records: Records,
        resolver_sync: ResolverSync,
        host_files: HostFiles,
        kernel: Kernel,
        workers: Workers,
        sandboxes: Sandboxes,
    ) -> None:
        self._records = records
        self._resolver_sync = resolver_sync
        self._host_files = host_files
        self._kernel = kernel
        self._workers = workers
        self._sandboxes = sandboxes

    async def sandbox(self, sandbox: Sandbox, faults: Sequence[Fault]) -> None:
        """Restore the namespace, links and routes of a sandbox.

        Raises:
            Error: ``CONFLICT`` another namespace is at its key; ``NOT_FOUND`` (code ``ABSENT``) a namespace that the
                daemon did not make no longer exists; ``UNAVAILABLE`` it contains too much to compare; or an error of
                the kernel.
        """
        if too_large := any(each.reason == TOO_MUCH for each in faults):
            faults = [each for each in faults if each.reason != TOO_MUCH]
        before = sandbox
        sandbox = await self._with_namespace(sandbox)
        affected = {each.attachment.endpoint_id for each in faults if each.attachment}
        if len(affected) < len(faults):  # a fault concerns the sandbox itself
            affected = {each.endpoint_id for each in self._attachments(sandbox)}
        await self._connect(sandbox, affected)
        if sandbox.inode != before.inode:  # the resolver's sockets are in the namespace that no longer exists
            for attachment in self._attachments(sandbox):
                await self._resolver_sync.attachment_added(sandbox, attachment)
        if too_large:
            hint = "remove what fills it (ip route, ip address, ip rule, ip link), or make the container leave"
            raise Error(Kind.UNAVAILABLE, f"sandbox {sandbox.container_id} cannot be compared", hint)

    async def files(self, sandbox: Sandbox) -> None:
        """Write its files again.

        Raises:
            Error: a path has become one that must not be written.
        """
        digests = await self._workers.run(self._host_files.write_job(sandbox))
        if (after := digests.on(sandbox)) != sandbox:
            await self._records.commit(put=[after])

    async def _connect(self, sandbox: Sandbox, endpoints: Collection[str]) -> None:
        failures: list[Exception] = []
        for attachment in self._attachments(sandbox):
            if attachment.endpoint_id in endpoints:
                try:
                    await self._sandboxes.ensure(self._records.sandbox(sandbox.container_id) or sandbox, attachment)
                except Error as failure:
                    failures.append(failure)
        if failures:
            raise collected(f"sandbox {sandbox.container_id} is not whole", failures)

    def _attachments(self, sandbox: Sandbox) -> Sequence[Attachment]:
        return self._sandboxes.attachments(sandbox)

    async def _with_namespace(self, sandbox: Sandbox) -> Sandbox:
        if sandbox.origin is Origin.GUEST:
            return sandbox  # an absent tap is created again
        if sandbox.origin is Origin.EXTERNAL:
            return await self._with_link(sandbox)
        namespaces = self._kernel.namespaces
        found = await self._workers.run(namespaces.find, sandbox.key)
        if found is None or sandbox.inode == 0:
            return await self._restore_namespace(sandbox)
        if found.inode != sandbox.inode:
            message = f"another namespace is pinned at {sandbox.key}"
            raise Error(Kind.CONFLICT, message, f"unmount it (umount {sandbox.key}), or leave the container's networks")
        if not found.loopback_was_up:
            await self._workers.run(namespaces.make, sandbox.key)
        return sandbox

    async def _with_link(self, sandbox: Sandbox) -> Sandbox:
        """Return the sandbox if a link of it exists. The kernel deletes a container's links with its namespace."""
        if await self._has_link(sandbox):
            return sandbox
        message = f"no link of container {sandbox.container_id} exists any more"
        raise Error(Kind.NOT_FOUND, message, "connect it again if it still runs", ABSENT)

    async def _restore_namespace(self, sandbox: Sandbox) -> Sandbox:
        """Pin the same namespace if it exists anywhere; else create a new one, if the daemon had made the first."""
        namespaces, run = self._kernel.namespaces, self._workers.run
        if sandbox.origin is Origin.HOST:
            await run(namespaces.pin, sandbox.key)
            return sandbox
        if await self._pin_existing(sandbox):
            return sandbox
        if sandbox.origin is Origin.JOINED:
            message = f"the namespace that container {sandbox.container_id} came with is gone"
            raise Error(Kind.NOT_FOUND, message, "the container is made to leave at the next look", ABSENT)
        # killed between the two commits, the daemon leaves a record that claims any namespace at the key as its own
        await self._records.commit(put=[replace(sandbox, inode=0)])
        sandbox = replace(sandbox, inode=(await run(namespaces.make, sandbox.key)).inode)
        await self._records.commit(put=[sandbox])
        return sandbox

    async def _pin_existing(self, sandbox: Sandbox) -> bool:
        """Pin the namespace through a process in it, or through another path where it is mounted.

        Return whether either exists. If it has moved since, this fails, and the next attempt searches again.

        The kernel gives the inode number of a deleted namespace to the next one. A link of the sandbox is deleted with
        its namespace. So without any, a namespace of that number is another program's or container's. It may have been
        deleted during the search, too.
        """
        if not await self._has_link(sandbox):
            return False
        state_reader, run = self._kernel.state_reader, self._workers.run
        pid = await run(state_reader.process_in, sandbox.inode) if sandbox.inode else 0
        path = await run(state_reader.mount_path_of, sandbox.inode) if sandbox.inode and not pid else ""
        if pid or path:
            await run(self._kernel.namespaces.pin, sandbox.key, pid=pid, path=path, inode=sandbox.inode)
            if not await self._has_link(sandbox):
                await run(self._kernel.namespaces.release, sandbox.key, inode=sandbox.inode)
                return False
        return bool(pid or path)

    async def _has_link(self, sandbox: Sandbox) -> bool:
        """Return whether one of the sandbox's links on the host exists, or it has none by its records."""
        links = [each.host_link for each in self._attachments(sandbox) if each.host_link]
        return not links or await self._workers.run(_any_exists, self._kernel.links, links)


def _any_exists(links: Links, names: Iterable[str]) -> bool:
    return any(links.find(name) for name in names)
