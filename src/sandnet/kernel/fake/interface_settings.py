"""Static routes, kernel parameters and taps of interfaces in sandboxes of the in-memory kernel."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.fake.common import FakeNamespace, FaultInjector, recorded
from sandnet.kernel.types import InnerTap, Veth


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

    @recorded
    def ensure_tap(self, namespace: str, veth: Veth, tap: InnerTap) -> None:
        """Ensure the tap."""
        if namespace not in self._pins:
            raise not_found("namespace", namespace)
        space = self._spaces[self._pins[namespace]]
        if veth.interface not in space.links:
            raise not_found("link", veth.interface)
        if tap.name in space.links:
            message = f"the name {tap.name} is taken in the namespace"
            raise Error(Kind.CONFLICT, message, code="interface_taken")
        space.taps[tap.name] = veth.interface

    @recorded
    def tap_problem(self, namespace: str, veth: Veth, tap: InnerTap) -> str:
        """Return whether the tap is absent."""
        space = self._spaces.get(self._pins.get(namespace, 0))
        return "" if space is None or tap.name in space.taps else f"there is no tap {tap.name}"

    @recorded
    def remove_tap(self, namespace: str, name: str) -> None:
        """Delete the tap."""
        if space := self._spaces.get(self._pins.get(namespace, 0)):
            space.taps.pop(name, None)
