"""Routes and parameters of an interface, from the options of its join and its network."""

from __future__ import annotations

from sandnet.kernel.types import Veth
from sandnet.model import Attachment, Network
from sandnet.model.interfaces.interface_options import InterfaceOptions, sysctl_path


def with_interface_options(veth: Veth, net: Network, att: Attachment) -> Veth:
    """Return a link with the routes of its network and of its join, and with the parameters of its join.

    A link of which the daemon configures the host's end only has none.
    """
    own = att.options or InterfaceOptions()
    if not (net.options.routes or att.options):
        return veth
    families = {address.version for address in (att.address, att.address_ipv6) if address}
    routes = {route.destination: route.gateway for route in (*net.options.routes, *own.routes)}
    return veth._replace(
        routes=tuple((to, gateway) for to, gateway in routes.items() if to.version in families),
        parameters=tuple((sysctl_path(name, att.interface), value) for name, value in own.sysctls.items()),
    )
