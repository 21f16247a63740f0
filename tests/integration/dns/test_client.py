"""The daemon's side: what it remembers, how it comes back, and what it reports while the resolver is away."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.dns import client as module
from sandnet.dns.base import RemoveClient, RemoveNames
from sandnet.dns.client import NameClient, stop_resolver
from sandnet.dns.client_connection import ControlConnection
from sandnet.dns.control_protocol import Lack
from sandnet.dns.takeover import OpenedSockets
from sandnet.errors import Error, Kind
from sandnet.model.address import Address
from tests.support.conditions import until
from tests.support.dns_servers import names
from tests.support.local_name_servers import LocalResolver, asker

WEB = names("front", "e1", "web", "10.0.0.2")


class Rig:
    """A client, and the resolvers it has started."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "dns.sock")
        self.folder = folder
        self.resolvers: list[LocalResolver] = []
        self.broken = ""
        self.client = NameClient(self.path, "1.0", self.start, self.open)

    @property
    def resolver(self) -> LocalResolver:
        return self.resolvers[-1]

    async def start(self) -> None:
        if self.broken:
            raise Error(Kind.UNAVAILABLE, self.broken)
        self.resolvers.append(LocalResolver(self.folder))
        await self.resolver.start()

    def open(
        self, key: str, inode: int, lack: Lack, *, beside_another: bool = False, at: Address | None = None
    ) -> OpenedSockets:
        return self.resolver.open(key, inode, lack)

    async def known(self, name: str) -> bool:
        return (await self.client.explain("box", name)).source == "network"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.client.close()
    for resolver in made.resolvers:
        await resolver.crash()


async def test_changes_made_before_the_resolver_connects_reach_it(rig: Rig) -> None:
    rig.broken = "no such program"
    rig.client.open()
    began = asyncio.get_running_loop().time()
    await rig.client.apply(WEB, asker("box", "front"))
    assert 0.9 < asyncio.get_running_loop().time() - began < 10
    assert "no such program" in rig.client.problem()
    with pytest.raises(Error) as refused:
        await rig.client.explain("box", "web")
    assert refused.value.kind == Kind.UNAVAILABLE
    rig.broken = ""
    await until(lambda: not rig.client.problem())
    assert await rig.known("web")


async def test_restarted_daemon_loses_no_name_before_its_first_update(rig: Rig) -> None:
    rig.client.open()
    await rig.client.replace([WEB, asker("box", "front")])
    successor = NameClient(rig.path, "1.0", rig.start, rig.open)
    successor.open()
    await until(lambda: not successor.problem())
    await successor.apply(names("front", "e2", "db", "10.0.0.3"))
    assert await rig.known("web")
    assert await rig.known("db")
    await successor.replace([asker("box", "front"), names("front", "e2", "db", "10.0.0.3")])
    assert not await rig.known("web")
    assert len(rig.resolvers) == 1
    await successor.close()


async def test_resolver_crash_resends_all_but_removed_names(rig: Rig) -> None:
    rig.client.open()
    await rig.client.replace([WEB, names("front", "e2", "db", "10.0.0.3"), asker("box", "front")])
    await rig.resolver.crash()
    await rig.client.apply(RemoveNames(network_id="id-front", owner="e2"))
    await until(lambda: not rig.client.problem())
    assert len(rig.resolvers) == 2
    assert await rig.known("web")
    assert not await rig.known("db")
    assert rig.resolver.completed == 1


async def test_changes_beyond_one_message_all_arrive(rig: Rig) -> None:
    rig.client.open()
    many = [names("front", f"e{number}", f"n{number}", "10.0.0.2") for number in range(2500)]
    await rig.client.replace([*many, asker("box", "front")])
    assert await rig.known("n2499")
    await rig.client.apply(*(RemoveNames(network_id="id-front", owner=each.owner) for each in many[:2000]))
    assert not await rig.known("n1999")
    assert await rig.known("n2000")


async def test_socket_problem_clears_once_they_can_be_opened(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    rig.resolver.refuse = {f"box{number}" for number in range(5)}
    await rig.client.apply(*(asker(key, "front") for key in rig.resolver.refuse))
    assert "the port is taken" in rig.client.problem()
    assert "and 2 more" in rig.client.problem()
    rig.resolver.refuse = set()
    await until(lambda: not rig.client.problem())


async def test_unresponsive_resolver_is_replaced_after_a_timeout(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HUNG", 1.0)
    monkeypatch.setattr(module, "_CHECK_INTERVAL", 0.1)
    rig.client.open()
    await rig.client.replace([WEB, asker("box", "front")])
    hanging = rig.resolver
    never = asyncio.Event()
    monkeypatch.setattr(hanging._control, "_answer", lambda *_: never.wait())
    await until(lambda: rig.client.problem() != "")
    hanging.leave()
    (rig.folder / "dns.sock").unlink()
    await until(lambda: not rig.client.problem())
    assert rig.resolver is not hanging
    assert await rig.known("web")


async def test_stopped_resolver_is_notified(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    assert (await rig.client.stats()).queries == 0
    await rig.client.stop()
    assert rig.resolver.stopped == [False]
    assert rig.client.problem()
    await stop_resolver(rig.path + ".none")


async def test_connection_from_another_user_is_closed(tmp_path: Path) -> None:
    resolver = LocalResolver(tmp_path, owner=os.geteuid() + 1)
    await resolver.start()
    with pytest.raises((OSError, Error)):
        await ControlConnection.open(str(tmp_path / "dns.sock"))
    await resolver.crash()


async def test_prepared_sockets_are_used_by_the_announced_client(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    rig.client.adopt_sockets("box", 1, rig.open("box", 1, Lack("box")).listening)
    port = rig.resolver.ports["box"]
    rig.resolver.refuse = {"box"}  # no second opening
    await rig.client.apply(WEB, asker("box", "front"))
    assert rig.resolver.ports["box"] == port
    assert not rig.client.problem()
    assert rig.resolver.server.missing_sockets() == ()


async def test_prepared_sockets_are_closed_if_the_join_fails(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    rig.client.adopt_sockets("box", 1, rig.open("box", 1, Lack("box")).listening)
    with socket.socket() as free:
        with pytest.raises(OSError):
            free.bind(("127.0.0.1", rig.resolver.ports["box"]))
        await rig.client.apply(RemoveClient(container_id="box"))
        free.bind(("127.0.0.1", rig.resolver.ports["box"]))
