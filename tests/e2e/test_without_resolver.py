"""Without a resolver (``dns = false``) names stand in the hosts files of sandboxes, as in 2015."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.daemon import LOCAL_HOSTS, RunningDaemon, files_of
from tests.support.daemon_pair import DaemonPair


@pytest.fixture
def daemon(nameless_daemons: DaemonPair) -> Iterator[RunningDaemon]:
    """A daemon that runs no resolver, checked afterwards."""
    yield nameless_daemons.get()
    nameless_daemons.check()


def test_hosts_file_has_container_hosts_and_all_services(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo", ipv6=True)
    other = daemon.sandbox("foo", "other")
    extra = [{"name": "db", "address": "192.0.2.5"}, {"name": "db6", "address": "2001:db8::5"}]
    join = {"host_name": "web", "domain_name": "example.com", "extra_hosts": extra}
    sandbox = daemon.sandbox("foo", "/one", join=join)
    hosts, _ = files_of(daemon, sandbox.container)
    assert hosts[:2] == [f"{sandbox.address}\tweb.example.com web", f"{sandbox.address6}\tweb.example.com web"]
    assert hosts[2:8] == LOCAL_HOSTS
    assert hosts[8:10] == ["192.0.2.5\tdb", "2001:db8::5\tdb6"]
    services = [f"{a}\t{n}{tail}" for each, n in ((other, "other"), (sandbox, "one"))
                for a in (each.address, each.address6) for tail in ("", ".foo")]  # fmt: skip
    assert Counter(hosts[10:]) == Counter(services)


def test_hosts_file_has_the_records_of_both_networks(daemon: RunningDaemon) -> None:
    for name in ("foo", "bar"):
        daemon.api.network(name)
    peers = [daemon.sandbox("foo", "peer1"), daemon.sandbox("bar", "peer2")]
    sandbox = daemon.sandbox(
        "foo", "one", join={"host_name": "web", "extra_hosts": [{"name": "db", "address": "192.0.2.5"}]}
    )
    daemon.api.endpoint("bar", "one")
    second = daemon.attach("bar", "one", sandbox.container)
    hosts, _ = files_of(daemon, sandbox.container)
    assert {f"{sandbox.address}\tweb", f"{second.address}\tweb", "192.0.2.5\tdb"} <= set(hosts)
    assert {f"{peers[0].address}\tpeer1.foo", f"{peers[1].address}\tpeer2.bar"} <= set(hosts)
    daemon.api.leave("bar", "one", sandbox.container)
    hosts, _ = files_of(daemon, sandbox.container)
    assert f"{second.address}\tweb" not in hosts
    assert f"{peers[1].address}\tpeer2.bar" not in hosts
    assert f"{peers[0].address}\tpeer1.foo" in hosts


def test_endpoint_name_appears_and_disappears_for_peers(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    daemon.api.network("bar")
    sandbox, stranger = daemon.sandbox("foo", "one"), daemon.sandbox("bar", "stranger")
    daemon.api.endpoint("foo", "late")
    address = daemon.api.reported("foo", "late")["address"].partition("/")[0]
    assert {f"{address}\tlate", f"{address}\tlate.foo"} <= set(files_of(daemon, sandbox.container)[0])
    assert not [line for line in files_of(daemon, stranger.container)[0] if "late" in line]
    daemon.api.delete("/networks/foo/endpoints/late")
    assert not [line for line in files_of(daemon, sandbox.container)[0] if "late" in line]


def test_reachable_part_of_host_resolv_conf_is_copied(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("four")
    daemon.api.network("six", ipv6=True)
    _, four = files_of(daemon, daemon.sandbox("four", "e").container)
    assert four == "nameserver 198.51.100.53\nsearch example.org\noptions ndots:2\n"
    _, six = files_of(daemon, daemon.sandbox("six", "e").container)
    assert "nameserver 2001:db8:1::53\n" in six


def test_dns_servers_and_search_domains_are_written(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "e", join={"dns": ["192.0.2.53", "2001:db8::53"]})
    assert (
        files_of(daemon, sandbox.container)[1] == "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.org\n"
    )


def test_names_resolve_from_the_hosts_file_in_a_sandbox(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    peer = daemon.sandbox("foo", "peer")
    sandbox = daemon.sandbox(
        "foo", "one", join={"extra_hosts": [{"name": "db", "address": "192.0.2.5"}], "host_name": "me"}
    )
    for name, address in (
        ("peer", peer.address),
        ("peer.foo", peer.address),
        ("db", "192.0.2.5"),
        ("me", sandbox.address),
    ):
        assert daemon.cli("sandbox", "exec", sandbox.container, "--", "getent", "ahostsv4", name).split()[0] == address
    answer = daemon.cli("sandbox", "exec", sandbox.container[:6], "--", "getent", "ahostsv6", "peer")
    assert answer.split()[0] == peer.address6
    assert "nameserver 198.51.100.53" in daemon.cli(
        "sandbox", "exec", sandbox.container, "--", "cat", "/etc/resolv.conf"
    )
    assert daemon.cli("sandbox", "exec", sandbox.container, "--", "ls", "/sys/class/net").split() == ["eth0", "lo"]


def test_daemon_without_a_resolver_runs_none(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    assert daemon.resolvers() == []
    assert sandbox.sh("ss", "-Hluntn") == ""
