"""Static routes and kernel parameters of interfaces in sandboxes of the in-memory kernel."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.fake.common import FakeNamespace, FaultInjector, recorded
from sandnet.kernel.types import Veth


class FakeInterfaceSettings:
    """See :class:`sandnet.kernel.namespace_protocols.InterfaceSettings`."""

    area = "interface_settings"

    def __init__(self, faults: FaultInjector, spaces: dict[int, FakeNamespace], pins: dict[str, int]) -> None:
        self.faults = faults
        self._spaces = spaces
        self._pins = pins

    @recorded
    def ensure(self, namespace: str, veth: Veth) -> None:
        """Ensure the routes and parameters."""
        if namespace not in self._pins:
            raise not_found("namespace", namespace)
        space = self._spaces[self._pins[namespace]]
        if veth.interface not in space.links:
            raise not_found("link", veth.interface)
        inner = space.links[veth.interface]
        inner.parameters.update(veth.parameters)
        for route in veth.routes:
            others = [each for name, each in space.links.items() if name != veth.interface]
            if any(route[0] == destination for each in others for destination, _ in each.routes):
                message = f"there is another route to {route[0]} in the sandbox"
                raise Error(Kind.CONFLICT, message, code="route_taken")
            if route not in inner.routes:
                inner.routes.append(route)

    @recorded
    def parameters(self, namespace: str, names: Collection[str]) -> Mapping[str, str]:
        """Return the values that were set."""
        space = self._spaces.get(self._pins.get(namespace, 0))
        links = space.links.values() if space else ()
        return {name: value for link in links for name, value in link.parameters.items() if name in names}
