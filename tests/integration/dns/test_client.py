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


class ClientCase:
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
async def case(tmp_path: Path) -> AsyncIterator[ClientCase]:
    made = ClientCase(tmp_path)
    yield made
    await made.client.close()
    for resolver in made.resolvers:
        await resolver.crash()


async def test_changes_made_before_the_resolver_connects_reach_it(case: ClientCase) -> None:
    case.broken = "no such program"
    case.client.open()
    began = asyncio.get_running_loop().time()
    await case.client.apply(WEB, asker("box", "front"))
    assert 0.9 < asyncio.get_running_loop().time() - began < 10
    assert "no such program" in case.client.problem()
    with pytest.raises(Error) as refused:
        await case.client.explain("box", "web")
    assert refused.value.kind == Kind.UNAVAILABLE
    case.broken = ""
    await until(lambda: not case.client.problem())
    assert await case.known("web")


async def test_restarted_daemon_loses_no_name_before_its_first_update(case: ClientCase) -> None:
    case.client.open()
    await case.client.replace([WEB, asker("box", "front")])
    successor = NameClient(case.path, "1.0", case.start, case.open)
    successor.open()
    await until(lambda: not successor.problem())
    await successor.apply(names("front", "e2", "db", "10.0.0.3"))
    assert await case.known("web")
    assert await case.known("db")
    await successor.replace([asker("box", "front"), names("front", "e2", "db", "10.0.0.3")])
    assert not await case.known("web")
    assert len(case.resolvers) == 1
    await successor.close()


async def test_resolver_crash_resends_all_but_removed_names(case: ClientCase) -> None:
    case.client.open()
    await case.client.replace([WEB, names("front", "e2", "db", "10.0.0.3"), asker("box", "front")])
    await case.resolver.crash()
    await case.client.apply(RemoveNames(network_id="id-front", owner="e2"))
    await until(lambda: not case.client.problem())
    assert len(case.resolvers) == 2
    assert await case.known("web")
    assert not await case.known("db")
    assert case.resolver.completed == 1


async def test_changes_beyond_one_message_all_arrive(case: ClientCase) -> None:
    case.client.open()
    many = [names("front", f"e{number}", f"n{number}", "10.0.0.2") for number in range(2500)]
    await case.client.replace([*many, asker("box", "front")])
    assert await case.known("n2499")
    await case.client.apply(*(RemoveNames(network_id="id-front", owner=each.owner) for each in many[:2000]))
    assert not await case.known("n1999")
    assert await case.known("n2000")


async def test_socket_problem_clears_once_they_can_be_opened(case: ClientCase) -> None:
    case.client.open()
    await until(lambda: not case.client.problem())
    case.resolver.refuse = {f"box{number}" for number in range(5)}
    await case.client.apply(*(asker(key, "front") for key in case.resolver.refuse))
    assert "the port is taken" in case.client.problem()
    assert "and 2 more" in case.client.problem()
    case.resolver.refuse = set()
    await until(lambda: not case.client.problem())


async def test_unresponsive_resolver_is_replaced_after_a_timeout(
    case: ClientCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HUNG", 1.0)
    monkeypatch.setattr(module, "_CHECK_INTERVAL", 0.1)
    case.client.open()
    await case.client.replace([WEB, asker("box", "front")])
    hanging = case.resolver
    never = asyncio.Event()
    monkeypatch.setattr(hanging._control, "_answer", lambda *_: never.wait())
    await until(lambda: case.client.problem() != "")
    hanging.leave()
    (case.folder / "dns.sock").unlink()
    await until(lambda: not case.client.problem())
    assert case.resolver is not hanging
    assert await case.known("web")


async def test_stopped_resolver_is_notified(case: ClientCase) -> None:
    case.client.open()
    await until(lambda: not case.client.problem())
    assert (await case.client.stats()).queries == 0
    await case.client.stop()
    assert case.resolver.stopped == [False]
    assert case.client.problem()
    await stop_resolver(case.path + ".none")


async def test_connection_from_another_user_is_closed(tmp_path: Path) -> None:
    resolver = LocalResolver(tmp_path, owner=os.geteuid() + 1)
    await resolver.start()
    with pytest.raises((OSError, Error)):
        await ControlConnection.open(str(tmp_path / "dns.sock"))
    await resolver.crash()


async def test_prepared_sockets_are_used_by_the_announced_client(case: ClientCase) -> None:
    case.client.open()
    await until(lambda: not case.client.problem())
    case.client.adopt_sockets("box", 1, case.open("box", 1, Lack("box")).listening)
    port = case.resolver.ports["box"]
    case.resolver.refuse = {"box"}  # no second opening
    await case.client.apply(WEB, asker("box", "front"))
    assert case.resolver.ports["box"] == port
    assert not case.client.problem()
    assert case.resolver.server.missing_sockets() == ()


async def test_prepared_sockets_are_closed_if_the_join_fails(case: ClientCase) -> None:
    case.client.open()
    await until(lambda: not case.client.problem())
    case.client.adopt_sockets("box", 1, case.open("box", 1, Lack("box")).listening)
    with socket.socket() as free:
        with pytest.raises(OSError):
            free.bind(("127.0.0.1", case.resolver.ports["box"]))
        await case.client.apply(RemoveClient(container_id="box"))
        free.bind(("127.0.0.1", case.resolver.ports["box"]))
