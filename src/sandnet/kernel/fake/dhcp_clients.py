"""DHCP clients of the in-memory kernel; a test is their server."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sandnet.kernel.dhcp.base import DhcpClient, DhcpReport, DhcpRequest
from sandnet.kernel.fake.common import FaultInjector, recorded
from sandnet.model.interfaces.dhcp_lease import DhcpLease


class FakeDhcpClients:
    """See :class:`sandnet.kernel.dhcp.base.DhcpClients`."""

    area = "dhcp_clients"

    def __init__(self, faults: FaultInjector) -> None:
        self.faults = faults
        self.missing = ""
        """The problem that a test lets the host have."""
        self.offer: DhcpLease | None = None
        """The lease that every client gets at its start, if a test set one."""
        self.running: dict[str, DhcpRequest] = {}
        self.reports: dict[str, DhcpReport] = {}
        """By endpoint: what its client has reported last."""
        self.released: list[str] = []
        """Endpoints whose clients have returned their addresses."""

    @recorded
    def problem(self) -> str:
        """Return what a test has set."""
        return self.missing

    @recorded
    def start(self, request: DhcpRequest) -> None:
        """Start a client, which gets the offer at once."""
        if request.id not in self.running:
            self.running[request.id] = request
            self.reports.pop(request.id, None)
            if self.offer:
                self.reports[request.id] = DhcpReport(self.offer.obtained, self.offer)

    @recorded
    def stop(self, ids: Collection[str], *, release: bool) -> None:
        """End clients."""
        for each in ids:
            if self.running.pop(each, None) and release:
                self.released.append(each)
            self.reports.pop(each, None)

    @recorded
    def states(self, ids: Collection[str]) -> Mapping[str, DhcpClient]:
        """Return the states."""
        return {each: DhcpClient(each in self.running, self.reports.get(each)) for each in ids}

    @recorded
    def endpoints(self) -> list[str]:
        """Return the clients."""
        return sorted({*self.running, *self.reports})
