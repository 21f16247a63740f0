"""Pools and addresses that a container engine claims, mapped to the subnets and leases of the daemon's networks.

An engine requests a pool first, then the gateway's address, and only then creates the network. So a pool is a record of
its own until a network has it as its subnet. The id of a pool is its prefix: a request that is repeated, also after a
restart, has the same answer. A claimed address is leased in its network until the engine releases it.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Final, NamedTuple

from sandnet.core.runtime.locks import Locks
from sandnet.core.state.engine_records import EnginePool, EngineRecords
from sandnet.core.state.leases import Leases
from sandnet.core.state.records import Records
from sandnet.drivers.base import Driver
from sandnet.errors import Error, Kind, not_found
from sandnet.ipam.addresses import Addresses
from sandnet.model import Address, Interface, Network, NetworkOptions, Phase, Prefix
from sandnet.model.ids import new_id

ABANDONED: Final = 600.0
"""Seconds after which a pool without a network, or an address without an endpoint, counts as abandoned by its engine.
Between these two requests an engine does nothing else."""
_RANGE: Final = "#"


class PoolSpec(NamedTuple):
    """A validated request for a pool."""

    version: int
    """4 or 6."""
    prefix: Prefix | None = None
    """The requested prefix; ``None``: the daemon chooses."""
    range: Prefix | None = None
    """The part of the prefix from which addresses are allocated; ``None``: all of it."""


class GrantedPool(NamedTuple):
    """A granted pool."""

    id: str
    prefix: Prefix


class EngineIpam:
    """The IPAM of container engines."""

    def __init__(
        self, records: Records, engine_records: EngineRecords, leases: Leases, locks: Locks, driver: Driver
    ) -> None:
        """Initialize without any request.

        Args:
            records: the networks and endpoints.
            engine_records: the engines' claims.
            leases: the addresses of each network that are in use.
            locks: those of all objects.
            driver: the driver of engines' networks; it chooses free subnets.
        """
        self._records = records
        self._engine = engine_records
        self._leases = leases
        self._locks = locks
        self._driver = driver
        self._replayed: set[Address] = set()
        """Claimed addresses that an engine may request once more, since it has requested their pool again."""

    @property
    def network_driver(self) -> str:
        """Name of the driver of engines' networks."""
        return self._driver.name

    async def start(self) -> None:
        """Forget the pools that a network has as its subnet: a crash came between the two."""
        for pool in [*self._engine.pools.values()]:
            if self._network_with(pool.prefix):
                await self._engine.delete_pool(pool.id)

    async def request_pool(self, spec: PoolSpec) -> GrantedPool:
        """Grant a pool. The subnet of a network is granted on request: the network is to be shared, or requested again.

        Raises:
            Error: ``CONFLICT``, ``EXHAUSTED``.
        """
        async with self._locks.hold("engine/pools", "networks"):
            await self._remove_abandoned()
            prefix = spec.prefix
            if prefix and (net := self._network_with(prefix)):
                self._replayed |= {each for each in self._engine.claims if _is_in(net, each)}
                return GrantedPool(str(prefix), prefix)
            if prefix and (pool := self._pool_with(prefix)):
                return GrantedPool(pool.id, prefix)
            prefix = await self._plan(spec)
            pool_id = f"{prefix}{_RANGE}{spec.range}" if spec.range else str(prefix)
            await self._engine.put_pool(pool_id, prefix)
            return GrantedPool(pool_id, prefix)

    async def release_pool(self, pool_id: str) -> None:
        """Release a pool; do nothing when it is absent, or the subnet of a network."""
        if self.network_of(pool_id) is None and (pool := self._engine.pools.get(pool_id)):
            await self._engine.delete_pool(pool_id)
            await self._engine.delete_claims(*(each for each in self._engine.claims if _contains(pool.prefix, each)))

    async def request_address(self, pool_id: str, address: Address | None, *, gateway: bool) -> Interface:
        """Claim an address of a pool; the gateway's needs no claim, as its network reserves it.

        Raises:
            Error: ``NOT_FOUND`` (the pool), ``INVALID``, ``CONFLICT``, ``EXHAUSTED``.
        """
        async with self._locks.hold("engine/pools"):
            net, prefix = self.network_of(pool_id), _prefix_of(pool_id)
            if gateway:
                return _gateway(net, prefix, address)
            if net is None:
                return await self._claim_before_network(prefix, self._pool(pool_id), address)
            return await self._claim(net, prefix.version, address)

    async def release_address(self, pool_id: str, address: Address) -> None:
        """Release a claimed address; an absent one is success."""
        async with self._locks.hold("engine/pools"):
            net = self.network_of(pool_id)
            self._replayed.discard(address)
            if address in self._engine.claims:
                await self._engine.delete_claims(address)
                if net:
                    self._leases.unclaim(net, address)

    def network_of(self, pool_id: str) -> Network | None:
        """Return the network that gets its addresses from a pool."""
        for attached in self._engine.networks.values():
            if pool_id in attached.pools:
                return self._records.network(attached.network_id)
        return self._network_with(_prefix_of(pool_id))

    def pools_with(self, prefix: Prefix) -> list[str]:
        """Return the ids of the pools with exactly that prefix that are the subnet of no network."""
        return [pool.id for pool in self._engine.pools.values() if pool.prefix == prefix]

    def range_of(self, prefix: Prefix) -> Prefix | None:
        """Return the part of a pool from which its engine wants addresses; ``None``: all of it."""
        ranges = [pool_id.partition(_RANGE)[2] for pool_id in self.pools_with(prefix)]
        return next((ip_network(each) for each in ranges if each), None)

    async def forget(self, prefix: Prefix) -> None:
        """Delete the records of pools with that prefix: a network has it now."""
        for pool_id in self.pools_with(prefix):
            await self._engine.delete_pool(pool_id)

    async def forget_claims(self, net: Network) -> None:
        """Delete the claims on addresses of a network that is deleted."""
        await self._engine.delete_claims(*(each for each in self._engine.claims if _is_in(net, each)))

    # Pools.

    def _network_with(self, prefix: Prefix) -> Network | None:
        ready = (net for net in self._records.networks() if net.phase is Phase.READY)
        return next((net for net in ready if prefix in [each.prefix for each in (net.ipv4, net.ipv6) if each]), None)

    def _pool_with(self, prefix: Prefix) -> EnginePool | None:
        return next((pool for pool in self._engine.pools.values() if pool.prefix == prefix), None)

    def _pool(self, pool_id: str) -> EnginePool:
        pool = self._engine.pools.get(pool_id)
        if pool is None:
            raise not_found("pool", pool_id, "request it first")
        return pool

    async def _plan(self, spec: PoolSpec) -> Prefix:
        """Return a free prefix, as a network with it would get it."""
        options = NetworkOptions(
            subnet=spec.prefix if isinstance(spec.prefix, IPv4Network) else None,
            ip_range=spec.range if isinstance(spec.range, IPv4Network) else None,
            ipv6=spec.version == 6,
            subnet_ipv6=spec.prefix if isinstance(spec.prefix, IPv6Network) else None,
        )
        requested = Network(
            id=new_id(), name="a pool", driver=self._driver.name, phase=Phase.CREATING, sequence=0, created=0.0,
            options=options,
        )  # fmt: skip
        planned = await self._driver.plan(requested, [*self._records.networks(), *self._engine.pool_networks()])
        subnet = planned.ipv4 if spec.version == 4 else planned.ipv6
        if subnet is None:
            raise Error(Kind.EXHAUSTED, f"there is no IPv{spec.version} subnet", code="pools_exhausted")
        return subnet.prefix

    async def _remove_abandoned(self) -> None:
        before = time.time() - ABANDONED
        for pool in [pool for pool in self._engine.pools.values() if pool.created < before]:
            await self.release_pool(pool.id)
        held = {own.ip for each in self._records.endpoints() for own in each.addresses}
        old = [each for each, created in self._engine.claims.items() if 0 < created < before and each not in held]
        await self._engine.delete_claims(*old)
        for net in self._records.networks():
            for address in old:
                if _is_in(net, address):
                    self._leases.unclaim(net, address)

    # Addresses.

    async def _claim_before_network(self, prefix: Prefix, pool: EnginePool, address: Address | None) -> Interface:
        """Claim an address that the engine keeps for itself, such as an auxiliary one. It is not abandoned in time."""
        taken = [each for each in self._engine.claims if _contains(pool.prefix, each) and each != address]
        free = Addresses(prefix, None, (), taken)
        if address:
            free.take(address)
        else:
            address = free.next()
        await self._engine.put_claim(address, lasting=True)
        return ip_interface((address, prefix.prefixlen))

    async def _claim(self, net: Network, version: int, address: Address | None) -> Interface:
        subnet = net.ipv4 if version == 4 else net.ipv6
        length = subnet.prefix.prefixlen if subnet else 0
        if address in self._engine.claims:
            if address not in self._replayed and self._is_held(net, address):
                message = f"address {address} of network {net.name} is taken by another endpoint"
                raise Error(Kind.CONFLICT, message, "choose another address, or none", "address_taken")
            self._replayed.discard(address)
            return ip_interface((address, length))
        chosen = self._leases.claim(net, address, version=version)
        try:
            await self._engine.put_claim(chosen)
        except BaseException:
            await self._engine.delete_claims(chosen)
            self._leases.unclaim(net, chosen)
            raise
        return ip_interface((chosen, length))

    def _is_held(self, net: Network, address: Address) -> bool:
        endpoints = self._records.endpoints_of(net.id)
        return any(address in [own.ip for own in each.addresses] for each in endpoints)


def _prefix_of(pool_id: str) -> Prefix:
    try:
        return ip_network(pool_id.partition(_RANGE)[0])
    except ValueError:
        raise not_found("pool", pool_id, "request it first") from None


def _gateway(net: Network | None, prefix: Prefix, address: Address | None) -> Interface:
    subnet = (net.ipv4 if prefix.version == 4 else net.ipv6) if net else None
    if subnet is None:
        return ip_interface((address or prefix[1], prefix.prefixlen))
    own = subnet.gateway or (subnet.host_address.ip if subnet.host_address else None)
    if own is None or address not in (None, own):
        message = f"the gateway of {subnet.prefix} is {own}, not {address}"
        raise Error(Kind.CONFLICT, message, "leave the gateway out", "address_taken")
    return ip_interface((own, subnet.prefix.prefixlen))


def _contains(prefix: Prefix, address: Address) -> bool:
    return address.version == prefix.version and address in prefix


def _is_in(net: Network, address: Address) -> bool:
    return any(_contains(subnet.prefix, address) for subnet in (net.ipv4, net.ipv6) if subnet)
