"""A random campaign over several hosts: operations, lost connections, ended leases, restarts; then the promises."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from sandnet.core.cluster.shared_values import ATTACHED, SharedEndpoint, attachment_key, decode
from sandnet.core.state.schema import ENDPOINTS, NETWORKS
from sandnet.errors import Error, Kind
from sandnet.stores.memory_shared import WriteFault
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess
from tests.support.store_truth import claim_faults, duplicates

NAMES = ("a", "b", "c")
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
                await self._bad_luck()

    async def _one(self) -> None:
        host = self._random.choice(self._hosts)
        network, name = self._random.choice(NETWORKS_OF_IT), self._random.choice(NAMES)
        actions: list[Callable[[], Awaitable[object]]] = [
            lambda: host.network(network),
            lambda: host.endpoint(name, network),
            lambda: host.endpoint(name, network, owner="cni/x/eth0"),
            lambda: host.controller.removal.network(network),
            lambda: host.controller.removal.endpoint(network, name),
            lambda: self._leave(host),
        ]
        actions += [lambda: self._join(host, network, name)] * 4
        action = self._random.choice(actions)
        try:
            await action()
        except Error as failure:
            if failure.kind not in EXPECTED:
                raise
            self.log.append(f"{host.name} {network}/{name}: {failure.code}")

    async def _join(self, host: HostInProcess, network: str, name: str) -> None:
        self._containers += 1
        container = f"c{self._containers}"
        await host.join(container, name, network, many=self._random.random() < 0.5)
        self.acknowledged[container] = host
        self.log.append(f"{host.name} joined {container} to {network}/{name}")

    async def _leave(self, host: HostInProcess) -> None:
        records = host.controller._context.records
        ready = [each for each in records.attachments() if each.phase == "ready"]
        if not ready:
            return
        attachment = self._random.choice(ready)
        self.acknowledged.pop(attachment.container_id, None)
        self.log.append(f"{host.name} leaves {attachment.container_id}")
        await host.leave(attachment.container_id, attachment.endpoint_id, attachment.network_id)

    async def _bad_luck(self) -> None:
        host = self._random.choice(self._hosts)
        match self._random.randrange(5):
            case 0:
                host.shared.faults.append(self._random.choice(list(WriteFault)))
            case 1:
                host.shared.cut_off()
                self.log.append(f"{host.name} is cut off")
            case 2:
                host.shared.reconnect()
                self.log.append(f"{host.name} is connected")
            case 3 if host.has_lease:
                self._forget(host)
                host.end_lease()
                self.log.append(f"the lease of {host.name} ends")
            case _:
                self.log.append(f"{host.name} restarts")
                host.shared.faults.clear()
                await host.stop()
                await host.start()
        host.cluster.deliver()

    def _forget(self, host: HostInProcess) -> None:
        """Expect nothing more of a host's containers, and of those on endpoints that it owns."""
        contents = host.cluster.contents
        shared = [decode(entry.value, SharedEndpoint) for entry in contents.list(ENDPOINTS)]
        owned = {each.endpoint.id for each in shared if each.host == host.name and each.number}
        keys = [attachment_key(entry.key) for entry in contents.list(ATTACHED)]
        gone = {key.container_id for key in keys if key.endpoint_id in owned or key.host == host.name}
        for container in gone:
            self.acknowledged.pop(container, None)

    async def settle(self) -> None:
        """Let all hosts reach the store, and wait until they agree."""
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
        return [*self._lost(), *self._differences(), *claim_faults(entries), *duplicates(entries)]

    def _lost(self) -> list[str]:
        return [
            f"{container} of {host.name} was acknowledged, and is gone"
            for container, host in self.acknowledged.items()
            if not any(each.container_id == container for each in host.controller.sandboxes.list())
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
