"""Limits of the traffic of ports in the in-memory kernel."""

from __future__ import annotations

from collections.abc import Mapping

from sandnet.errors import not_found
from sandnet.kernel.fake.common import FaultInjector, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.types import NO_LIMITS, PortLimits
from sandnet.model.link_names import shaper_name


class FakeTrafficLimits:
    """See :class:`sandnet.kernel.base.TrafficLimits`."""

    area = "limits"

    def __init__(self, faults: FaultInjector, links: FakeLinks) -> None:
        self.faults = faults
        self._links = links
        self._limits: dict[str, tuple[int, PortLimits]] = {}
        """By port: its index, as a new port of that name has no limits."""

    @recorded
    def ensure(self, port: str, limits: PortLimits) -> None:
        """Set exactly these limits."""
        if port not in self._links.present:
            raise not_found("link", port)
        self._limits[port] = (self._links.present[port].ifindex, limits)
        if limits.egress:
            if shaper_name(port) not in self._links.present:
                self._links.add(shaper_name(port), "ifb")
        elif shaper_name(port) in self._links.present:
            self._links.drop(shaper_name(port))

    @recorded
    def list(self) -> Mapping[str, PortLimits]:
        """Return the limits of the ports that have any."""
        present = self._links.present
        known = {
            port: limits if shaper_name(port) in present else limits._replace(egress=None)
            for port, (index, limits) in self._limits.items()
            if port in present and present[port].ifindex == index
        }
        return {port: limits for port, limits in known.items() if limits != NO_LIMITS}
