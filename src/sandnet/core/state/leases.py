"""Leases: the addresses of each network that are in use, as the allocators of ``ipam`` filled from the records."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface
from typing import NamedTuple

from sandnet.core.state.engine_records import EngineRecords
from sandnet.core.state.records import Records
from sandnet.errors import Error, Kind, invalid
from sandnet.ipam.addresses import Addresses, AddressUse, embedded_ipv6
from sandnet.model import Address, Attachment, EndpointSpec, Interface, Network, Prefix, Subnet
from sandnet.model.address import mac_for, new_mac
from sandnet.model.remote_attachment import RemoteAttachment

FIRST_SKIP = 16
MOST_DOUBLINGS = 8
EMBED_UP_TO = 80
"""The longest IPv6 prefix that has room for the MAC in the last six bytes of an address."""


class Lease(NamedTuple):
    """The addresses and the MAC that one endpoint holds."""

    address: IPv4Interface | None
    address_ipv6: IPv6Interface | None
    mac: str
    cursor: tuple[str, str] | None
    """(network id, address) for :meth:`Records.commit`, when the allocator chose the address."""
    additional: tuple[Interface, ...] = ()
    """Further addresses, which were requested."""


class _Pools(NamedTuple):
    ipv4: Addresses | None
    ipv6: Addresses | None
    subnets: tuple[Subnet | None, Subnet | None]
    """The subnets that they are of."""

    def of(self, address: Address) -> Addresses:
        """Return the pool of the address's family, which exists."""
        pool = self.ipv4 if address.version == 4 else self.ipv6
        assert pool is not None  # noqa: S101 - checked before
        return pool


class Leases:
    """The leases of all networks. The allocators are a cache; the records are authoritative."""

    def __init__(self, records: Records, engine: EngineRecords) -> None:
        self._records = records
        self._engine = engine
        self._pools: dict[str, _Pools] = {}
        self._avoided: dict[str, dict[str, set[Address]]] = {}
        """By network and endpoint: addresses that may be wanted again."""

    def take(self, net: Network, spec: EndpointSpec) -> Lease:
        """Allocate addresses and a MAC for a new endpoint: all or none.

        Raises:
            Error: ``INVALID`` or ``CONFLICT`` for a requested address or MAC, ``EXHAUSTED`` when no address is left.
        """
        try:
            return self._take(net, spec)
        except Error as failure:
            raise self._with_holder(net, spec, failure) from failure

    def _with_holder(self, net: Network, spec: EndpointSpec, failure: Error) -> Error:
        """Return the failure with the name of the endpoint that has the requested address."""
        wanted = {spec.address, spec.address_ipv6, *spec.additional_addresses}
        if failure.code == "address_taken":
            for endpoint in self._records.endpoints_of(net.id):
                for own in endpoint.addresses:
                    if own.ip in wanted:
                        message = f"address {own.ip} on network {net.name} is held by endpoint {endpoint.name}"
                        return Error(failure.kind, message, failure.hint, failure.code)
        return failure

    def _take(self, net: Network, spec: EndpointSpec) -> Lease:
        pools, avoided = self._pools_of(net), self._avoided_in(net)
        _check_usable(net, spec)
        own = {spec.address, spec.address_ipv6} & self._unheld_claims(net) if spec.claimed else set()
        with ExitStack() as undo:
            for each in spec.additional_addresses:  # first: no primary one is chosen that is among them
                pool = pools.of(each)
                pool.take(each)
                undo.callback(pool.free, each)
            ipv4 = spec.address
            if ipv4 is None or ipv4 not in own:
                ipv4 = _take4(pools.ipv4, spec.address, avoided)
                if ipv4 and pools.ipv4:
                    undo.callback(pools.ipv4.free, ipv4)
            mac = self._mac(net, spec, ipv4)
            ipv6 = spec.address_ipv6
            if ipv6 is None or ipv6 not in own:
                ipv6 = _take6(pools.ipv6, net.ipv6, spec.address_ipv6, mac, avoided)
            undo.pop_all()
        return Lease(
            IPv4Interface((ipv4, net.ipv4.prefix.prefixlen)) if ipv4 and net.ipv4 else None,
            IPv6Interface((ipv6, net.ipv6.prefix.prefixlen)) if ipv6 and net.ipv6 else None,
            mac,
            (net.id, str(ipv4)) if ipv4 and not spec.address else None,
            tuple(_on_network(net, each) for each in spec.additional_addresses),
        )

    def skip(self, net: Network, attempt: int) -> None:
        """Let the next chosen addresses be some further on, at random: several hosts choose at this instant.

        Args:
            net: the network.
            attempt: how many attempts were refused before, from 0; the range doubles with each.
        """
        for pool in self._pools_of(net)[:2]:
            if pool:
                pool.skip(secrets.randbelow(FIRST_SKIP << min(attempt, MOST_DOUBLINGS)))

    def release(self, net: Network, *interfaces: Interface | None) -> None:
        """Release addresses; they are reused last. One that a container engine has claimed stays leased."""
        for interface in interfaces:
            if interface and interface.ip not in self._engine.claims:
                self._free(net, interface.ip)

    def cancel(self, net: Network, *interfaces: Interface | None) -> None:
        """Release addresses whose record was refused: but for those that another host's record has got in between."""
        held = self._held(net)
        self.release(net, *(each for each in interfaces if each and each.ip not in held))

    def hold(self, net: Network, *interfaces: Interface | None) -> None:
        """Take addresses out of what can be allocated: another host has given them to an endpoint."""
        for interface in interfaces:
            pools = self._pools_of(net)
            pool = pools.ipv4 if interface and interface.version == 4 else pools.ipv6
            if pool and interface:
                with suppress(Error):  # taken already
                    pool.take(interface.ip)

    def avoid(self, network_id: str, endpoint_id: str, *interfaces: Interface | None) -> None:
        """Allocate the addresses that an endpoint and its containers had last: their host may come back.

        Args:
            network_id: the network.
            endpoint_id: the endpoint.
            interfaces: its addresses; none: it has none any more that may be wanted again.
        """
        found = {interface.ip for interface in interfaces if interface}
        by_endpoint = self._avoided.setdefault(network_id, {})
        by_endpoint.pop(endpoint_id, None)
        if found:
            by_endpoint[endpoint_id] = found
        elif not by_endpoint:
            del self._avoided[network_id]

    def _avoided_in(self, net: Network) -> set[Address]:
        return set().union(*self._avoided.get(net.id, {}).values())

    def claim(self, net: Network, address: Address | None, *, version: int) -> Address:
        """Lease an address for a container engine, which has not created its endpoint yet.

        The caller records it in :class:`EngineRecords`; :meth:`unclaim` releases it.

        Args:
            net: the network.
            address: the requested one; ``None``: the next free one.
            version: 4 or 6.

        Raises:
            Error: as :meth:`take`.
        """
        pools = self._pools_of(net)
        pool = pools.ipv4 if version == 4 else pools.ipv6
        if pool is None:
            hint = "use a network that has such a subnet"
            raise invalid(f"network {net.name} has no IPv{version} subnet", hint, "no_such_family")
        if address is None:
            return pool.next(self._avoided_in(net))
        pool.take(address)
        return address

    def unclaim(self, net: Network, address: Address) -> None:
        """Release a claimed address, unless an endpoint has it. Its record is deleted already."""
        if address not in self._held(net):
            self._free(net, address)

    def _free(self, net: Network, address: Address) -> None:
        pools = self._pools_of(net)
        pool = pools.ipv4 if address.version == 4 else pools.ipv6
        if pool:
            pool.free(address)

    def _held(self, net: Network) -> set[Address]:
        """Return the addresses that endpoints and attachments have."""
        leased = [att for att in self._records.attachments_of_network(net.id) if att.leased]
        endpoints = self._records.endpoints_of(net.id)
        remote = [each for ep in endpoints for each in self._records.remote.of_endpoint(ep.id) if each.leased]
        backends: list[Attachment | RemoteAttachment] = [*leased, *remote]
        held = {own.ip for endpoint in endpoints for own in endpoint.addresses}
        return held | {own.ip for each in backends for own in (each.address, each.address_ipv6) if own}

    def _unheld_claims(self, net: Network) -> set[Address]:
        return self._engine.claims.keys() - self._held(net)

    def use(self, net: Network) -> dict[Prefix, AddressUse]:
        """Return how many addresses of each subnet of a network are in use."""
        pools = self._pools_of(net)
        found = ((net.ipv4, pools.ipv4), (net.ipv6, pools.ipv6))
        return {subnet.prefix: pool.use() for subnet, pool in found if subnet and pool}

    def forget(self, network_id: str) -> None:
        """Drop the allocators of a deleted network."""
        self._pools.pop(network_id, None)
        self._avoided.pop(network_id, None)

    def _pools_of(self, net: Network) -> _Pools:
        net = self._records.network(net.id) or net  # the caller's record may be older than a change of the subnets
        pools = self._pools.get(net.id)
        if pools is None or pools.subnets != (net.ipv4, net.ipv6):
            held = self._held(net) | self._engine.claims.keys()
            pools = self._pools[net.id] = _Pools(
                _pool(net, net.ipv4, held, self._records.cursor(net.id)),
                _pool(net, net.ipv6, held, ""),
                (net.ipv4, net.ipv6),
            )
        return pools

    def _mac(self, net: Network, spec: EndpointSpec, ipv4: IPv4Address | None) -> str:
        mac = spec.mac or (mac_for(ipv4) if ipv4 else new_mac() if net.leases_addresses else "")
        holder = next((ep for ep in self._records.endpoints_of(net.id) if ep.mac == mac), None) if spec.mac else None
        if holder:
            message = f"MAC {mac} on network {net.name} is held by endpoint {holder.name}"
            raise Error(Kind.CONFLICT, message, "leave the MAC out and one is chosen", "mac_taken")
        return mac


def _check_usable(net: Network, spec: EndpointSpec) -> None:
    if spec.address and net.leases_addresses:
        message = f"network {net.name}: the DHCP server of the segment gives the addresses, not {spec.address}"
        raise invalid(message, "have that server reserve it for a MAC, and give the endpoint that one", "by_dhcp")
    for requested in (spec.address, spec.address_ipv6, *spec.additional_addresses):
        if requested and not (net.ipv4 if requested.version == 4 else net.ipv6):
            hint = "leave the address out, or use a network that has such a subnet"
            message = f"network {net.name} has no IPv{requested.version} subnet for {requested}"
            raise invalid(message, hint, "no_such_family")
    if spec.mac and not net.ipv4 and not net.leases_addresses:
        raise invalid(f"network {net.name} gives its endpoints no link, so no MAC either", code="no_link")


def _on_network(net: Network, address: Address) -> Interface:
    subnet = net.ipv4 if address.version == 4 else net.ipv6
    assert subnet is not None  # noqa: S101 - checked before
    return ip_interface((address, subnet.prefix.prefixlen))


def _pool(net: Network, subnet: Subnet | None, held: set[Address], last: str) -> Addresses | None:
    if subnet is None:
        return None
    reserved: set[Address] = {
        address for address in (subnet.gateway, subnet.host_address.ip if subnet.host_address else None) if address
    }
    reserved |= _inside(subnet, net.options.reserved_addresses.values())
    taken = _inside(subnet, held)
    return Addresses(subnet.prefix, subnet.range, reserved, taken, ip_address(last) if last else None)


def _inside(subnet: Subnet, addresses: Iterable[Address]) -> set[Address]:
    return {address for address in addresses if address.version == subnet.prefix.version and address in subnet.prefix}


def _take4(pool: Addresses | None, requested: IPv4Address | None, avoided: Collection[Address]) -> IPv4Address | None:
    if pool is None:
        return None
    if requested:
        pool.take(requested)
        return requested
    chosen = pool.next(avoided)
    assert isinstance(chosen, IPv4Address)  # noqa: S101 - the pool of an IPv4 prefix
    return chosen


def _take6(
    pool: Addresses | None,
    subnet: Subnet | None,
    requested: IPv6Address | None,
    mac: str,
    avoided: Collection[Address],
) -> IPv6Address | None:
    if pool is None or subnet is None:
        return None
    if requested:
        pool.take(requested)
        return requested
    within = subnet.range or subnet.prefix
    if isinstance(within, IPv6Network) and within.prefixlen <= EMBED_UP_TO and mac:
        address = embedded_ipv6(within, mac)
        try:
            pool.take(address)
        except Error:
            pass  # an endpoint requested exactly this address: take the next free one
        else:
            return address
    chosen = pool.next(avoided)
    assert isinstance(chosen, IPv6Address)  # noqa: S101 - the pool of an IPv6 prefix
    return chosen
