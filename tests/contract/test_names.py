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


class NameServiceCase(Protocol):
    """A name service, and sandboxes that ask it."""

    service: NameService

    def asker(self, name: str, *networks: str, aliases: tuple[Alias, ...] = (), external: bool = True) -> SetClient:
        """A sandbox."""
        ...

    async def ask(self, asker: SetClient, name: str, kind: str = "A") -> bytes:
        """What it is answered."""
        ...


class FakeNameServiceCase:
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


class ResolverCase:
    """A resolver process, and sockets in namespaces."""

    def __init__(self, dns_host: DnsHost, service: NameService) -> None:
        self._host = dns_host
        self.service = service

    def asker(self, name: str, *networks: str, aliases: tuple[Alias, ...] = (), external: bool = True) -> SetClient:
        return self._host.asker(name, *networks, aliases=aliases, external=external)

    async def ask(self, asker: SetClient, name: str, kind: str = "A") -> bytes:
        return await self._host.ask(asker, name, kind)


@pytest.fixture(params=["fake", "linux"])
async def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NameServiceCase]:
    if request.param == "fake":
        yield FakeNameServiceCase()
        return
    if reason := unavailable():
        pytest.skip(reason)
    monkeypatch.setattr("sandnet.dns.client.TIMEOUT", 20.0)  # else a change may come into force after its call
    with Host() as host:
        dns_host = DnsHost(host, tmp_path)
        try:
            yield ResolverCase(dns_host, await dns_host.opened())
        finally:
            await dns_host.close()


async def test_applied_name_resolves_in_a_sandbox_on_the_network(case: NameServiceCase) -> None:
    sandbox = case.asker("box", "front")
    await case.service.apply(sandbox, names("front", "e1", "web", "10.0.0.2", "fd00::2"))
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]
    assert records(await case.ask(sandbox, "WEB.front")) == ["10.0.0.2"]
    assert records(await case.ask(sandbox, "web", "AAAA")) == ["fd00::2"]
    assert records(await case.ask(sandbox, "2.0.0.10.in-addr.arpa", "PTR")) == ["web.front."]
    assert case.service.problem() == ""


async def test_withdrawn_name_is_in_no_answer(case: NameServiceCase) -> None:
    sandbox = case.asker("box", "front", external=False)
    await case.service.apply(sandbox, names("front", "e1", "web", "10.0.0.2"), names("front", "e2", "web", "10.0.0.3"))
    await case.service.apply(RemoveNames(network_id="id-front", owner="e1"))
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.3"]
    await case.service.apply(RemoveNames(network_id="id-front", owner="e2"), RemoveNames(network_id="id-x", owner="e9"))
    assert rcode(await case.ask(sandbox, "web")) == "NXDOMAIN"


async def test_names_of_another_network_are_not_visible(case: NameServiceCase) -> None:
    sandbox, other = case.asker("box", "front", external=False), case.asker("other", "back", external=False)
    await case.service.apply(sandbox, other, names("front", "e1", "web", "10.0.0.2"))
    assert rcode(await case.ask(other, "web")) == "NXDOMAIN"
    await case.service.apply(case.asker("other", "back", "front", external=False))
    assert records(await case.ask(other, "web")) == ["10.0.0.2"]


async def test_alias_is_known_only_to_its_sandbox(case: NameServiceCase) -> None:
    alias = Alias(name="db", addresses=(ip_address("10.0.0.9"),))
    sandbox = case.asker("box", "front", aliases=(alias,))
    other = case.asker("other", "front", external=False)
    await case.service.apply(sandbox, other)
    assert records(await case.ask(sandbox, "db")) == ["10.0.0.9"]
    assert rcode(await case.ask(other, "db")) == "NXDOMAIN"


async def test_replacing_names_leaves_exactly_the_new_ones(case: NameServiceCase) -> None:
    sandbox, gone = case.asker("box", "front", external=False), case.asker("gone", "front")
    await case.service.apply(
        sandbox, gone, names("front", "e1", "web", "10.0.0.2"), names("front", "e2", "db", "10.0.0.3")
    )
    await case.service.replace([sandbox, names("front", "e2", "db", "10.0.0.4")])
    assert records(await case.ask(sandbox, "db")) == ["10.0.0.4"]
    assert rcode(await case.ask(sandbox, "web")) == "NXDOMAIN"
    with pytest.raises(Error) as refused:
        await case.service.explain("gone", "db")
    assert refused.value.kind == Kind.NOT_FOUND


async def test_explain_returns_the_record_behind_a_name(case: NameServiceCase) -> None:
    sandbox = case.asker("box", "front")
    await case.service.apply(sandbox, names("front", "e1", "web", "10.0.0.2"))
    reported = await case.service.explain("box", "web")
    assert (reported.source, reported.network, reported.owners) == ("network", "id-front", ("e1",))
    assert reported.answers == (ip_address("10.0.0.2"),)
    assert (await case.service.explain("box", "example.org")).source == "upstream"


async def test_explain_for_a_removed_sandbox_raises_not_found(case: NameServiceCase) -> None:
    sandbox = case.asker("box", "front")
    await case.service.apply(sandbox)
    await case.service.apply(RemoveClient(container_id="box"), RemoveClient(container_id="never"))
    with pytest.raises(Error) as refused:
        await case.service.explain("box", "web")
    assert (refused.value.kind, refused.value.code) == (Kind.NOT_FOUND, "sandbox_not_found")
    assert refused.value.hint
