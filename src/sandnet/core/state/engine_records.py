"""What container engines claim by their network plugin protocol, in memory and in the store.

An engine claims a pool and addresses before it creates the network and the endpoints that use them. So these have
records of their own. They need no sequence: nothing lists them in creation order.
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Final

import msgspec

from sandnet.core.state.schema import CLAIMS, NETWORKS
from sandnet.model import Address, Network, Phase, Prefix, Subnet
from sandnet.model.address import decode_hook, encode_hook
from sandnet.stores.base import Change, Delete, Put, Store

ENGINE: Final = "engine/"
_NETWORKS: Final = ENGINE + NETWORKS
_POOLS: Final = ENGINE + "pool/"
_CLAIMS: Final = ENGINE + CLAIMS


class EngineNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of a container engine that uses an existing network of the daemon."""

    id: str
    """The engine's own id of the network."""
    network_id: str
    pools: tuple[str, ...] = ()
    """Ids of the pools from which the engine requests the addresses of this network."""


class EnginePool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of addresses that an engine has claimed, and that is the subnet of no network."""

    id: str
    prefix: Prefix
    created: float
    """Seconds since the epoch."""


class EngineClaim(msgspec.Struct, frozen=True):
    """A claimed address, which is the key of this record."""

    created: float
    """Seconds since the epoch; 0: it is never abandoned."""


_encoder: Final = msgspec.json.Encoder(enc_hook=encode_hook)
_networks: Final = msgspec.json.Decoder(EngineNetwork, dec_hook=decode_hook)
_pools: Final = msgspec.json.Decoder(EnginePool, dec_hook=decode_hook)
_claims: Final = msgspec.json.Decoder(EngineClaim)


class EngineRecords:
    """The records of engines' claims, written through to a store.

    A change is in memory when its method is called. It needs no sync: after a crash of the machine the containers that
    it is for are gone, except for networks.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.networks: dict[str, EngineNetwork] = {}
        """By the engine's id."""
        self.pools: dict[str, EnginePool] = {}
        self.claims: dict[Address, float] = {}
        """Claimed addresses, each with the time of the claim in seconds since the epoch; 0: it is never abandoned."""

    def pool_networks(self) -> list[Network]:
        """Return the pools as networks, to plan others beside them."""
        return [_planned(pool) for pool in self.pools.values()]

    async def load(self) -> None:
        """Read the store; once, before anything else."""
        for entry in await self._store.list(_NETWORKS):
            network = _networks.decode(entry.value)
            self.networks[network.id] = network
        for entry in await self._store.list(_POOLS):
            pool = _pools.decode(entry.value)
            self.pools[pool.id] = pool
        for entry in await self._store.list(_CLAIMS):
            self.claims[ip_address(entry.key.removeprefix(_CLAIMS))] = _claims.decode(entry.value).created

    async def clear(self) -> None:
        """Delete everything."""
        changes: list[Change] = [Delete(_NETWORKS + each) for each in self.networks]
        changes += [Delete(_POOLS + each) for each in self.pools]
        changes += [Delete(f"{_CLAIMS}{each}") for each in self.claims]
        self.networks, self.pools, self.claims = {}, {}, {}
        if changes:
            await self._store.commit(*changes)

    async def put_network(self, network: EngineNetwork) -> None:
        """Record that an engine uses a network."""
        self.networks[network.id] = network
        await self._store.commit(Put(_NETWORKS + network.id, _encoder.encode(network)))

    async def delete_network(self, network_id: str) -> None:
        """Delete the record of an engine's network; an absent one is success."""
        if self.networks.pop(network_id, None):
            await self._store.commit(Delete(_NETWORKS + network_id))

    async def put_pool(self, pool_id: str, prefix: Prefix) -> None:
        """Record a pool."""
        pool = self.pools[pool_id] = EnginePool(id=pool_id, prefix=prefix, created=time.time())
        await self._store.commit(Put(_POOLS + pool_id, _encoder.encode(pool)), durable=False)

    async def delete_pool(self, pool_id: str) -> None:
        """Delete a pool; an absent one is success."""
        if self.pools.pop(pool_id, None):
            await self._store.commit(Delete(_POOLS + pool_id), durable=False)

    async def put_claim(self, address: Address, *, lasting: bool = False) -> None:
        """Record a claimed address; a lasting one is never abandoned."""
        created = self.claims[address] = 0.0 if lasting else time.time()
        value = _encoder.encode(EngineClaim(created))
        await self._store.commit(Put(f"{_CLAIMS}{address}", value), durable=False)

    async def delete_claims(self, *addresses: Address) -> None:
        """Delete claimed addresses; absent ones are success."""
        found = [each for each in addresses if self.claims.pop(each, None) is not None]
        if found:
            await self._store.commit(*(Delete(f"{_CLAIMS}{each}") for each in found), durable=False)


def _planned(pool: EnginePool) -> Network:
    subnet = Subnet(prefix=pool.prefix)
    ipv4, ipv6 = (subnet, None) if pool.prefix.version == 4 else (None, subnet)
    name = "of a container engine"
    return Network(
        id=pool.id, name=name, driver="", phase=Phase.CREATING, sequence=0, created=0.0, ipv4=ipv4, ipv6=ipv6
    )
