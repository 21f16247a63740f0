"""How things should be, as the records say at the moment of the question."""

from __future__ import annotations

from collections.abc import Collection

from sandnet.core.lifecycle.default_routes import SandboxRoutes
from sandnet.core.reconcile.sandbox_diff import DesiredSandbox
from sandnet.core.runtime.context import Context
from sandnet.firewall.base import EndpointState, NetworkState
from sandnet.model import Attachment, Network, Phase, Sandbox


class DesiredState:
    """Reads the records."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records
        self._routes = SandboxRoutes(context)

    def networks(self) -> list[Network]:
        """Those that are ready."""
        return [net for net in self._records.networks() if net.phase is Phase.READY]

    def sandboxes(self) -> list[Sandbox]:
        """Those that nobody is changing, as far as their records tell."""
        return [sandbox for sandbox in self._records.sandboxes() if self.is_stable(sandbox)]

    def is_stable(self, sandbox: Sandbox | None) -> bool:
        """Whether a sandbox and all its attachments are ready."""
        if sandbox is None or sandbox.phase is not Phase.READY:
            return False
        return all(each.phase is Phase.READY for each in self.attachments(sandbox))

    def attachments(self, sandbox: Sandbox) -> list[Attachment]:
        """What a sandbox is attached to, whatever the phase."""
        return self._records.attachments_of_container(sandbox.container_id)

    def sandbox(self, sandbox: Sandbox) -> DesiredSandbox:
        """A sandbox's links and routes."""
        links = []
        for attachment in self.attachments(sandbox):
            network = self._records.network(attachment.network_id)
            endpoint = self._records.endpoint(attachment.endpoint_id)
            if network and endpoint:
                veth = self._context.drivers[network.driver].link(network, endpoint, attachment)
                links += [(attachment, veth)] if veth else []
        return DesiredSandbox(sandbox, links, self._routes.default(sandbox), self._routes.by_source(sandbox))

    def links(self) -> set[str]:
        """Names of links that belong to somebody: to a record, or to the reaper."""
        records, dying = self._records, self._context.link_reaper.owners
        return {net.link for net in records.networks()} | {a.host_link for a in records.attachments()} | dying

    def networks_with_links(self, phases: Collection[Phase]) -> list[NetworkState]:
        """Return the networks that have a link on the host, with what is on them that is in one of these phases."""
        own = (net for net in self._records.networks() if net.link and net.phase in phases)
        return [NetworkState(net, self._endpoints(net.id, phases)) for net in own]

    def _endpoints(self, network_id: str, phases: Collection[Phase]) -> list[EndpointState]:
        found = (endpoint for endpoint in self._records.endpoints_of(network_id) if endpoint.phase in phases)
        return [EndpointState(endpoint, self._backends(endpoint.id, phases)) for endpoint in found]

    def _backends(self, endpoint_id: str, phases: Collection[Phase]) -> list[Attachment]:
        return [each for each in self._records.attachments_of_endpoint(endpoint_id) if each.phase in phases]
