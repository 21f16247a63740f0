"""A random campaign over several hosts: operations, lost connections, ended leases, restarts; then the promises."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sandnet.core.cluster.shared_values import ATTACHED, SharedEndpoint, attachment_key, decode
from sandnet.core.state.schema import ENDPOINTS, NETWORKS
from sandnet.errors import Error, Kind
from sandnet.stores.memory_shared import WriteFault
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, KilledError
from tests.support.store_truth import claim_faults, duplicates

NAMES = ("x", "y", "z")
"""None is the beginning of an id, which would be taken for a reference to it."""
NETWORKS_OF_IT = ("red", "blue")
EXPECTED = {Kind.UNAVAILABLE, Kind.NOT_FOUND, Kind.NAME_TAKEN, Kind.IN_USE, Kind.INVALID, Kind.CONFLICT}
"""Kinds of errors that bad luck explains; anything else is a fault."""


class Campaign:
    """A campaign that a seed determines.

    Args:
        hosts: started hosts.
        seed: of the random numbers.
    """

    def __init__(self, hosts: list[HostInProcess], seed: int) -> None:
        self._hosts, self._random = hosts, random.Random(seed)
        self._containers = 0
        self.acknowledged: dict[str, HostInProcess] = {}
        """Containers whose join was answered, and that nothing has removed since, by their host."""
        self.created: dict[str, str] = {}
        """Networks and endpoints without an owner that nothing has tried to delete since, by their ids."""
        self._deleted: Counter[str] = Counter()
        """What is being deleted."""
        self._deletions: list[str] = []
        """All that was, or may have been."""
        self.log: list[str] = []
        for host in hosts:
            host.pace = self.pause

    async def pause(self) -> None:
        """Wait for a while that is different each time, so that requests of the hosts are mixed."""
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)

    async def run(self, rounds: int) -> None:
        """Do several things at once, again and again."""
        for _ in range(rounds):
            count = self._random.randint(1, 4)
            await asyncio.gather(*(self._one() for _ in range(count)))
            if self._random.random() < 0.3:
                with suppress(KilledError):
                    await self._bad_luck()
            await self._revive()

    async def _one(self) -> None:
        host = self._random.choice(self._hosts)
        try:
            await host.life.outlives(self._act(host))
        except KilledError:
            self.log.append(f"{host.name} was killed")

    async def _revive(self) -> None:
        """Start what was killed, until it lives: it may be killed while it starts, too."""
        for host in self._hosts:
            while host.life.is_over:
                self._forget(host, own=False)  # a join that was cut short ends what its host owns
                await host.kill()
                try:
                    await host.start()
                except KilledError:
                    self.log.append(f"{host.name} was killed while it started")

    async def _act(self, host: HostInProcess) -> None:
        network, name = self._random.choice(NETWORKS_OF_IT), self._random.choice(NAMES)
        actions: list[Callable[[], Awaitable[object]]] = [
            lambda: self._create(f"{network}/", host.network(network)),
            lambda: self._create(f"{network}/{name}", host.endpoint(name, network)),
            lambda: host.endpoint(name, network, owner="cni/x/eth0"),
            lambda: self._delete(f"{network}/", host.controller.removal.network(network)),
            lambda: self._delete(f"{network}/{name}", host.controller.removal.endpoint(network, name)),
            lambda: self._leave(host),
            lambda: self._repair(host),
        ]
        actions += [lambda: self._join(host, network, name)] * 4
        action = self._random.choice(actions)
        try:
            await action()
        except Error as failure:
            if failure.kind not in EXPECTED:
                raise
            self.log.append(f"{host.name} {network}/{name}: {failure.code}")

    async def _create(self, path: str, creation: Awaitable[str]) -> None:
        begun = len(self._deletions)
        created = await creation
        if not any(path.startswith(each) for each in (*self._deletions[begun:], *self._deleted.elements())):
            self.created[created] = path
            self.log.append(f"created {path} ({created[:12]})")

    async def _delete(self, path: str, deletion: Awaitable[None]) -> None:
        """Expect nothing more of what is there at the end of a deletion, whatever its outcome."""
        self._deleted[path] += 1
        self.log.append(f"deletion of {path} begins")
        self.created = {key: each for key, each in self.created.items() if not each.startswith(path)}
        try:
            await deletion
        finally:
            self._deleted[path] -= 1
            self._deletions.append(path)

    async def _join(self, host: HostInProcess, network: str, name: str) -> None:
        self._containers += 1
        container = f"c{self._containers}"
        await host.join(container, name, network, many=self._random.random() < 0.5)
        self.acknowledged[container] = host
        self.log.append(f"{host.name} joined {container} to {network}/{name}")

    async def _leave(self, host: HostInProcess) -> None:
        ready = [each for each in host.attachments() if each.phase == "ready"]
        if not ready:
            return
        attachment = self._random.choice(ready)
        self.acknowledged.pop(attachment.container_id, None)
        self.log.append(f"{host.name} leaves {attachment.container_id}")
        await host.leave(attachment.container_id, attachment.endpoint_id, attachment.network_id)

    async def _repair(self, host: HostInProcess) -> None:
        """Let the reconciler find a container wrong, which may have lost its endpoint to another host just now."""
        ready = [each for each in host.attachments() if each.phase == "ready"]
        if not ready:
            return
        attachment = self._random.choice(ready)
        locks = host.controller._context.locks
        async with locks.hold(f"endpoint/{attachment.endpoint_id}", f"sandbox/{attachment.container_id}"):
            if attachment in host.attachments():
                self.log.append(f"{host.name} repairs {attachment.container_id}")
                await host.repair(attachment)

    async def _bad_luck(self) -> None:
        host = self._random.choice(self._hosts)
        match self._random.randrange(7):
            case 0:
                host.shared.faults.append(self._random.choice(list(WriteFault)))
            case 1:
                host.shared.cut_off()
                self.log.append(f"{host.name} is cut off")
            case 2:
                host.shared.reconnect()
                self.log.append(f"{host.name} is connected")
            case 3 | 4:
                host.life.steps_left = self._random.randrange(20)
                self.log.append(f"{host.name} is killed after {host.life.steps_left} steps")
            case 5 if host.has_lease:
                self._forget(host)
                host.end_lease()
                self.log.append(f"the lease of {host.name} ends")
            case _:
                self.log.append(f"{host.name} restarts")
                host.shared.faults.clear()
                await host.stop()
                await host.start()
        host.cluster.deliver()

    def _forget(self, host: HostInProcess, *, own: bool = True) -> None:
        """Expect nothing more of a host's own containers, and of those on endpoints that it owns."""
        contents = host.cluster.contents
        shared = [decode(entry.value, SharedEndpoint) for entry in contents.list(ENDPOINTS)]
        owned = {each.endpoint.id for each in shared if each.host == host.name and each.number}
        keys = [attachment_key(entry.key) for entry in contents.list(ATTACHED)]
        gone = {key.container_id for key in keys if key.endpoint_id in owned or (own and key.host == host.name)}
        for container in gone:
            self.acknowledged.pop(container, None)

    async def settle(self) -> None:
        """Let all hosts reach the store, and wait until they agree."""
        for host in self._hosts:
            host.life.steps_left = None
        await self._revive()
        for host in self._hosts:
            host.shared.faults.clear()
            host.shared.reconnect()
        self._hosts[0].cluster.deliver()
        await until(lambda: all(host.joined for host in self._hosts))
        for host in self._hosts:
            await host.audit()
        await until(lambda: not self.disagreements())

    def disagreements(self) -> list[str]:
        """Return which promises do not hold, as texts."""
        entries = self._hosts[0].cluster.contents.list("")
        return [*self._lost(), *self._missing(), *self._differences(), *claim_faults(entries), *duplicates(entries)]

    def _lost(self) -> list[str]:
        return [
            f"{container} of {host.name} was acknowledged, and is gone"
            for container, host in self.acknowledged.items()
            if not any(each.container_id == container for each in host.controller.sandboxes.list())
        ]

    def _missing(self) -> list[str]:
        contents = self._hosts[0].cluster.contents
        found = {entry.key.rpartition("/")[2] for prefix in (NETWORKS, ENDPOINTS) for entry in contents.list(prefix)}
        return [
            f"{path} ({key[:12]}) was created, and is gone" for key, path in self.created.items() if key not in found
        ]

    def _differences(self) -> list[str]:
        """Return what differs between the shared store, and each host's records and peers."""
        found = []
        contents = self._hosts[0].cluster.contents
        networks = {entry.key.removeprefix(NETWORKS) for entry in contents.list(NETWORKS)}
        endpoints = {entry.key.rpartition("/")[2] for entry in contents.list(ENDPOINTS)}
        attached = {attachment_key(entry.key) for entry in contents.list(ATTACHED)}
        for host in self._hosts:
            records = host.controller._context.records
            own_networks = {net.id for net in records.networks() if net.driver == "overlay"}
            if own_networks != networks:
                found.append(f"{host.name} has networks {own_networks}, the store {networks}")
            own_endpoints = {each.id for each in records.endpoints()}
            if own_endpoints != endpoints:
                found.append(f"{host.name} has endpoints {own_endpoints}, the store {endpoints}")
            local = {(each.endpoint_id, host.name, each.container_id) for each in records.attachments()}
            remote = {(each.endpoint_id, each.host, each.container_id) for each in records.remote.all()}
            if local | remote != attached:
                found.append(f"{host.name} has attachments {local | remote}, the store {attached}")
            macs = Counter((each.network_id, each.mac) for each in records.remote.all())
            peers = Counter((net, mac) for net, known in host.peers().items() for mac in known if net in networks)
            if macs != peers:
                found.append(f"{host.name} has peers {peers}, its records {macs}")
        return found
