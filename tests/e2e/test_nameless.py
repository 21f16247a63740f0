"""Without a resolver (``dns = false``) names stand in the hosts files of sandboxes, as in 2015."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.daemon import LOCAL_HOSTS, World, files_of
from tests.support.daemon_pair import Worlds


@pytest.fixture
def world(nameless_worlds: Worlds) -> Iterator[World]:
    """The world of a daemon that runs no resolver, checked afterwards."""
    yield nameless_worlds.get()
    nameless_worlds.check()


def test_given_a_join_when_done_then_the_hosts_file_holds_the_container_its_hosts_and_all_services(
    world: World,
) -> None:
    world.api.network("foo", ipv6=True)
    other = world.box("foo", "other")
    extra = [{"name": "db", "address": "192.0.2.5"}, {"name": "db6", "address": "2001:db8::5"}]
    join = {"host_name": "web", "domain_name": "example.com", "extra_hosts": extra}
    box = world.box("foo", "/one", join=join)
    hosts, _ = files_of(world, box.container)
    assert hosts[:2] == [f"{box.address}\tweb.example.com web", f"{box.address6}\tweb.example.com web"]
    assert hosts[2:8] == LOCAL_HOSTS
    assert hosts[8:10] == ["192.0.2.5\tdb", "2001:db8::5\tdb6"]
    services = [f"{a}\t{n}{tail}" for each, n in ((other, "other"), (box, "one"))
                for a in (each.address, each.address6) for tail in ("", ".foo")]  # fmt: skip
    assert Counter(hosts[10:]) == Counter(services)


def test_given_two_networks_when_joined_then_the_hosts_file_holds_the_records_of_both(world: World) -> None:
    for name in ("foo", "bar"):
        world.api.network(name)
    peers = [world.box("foo", "peer1"), world.box("bar", "peer2")]
    box = world.box("foo", "one", join={"host_name": "web", "extra_hosts": [{"name": "db", "address": "192.0.2.5"}]})
    world.api.endpoint("bar", "one")
    second = world.attach("bar", "one", box.container)
    hosts, _ = files_of(world, box.container)
    assert {f"{box.address}\tweb", f"{second.address}\tweb", "192.0.2.5\tdb"} <= set(hosts)
    assert {f"{peers[0].address}\tpeer1.foo", f"{peers[1].address}\tpeer2.bar"} <= set(hosts)
    world.api.leave("bar", "one", box.container)
    hosts, _ = files_of(world, box.container)
    assert f"{second.address}\tweb" not in hosts
    assert f"{peers[1].address}\tpeer2.bar" not in hosts
    assert f"{peers[0].address}\tpeer1.foo" in hosts


def test_given_an_endpoint_when_created_and_deleted_then_its_name_comes_and_goes_for_its_peers(
    world: World,
) -> None:
    world.api.network("foo")
    world.api.network("bar")
    box, stranger = world.box("foo", "one"), world.box("bar", "stranger")
    world.api.endpoint("foo", "late")
    address = world.api.told("foo", "late")["address"].partition("/")[0]
    assert {f"{address}\tlate", f"{address}\tlate.foo"} <= set(files_of(world, box.container)[0])
    assert not [line for line in files_of(world, stranger.container)[0] if "late" in line]
    world.api.delete("/networks/foo/endpoints/late")
    assert not [line for line in files_of(world, box.container)[0] if "late" in line]


def test_given_the_hosts_resolv_conf_when_joined_then_what_a_sandbox_can_reach_of_it_is_copied(
    world: World,
) -> None:
    world.api.network("four")
    world.api.network("six", ipv6=True)
    _, four = files_of(world, world.box("four", "e").container)
    assert four == "nameserver 198.51.100.53\nsearch example.org\noptions ndots:2\n"
    _, six = files_of(world, world.box("six", "e").container)
    assert "nameserver 2001:db8:1::53\n" in six


def test_given_dns_servers_when_joined_then_they_and_the_search_domains_are_written(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "e", join={"dns": ["192.0.2.53", "2001:db8::53"]})
    assert files_of(world, box.container)[1] == "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.org\n"


def test_given_names_when_looked_up_in_a_sandbox_then_they_resolve_from_its_hosts_file(world: World) -> None:
    world.api.network("foo", ipv6=True)
    peer = world.box("foo", "peer")
    box = world.box("foo", "one", join={"extra_hosts": [{"name": "db", "address": "192.0.2.5"}], "host_name": "me"})
    for name, address in (("peer", peer.address), ("peer.foo", peer.address), ("db", "192.0.2.5"), ("me", box.address)):
        assert world.cli("sandbox", "exec", box.container, "--", "getent", "ahostsv4", name).split()[0] == address
    answer = world.cli("sandbox", "exec", box.container[:6], "--", "getent", "ahostsv6", "peer")
    assert answer.split()[0] == peer.address6
    assert "nameserver 198.51.100.53" in world.cli("sandbox", "exec", box.container, "--", "cat", "/etc/resolv.conf")
    assert world.cli("sandbox", "exec", box.container, "--", "ls", "/sys/class/net").split() == ["eth0", "lo"]


def test_given_a_daemon_without_a_resolver_when_running_then_there_is_none(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one")
    assert world.resolvers() == []
    assert box.sh("ss", "-Hluntn") == ""
