"""Static routes, kernel parameters and taps of interfaces in sandboxes."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.linux.sysctl import ProcSysctl, set_where_different
from sandnet.kernel.linux.taps.inner_tap import delete_inner_tap, ensure_inner_tap, inner_tap_problem
from sandnet.kernel.netlink.routes import add_static, dump_routes
from sandnet.kernel.netlink.socket import Netlink, map_errors
from sandnet.kernel.syscalls import NotANetworkNamespaceError, in_namespace, opened_namespace
from sandnet.kernel.types import InnerTap, Veth
from sandnet.model.address import Address, Prefix

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class LinuxInterfaceSettings:
    """The Linux implementation of :class:`sandnet.kernel.namespace_protocols.InterfaceSettings`."""

    def ensure(self, namespace: str, veth: Veth) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.InterfaceSettings.ensure`."""
        with map_errors(f"configure {veth.interface} of {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    index = there.index(veth.interface)
                    if not index:
                        raise not_found("link", veth.interface)
                    with in_namespace(descriptor):
                        for name, value in veth.parameters:
                            set_where_different(ProcSysctl(), name, value)
                    for destination, gateway in veth.routes:
                        _ensure_route(there, index, destination, gateway)
            except (FileNotFoundError, NotANetworkNamespaceError) as error:
                raise not_found("namespace", namespace) from error

    def parameters(self, namespace: str, names: Collection[str]) -> Mapping[str, str]:
        """See :meth:`sandnet.kernel.namespace_protocols.InterfaceSettings.parameters`."""
        with map_errors(f"read parameters of {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, in_namespace(descriptor):
                    found = {name: ProcSysctl().get(name) for name in names}
            except (FileNotFoundError, NotANetworkNamespaceError):
                return {}
        return {name: value for name, value in found.items() if value is not None}

    def ensure_tap(self, namespace: str, veth: Veth, tap: InnerTap) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.InterfaceSettings.ensure_tap`."""
        with map_errors(f"make tap {tap.name} of {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    if not there.index(veth.interface):
                        raise not_found("link", veth.interface)
                    ensure_inner_tap(there, descriptor, veth, tap)
            except (FileNotFoundError, NotANetworkNamespaceError) as error:
                raise not_found("namespace", namespace) from error

    def tap_problem(self, namespace: str, veth: Veth, tap: InnerTap) -> str:
        """See :meth:`sandnet.kernel.namespace_protocols.InterfaceSettings.tap_problem`."""
        with map_errors(f"look at tap {tap.name} of {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    return inner_tap_problem(there, veth, tap)
            except (FileNotFoundError, NotANetworkNamespaceError):
                return ""  # the namespace itself is what is wrong

    def remove_tap(self, namespace: str, name: str) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.InterfaceSettings.remove_tap`."""
        with map_errors(f"delete tap {name} of {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    delete_inner_tap(there, name)
            except (FileNotFoundError, NotANetworkNamespaceError):
                return


def _ensure_route(there: Netlink, index: int, destination: Prefix, gateway: Address | None) -> None:
    if add_static(there, index, destination, gateway):
        return
    desired = (destination.network_address.packed, destination.prefixlen, gateway.packed if gateway else b"")
    present = dump_routes(there, _FAMILIES[destination.version], index)
    if desired not in {(route.destination, route.length, route.gateway) for route in present}:
        message = f"there is another route to {destination} in the sandbox"
        raise Error(Kind.CONFLICT, message, "remove it, or leave this one out", "route_taken")
