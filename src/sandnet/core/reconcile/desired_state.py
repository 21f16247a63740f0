"""The desired state of the kernel, as the records have it now."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sandnet.core.lifecycle.default_routes import SandboxRoutes
from sandnet.core.reconcile.sandbox_diff import DesiredSandbox
from sandnet.core.state.records import Records
from sandnet.drivers.base import Driver
from sandnet.firewall.base import EndpointState, NetworkState
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.types import Veth
from sandnet.model import Attachment, Network, Phase, Sandbox
from sandnet.model.link_names import moving_link_name


class DesiredState:
    """The desired state, read from the records."""

    def __init__(self, records: Records, drivers: Mapping[str, Driver], link_reaper: LinkReaper) -> None:
        self._records = records
        self._drivers = drivers
        self._link_reaper = link_reaper
        self._routes = SandboxRoutes(records)

    def networks(self) -> list[Network]:
        """Return the networks that are ready."""
        return [net for net in self._records.networks() if net.phase is Phase.READY]

    def sandboxes(self) -> list[Sandbox]:
        """Return the sandboxes that no operation is changing, according to their records."""
        return [sandbox for sandbox in self._records.sandboxes() if self.is_stable(sandbox)]

    def is_stable(self, sandbox: Sandbox | None) -> bool:
        """Return whether a sandbox and all its attachments are ready."""
        if sandbox is None or sandbox.phase is not Phase.READY:
            return False
        return all(each.phase is Phase.READY for each in self.attachments(sandbox))

    def attachments(self, sandbox: Sandbox) -> list[Attachment]:
        """Return the attachments of a sandbox, in any phase."""
        return self._records.attachments_of_container(sandbox.container_id)

    def sandbox(self, sandbox: Sandbox) -> DesiredSandbox:
        """Return a sandbox with its links and routes."""
        links, supplied = self.links_of(sandbox), [each for each in self.attachments(sandbox) if each.supplied]
        return DesiredSandbox(sandbox, links, self._routes.default(sandbox), self._routes.by_source(sandbox), supplied)

    def links_of(self, sandbox: Sandbox) -> list[tuple[Attachment, Veth]]:
        """Return the links of a sandbox that the drivers make."""
        links = []
        for attachment in self.attachments(sandbox):
            network = self._records.network(attachment.network_id)
            endpoint = self._records.endpoint(attachment.endpoint_id)
            if network and endpoint:
                veth = self._drivers[network.driver].link(network, endpoint, attachment)
                links += [(attachment, veth)] if veth else []
        return links

    def links(self) -> set[str]:
        """Return the names of links that belong to a record, or to the link reaper."""
        records, retired = self._records, self._link_reaper.owners
        nets = {link for net in records.networks() for link in net.links}
        return nets | {each.host_link for each in records.attachments()} | self._moving() | retired

    def is_claimed(self, link: str) -> bool:
        """Return whether a link belongs to a record, or to the link reaper."""
        if self._records.network_of_link(link) or self._records.attachment_of_link(link):
            return True
        return link in self._link_reaper.owners or link in self._moving()

    def _moving(self) -> set[str]:
        """Return the names of links that are being moved, for which no attachment has a link yet."""
        return {moving_link_name(each.endpoint_id) for each in self._records.attachments() if not each.host_link}

    def networks_with_links(self, phases: Collection[Phase]) -> list[NetworkState]:
        """Return the networks that have a link on the host, with their endpoints and attachments in one of these
        phases.
        """
        return [NetworkState(net, self._endpoints(net.id, phases)) for net in self.linked_networks(phases)]

    def linked_networks(self, phases: Collection[Phase]) -> list[Network]:
        """Return the same networks alone: to collect their endpoints takes 5 ms of the event loop at a thousand."""
        return [net for net in self._records.networks() if net.link and net.phase in phases]

    def _endpoints(self, network_id: str, phases: Collection[Phase]) -> list[EndpointState]:
        found = (endpoint for endpoint in self._records.endpoints_of(network_id) if endpoint.phase in phases)
        return [EndpointState(endpoint, self._backends(endpoint.id, phases)) for endpoint in found]

    def _backends(self, endpoint_id: str, phases: Collection[Phase]) -> list[Attachment]:
        own = [each for each in self._records.attachments_of_endpoint(endpoint_id) if each.phase in phases]
        return [*own, *(each.as_backend() for each in self._records.remote.of_endpoint(endpoint_id))]
