"""The process that answers names: it outlives the daemon, comes back when killed, and goes with its sandboxes."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.names import MISSING, SERVER, dig, found, lookup
from tests.support.daemon import World, state_of
from tests.support.dns_servers import query, records
from tests.support.network_host import seconds_to_start
from tests.support.traffic import PAUSE, TCP, UDP, Place, until

REPAIR = 1.0
"""Seconds after which a killed resolver answers again, where starting a process takes no time to speak of."""


def test_given_a_joined_namespace_when_left_then_nobody_listens_there_any_more(world: World) -> None:
    theirs = world.place(world.host.container().path)
    before = state_of(theirs)
    world.api.network("foo")
    peer = world.box("foo", "peer")
    for _ in range(3):
        world.api.endpoint("foo", "one")
        world.attach("foo", "one", "c1", netns=theirs.namespace)
        assert dig(theirs, "peer") == found(peer.address)
        world.api.leave("foo", "one", "c1")
        assert theirs.sh("ss", "-Hluntn") == ""
        world.api.delete("/networks/foo/endpoints/one")
    assert state_of(theirs) == before


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_given_lookups_when_the_daemon_ends_and_starts_then_not_one_fails(world: World, ending: str) -> None:
    world.api.network("foo", internal=True)
    one, peer = world.box("foo", "one"), world.box("foo", "peer")
    world.api.endpoint("foo", "gone")
    (resolver,) = world.resolvers()
    with ThreadPoolExecutor(1) as pool:
        done: list[bool] = []
        asking = pool.submit(ask_until, lambda: bool(done), one, "peer", peer.address)
        try:
            getattr(world, ending)()
            assert dig(one, "peer") == found(peer.address)
            world.start()
            world.api.delete("/networks/foo/endpoints/gone")
            assert dig(one, "gone") == MISSING
            late = world.box("foo", "late")
            assert dig(one, "late") == dig(late, "late") == found(late.address)
        finally:
            done.append(True)
        assert asking.result() > 10
    assert world.resolvers() == [resolver]


def test_given_lookups_when_the_daemon_starts_with_other_dns_options_then_another_resolver_takes_over_and_none_fails(
    fresh_world: World,
) -> None:
    fresh_world.start()
    fresh_world.api.network("foo", internal=True)
    one, peer = fresh_world.box("foo", "one"), fresh_world.box("foo", "peer")
    (old,) = fresh_world.resolvers()
    config = fresh_world.folder / "config.toml"
    before = config.read_text()
    with ThreadPoolExecutor(1) as pool:
        done: list[bool] = []
        asking = pool.submit(ask_until, lambda: bool(done), one, "peer", peer.address)
        try:
            fresh_world.stop()
            config.write_text(f"{before}dns_outstanding = 100\n")
            fresh_world.start()
            until(lambda: len(fresh_world.resolvers()) == 1 and old not in fresh_world.resolvers())
            assert dig(one, "peer") == found(peer.address)
        finally:
            done.append(True)
        assert asking.result() > 50
    fresh_world.stop()
    config.write_text(before.replace("dns = true", "dns = false"))
    fresh_world.start()
    until(lambda: not fresh_world.resolvers())


def ask_until(done: Callable[[], bool], place: Place, name: str, address: str) -> int:
    """How many lookups went well, none late."""
    asked = 0
    with place.client(SERVER, 53, UDP) as client:
        client.settimeout(PAUSE)
        while not done():
            client.send(query(name))
            assert records(client.recv(4096)) == [address]
            asked += 1
            time.sleep(0.005)
    return asked


def test_given_a_killed_resolver_when_a_second_has_passed_then_it_answers_again_with_all_names(world: World) -> None:
    world.api.network("foo", internal=True)
    one, peer = world.box("foo", "one"), world.box("foo", "peer")
    (old,) = world.resolvers()
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(seconds_to_start)
        began = time.monotonic()
        os.kill(old, signal.SIGKILL)
        until(lambda: lookup(one, "peer") == [peer.address])
        took = time.monotonic() - began
    assert took < REPAIR + 5 * start.result()
    assert old not in world.resolvers()
    late = world.box("foo", "late")
    assert dig(one, "late") == dig(late, "late") == found(late.address)
    until(lambda: world.api.get("/healthz")["status"] == "ok")


def test_given_a_daemon_and_a_resolver_that_were_killed_when_started_then_all_names_are_back(world: World) -> None:
    world.api.network("foo", internal=True)
    one, peer = world.box("foo", "one"), world.box("foo", "peer")
    world.kill()
    world.kill_resolvers()
    world.start()
    assert dig(one, "peer") == found(peer.address)
    assert len(world.resolvers()) == 1


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_given_a_name_server_in_a_sandbox_when_it_listens_on_the_boxs_address_then_peers_and_resolver_answer(
    world: World, proto: int
) -> None:
    world.api.network("foo")
    box, peer = world.box("foo", "ns"), world.box("foo", "peer")
    box.serve("ns", 53, proto, address=box.address)
    assert peer.ask(box.address, 53, proto).server == "ns"
    assert dig(box, "peer") == found(peer.address)


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_given_a_name_server_in_a_sandbox_when_it_wants_all_addresses_then_it_is_told_and_the_resolver_goes_on(
    world: World, proto: int
) -> None:
    """docs/names.md: 127.0.0.11 port 53 is the resolver's, so such a server binds the sandbox's own address."""
    world.api.network("foo")
    box, peer = world.box("foo", "ns"), world.box("foo", "peer")
    with pytest.raises(OSError) as caught:
        box.serve("ns", 53, proto)
    assert caught.value.errno == errno.EADDRINUSE
    assert dig(box, "peer") == found(peer.address)
