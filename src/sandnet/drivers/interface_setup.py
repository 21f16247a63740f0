"""Addresses, routes and parameters of an interface, from its endpoint and the options of its join and its network."""

from __future__ import annotations

from sandnet.errors import invalid
from sandnet.kernel.types import Veth
from sandnet.model import Attachment, EndpointSpec, Network
from sandnet.model.interfaces.additional_addresses import check_additional
from sandnet.model.interfaces.interface_options import InterfaceOptions, sysctl_path
from sandnet.model.network import OWN_DRIVERS


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


def check_additional_addresses(net: Network, spec: EndpointSpec) -> None:
    """Refuse additional addresses that no endpoint can have, and all on a network of a plugin.

    Its protocol has one address of each family.

    Raises:
        Error: ``INVALID``.
    """
    check_additional(spec.additional_addresses, (spec.address, spec.address_ipv6), "additional_addresses")
    if spec.additional_addresses and net.driver not in OWN_DRIVERS:
        message = f"network {net.name} ({net.driver}) gives an endpoint one address of each family"
        raise invalid(message, "leave the additional addresses out", "one_address")
