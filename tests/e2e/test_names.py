"""Names, asked for inside sandboxes with the tools people use."""

from __future__ import annotations

import json
import sys

import pytest

from tests.e2e.names import MISSING, SERVER, UPSTREAM, dig, found, unknowing, upstream
from tests.support.daemon import Box, RefusedError, World
from tests.support.dns_servers import always
from tests.support.traffic import until


@pytest.fixture
def pair(world: World) -> tuple[Box, Box]:
    """Two boxes on an internal network of both families; the second is well known."""
    world.api.network("foo", internal=True, ipv6=True)
    one = world.box("foo", "one")
    join = {"host_name": "mail", "domain_name": "example.com"}
    return one, world.box("foo", "Peer", aliases=["www", "db.internal"], join=join)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_given_a_peer_when_asked_for_by_any_of_its_names_then_its_address_is_told(
    pair: tuple[Box, Box], transport: str
) -> None:
    one, peer = pair
    bare = ["peer", "www", "db.internal", "mail", "mail.example.com", peer.container[:12]]
    for name in (*bare, *(f"{name}.foo" for name in bare), "PEER", "Peer.FOO", "peer.foo."):
        assert dig(one, name, transport) == found(peer.address), name
    assert dig(one, "peer", transport, "-tAAAA") == found(peer.address6)
    assert dig(peer, "peer", transport) == found(peer.address)
    assert dig(one, "localhost", transport) == found("127.0.0.1")


def test_given_addresses_when_asked_for_in_reverse_then_name_and_network_are_told(pair: tuple[Box, Box]) -> None:
    one, peer = pair
    for address in (peer.address, peer.address6):
        assert dig(one, address, "-x") == found("peer.foo.")
    assert dig(one, SERVER, "-x") == found("localhost.")


def test_given_a_network_of_ipv4_when_asked_for_an_ipv6_address_then_there_is_no_data(world: World) -> None:
    world.api.network("foo")
    one, _ = world.box("foo", "one"), world.box("foo", "peer")
    for name in ("peer", "peer.foo"):
        assert dig(one, name, "-tAAAA") == found()
        assert dig(one, name, "-tMX") == found()


def test_given_internal_networks_only_when_asked_for_anything_else_then_there_is_no_such_name(
    world: World, pair: tuple[Box, Box]
) -> None:
    servers = upstream(world, always("192.0.2.80"))
    box = world.box("foo", "three", join={"dns": [UPSTREAM]})
    for name in ("example.com", "nobody", "nobody.foo", "foo", "1.2.0.192.in-addr.arpa"):
        assert dig(box, name) == MISSING
    assert servers.seen == []


def test_given_endpoints_when_created_and_deleted_then_peers_know_it_at_once(
    world: World, pair: tuple[Box, Box]
) -> None:
    one, _ = pair
    for i in range(10):
        name = f"late{i % 2}"
        world.api.endpoint("foo", name, aliases=["also"])
        address = world.api.told("foo", name)["address"].partition("/")[0]
        for each in (name, f"{name}.foo", "also"):
            assert dig(one, each) == found(address)
        assert dig(one, address, "-x") == found(f"{name}.foo.")
        world.api.delete(f"/networks/foo/endpoints/{name}")
        for each in (name, f"{name}.foo", "also"):
            assert dig(one, each) == MISSING
        assert dig(one, address, "-x") == MISSING


def test_given_containers_when_joined_and_left_then_peers_know_their_names_at_once(
    world: World, pair: tuple[Box, Box]
) -> None:
    one, _ = pair
    world.api.endpoint("foo", "late")
    for i in range(10):
        container = f"c{i}" * 10
        box = world.attach("foo", "late", container, host_name="guest")
        assert dig(one, "guest") == found(box.address)
        assert dig(one, container[:12]) == found(box.address)
        assert dig(box, "peer").status == "NOERROR"
        world.api.leave("foo", "late", container)
        assert dig(one, "guest") == MISSING
        assert dig(one, container[:12]) == MISSING
        assert dig(one, "late") == found(box.address)


def test_given_a_name_of_another_network_when_asked_for_then_it_is_not_told(world: World) -> None:
    servers = upstream(world, unknowing)
    for name in ("foo", "bar"):
        world.api.network(name)
    one, two = (world.box(net, name, join={"dns": [UPSTREAM]}) for net, name in (("foo", "one"), ("bar", "two")))
    for asker, stranger in ((one, two), (two, one)):
        for name in (stranger.endpoint, f"{stranger.endpoint}.{stranger.network}", stranger.container[:12]):
            assert dig(asker, name) == MISSING
        assert dig(asker, stranger.address, "-x") == MISSING
    assert len(servers.seen) == 8


def test_given_equal_names_on_two_networks_when_asked_for_then_each_is_told_its_own(world: World) -> None:
    boxes = {}
    for name in ("foo", "bar"):
        world.api.network(name)
        boxes[name] = (world.box(name, "asker"), world.box(name, "web"))
    for name, (asker, web) in boxes.items():
        assert dig(asker, "web") == dig(asker, f"web.{name}") == found(web.address)
    world.api.endpoint("bar", "second")
    both, web = boxes["foo"][0], boxes["bar"][1]
    world.attach("bar", "second", both.container)
    assert dig(both, "web.foo") == found(boxes["foo"][1].address)
    assert dig(both, "web.bar") == found(web.address)
    assert dig(both, "web") == found(boxes["foo"][1].address), "the network attached first goes first"


def test_given_a_sandbox_on_two_networks_when_it_leaves_one_then_only_the_others_names_are_told(world: World) -> None:
    for name in ("foo", "bar"):
        world.api.network(name, internal=True)
    peers = world.box("foo", "left"), world.box("bar", "right")
    box = world.box("foo", "both")
    assert dig(box, "right") == MISSING
    world.api.endpoint("bar", "both")
    world.attach("bar", "both", box.container)
    assert (dig(box, "left"), dig(box, "right.bar")) == (found(peers[0].address), found(peers[1].address))
    world.api.leave("foo", "both", box.container)
    assert (dig(box, "left"), dig(box, "right")) == (MISSING, found(peers[1].address))
    assert dig(box, "left.foo") == MISSING


def test_given_an_alias_of_a_join_when_asked_for_then_that_sandbox_alone_is_told(world: World) -> None:
    world.api.network("foo", internal=True)
    peer = world.box("foo", "peer")
    box = world.box("foo", "one", join={"aliases": ["me"]})
    assert dig(box, "me") == found(box.address)
    assert dig(peer, "me") == MISSING


def test_given_a_server_of_the_join_when_other_names_are_asked_for_then_it_is_asked_for_them_alone(
    world: World,
) -> None:
    servers = upstream(world, always("192.0.2.80"))
    world.api.network("foo")
    box = world.box("foo", "one", join={"dns": [UPSTREAM]})
    assert dig(box, "www.example.com") == found("192.0.2.80")
    assert dig(box, "www.example.com", "+tcp") == found("192.0.2.80")
    assert len(servers.seen) == 2
    assert dig(box, "one") == found(box.address)
    assert dig(box, "nobody.foo") == MISSING
    assert len(servers.seen) == 2


def test_given_a_server_of_the_host_when_other_names_are_asked_for_then_it_is_asked(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one")
    upstream(world, always("192.0.2.80"))
    resolv_conf = world.folder / "host-resolv.conf"
    text = resolv_conf.read_text()
    resolv_conf.write_text(f"nameserver {UPSTREAM}\n")
    try:
        until(lambda: dig(box, "www.example.com") == found("192.0.2.80"), 10)
    finally:
        resolv_conf.write_text(text)


def test_given_the_c_library_when_it_looks_a_name_up_in_a_sandbox_then_hosts_file_and_resolver_answer(
    world: World,
) -> None:
    world.api.network("foo")
    peer = world.box("foo", "peer")
    join = {"extra_hosts": [{"name": "db", "address": "192.0.2.5"}], "host_name": "me"}
    box = world.box("foo", "one", join=join)
    for name, address in (("peer", peer.address), ("peer.foo", peer.address), ("db", "192.0.2.5"), ("me", box.address)):
        # of IPv4 alone: a name without the other family is also looked for below the host's search domain, far away
        assert world.cli("sandbox", "exec", box.container, "--", "getent", "ahostsv4", name).split()[0] == address
    assert world.cli("sandbox", "exec", box.container, "--", "getent", "hosts", peer.address).split()[1] == "peer.foo"
    assert f"nameserver {SERVER}\n" in world.cli("sandbox", "exec", box.container, "--", "cat", "/etc/resolv.conf")
    assert world.cli("sandbox", "exec", box.container[:6], "--", "ls", "/sys/class/net").split() == ["eth0", "lo"]


def test_given_a_question_when_explained_then_rest_and_the_command_line_tell_its_record(
    world: World, pair: tuple[Box, Box]
) -> None:
    one, peer = pair
    told = world.api.told("foo", "Peer")
    for name in ("peer", "WWW.foo"):
        answer = world.api.get("/dns/explain", **{"name": name, "from": one.container})
        assert (answer["answers"], answer["source"]) == ([peer.address, peer.address6], "network")
        assert (answer["owners"], answer["asker"]) == ([told["id"]], one.container)
        assert answer["network"] == world.api.get("/networks/foo")["id"]
    assert world.api.get("/dns/explain", **{"name": "nobody", "from": one.container[:8]})["source"] == "none"
    assert "peer.foo" in world.api.get("/dns/explain", **{"name": peer.address, "from": one.container})["reason"]
    spoken = world.cli("dns", "peer", "--from", one.container[:8])
    assert peer.address in spoken
    assert "endpoint Peer" in spoken
    raw = json.loads(world.cli("dns", "--json", "peer", "--from", one.container))
    assert raw == world.api.get("/dns/explain", **{"name": "peer", "from": one.container})
    with pytest.raises(RefusedError) as refused:
        world.api.get("/dns/explain", **{"name": "peer", "from": "nobody"})
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
def test_given_a_name_server_on_the_containers_own_network_when_named_in_the_join_then_it_is_asked_from_inside(
    world: World, internal: bool, version: int
) -> None:
    world.api.network("inn", internal=internal, subnet_ipv6="fd00:77::/64")
    ns = world.box("inn", "server")
    server = ns.address if version == 4 else ns.address6
    running = world.host.inside(ns.key, world.host.start_here, sys.executable, "-c", NAME_SERVER, server)
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    client = world.box("inn", "client", join={"dns": [server]})
    assert client.sh("dig", "+short", "+tries=1", "@127.0.0.11", "allowed.example") == "10.1.1.9\n"
    assert dig(client, "server") == found(ns.address)
    told = world.cli("dns", "allowed.example", "--from", client.container)
    assert f"Upstream: {server} (from inside)\n" in told
    other = world.box("inn", "other")
    assert ("inside" in world.cli("dns", "allowed.example", "--from", other.container)) is False


def test_given_a_server_of_the_host_at_the_networks_gateway_when_named_in_the_join_then_it_is_asked_from_the_host(
    world: World,
) -> None:
    """A sandbox does not reach the host's own programs, and the resolver does."""
    world.api.network("foo", subnet="10.88.0.0/24")
    address = "10.88.0.1"
    running = world.host.popen(sys.executable, "-c", NAME_SERVER, address)
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    client = world.box("foo", "client", join={"dns": [address]})
    assert client.sh("dig", "+short", "+tries=1", "@127.0.0.11", "allowed.example") == "10.1.1.9\n"
    assert "inside" not in world.cli("dns", "allowed.example", "--from", client.container)
