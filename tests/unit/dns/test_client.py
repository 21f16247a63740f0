"""The daemon's side: what it remembers, how it comes back, and what it says while the resolver is away."""

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
from tests.support.dns_servers import names, until
from tests.unit.dns.local import LocalResolver, asker

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

    def open(self, key: str, inode: int, lack: Lack) -> OpenedSockets:
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


async def test_given_changes_before_the_resolver_when_it_comes_then_it_knows_them(rig: Rig) -> None:
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


async def test_given_a_restarted_daemon_when_it_has_said_nothing_yet_then_no_name_is_lost(rig: Rig) -> None:
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


async def test_given_a_crash_when_repaired_then_all_is_told_again_but_what_was_taken_back(rig: Rig) -> None:
    rig.client.open()
    await rig.client.replace([WEB, names("front", "e2", "db", "10.0.0.3"), asker("box", "front")])
    await rig.resolver.crash()
    await rig.client.apply(RemoveNames(network_id="id-front", owner="e2"))
    await until(lambda: not rig.client.problem())
    assert len(rig.resolvers) == 2
    assert await rig.known("web")
    assert not await rig.known("db")
    assert rig.resolver.completed == 1


async def test_given_more_changes_than_a_message_holds_when_told_then_all_arrive(rig: Rig) -> None:
    rig.client.open()
    many = [names("front", f"e{number}", f"n{number}", "10.0.0.2") for number in range(2500)]
    await rig.client.replace([*many, asker("box", "front")])
    assert await rig.known("n2499")
    await rig.client.apply(*(RemoveNames(network_id="id-front", owner=each.owner) for each in many[:2000]))
    assert not await rig.known("n1999")
    assert await rig.known("n2000")


async def test_given_an_asker_without_sockets_when_they_can_be_opened_then_the_problem_goes(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    rig.resolver.refuse = {f"box{number}" for number in range(5)}
    await rig.client.apply(*(asker(key, "front") for key in rig.resolver.refuse))
    assert "the port is taken" in rig.client.problem()
    assert "and 2 more" in rig.client.problem()
    rig.resolver.refuse = set()
    await until(lambda: not rig.client.problem())


async def test_given_a_resolver_that_says_nothing_when_time_has_passed_then_another_is_started(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_given_a_resolver_when_stopped_then_it_is_told(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    assert (await rig.client.stats()).queries == 0
    await rig.client.stop()
    assert rig.resolver.stopped == [False]
    assert rig.client.problem()
    await stop_resolver(rig.path + ".none")


async def test_given_another_user_when_he_calls_then_he_is_hung_up_on(tmp_path: Path) -> None:
    resolver = LocalResolver(tmp_path, owner=os.geteuid() + 1)
    await resolver.start()
    with pytest.raises((OSError, Error)):
        await ControlConnection.open(str(tmp_path / "dns.sock"))
    await resolver.crash()


async def test_given_sockets_opened_beforehand_when_the_asker_is_told_then_they_go_with_it(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    await asyncio.to_thread(rig.client.prepare, "box", "box", 1)
    port = rig.resolver.ports["box"]
    rig.resolver.refuse = {"box"}  # no second opening
    await rig.client.apply(WEB, asker("box", "front"))
    assert rig.resolver.ports["box"] == port
    assert not rig.client.problem()
    assert rig.resolver.server.missing_sockets() == ()


async def test_given_sockets_opened_beforehand_when_the_join_fails_then_they_are_closed(rig: Rig) -> None:
    rig.client.open()
    await until(lambda: not rig.client.problem())
    await asyncio.to_thread(rig.client.prepare, "box", "box", 1)
    with socket.socket() as free:
        with pytest.raises(OSError):
            free.bind(("127.0.0.1", rig.resolver.ports["box"]))
        await rig.client.apply(RemoveClient(container_id="box"))
        free.bind(("127.0.0.1", rig.resolver.ports["box"]))
