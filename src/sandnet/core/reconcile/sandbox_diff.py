"""Compare a sandbox and its links, as found in the kernel, with the desired state: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sandnet.firewall.base import Fault
from sandnet.kernel.base import TrafficLimits
from sandnet.kernel.namespace_protocols import InterfaceSettings
from sandnet.kernel.source_policy import policy
from sandnet.kernel.types import (
    NO_LIMITS,
    DefaultRoute,
    Link,
    NamespaceState,
    PinnedNamespace,
    Port,
    SourceRoute,
    Veth,
    host_prefix,
    packed_addresses_on,
    packed_interface,
    packed_prefix,
)
from sandnet.model import Address, Attachment, Origin, Sandbox
from sandnet.model.link_names import link_mac, shaper_name
from sandnet.model.tap import TAP_KIND

NO_SANDBOX: Final = "the container's network stack cannot be found: nothing can be attached to it or run in it"
NO_LOOPBACK: Final = "programs of the container do not reach each other, nor the resolver"
NO_LINK: Final = "the container reaches no one on this network"
NO_PEER: Final = "packets are lost, or come from an unknown address"
NO_ROUTE: Final = "the container reaches nothing beyond its own networks"
NO_ANSWER: Final = "answers leave by another network than the question came by, and are lost there"
NO_SUBNET: Final = "the container does not reach its neighbours directly"
NO_SERVICE: Final = "the container does not answer at the address of its service"
TOO_MUCH: Final = "what is wrong inside it is not noticed: reading all of it would keep the repairs of others waiting"
TAKEN_MAC: Final = "the host takes what is sent to that MAC, which may be a neighbour's"
TOO_OPEN: Final = "the port does not follow its network's options: it talks to whom it must not, or not to itself"


NO_GUEST: Final = "the virtual machine reaches no one on this network"
OTHER_PARAMETER: Final = "the interface behaves otherwise than requested"
OTHER_RATE: Final = "the container has more or less bandwidth than its endpoint"


class DesiredSandbox(NamedTuple):
    """The desired state of a sandbox."""

    sandbox: Sandbox
    links: Sequence[tuple[Attachment, Veth]]
    """The attachments that have a link."""
    routes: Sequence[DefaultRoute]
    sources: Sequence[SourceRoute] = ()
    supplied: Sequence[Attachment] = ()
    """The attachments with a link that a network plugin supplied."""


def with_limits(host: NamespaceState, desired: Iterable[DesiredSandbox], limits: TrafficLimits) -> NamespaceState:
    """Return the host's state with the limits of its ports, which are read only if a sandbox is to have any."""
    limited = any(veth.limits != NO_LIMITS for each in desired for _, veth in each.links)
    return host._replace(limits=limits.list()) if limited else host


def with_settings(
    found: PinnedNamespace | None, desired: DesiredSandbox, settings: InterfaceSettings
) -> PinnedNamespace | None:
    """Return a sandbox's state with the parameters and taps of its interfaces, which are read only where it has any."""
    names = [name for _, veth in desired.links for name, _ in veth.parameters]
    taps = [(veth, veth.inner_tap) for _, veth in desired.links if veth.inner_tap]
    if found is None or not (names or taps):
        return found
    key, state = desired.sandbox.key, found.state
    if names:
        state = state._replace(parameters=settings.parameters(key, names))
    if taps:
        state = state._replace(tap_problems={tap.name: settings.tap_problem(key, veth, tap) for veth, tap in taps})
    return found._replace(state=state)


def diff_sandbox(desired: DesiredSandbox, host: NamespaceState, inside: PinnedNamespace | None) -> Iterator[Fault]:
    """Yield the differences of a sandbox.

    Args:
        desired: the desired state.
        host: the links found on the host: at least its own and their bridges.
        inside: the state found inside; ``None``: no namespace is pinned.
    """
    sandbox = desired.sandbox
    if sandbox.is_outside:
        yield from _host_ends(desired, host)
        return
    if inside is None:
        yield _of(None, f"no namespace is pinned at {sandbox.key}", NO_SANDBOX)
        return
    if inside.inode != sandbox.inode:
        yield _of(
            None, f"another namespace ({inside.inode}, not {sandbox.inode}) is pinned at {sandbox.key}", NO_SANDBOX
        )
        return
    if sandbox.origin is Origin.HOST:
        return
    if not inside.complete:
        yield _of(None, "it has too many links, addresses, routes or rules to be compared", TOO_MUCH)
        yield from _host_ends(desired, host)
        return
    loopback = inside.state.links.get("lo")
    if loopback is None or not loopback.link.up:
        yield _of(None, "lo is down", NO_LOOPBACK)
    yield from _links(desired, host, inside.state)
    yield from _default_routes(desired, inside.state)
    yield from _source_routes(desired, inside.state)


def _links(desired: DesiredSandbox, host: NamespaceState, inside: NamespaceState) -> Iterator[Fault]:
    for attachment, veth in desired.links:
        yield from (_of(attachment, *each) for each in _link(veth, host, inside))
    for attachment in desired.supplied:
        yield from (_of(attachment, *each) for each in _supplied(attachment, inside))


def _host_ends(desired: DesiredSandbox, host: NamespaceState) -> Iterator[Fault]:
    """Yield the differences on the host of a sandbox that cannot be compared, or is not the daemon's inside.

    Its ports must follow their networks' options nevertheless.
    """
    for attachment, veth in desired.links:
        outer = host.links.get(veth.host_link)
        if outer is None:
            yield _of(attachment, f"link {veth.host_link} is gone", NO_LINK)
        else:
            yield from (_of(attachment, *each) for each in _outer(veth, host, outer))


def _link(veth: Veth, host: NamespaceState, inside: NamespaceState) -> Iterator[tuple[str, str]]:
    outer, inner = host.links.get(veth.host_link), inside.links.get(veth.interface)
    if outer is None:
        yield f"link {veth.host_link} is gone", NO_LINK
    elif inner is None or (outer.peer, inner.peer) != (inner.link.ifindex, outer.link.ifindex):
        yield f"{veth.interface} is not the other end of link {veth.host_link}", NO_LINK
    else:
        yield from _outer(veth, host, outer)
        yield from _inner(veth, inner)
        yield from _addresses(veth, inside, inner)
        yield from _settings(veth, inside, inner)
        if veth.inner_tap and (problem := inside.tap_problems.get(veth.inner_tap.name)):
            yield problem, NO_GUEST


def _outer(veth: Veth, host: NamespaceState, outer: Port) -> Iterator[tuple[str, str]]:
    master = host.links.get(veth.master)
    yield from port_faults(veth, outer, has_master=master is not None and outer.link.master == master.link.ifindex)
    has_shaper = shaper_name(veth.host_link) in host.links
    if veth.limits == NO_LIMITS:
        differs = outer.link.shaped or has_shaper
    else:
        differs = host.limits.get(veth.host_link) != veth.limits or has_shaper != (veth.limits.egress is not None)
    if differs:
        yield f"the traffic of link {veth.host_link} is not limited as desired", OTHER_RATE


def port_faults(veth: Veth, outer: Port, *, has_master: bool) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the host end of a pair, with the reason why it matters.

    Args:
        veth: the pair as it should be.
        outer: the host end as it was read.
        has_master: whether it is a port of the right link.
    """
    if not has_master:
        yield f"link {veth.host_link} is no port of bridge {veth.master}", NO_LINK
    elif (outer.isolated, outer.hairpin) != (veth.isolated, veth.hairpin):
        yield f"link {veth.host_link} has other port options than its network", TOO_OPEN
    if not outer.link.up:
        yield f"link {veth.host_link} is down", NO_LINK
    if veth.tap:
        yield from _tap(outer.link)
    if veth.mtu not in (0, outer.link.mtu):
        yield f"the MTU of link {veth.host_link} is {outer.link.mtu}, not {veth.mtu}", NO_PEER


def _tap(link: Link) -> Iterator[tuple[str, str]]:
    if link.kind != TAP_KIND:
        yield f"link {link.name} is no tap", NO_LINK
    elif link.mac != link_mac(link.name):
        yield f"the MAC of tap {link.name} is {link.mac}, not {link_mac(link.name)}", TAKEN_MAC


def _inner(veth: Veth, inner: Port) -> Iterator[tuple[str, str]]:
    if not inner.link.up:
        yield f"{veth.interface} is down", NO_LINK
    if inner.link.mac != veth.mac:
        yield f"the MAC of {veth.interface} is {inner.link.mac}, not {veth.mac}", NO_PEER
    if veth.mtu not in (0, inner.link.mtu):
        yield f"the MTU of {veth.interface} is {inner.link.mtu}, not {veth.mtu}", NO_PEER


def _addresses(veth: Veth, inside: NamespaceState, inner: Port) -> Iterator[tuple[str, str]]:
    index = inner.link.ifindex
    for address in (veth.address, veth.address_ipv6):
        if address and packed_interface(address) not in packed_addresses_on(inside, index):
            yield f"address {address} is not on {veth.interface}", NO_LINK
        elif address and inner.link.up and packed_prefix(address.network) not in inside.connected.get(index, ()):
            yield f"there is no route to {address.network} through {veth.interface}", NO_SUBNET
    yield from _additional(veth.additional_addresses, inside, inner)
    service_index, name = (index, veth.interface) if veth.holder else (inside.links["lo"].link.ifindex, "lo")
    for service in (veth.service, veth.service_ipv6):
        if service and host_prefix(service.ip) not in packed_addresses_on(inside, service_index):
            yield f"service address {service.ip} is not on {name}", NO_SERVICE


def _additional(addresses: Iterable[Address], inside: NamespaceState, inner: Port) -> Iterator[tuple[str, str]]:
    for further in addresses:
        if host_prefix(further) not in packed_addresses_on(inside, inner.link.ifindex):
            yield f"address {further} is not on {inner.link.name}", NO_LINK


def _settings(veth: Veth, inside: NamespaceState, inner: Port) -> Iterator[tuple[str, str]]:
    """Yield missing static routes, and other values of parameters than requested."""
    index = inner.link.ifindex
    for destination, gateway in veth.routes if inner.link.up else ():
        found = packed_prefix(destination)
        on_link, via = inside.connected.get(index, ()), inside.via.get(index, ())
        if not ((found, gateway.packed) in via if gateway else found in on_link):
            yield f"there is no route to {destination} through {veth.interface}", NO_SUBNET
    for name, value in veth.parameters:
        present = inside.parameters.get(name)
        if present not in (None, value):
            yield f"{name} is {present}, not {value}", OTHER_PARAMETER


def _supplied(attachment: Attachment, inside: NamespaceState) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a link that a plugin supplied: whether it is there is compared, and its addresses."""
    inner = inside.links.get(attachment.interface)
    if inner is None:
        yield f"{attachment.interface} is gone", NO_LINK
        return
    if not inner.link.up:
        yield f"{attachment.interface} is down", NO_LINK
    for address in (attachment.address, attachment.address_ipv6):
        if address and packed_interface(address) not in packed_addresses_on(inside, inner.link.ifindex):
            yield f"address {address} is not on {attachment.interface}", NO_LINK
    yield from _additional((each.ip for each in attachment.additional_addresses), inside, inner)


def _default_routes(desired: DesiredSandbox, inside: NamespaceState) -> Iterator[Fault]:
    """Yield missing default routes. A default route that another process made stays, and wins."""
    for route in desired.routes:
        present = [hop for hop in inside.defaults if hop.version == route.gateway.version]
        ours = [hop for hop in present if hop.ours]
        inner = inside.links.get(route.interface)
        right = inner and [(hop.gateway, hop.ifindex) for hop in ours] == [(route.gateway.packed, inner.link.ifindex)]
        if not right and (ours or not present):
            holder = next((each for each, _ in desired.links if each.interface == route.interface), None)
            yield _of(holder, f"there is no default route by {route.gateway} through {route.interface}", NO_ROUTE)


def _source_routes(desired: DesiredSandbox, inside: NamespaceState) -> Iterator[Fault]:
    indexes = {name: port.link.ifindex for name, port in inside.links.items()}
    right, found = policy(desired.sources, indexes), inside.policy
    parts = (("rules", right.rules ^ found.rules), ("routes", right.routes ^ found.routes))
    for what, differing in parts:
        if differing:
            yield _of(None, f"{len(differing)} {what} for routing by source are missing, or too many", NO_ANSWER)


def _of(attachment: Attachment | None, problem: str, reason: str) -> Fault:
    """Return a difference of an attachment; ``None``: of the sandbox as a whole."""
    return Fault("backend" if attachment else "sandbox", "", problem, reason, attachment)
