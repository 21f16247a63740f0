"""What every name service promises: the one in memory and the one with a process and sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import pytest

from sandnet.dns.base import Alias, NameService, RemoveClient, RemoveNames, SetClient
from sandnet.dns.fake import FakeNames
from sandnet.errors import Error, Kind
from tests.support.dns_servers import DnsHost, names, query, rcode, records
from tests.support.network_host import Host, unavailable


class World(Protocol):
    """A name service, and sandboxes that ask it."""

    service: NameService

    def asker(self, name: str, *networks: str, aliases: tuple[Alias, ...] = (), external: bool = True) -> SetClient:
        """A sandbox."""
        ...

    async def ask(self, asker: SetClient, name: str, kind: str = "A") -> bytes:
        """What it is answered."""
        ...


class FakeWorld:
    """Everything in memory."""

    def __init__(self) -> None:
        self.fake = FakeNames()
        self.service: NameService = self.fake

    def asker(self, name: str, *networks: str, aliases: tuple[Alias, ...] = (), external: bool = True) -> SetClient:
        ids = tuple(f"id-{network}" for network in networks)
        return SetClient(
            container_id=name, key=f"/run/{name}", inode=1, networks=ids, aliases=aliases, external=external
        )

    async def ask(self, asker: SetClient, name: str, kind: str = "A") -> bytes:
        answer = self.fake.answer(asker.container_id, query(name, kind))
        assert answer
        return answer


class LinuxWorld:
    """A resolver process, and sockets in namespaces."""

    def __init__(self, dns_host: DnsHost, service: NameService) -> None:
        self._host = dns_host
        self.service = service

    def asker(self, name: str, *networks: str, aliases: tuple[Alias, ...] = (), external: bool = True) -> SetClient:
        return self._host.asker(name, *networks, aliases=aliases, external=external)

    async def ask(self, asker: SetClient, name: str, kind: str = "A") -> bytes:
        return await self._host.ask(asker, name, kind)


@pytest.fixture(params=["fake", "linux"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    if reason := unavailable():
        pytest.skip(reason)
    with Host() as host:
        dns_host = DnsHost(host, tmp_path)
        try:
            yield LinuxWorld(dns_host, await dns_host.opened())
        finally:
            await dns_host.close()


async def test_given_a_name_when_applied_then_a_sandbox_on_the_network_resolves_it(world: World) -> None:
    box = world.asker("box", "front")
    await world.service.apply(box, names("front", "e1", "web", "10.0.0.2", "fd00::2"))
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]
    assert records(await world.ask(box, "WEB.front")) == ["10.0.0.2"]
    assert records(await world.ask(box, "web", "AAAA")) == ["fd00::2"]
    assert records(await world.ask(box, "2.0.0.10.in-addr.arpa", "PTR")) == ["web.front."]
    assert world.service.problem() == ""


async def test_given_a_name_when_taken_back_then_no_answer_holds_it(world: World) -> None:
    box = world.asker("box", "front", external=False)
    await world.service.apply(box, names("front", "e1", "web", "10.0.0.2"), names("front", "e2", "web", "10.0.0.3"))
    await world.service.apply(RemoveNames(network_id="id-front", owner="e1"))
    assert records(await world.ask(box, "web")) == ["10.0.0.3"]
    await world.service.apply(
        RemoveNames(network_id="id-front", owner="e2"), RemoveNames(network_id="id-x", owner="e9")
    )
    assert rcode(await world.ask(box, "web")) == "NXDOMAIN"


async def test_given_another_network_when_a_sandbox_asks_then_its_names_are_not_seen(world: World) -> None:
    box, other = world.asker("box", "front", external=False), world.asker("other", "back", external=False)
    await world.service.apply(box, other, names("front", "e1", "web", "10.0.0.2"))
    assert rcode(await world.ask(other, "web")) == "NXDOMAIN"
    await world.service.apply(world.asker("other", "back", "front", external=False))
    assert records(await world.ask(other, "web")) == ["10.0.0.2"]


async def test_given_an_alias_when_asked_then_only_its_sandbox_knows_it(world: World) -> None:
    alias = Alias(name="db", addresses=(ip_address("10.0.0.9"),))
    box = world.asker("box", "front", aliases=(alias,))
    other = world.asker("other", "front", external=False)
    await world.service.apply(box, other)
    assert records(await world.ask(box, "db")) == ["10.0.0.9"]
    assert rcode(await world.ask(other, "db")) == "NXDOMAIN"


async def test_given_names_when_replaced_then_exactly_the_new_ones_are_there(world: World) -> None:
    box, gone = world.asker("box", "front", external=False), world.asker("gone", "front")
    await world.service.apply(
        box, gone, names("front", "e1", "web", "10.0.0.2"), names("front", "e2", "db", "10.0.0.3")
    )
    await world.service.replace([box, names("front", "e2", "db", "10.0.0.4")])
    assert records(await world.ask(box, "db")) == ["10.0.0.4"]
    assert rcode(await world.ask(box, "web")) == "NXDOMAIN"
    with pytest.raises(Error) as refused:
        await world.service.explain("gone", "db")
    assert refused.value.kind == Kind.NOT_FOUND


async def test_given_a_name_when_explained_then_the_record_behind_it_is_told(world: World) -> None:
    box = world.asker("box", "front")
    await world.service.apply(box, names("front", "e1", "web", "10.0.0.2"))
    told = await world.service.explain("box", "web")
    assert (told.source, told.network, told.owners) == ("network", "id-front", ("e1",))
    assert told.answers == (ip_address("10.0.0.2"),)
    assert (await world.service.explain("box", "example.org")).source == "upstream"


async def test_given_a_sandbox_when_gone_then_it_is_not_known(world: World) -> None:
    box = world.asker("box", "front")
    await world.service.apply(box)
    await world.service.apply(RemoveClient(container_id="box"), RemoveClient(container_id="never"))
    with pytest.raises(Error) as refused:
        await world.service.explain("box", "web")
    assert (refused.value.kind, refused.value.code) == (Kind.NOT_FOUND, "sandbox_not_found")
    assert refused.value.hint
