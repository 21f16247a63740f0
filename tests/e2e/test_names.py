"""Names, asked for inside sandboxes with the tools people use."""

from __future__ import annotations

import json
import sys
from contextlib import suppress

import pytest

from tests.support.daemon import RefusedError, RunningDaemon, Sandbox
from tests.support.dns_servers import always
from tests.support.name_cases import MISSING, SERVER, UPSTREAM, dig, found, unknowing, upstream
from tests.support.traffic import until


@pytest.fixture
def pair(daemon: RunningDaemon) -> tuple[Sandbox, Sandbox]:
    """Two sandboxes on an internal network of both families; the second is well known."""
    daemon.api.network("foo", internal=True, ipv6=True)
    one = daemon.sandbox("foo", "one")
    join = {"host_name": "mail", "domain_name": "example.com"}
    return one, daemon.sandbox("foo", "Peer", aliases=["www", "db.internal"], join=join)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_every_name_of_a_peer_resolves_to_its_address(pair: tuple[Sandbox, Sandbox], transport: str) -> None:
    one, peer = pair
    bare = ["peer", "www", "db.internal", "mail", "mail.example.com", peer.container[:12]]
    for name in (*bare, *(f"{name}.foo" for name in bare), "PEER", "Peer.FOO", "peer.foo."):
        assert dig(one, name, transport) == found(peer.address), name
    assert dig(one, "peer", transport, "-tAAAA") == found(peer.address6)
    assert dig(peer, "peer", transport) == found(peer.address)
    assert dig(one, "localhost", transport) == found("127.0.0.1")


def test_reverse_lookup_returns_name_and_network(pair: tuple[Sandbox, Sandbox]) -> None:
    one, peer = pair
    for address in (peer.address, peer.address6):
        assert dig(one, address, "-x") == found("peer.foo.")
    assert dig(one, SERVER, "-x") == found("localhost.")


def test_ipv6_lookup_on_an_ipv4_network_returns_no_data(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    one, _ = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "peer")
    for name in ("peer", "peer.foo"):
        assert dig(one, name, "-tAAAA") == found()
        assert dig(one, name, "-tMX") == found()


def test_external_name_on_internal_networks_returns_nxdomain(
    daemon: RunningDaemon, pair: tuple[Sandbox, Sandbox]
) -> None:
    servers = upstream(daemon, always("192.0.2.80"))
    sandbox = daemon.sandbox("foo", "three", join={"dns": [UPSTREAM]})
    for name in ("example.com", "nobody", "nobody.foo", "foo", "1.2.0.192.in-addr.arpa"):
        assert dig(sandbox, name) == MISSING
    assert servers.seen == []


def test_peers_see_created_and_deleted_endpoints_at_once(daemon: RunningDaemon, pair: tuple[Sandbox, Sandbox]) -> None:
    one, _ = pair
    for i in range(10):
        name = f"late{i % 2}"
        daemon.api.endpoint("foo", name, aliases=["also"])
        address = daemon.api.reported("foo", name)["address"].partition("/")[0]
        for each in (name, f"{name}.foo", "also"):
            assert dig(one, each) == found(address)
        assert dig(one, address, "-x") == found(f"{name}.foo.")
        daemon.api.delete(f"/networks/foo/endpoints/{name}")
        for each in (name, f"{name}.foo", "also"):
            assert dig(one, each) == MISSING
        assert dig(one, address, "-x") == MISSING


def test_peers_see_joined_and_left_containers_at_once(daemon: RunningDaemon, pair: tuple[Sandbox, Sandbox]) -> None:
    one, _ = pair
    daemon.api.endpoint("foo", "late")
    for i in range(10):
        container = f"c{i}" * 10
        sandbox = daemon.attach("foo", "late", container, host_name="guest")
        assert dig(one, "guest") == found(sandbox.address)
        assert dig(one, container[:12]) == found(sandbox.address)
        assert dig(sandbox, "peer").status == "NOERROR"
        daemon.api.leave("foo", "late", container)
        assert dig(one, "guest") == MISSING
        assert dig(one, container[:12]) == MISSING
        assert dig(one, "late") == found(sandbox.address)


def test_name_of_another_network_does_not_resolve(daemon: RunningDaemon) -> None:
    servers = upstream(daemon, unknowing)
    for name in ("foo", "bar"):
        daemon.api.network(name)
    one, two = (daemon.sandbox(net, name, join={"dns": [UPSTREAM]}) for net, name in (("foo", "one"), ("bar", "two")))
    for asker, stranger in ((one, two), (two, one)):
        for name in (stranger.endpoint, f"{stranger.endpoint}.{stranger.network}", stranger.container[:12]):
            assert dig(asker, name) == MISSING
        assert dig(asker, stranger.address, "-x") == MISSING
    assert len(set(servers.seen)) == 8


def test_equal_names_on_two_networks_resolve_per_network(daemon: RunningDaemon) -> None:
    sandboxes = {}
    for name in ("foo", "bar"):
        daemon.api.network(name)
        sandboxes[name] = (daemon.sandbox(name, "asker"), daemon.sandbox(name, "web"))
    for name, (asker, web) in sandboxes.items():
        assert dig(asker, "web") == dig(asker, f"web.{name}") == found(web.address)
    daemon.api.endpoint("bar", "second")
    both, web = sandboxes["foo"][0], sandboxes["bar"][1]
    daemon.attach("bar", "second", both.container)
    assert dig(both, "web.foo") == found(sandboxes["foo"][1].address)
    assert dig(both, "web.bar") == found(web.address)
    assert dig(both, "web") == found(sandboxes["foo"][1].address), "the network attached first goes first"


def test_leaving_one_network_keeps_only_the_names_of_the_other(daemon: RunningDaemon) -> None:
    for name in ("foo", "bar"):
        daemon.api.network(name, internal=True)
    peers = daemon.sandbox("foo", "left"), daemon.sandbox("bar", "right")
    sandbox = daemon.sandbox("foo", "both")
    assert dig(sandbox, "right") == MISSING
    daemon.api.endpoint("bar", "both")
    daemon.attach("bar", "both", sandbox.container)
    assert (dig(sandbox, "left"), dig(sandbox, "right.bar")) == (found(peers[0].address), found(peers[1].address))
    daemon.api.leave("foo", "both", sandbox.container)
    assert (dig(sandbox, "left"), dig(sandbox, "right")) == (MISSING, found(peers[1].address))
    assert dig(sandbox, "left.foo") == MISSING


def test_join_alias_resolves_only_in_that_sandbox(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", internal=True)
    peer = daemon.sandbox("foo", "peer")
    sandbox = daemon.sandbox("foo", "one", join={"aliases": ["me"]})
    assert dig(sandbox, "me") == found(sandbox.address)
    assert dig(peer, "me") == MISSING


def test_dns_server_of_the_join_is_used_exclusively(
    daemon: RunningDaemon,
) -> None:
    servers = upstream(daemon, always("192.0.2.80"))
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one", join={"dns": [UPSTREAM]})
    assert dig(sandbox, "www.example.com") == found("192.0.2.80")
    assert dig(sandbox, "www.example.com", "+tcp") == found("192.0.2.80")
    assert len(set(servers.seen)) == 2
    assert dig(sandbox, "one") == found(sandbox.address)
    assert dig(sandbox, "nobody.foo") == MISSING
    assert len(set(servers.seen)) == 2


def test_host_dns_server_resolves_other_names(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    upstream(daemon, always("192.0.2.80"))
    resolv_conf = daemon.folder / "host-resolv.conf"
    text = resolv_conf.read_text()
    resolv_conf.write_text(f"nameserver {UPSTREAM}\n")

    def is_resolved() -> bool:
        with suppress(AssertionError):  # no answer yet
            return dig(sandbox, "www.example.com") == found("192.0.2.80")
        return False

    try:
        until(is_resolved)
    finally:
        resolv_conf.write_text(text)


def test_libc_lookup_uses_hosts_file_and_resolver(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    peer = daemon.sandbox("foo", "peer")
    join = {"extra_hosts": [{"name": "db", "address": "192.0.2.5"}], "host_name": "me"}
    sandbox = daemon.sandbox("foo", "one", join=join)
    for name, address in (
        ("peer", peer.address),
        ("peer.foo", peer.address),
        ("db", "192.0.2.5"),
        ("me", sandbox.address),
    ):
        # of IPv4 alone: a name without the other family is also looked for below the host's search domain, far away
        assert daemon.cli("sandbox", "exec", sandbox.container, "--", "getent", "ahostsv4", name).split()[0] == address
    assert (
        daemon.cli("sandbox", "exec", sandbox.container, "--", "getent", "hosts", peer.address).split()[1] == "peer.foo"
    )
    assert f"nameserver {SERVER}\n" in daemon.cli("sandbox", "exec", sandbox.container, "--", "cat", "/etc/resolv.conf")
    assert daemon.cli("sandbox", "exec", sandbox.container[:6], "--", "ls", "/sys/class/net").split() == ["eth0", "lo"]


def test_rest_and_cli_explain_the_record_of_a_lookup(daemon: RunningDaemon, pair: tuple[Sandbox, Sandbox]) -> None:
    one, peer = pair
    reported = daemon.api.reported("foo", "Peer")
    for name in ("peer", "WWW.foo"):
        answer = daemon.api.get("/dns/explain", **{"name": name, "from": one.container})
        assert (answer["answers"], answer["source"]) == ([peer.address, peer.address6], "network")
        assert (answer["owners"], answer["asker"]) == ([reported["id"]], one.container)
        assert answer["network"] == daemon.api.get("/networks/foo")["id"]
    assert daemon.api.get("/dns/explain", **{"name": "nobody", "from": one.container[:8]})["source"] == "none"
    assert "peer.foo" in daemon.api.get("/dns/explain", **{"name": peer.address, "from": one.container})["reason"]
    spoken = daemon.cli("dns", "peer", "--from", one.container[:8])
    assert peer.address in spoken
    assert "endpoint Peer" in spoken
    raw = json.loads(daemon.cli("dns", "--json", "peer", "--from", one.container))
    assert raw == daemon.api.get("/dns/explain", **{"name": "peer", "from": one.container})
    with pytest.raises(RefusedError) as refused:
        daemon.api.get("/dns/explain", **{"name": "peer", "from": "nobody"})
    assert refused.value.status == 404


NAME_SERVER = """
import socket, sys
server = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, source = server.recvfrom(4096)
    end = 12
    while query[end]:
        end += query[end] + 1
    record = bytes([192, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 1, 9])
    server.sendto(query[:2] + bytes([133, 128, 0, 1, 0, 1, 0, 0, 0, 0]) + query[12 : end + 5] + record, source)
"""


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("internal", [True, False], ids=["internal", "open"])
def test_dns_server_on_the_sandbox_network_is_queried_inside(
    daemon: RunningDaemon, internal: bool, version: int
) -> None:
    daemon.api.network("inn", internal=internal, subnet_ipv6="fd00:77::/64")
    ns = daemon.sandbox("inn", "server")
    server = ns.address if version == 4 else ns.address6
    running = daemon.host.inside(ns.key, daemon.host.start_here, sys.executable, "-c", NAME_SERVER, server)
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    client = daemon.sandbox("inn", "client", join={"dns": [server]})
    assert client.sh("dig", "+short", "+tries=1", "+time=20", "@127.0.0.11", "allowed.example") == "10.1.1.9\n"
    assert dig(client, "server") == found(ns.address)
    reported = daemon.cli("dns", "allowed.example", "--from", client.container)
    assert f"Upstream: {server} (from inside)\n" in reported
    other = daemon.sandbox("inn", "other")
    assert ("inside" in daemon.cli("dns", "allowed.example", "--from", other.container)) is False


def test_dns_server_at_the_gateway_is_queried_from_the_host(
    daemon: RunningDaemon,
) -> None:
    """A sandbox does not reach the host's own programs, and the resolver does."""
    daemon.api.network("foo", subnet="10.88.0.0/24")
    address = "10.88.0.1"
    running = daemon.host.popen(sys.executable, "-c", NAME_SERVER, address)
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    client = daemon.sandbox("foo", "client", join={"dns": [address]})
    assert client.sh("dig", "+short", "+tries=1", "+time=20", "@127.0.0.11", "allowed.example") == "10.1.1.9\n"
    assert "inside" not in daemon.cli("dns", "allowed.example", "--from", client.container)
