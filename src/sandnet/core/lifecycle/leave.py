"""Leaves: remove an attachment, and the sandbox with its last one.

A leave records its intent and undoes the join in the reverse order, past errors. What remains is finished by the same
call, or by the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.default_routes import SandboxRoutes
from sandnet.core.lifecycle.sandbox_setup import Failures, detach_link, raise_incomplete, tear_down
from sandnet.core.runtime.context import Context
from sandnet.core.runtime.operations import alongside
from sandnet.core.state.leased_addresses import with_lease
from sandnet.errors import Error
from sandnet.firewall.base import RunBetween, Step, no_step
from sandnet.model import Attachment, Endpoint, Interface, Network, Phase, Sandbox

_log = logging.getLogger(__name__)


class Leaves:
    """The removal of attachments and sandboxes. The callers hold the locks of the endpoint and of the sandbox."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records
        self._backends = Backends(context)
        self._routes = SandboxRoutes(context.records)

    async def disconnect(self, attachment: Attachment) -> None:
        """Remove an attachment in any phase, and the sandbox with its last one.

        Raises:
            Error: ``INTERNAL`` with all failures; the records stay, and the same call finishes the work.
        """
        attachment = replace(attachment, phase=Phase.REMOVING)
        sandbox = self._records.sandbox(attachment.container_id)
        last = len(self._records.attachments_of_container(attachment.container_id)) == 1
        if sandbox and last:
            sandbox = replace(sandbox, phase=Phase.REMOVING)
        network, endpoint = self._records.network(attachment.network_id), self._records.endpoint(attachment.endpoint_id)
        returned = [with_lease(endpoint, attachment, None)[0]] if endpoint and endpoint.lease else []
        await self._records.commit(put=[attachment, *([sandbox] if sandbox and last else []), *returned])
        for unnamed in returned:
            await self._forget_address(network, unnamed)
        async with alongside(self._context.resolver_sync.attachments_removed([attachment])):
            if network and endpoint:
                await self._backends.fail_over(network, endpoint, attachment)
            if sandbox and last:
                await self._remove(sandbox, attachment)
            elif sandbox:
                await self._unplug(sandbox, attachment)
            elif network and endpoint:
                await self._rebalance(network, endpoint, attachment)
        await self._records.commit(delete=[attachment, sandbox] if sandbox and last else [attachment])
        if sandbox and not last:
            await self._refresh_files(sandbox)
        if network:
            self.release(network, attachment)

    async def _forget_address(self, network: Network | None, endpoint: Endpoint) -> None:
        """Remove the name of an address that goes back to a server, which may give it to another machine now."""
        if network and endpoint.address_ipv6:
            await self._context.resolver_sync.endpoint_added(network, endpoint)
        else:
            await self._context.resolver_sync.endpoint_removed(endpoint)
        if network:
            self._context.host_files.changed(endpoint, network)

    async def tear_down(self, sandbox: Sandbox) -> None:
        """Remove a sandbox without attachments.

        Raises:
            Error: as :meth:`disconnect`.
        """
        await self._remove(sandbox, None)
        await self._records.commit(delete=[sandbox])

    def release(self, network: Network, attachment: Attachment) -> None:
        """Release the addresses that the attachment leased for itself."""
        if attachment.leased:
            self._context.leases.release(network, attachment.address, attachment.address_ipv6)

    async def _rebalance(self, network: Network, endpoint: Endpoint, attachment: Attachment) -> None:
        try:
            await self._backends.rebalance(network, endpoint)
        except Error as failure:  # the backend is removed nevertheless; the next change of the service repairs the rest
            _log.warning("service %s still knows %s: %s", endpoint.name, attachment.container_id, failure)

    async def _remove(self, sandbox: Sandbox, last: Attachment | None) -> None:
        """Remove the sandbox's last link, its namespace and its files, and undo the driver's part."""
        files = self._context.host_files.remove_job(sandbox)
        shared = self._shared(last) if last else ()
        job = partial(tear_down, self._context.kernel, sandbox, last, shared, files)
        await self._leave(last, partial(self._run, f"removal of sandbox {sandbox.container_id}", sandbox, job))

    async def _unplug(self, sandbox: Sandbox, attachment: Attachment) -> None:
        """Remove one link of a sandbox that remains, and undo the driver's part."""
        shared, routes = self._shared(attachment), self._routes.of(sandbox)
        job = partial(detach_link, self._context.kernel, sandbox, attachment, shared, routes)
        await self._leave(attachment, partial(self._run, f"leave of {sandbox.container_id}", sandbox, job))

    async def _leave(self, attachment: Attachment | None, tear_down: RunBetween[None]) -> None:
        network = self._records.network(attachment.network_id) if attachment else None
        if network and attachment:
            if not attachment.leased and len(self._records.attachments_of_endpoint(attachment.endpoint_id)) > 1:
                attachment = replace(attachment, address=None, address_ipv6=None)  # the next holder has them
            await self._backends.leave(network, attachment, tear_down)
        else:
            await tear_down(no_step, no_step)

    async def _run(self, what: str, sandbox: Sandbox, job: partial[Failures], first: Step, last: Step) -> None:
        """Run a teardown between the driver's steps.

        The last step is left out if the teardown is not complete: until then the driver filters what the port sends.

        Raises:
            Error: all failures.
        """
        failures = await self._context.workers.run(_run_all, job, first, last)
        self._context.link_reaper.schedule(sandbox.container_id)
        raise_incomplete(what, failures)

    async def _refresh_files(self, sandbox: Sandbox) -> None:
        """Refresh the files: names are removed, and without an IPv6 address, IPv6 name servers are of no use."""
        try:
            digests = await self._context.workers.run(self._context.host_files.refresh_job(sandbox))
        except Error as failure:  # the leave itself is done
            _log.warning("files of %s are stale: %s", sandbox.container_id, failure)
            return
        if (after := digests.on(sandbox)) != sandbox:
            await self._records.commit(put=[after])

    def _shared(self, attachment: Attachment) -> Sequence[Interface]:
        """Return the endpoint's addresses, if the interface has others of its own."""
        endpoint = self._records.endpoint(attachment.endpoint_id)
        if endpoint is None or not attachment.leased:
            return ()
        return [interface for interface in (endpoint.address, endpoint.address_ipv6) if interface]


def _run_all(teardown: partial[Failures], first: Step, last: Step) -> Failures:
    first()
    failures = teardown()
    if not failures:
        last()
    return failures
