"""The process that answers names: it outlives the daemon, comes back when killed, and goes with its sandboxes."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.daemon import RunningDaemon, state_of
from tests.support.dns_servers import query, records
from tests.support.name_cases import MISSING, SERVER, dig, found, lookup
from tests.support.network_host import seconds_to_start
from tests.support.time_limits import in_time
from tests.support.traffic import TCP, UDP, Place, received_promptly, until

REPAIR = 1.0
"""Seconds after which a killed resolver answers again, where starting a process takes no time to speak of."""


def test_resolver_does_not_listen_in_a_left_namespace(daemon: RunningDaemon) -> None:
    theirs = daemon.place(daemon.host.container().path)
    before = state_of(theirs)
    daemon.api.network("foo")
    peer = daemon.sandbox("foo", "peer")
    for _ in range(3):
        daemon.api.endpoint("foo", "one")
        daemon.attach("foo", "one", "c1", netns=theirs.namespace)
        assert dig(theirs, "peer") == found(peer.address)
        daemon.api.leave("foo", "one", "c1")
        assert theirs.sh("ss", "-Hluntn") == ""
        daemon.api.delete("/networks/foo/endpoints/one")
    assert state_of(theirs) == before


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_no_lookup_fails_across_a_daemon_restart(daemon: RunningDaemon, ending: str) -> None:
    daemon.api.network("foo", internal=True)
    one, peer = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "peer")
    daemon.api.endpoint("foo", "gone")
    (resolver,) = daemon.resolvers()
    with ThreadPoolExecutor(1) as pool:
        done: list[bool] = []
        asking = pool.submit(ask_until, lambda: bool(done), one, "peer", peer.address)
        try:
            getattr(daemon, ending)()
            assert dig(one, "peer") == found(peer.address)
            daemon.start()
            daemon.api.delete("/networks/foo/endpoints/gone")
            assert dig(one, "gone") == MISSING
            late = daemon.sandbox("foo", "late")
            assert dig(one, "late") == dig(late, "late") == found(late.address)
        finally:
            done.append(True)
        assert asking.result() > 10
    assert daemon.resolvers() == [resolver]


def test_no_lookup_fails_across_a_restart_with_new_dns_options(
    fresh_daemon: RunningDaemon,
) -> None:
    fresh_daemon.start()
    fresh_daemon.api.network("foo", internal=True)
    one, peer = fresh_daemon.sandbox("foo", "one"), fresh_daemon.sandbox("foo", "peer")
    (old,) = fresh_daemon.resolvers()
    config = fresh_daemon.folder / "config.toml"
    before = config.read_text()
    with ThreadPoolExecutor(1) as pool:
        done: list[bool] = []
        asking = pool.submit(ask_until, lambda: bool(done), one, "peer", peer.address)
        try:
            fresh_daemon.stop()
            config.write_text(f"{before}dns_outstanding = 100\n")
            fresh_daemon.start()
            until(lambda: len(fresh_daemon.resolvers()) == 1 and old not in fresh_daemon.resolvers())
            assert dig(one, "peer") == found(peer.address)
        finally:
            done.append(True)
        assert asking.result() > 50
    fresh_daemon.stop()
    config.write_text(before.replace("dns = true", "dns = false"))
    fresh_daemon.start()
    until(lambda: not fresh_daemon.resolvers())


def ask_until(done: Callable[[], bool], place: Place, name: str, address: str) -> int:
    """How many lookups went well, none late."""
    asked = 0
    with place.client(SERVER, 53, UDP) as client:
        while not done():
            client.send(query(name))
            assert records(received_promptly(client)) == [address]
            asked += 1
            time.sleep(0.005)
    return asked


def test_killed_resolver_answers_all_names_after_a_second(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", internal=True)
    one, peer = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "peer")

    def seconds_beside_starts() -> float:
        """How long it takes, without what five starts of a process take."""
        until(lambda: daemon.api.get("/healthz")["status"] == "ok")
        (old,) = daemon.resolvers()
        with ThreadPoolExecutor(1) as pool:
            start = pool.submit(seconds_to_start)
            began = time.monotonic()
            os.kill(old, signal.SIGKILL)
            until(lambda: lookup(one, "peer") == [peer.address])
            took = time.monotonic() - began
        assert old not in daemon.resolvers()
        return took - 5 * start.result()

    in_time(seconds_beside_starts, lambda took: took, REPAIR)
    late = daemon.sandbox("foo", "late")
    assert dig(one, "late") == dig(late, "late") == found(late.address)
    until(lambda: daemon.api.get("/healthz")["status"] == "ok")


def test_names_are_restored_after_daemon_and_resolver_are_killed(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", internal=True)
    one, peer = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "peer")
    daemon.kill()
    daemon.kill_resolvers()
    daemon.start()
    until(lambda: lookup(one, "peer") == [peer.address])  # the resolver may begin to answer later than the daemon
    assert dig(one, "peer") == found(peer.address)
    assert len(daemon.resolvers()) == 1


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_dns_server_on_the_sandbox_address_and_resolver_coexist(daemon: RunningDaemon, proto: int) -> None:
    daemon.api.network("foo")
    sandbox, peer = daemon.sandbox("foo", "ns"), daemon.sandbox("foo", "peer")
    sandbox.serve("ns", 53, proto, address=sandbox.address)
    assert peer.ask(sandbox.address, 53, proto).server == "ns"
    assert dig(sandbox, "peer") == found(peer.address)


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_dns_server_binding_all_addresses_fails_beside_resolver(daemon: RunningDaemon, proto: int) -> None:
    """docs/names.md: 127.0.0.11 port 53 is the resolver's, so such a server binds the sandbox's own address."""
    daemon.api.network("foo")
    sandbox, peer = daemon.sandbox("foo", "ns"), daemon.sandbox("foo", "peer")
    with pytest.raises(OSError) as caught:
        sandbox.serve("ns", 53, proto)
    assert caught.value.errno == errno.EADDRINUSE
    assert dig(sandbox, "peer") == found(peer.address)
