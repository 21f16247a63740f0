"""Follow the watch of the shared store, and bring this host into line with its records, object by object."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Final

from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.shared_records import SharedRecords
from sandnet.core.cluster.shared_values import ALIVE, HOLDERS, HOSTS, attachment_key, is_attachment_key
from sandnet.core.cluster.view import ClusterView
from sandnet.core.replication.attachment_replicas import AttachmentReplicas
from sandnet.core.replication.endpoint_replicas import EndpointReplicas
from sandnet.core.replication.network_replicas import NetworkReplicas
from sandnet.core.replication.peer_replicas import PeerReplicas
from sandnet.core.replication.port_replicas import PortReplicas
from sandnet.core.replication.work_queue import WorkQueue
from sandnet.core.state.records import Records
from sandnet.core.state.schema import ENDPOINTS, NETWORKS, network_key
from sandnet.errors import Error, Kind
from sandnet.model import Phase
from sandnet.stores.shared import SharedStore

_log = logging.getLogger(__name__)

FIRST_ANSWER: Final = 3.0
"""Seconds that the start waits for the shared store. Then it goes on with the copies of the last run."""
FIRST_PASS: Final = 10.0
"""Seconds that the start waits until what other hosts have is made here."""
CATCH_UP: Final = 1.0
"""Seconds that a refused change waits until this host knows what refused it."""
MOST_REFRESHED: Final = 100
"""Attachments of other hosts that are looked up before they make this host refuse a request."""
WATCH_AGAIN: Final = 1.0
"""Seconds from the end of a watch to the next one, which begins with all that there is."""
AUDIT: Final = 15.0
"""Seconds from one comparison of this host's own attachments, and of one network's peers, with the shared store to the
next."""


class WatchFollower:
    """The records of other hosts on this one."""

    def __init__(
        self,
        store: SharedStore,
        view: ClusterView,
        membership: HostMembership,
        shared: SharedRecords,
        records: Records,
        networks: NetworkReplicas,
        endpoints: EndpointReplicas,
        attachments: AttachmentReplicas,
        ports: PortReplicas,
        peers: PeerReplicas,
    ) -> None:
        self._store, self._view, self._membership, self._records = store, view, membership, records
        self._shared = shared
        self._networks, self._endpoints, self._attachments, self._peers = networks, endpoints, attachments, peers
        self._ports = ports
        self._queue = WorkQueue(self._work)
        self._tasks: list[asyncio.Task[None]] = []
        self._seen = asyncio.Event()
        self._advanced = asyncio.Event()

    @property
    def problems(self) -> list[str]:
        """What is not in line with the shared store, as texts for health."""
        return [*self.store_problems, *self._queue.problems]

    @property
    def store_problems(self) -> list[str]:
        """What is wrong with the shared store, and with this host's membership, each once."""
        found = [*self._membership.problems(), *self._store.problems()]
        return [each for each in dict.fromkeys(found) if not any(each != other and each in other for other in found)]

    async def connect(self) -> None:
        """Join the other hosts and read what they have. Without an answer, go on with what is known of them."""
        self._tasks = [asyncio.create_task(self._follow())]
        self._membership.start(self._claim_again)
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER):
                await self._seen.wait()
                await self._membership.until_joined()

    async def start(self) -> None:
        """Bring this host into line, once its own state is restored, and from now on."""
        self._tasks += [asyncio.create_task(each) for each in (self._queue.run(), self._audit())]
        self._shared.caught_up, self._shared.changed = self._reached, self._changed
        self._shared.refreshed = self._refreshed
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PASS):
                await self._queue.drained()

    def _changed(self, keys: Iterable[str], failure: BaseException | None) -> None:
        """Look at what this host has changed: later, if its own store refused it, as that would refuse it again."""
        if failure:
            self._queue.add_failed(keys, failure)
        else:
            self._queue.add(keys)

    async def _reached(self, revision: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP):
                while self._view.revision < revision:
                    self._advanced.clear()
                    await self._advanced.wait()
                self._queue.retry()
                await self._queue.drained()

    async def _refreshed(self, endpoint_ids: Iterable[str]) -> bool:
        others = (held for each in endpoint_ids for held in self._view.attachments(each))
        keys = [held.entry.key for held in others if held.key.host != self._membership.name][:MOST_REFRESHED]
        if not keys or self.store_problems:
            return False
        try:
            found = await self._store.read(keys, deadline=CATCH_UP)
        except Error:
            return False
        if len(found.entries) == len(keys):
            return False
        await self._reached(found.revision)
        return True

    async def close(self) -> None:
        """Stop following."""
        await self._membership.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def caught_up(self) -> None:
        """Wait until this host is in line with all that it has read."""
        await self._queue.drained()

    async def _follow(self) -> None:
        while True:
            try:
                async for event in self._store.watch(""):
                    first = self._view.revision == 0
                    changed = self._view.apply(event)
                    self._queue.add(self._concerned(changed))
                    if first:
                        self._queue.add(self._known())
                    self._seen.set()
                    self._advanced.set()
            except Exception as failure:  # whatever the store holds: the other hosts' changes must go on arriving
                unexpected = None if isinstance(failure, Error) else failure
                _log.warning("the watch of the shared store ended: %s", failure, exc_info=unexpected)
                await asyncio.sleep(WATCH_AGAIN)

    def _known(self) -> Iterator[str]:
        """Yield what this host has of networks that all hosts share, whether these still exist or not."""
        yield HOSTS
        drivers = {shared.network.driver for each in self._view.network_ids() if (shared := self._view.network(each))}
        for network in self._records.networks():
            if network.vni or network.driver in drivers:
                yield f"{NETWORKS}{network.id}"
                yield from (f"{ENDPOINTS}{endpoint.id}" for endpoint in self._records.endpoints_of(network.id))

    def _concerned(self, keys: Iterable[str]) -> set[str]:
        """Return the objects that have to be looked at when these keys change."""
        found: set[str] = set()
        hosts: set[str] = set()
        for key in keys:
            if key.startswith(NETWORKS):
                found.add(key)
            elif key.startswith(ENDPOINTS):
                found.add(f"{ENDPOINTS}{key.rpartition('/')[2]}")
            elif is_attachment_key(key):
                found.add(f"{ENDPOINTS}{attachment_key(key).endpoint_id}")
            elif key.startswith(HOLDERS):
                found.add(f"{ENDPOINTS}{key.removeprefix(HOLDERS)}")
            elif key == f"{ALIVE}{self._membership.name}":
                self._membership.check()
            elif key.startswith((ALIVE, HOSTS)):
                found.update([HOSTS] if key.startswith(HOSTS) else [])
                hosts.add(key.partition("/")[2])
        found.update(self._of_hosts(hosts))
        return found

    def _of_hosts(self, hosts: Collection[str]) -> Iterator[str]:
        """Yield the endpoints that have something of some hosts. Each endpoint is looked at once, however many."""
        for host in hosts:
            yield from (f"{ENDPOINTS}{held.key.endpoint_id}" for held in self._view.attachments_of_host(host))
        for endpoint_id in self._view.endpoint_ids() if hosts else ():
            shared = self._view.endpoint(endpoint_id)
            if shared and shared.host in hosts and shared.number:
                yield f"{ENDPOINTS}{endpoint_id}"

    async def _claim_again(self) -> None:
        self._queue.add(self._of_hosts({self._membership.name}))
        self._queue.add(self._local())

    def _local(self) -> Iterator[str]:
        for attachment in self._records.attachments():
            if self._view.endpoint(attachment.endpoint_id):
                yield f"{ENDPOINTS}{attachment.endpoint_id}"

    async def _audit(self) -> None:
        while True:
            await asyncio.sleep(AUDIT)
            await self.audit()

    async def audit(self) -> None:
        """Compare this host's own attachments, and the peers of a network, with the shared store."""
        if self._queue.is_idle and not self._queue.problems:  # else they differ because they are to be changed
            try:
                await self._peers.audit()
            except Exception as failure:  # the next audit must not be lost, and neither may the claims
                unexpected = None if isinstance(failure, Error) else failure
                _log.warning("the peers of a network were not compared: %s", failure, exc_info=unexpected)
        await self._claim_again()

    async def _work(self, key: str) -> None:
        kind, _, name = key.partition("/")
        if key == HOSTS:
            await self._peers.sync_hosts()
            return
        self._refuse_unreadable(kind, name)
        if kind == "network":
            made = await self._networks.sync(name)
            await self._peers.sync_network(name, made=made)
            self._queue.add(f"{ENDPOINTS}{each}" for each in self._waiting(name, made=made))
            return
        if self._waits_for_network(name):
            return
        endpoint = await self._endpoints.sync(name)
        await self._attachments.sync(name, endpoint)
        if endpoint:
            await self._ports.sync(name)
        shared = self._view.endpoint(name)
        network = self._records.network(shared.endpoint.network_id) if shared else None
        if endpoint is None and network and network.phase is Phase.REMOVING:
            self._queue.add([f"{NETWORKS}{network.id}"])

    def _waiting(self, network_id: str, *, made: bool) -> list[str]:
        """Return the endpoints to look at after a network: all if it was just made, else those that are not here yet.

        Another host may have made one after the store had the network, and before this host had recorded its own.
        """
        if not made and self._records.network(network_id) is None:
            return []
        return [each for each in self._view.endpoint_ids(network_id) if made or not self._records.endpoint(each)]

    def _waits_for_network(self, endpoint_id: str) -> bool:
        """Return whether the endpoint's network is still to be made here; it is looked at once that is done."""
        shared = self._view.endpoint(endpoint_id)
        if shared is None or self._records.endpoint(endpoint_id):
            return False
        network = self._records.network(shared.endpoint.network_id)
        return network is None or network.phase is Phase.CREATING

    def _refuse_unreadable(self, kind: str, name: str) -> None:
        """Leave what this host has of an object alone whose record it cannot read: it was not deleted.

        Raises:
            Error: ``UNAVAILABLE``; health has it until the record can be read.
        """
        is_network = kind == "network"
        entry = self._view.entry(network_key(name)) if is_network else self._view.endpoint_entry(name)
        if entry and not (self._view.network(name) if is_network else self._view.endpoint(name)):
            message = f"{kind} {name} stays as it was here: its record cannot be read"
            raise Error(Kind.UNAVAILABLE, message, "upgrade this host, if another one has a newer release")
