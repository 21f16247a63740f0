"""Servers that are asked from inside a sandbox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from sandnet.dns.base import RemoveClient, SetClient
from tests.support.conditions import until
from tests.support.dns_servers import DnsHost, FakeUpstream, always, names, query, rcode, records, reply_to
from tests.support.network_host import Host

THERE, THERE6 = "10.77.0.2", "fd77::2"


class InsideCase(DnsHost):
    """A sandbox, and another one on its network in which a name server runs."""

    def __init__(self, host: Host, folder: Path) -> None:
        super().__init__(host, folder)
        self.ns = self.asker("ns", "front")
        self.join(self.asker("box", "front"), self.ns)
        self.outside: FakeUpstream = self.upstream("127.0.1.1", always("192.0.2.99"))
        self.resolv_conf.write_text("nameserver 127.0.1.1\n")

    def sandbox(self, *servers: str, external: bool = False) -> SetClient:
        """The sandbox, whose own networks hold these servers."""
        return self.asker("box", "front", upstreams=servers, inside=servers, external=external)


@pytest.fixture
async def case(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InsideCase]:
    monkeypatch.setattr("sandnet.dns.client.TIMEOUT", 20.0)  # else a change may come into force after its call
    made = InsideCase(host, tmp_path)
    try:
        yield made
    finally:
        await made.close()


def truncated(asked: bytes) -> list[bytes]:
    """An answer that reports: ask over TCP."""
    reply = reply_to(asked)
    return [reply[:2] + bytes([reply[2] | 2]) + reply[3:]]


@pytest.mark.parametrize("server", [THERE, THERE6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("external", [False, True], ids=["internal", "external"])
async def test_query_to_a_server_on_the_sandbox_network_is_from_inside(
    case: InsideCase, server: str, external: bool
) -> None:
    upstream = case.upstream(server, always("192.0.2.1"), sandbox=case.ns)
    client = await case.opened()
    sandbox = case.sandbox(server, external=external)
    await client.apply(sandbox, names("front", "e1", "web", "10.77.0.9"))
    for number in range(60):  # more than there are sockets
        assert records(await case.ask(sandbox, f"n{number}.example.org")) == ["192.0.2.1"]
    assert len(set(upstream.seen)) == 60  # one is sent again where neighbour discovery takes its time
    assert len(set(upstream.ports)) > 30  # each from a port of its own
    assert not case.outside.seen
    assert records(await case.ask(sandbox, "web")) == ["10.77.0.9"]
    reported = await client.explain("box", "example.org")
    assert reported.upstreams == reported.inside == (ip_address(server),)


@pytest.mark.parametrize("server", [THERE, THERE6], ids=["ipv4", "ipv6"])
async def test_truncated_answer_is_retried_over_tcp_from_inside(case: InsideCase, server: str) -> None:
    many = [f"192.0.2.{number}" for number in range(1, 25)]
    case.upstream(server, truncated, always(*many), sandbox=case.ns)
    client = await case.opened()
    sandbox = case.sandbox(server)
    await client.apply(sandbox)
    for _ in range(10):  # more than there are sockets for it
        assert sorted((await case.dig(sandbox, "+short", "example.org")).split()) == sorted(many)


async def test_unresponsive_server_inside_does_not_exhaust_sockets(
    case: InsideCase,
) -> None:
    silent = [True]
    case.upstream(THERE, lambda asked: [] if silent[0] else always("192.0.2.1")(asked), sandbox=case.ns)
    client = await case.opened()
    sandbox = case.sandbox(THERE)
    await client.apply(sandbox)
    with case.socket_in(sandbox) as flood:
        for number in range(100):
            flood.send(query(f"n{number}.example.org"))
        for _ in range(100):
            assert rcode(await asyncio.to_thread(flood.recv, 512)) == "SERVFAIL"
    silent[0] = False
    assert records(await case.ask(sandbox, "example.org")) == ["192.0.2.1"]
    assert not case.outside.seen


async def test_unreachable_server_inside_has_no_fallback(
    case: InsideCase,
) -> None:
    client = await case.opened()
    sandbox = case.sandbox(THERE)
    await client.apply(sandbox)
    assert rcode(await case.ask(sandbox, "example.org")) == "SERVFAIL"  # refused: nothing listens there
    await client.apply(case.asker("box", "front", upstreams=[THERE, "127.0.1.1"], inside=[THERE], external=False))
    assert rcode(await case.ask(sandbox, "example.org")) == "SERVFAIL"
    assert not case.outside.seen


async def test_server_reachable_only_inside_is_queried_there_last(
    case: InsideCase,
) -> None:
    """As in a namespace that was joined and has a VPN of its own."""
    case.upstream(THERE, always("192.0.2.1"), sandbox=case.ns)
    client = await case.opened()
    sandbox = case.asker("box", "front", upstreams=[THERE], external=True)
    await client.apply(sandbox)
    assert records(await case.ask(sandbox, "example.org")) == ["192.0.2.1"]


async def test_inside_sockets_follow_the_servers_and_the_sandbox(
    case: InsideCase,
) -> None:
    for server in (THERE, THERE6):
        case.upstream(server, always("192.0.2.1"), sandbox=case.ns)
    client = await case.opened()
    await client.apply(case.asker("box", "front"))
    (pid,) = case.pids()
    bare = len(os.listdir(f"/proc/{pid}/fd"))
    for servers in ([THERE], [THERE, THERE6], [THERE6]):
        await client.apply(sandbox := case.sandbox(*servers))
        assert records(await case.ask(sandbox, "example.org")) == ["192.0.2.1"]
    assert len(os.listdir(f"/proc/{pid}/fd")) > bare
    case.kill()
    await until(lambda: case.pids() and not client.problem())
    assert records(await case.ask(sandbox, "example.org")) == ["192.0.2.1"]
    (pid,) = case.pids()
    await client.apply(RemoveClient(container_id="box"))
    assert len(os.listdir(f"/proc/{pid}/fd")) == bare - 2
