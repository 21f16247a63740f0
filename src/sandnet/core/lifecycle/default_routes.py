"""Elect the network that carries a sandbox's default route, and route answers on its other networks by source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from typing import NamedTuple

from sandnet.core.state.records import Records
from sandnet.kernel.types import DefaultRoute, SourceRoute
from sandnet.model import Attachment, Endpoint, Interface, Network, Phase, Prefix, Sandbox
from sandnet.model.ports import UDP


class Gateways(NamedTuple):
    """Next hops that a network offers its sandboxes."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None


def gateways_of(net: Network) -> Gateways:
    """Return a network's gateways, as recorded; none for a family that is internal or absent."""
    ipv4 = net.ipv4.gateway if net.ipv4 else None
    ipv6 = net.ipv6.gateway if net.ipv6 else None
    return Gateways(ipv4 if isinstance(ipv4, IPv4Address) else None, ipv6 if isinstance(ipv6, IPv6Address) else None)


def _offered(net: Network, attachment: Attachment) -> Gateways:
    """Return the next hops of an attachment: those of the plugin that supplied its link, or the network's."""
    if attachment.supplied:
        return Gateways(attachment.supplied.gateway, attachment.supplied.gateway_ipv6)
    return gateways_of(net) if attachment.interface else Gateways()


def elect(candidates: Iterable[tuple[Attachment, Gateways]]) -> list[DefaultRoute]:
    """Elect one default route per family: of the highest ``gateway_priority``, then of the first attached.

    Each family is elected separately, so a network without IPv6 does not take IPv6 away from another.
    """
    order = sorted(candidates, key=lambda each: (-each[0].gateway_priority, each[0].sequence))
    ipv4 = (DefaultRoute(att.interface, hops.ipv4) for att, hops in order if hops.ipv4 and att.address)
    ipv6 = (DefaultRoute(att.interface, hops.ipv6) for att, hops in order if hops.ipv6 and att.address_ipv6)
    return [route for route in (next(ipv4, None), next(ipv6, None)) if route]


class Attached(NamedTuple):
    """One attachment of a sandbox, with the fields that its routes depend on."""

    attachment: Attachment
    endpoint: Endpoint
    gateways: Gateways


def source_routes(attached: Sequence[Attached]) -> list[SourceRoute]:
    """Return the routes by which a sandbox answers on the network of the request; none if it has one interface only.

    Args:
        attached: the attachments of the sandbox.
    """
    elected = {(route.gateway.version, route.interface) for route in elect((a, g) for a, _, g in attached)}
    order = sorted(attached, key=lambda each: (-each.attachment.gateway_priority, each.attachment.sequence))
    return [route for version in (4, 6) for route in _of_family(version, order, elected)]


def _of_family(version: int, attached: Sequence[Attached], elected: Set[tuple[int, str]]) -> Iterator[SourceRoute]:
    own = [(each, address) for each in attached if (address := _address(version, each)) and each.attachment.interface]
    if len(own) < 2:
        return
    taken: set[int] = set()
    for each, address in own:
        gateway = each.gateways.ipv4 if version == 4 else each.gateways.ipv6
        service = each.endpoint.address if version == 4 else each.endpoint.address_ipv6
        further = [own.ip for own in each.attachment.additional_addresses if own.version == version]
        ports = {port.port for port in each.endpoint.ports if (port.proto, port.host_ip.version) == (UDP, version)}
        default = gateway is not None and (version, each.attachment.interface) not in elected
        yield SourceRoute(
            interface=each.attachment.interface,
            address=address,
            sources=tuple(dict.fromkeys((address.ip, *([service.ip] if service else []), *further))),
            gateway=gateway,
            others=_others(address, (other for _, other in own)) if gateway else (),
            default=default,
            udp_ports=tuple(_ranges(ports - taken)) if default else (),
        )
        taken |= ports


def _address(version: int, each: Attached) -> Interface | None:
    return each.attachment.address if version == 4 else each.attachment.address_ipv6


def _others(own: Interface, addresses: Iterable[Interface]) -> tuple[Prefix, ...]:
    return tuple(dict.fromkeys(address.network for address in addresses if address.network != own.network))


def _ranges(ports: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield each range of consecutive ports, by its first and last."""
    for _, group in groupby(enumerate(sorted(ports)), key=lambda pair: pair[1] - pair[0]):
        members = [port for _, port in group]
        yield members[0], members[-1]


class Routes(NamedTuple):
    """The desired routes of a sandbox."""

    default: Sequence[DefaultRoute]
    by_source: Sequence[SourceRoute]


class SandboxRoutes:
    """The desired routes of sandboxes, from the current records."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def of(self, sandbox: Sandbox) -> Routes:
        """Return the routes that a sandbox should have now."""
        return Routes(self.default(sandbox), self.by_source(sandbox))

    def default(self, sandbox: Sandbox) -> list[DefaultRoute]:
        """Return the default routes of a sandbox, at most one per family; none where a guest has them."""
        return self._elected(each for each in self._attached(sandbox) if not each.attachment.tap)

    def of_guest(self, sandbox: Sandbox) -> list[DefaultRoute]:
        """Return the default routes that a sandbox should have, be it a virtual machine that sets them itself."""
        return self._elected(self._attached(sandbox))

    def by_source(self, sandbox: Sandbox) -> list[SourceRoute]:
        """Return the routes by source of a sandbox; none if it has one interface only, or a guest has them."""
        return source_routes([each for each in self._attached(sandbox) if not each.attachment.tap])

    def _elected(self, attached: Iterable[Attached]) -> list[DefaultRoute]:
        return elect((each.attachment, each.gateways) for each in attached)

    def _attached(self, sandbox: Sandbox) -> list[Attached]:
        found = []
        for attachment in self._records.attachments_of_container(sandbox.container_id):
            network = self._records.network(attachment.network_id)
            endpoint = self._records.endpoint(attachment.endpoint_id)
            if network and endpoint and attachment.phase is not Phase.REMOVING:
                found.append(Attached(attachment, endpoint, _offered(network, attachment)))
        return found
