"""The life of networks, endpoints and sandboxes, and what stands in its way."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from sandnet.core.lifecycle.join_plan import MAX_HOSTS, with_parent_host
from sandnet.core.lifecycle.parent_updates import MAX_PENDING
from sandnet.core.names import host_name_files
from sandnet.dns.fake import FakeNames
from sandnet.errors import Error, Kind
from sandnet.model import EndpointSpec, HostEntry, JoinSpec, NetworkSpec, Origin, ParentUpdate, Phase, Sandbox
from tests.support.core_in_process import CoreInProcess, mapping


async def test_first_start_creates_the_predefined_networks_in_order(core: CoreInProcess) -> None:
    networks = core.controller.networks.list()
    assert [(net.name, net.driver) for net in networks] == [("none", "null"), ("host", "host"), ("bridge", "bridge")]


async def test_predefined_network_cannot_be_deleted(core: CoreInProcess) -> None:
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("bridge")
    assert caught.value.kind is Kind.PROTECTED


async def test_taken_network_name_is_refused_whatever_the_driver(core: CoreInProcess) -> None:
    with pytest.raises(Error) as caught:
        await core.network("host")
    assert caught.value.kind is Kind.NAME_TAKEN


async def test_unknown_driver_is_not_found(core: CoreInProcess) -> None:
    with pytest.raises(Error) as caught:
        await core.controller.networks.create(NetworkSpec(name="x", driver="nope"))
    assert caught.value.kind is Kind.NOT_FOUND
    assert "bridge" in caught.value.hint


async def test_concurrent_creates_get_distinct_subnets(core: CoreInProcess) -> None:
    networks = await asyncio.gather(*(core.network(f"n{i}") for i in range(24)))
    prefixes = {net.ipv4.prefix for net in networks if net.ipv4}
    assert len(prefixes) == 24


async def test_one_of_two_concurrent_creates_of_a_name_succeeds(core: CoreInProcess) -> None:
    results = await asyncio.gather(core.network("foo"), core.network("foo"), return_exceptions=True)
    failures = [result for result in results if isinstance(result, Error)]
    assert [failure.kind for failure in failures] == [Kind.NAME_TAKEN]


async def test_network_with_endpoints_is_not_deleted_and_names_them(core: CoreInProcess) -> None:
    await core.network()
    endpoint = await core.endpoint("baz")
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("foo")
    assert caught.value.kind is Kind.IN_USE
    assert "baz" in caught.value.message
    assert endpoint.id[:12] in caught.value.message


async def test_addresses_are_assigned_in_order_and_reused_last(core: CoreInProcess) -> None:
    await core.network(subnet=IPv4Network("10.9.0.0/29"))
    names = [f"e{i}" for i in range(3)]
    first = [await core.endpoint(name) for name in names]
    await core.controller.removal.endpoint("foo", "e0")
    later = [await core.endpoint(f"l{i}") for i in range(3)]
    assert [str(ep.address.ip) for ep in first if ep.address] == ["10.9.0.2", "10.9.0.3", "10.9.0.4"]
    assert [str(ep.address.ip) for ep in later if ep.address] == ["10.9.0.5", "10.9.0.6", "10.9.0.2"]


async def test_full_pool_raises_exhausted_and_leaves_nothing(core: CoreInProcess) -> None:
    await core.network(subnet=IPv4Network("10.9.0.0/30"))
    await core.endpoint("only")
    with pytest.raises(Error) as caught:
        await core.endpoint("more", port_mapping=(mapping(8080),))
    assert caught.value.kind is Kind.EXHAUSTED
    assert [ep.name for ep in core.controller.services.list()] == ["only"]
    core.kernel.host.hold(6, IPv4Address("0.0.0.0"), 8080).close()


async def test_published_port_conflict_names_the_holder(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web", port_mapping=(mapping(8080),))
    with pytest.raises(Error) as caught:
        await core.endpoint("other", port_mapping=(mapping(8080),))
    assert caught.value.kind is Kind.CONFLICT
    assert "web" in caught.value.message


async def test_port_range_binds_the_next_free_port(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("a", port_mapping=(mapping(9000, host_port_end=9002),))
    b = await core.endpoint("b", port_mapping=(mapping(9000, host_port_end=9002),))
    assert [port.host_port for port in b.ports] == [9001]


async def test_join_writes_peer_names_to_files_and_uses_a_short_key(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("e76f406417031bd24c17", "web", host_name="h1", domain_name="example.org")
    await core.endpoint("db")
    text = Path(sandbox.hosts_path).read_text()
    assert sandbox.key == "/var/run/docker/netns/e76f40641703"
    assert "172.16.1.2\th1.example.org h1\n" in text
    assert "172.16.1.3\tdb\n172.16.1.3\tdb.foo\n" in text


async def test_shared_twelve_character_id_gets_a_longer_second_key(core: CoreInProcess) -> None:
    await core.network()
    for name in ("a", "b"):
        await core.endpoint(name)
    first = await core.join("0123456789abX", "a")
    second = await core.join("0123456789abY", "b")
    assert first.key.endswith("/0123456789ab")
    assert second.key.endswith("/0123456789abY")


async def test_foreign_namespace_at_the_key_is_left_alone(core: CoreInProcess) -> None:
    key = "/var/run/docker/netns/0123456789ab"
    stranger = core.kernel.namespaces.make(key)
    await core.network()
    await core.endpoint("a")
    sandbox = await core.join("0123456789abcdef", "a")
    await core.controller.sandboxes.leave("foo", "a", "0123456789abcdef")
    assert sandbox.key != key
    left = core.kernel.namespaces.find(key)
    assert left is not None
    assert left.inode == stranger.inode


async def test_second_join_is_refused_and_delete_names_the_container(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    await core.join("c1", "web")
    with pytest.raises(Error) as second:
        await core.join("c2", "web")
    with pytest.raises(Error) as delete:
        await core.controller.removal.endpoint("foo", "web")
    assert (second.value.kind, delete.value.kind) == (Kind.INVALID, Kind.IN_USE)
    assert "c1" in delete.value.message


async def test_last_leave_deletes_the_sandbox_and_keeps_the_address(core: CoreInProcess) -> None:
    await core.network()
    before = await core.endpoint("web", port_mapping=(mapping(8080),))
    sandbox = await core.join("c1", "web")
    await core.controller.sandboxes.leave("foo", "web", "c1")
    assert core.controller.sandboxes.list() == []
    assert core.kernel.namespaces.find(sandbox.key) is None
    assert not Path(sandbox.hosts_path).parent.exists()
    assert core.controller.endpoints.find(core.controller.networks.find("foo"), "web") == before


async def test_default_route_follows_priority_and_join_order(core: CoreInProcess) -> None:
    for index, name in enumerate(("one", "two", "three")):
        await core.network(name, subnet=IPv4Network(f"10.9.{index}.0/24"))
        await core.endpoint("ep", name)
    sandbox = await core.join("c1", "ep", "one")
    await core.join("c1", "ep", "two")
    assert core.default_route(sandbox) == ("eth0", "10.9.0.1")
    await core.join("c1", "ep", "three", gateway_priority=5)
    assert core.default_route(sandbox) == ("eth2", "10.9.2.1")
    await core.controller.sandboxes.leave("three", "ep", "c1")
    assert core.default_route(sandbox) == ("eth0", "10.9.0.1")


async def test_six_concurrent_joins_and_leaves_leave_nothing(
    core: CoreInProcess,
) -> None:
    await core.network()
    names = [f"e{i}" for i in range(6)]
    for name in names:
        await core.endpoint(name)
    sandboxes = await asyncio.gather(*(core.join("c1", name) for name in names))
    interfaces = {a.interface for a in core.controller.sandboxes.attachments(sandboxes[0])}
    leaves = (core.controller.sandboxes.leave("foo", name, "c1") for name in names)
    await asyncio.gather(*leaves)
    assert interfaces == {f"eth{i}" for i in range(6)}
    assert core.controller.sandboxes.list() == []
    assert core.veths() == []


async def test_host_network_sandbox_uses_the_host_and_does_not_mix(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    await core.endpoint("h", "host")
    sandbox = await core.join("c1", "h", "host", use_default_sandbox=True)
    with pytest.raises(Error) as caught:
        await core.join("c1", "web")
    assert sandbox.origin is Origin.HOST
    assert caught.value.code == "host_network"


async def test_parent_update_gives_the_container_the_new_address(core: CoreInProcess) -> None:
    await core.network()
    parent = await core.endpoint("parent")
    await core.endpoint("child")
    sandbox = await core.join("c1", "parent")
    update = ParentUpdate(endpoint_id=parent.id, name="alias", address=IPv4Address("10.1.2.3"))
    await core.join("c2", "child", parent_updates=(update,))
    assert "10.1.2.3\talias\n" in Path(sandbox.hosts_path).read_text()


async def test_second_join_merges_the_records_of_both_networks(core: CoreInProcess) -> None:
    for name in ("one", "two"):
        await core.network(name)
        await core.endpoint("ep", name)
    extra = HostEntry(name="db.example", address=IPv4Address("192.0.2.7"))
    sandbox = await core.join("c1", "ep", "one", extra_hosts=(extra,), dns=(IPv4Address("192.0.2.53"),))
    await core.join("c1", "ep", "two")
    hosts, resolv = Path(sandbox.hosts_path).read_text(), Path(sandbox.resolv_conf_path).read_text()
    assert all(line in hosts for line in ("\tep.one\n", "\tep.two\n", "192.0.2.7\tdb.example\n"))
    assert resolv.startswith("nameserver 192.0.2.53\n")


async def test_nameservers_are_reachable_after_the_last_ipv6_leave(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_name_files, "_read", lambda _: b"nameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    await core.network("four")
    await core.network("six", ipv6=True)
    await core.endpoint("ep", "four")
    await core.endpoint("ep", "six")
    sandbox = await core.join("c1", "ep", "four")
    resolv = Path(sandbox.resolv_conf_path)
    alone = resolv.read_text()
    await core.join("c1", "ep", "six")
    both = resolv.read_text()
    assert "2001:db8::53" in both
    await core.controller.sandboxes.leave("six", "ep", "c1")
    assert resolv.read_text() == alone

    resolv.write_text(both)  # as a daemon does that is killed before it has recorded it
    await core.start()
    assert resolv.read_text() == alone
    resolv.write_text("nameserver 192.0.2.99\n")
    await core.join("c1", "ep", "six")
    assert resolv.read_text() == "nameserver 192.0.2.99\n"


async def test_file_path_outside_allowed_dirs_creates_nothing(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    with pytest.raises(Error) as caught:
        await core.join("c1", "web", hosts_path="/etc/hosts")
    assert caught.value.code == "path_not_allowed"
    assert core.controller.sandboxes.list() == []


async def test_ambiguous_prefix_is_refused_naming_the_candidates(core: CoreInProcess) -> None:
    await core.network()
    for index in range(17):  # two of seventeen ids begin with the same hex digit
        await core.endpoint(f"e{index}")
    first = [ep.id[0] for ep in core.controller.services.list()]
    twice = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(Error) as caught:
        core.controller.services.find(twice)
    assert caught.value.code == "ambiguous"


async def test_service_on_the_default_network_is_its_endpoint(core: CoreInProcess) -> None:
    service = await core.controller.services.publish("", EndpointSpec(name="/lonely_pasteur"))
    assert core.controller.endpoints.list(core.controller.networks.find("bridge"), name="/lonely_pasteur") == [service]
    assert core.controller.services.list(network="nowhere") == []


async def test_leave_by_a_wrong_container_names_the_right_one(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    await core.controller.sandboxes.join("foo", "web", JoinSpec(container_id="c1"))
    with pytest.raises(Error) as caught:
        await core.controller.sandboxes.leave("foo", "web", "c2")
    assert caught.value.kind is Kind.NOT_FOUND
    assert "c1" in caught.value.hint


# What can be made to grow.


async def test_full_record_space_refuses_creates_until_a_delete(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await core.network()
    await core.endpoint("first", labels={"a": "x" * 50_000})
    records = core.controller.endpoints._records
    room = sum(table.weight for table in (records._networks, records._endpoints, records._sandboxes))
    monkeypatch.setattr("sandnet.core.state.index.MOST_BYTES", room + 10_000)
    with pytest.raises(Error) as caught:
        await core.endpoint("second", labels={"a": "x" * 50_000})
    assert (caught.value.kind, caught.value.code) == (Kind.EXHAUSTED, "records_full")
    await core.endpoint("small")
    await core.controller.removal.endpoint("foo", "first")
    await core.endpoint("second", labels={"a": "x" * 40_000})
    for name in ("small", "second"):
        await core.controller.removal.endpoint("foo", name)
    await core.controller.removal.network("foo")
    assert records._endpoints.weight == records._sandboxes.weight == 0


async def test_joins_exceeding_the_total_of_extra_hosts_are_refused(core: CoreInProcess) -> None:
    await core.network()
    for name in ("one", "two"):
        await core.endpoint(name)
    lines = [HostEntry(name=f"h{index}", address=IPv4Address("192.0.2.1")) for index in range(MAX_HOSTS + 1)]
    await core.join("c1", "one", extra_hosts=tuple(lines[:-1]))
    with pytest.raises(Error, match="1025 are too many"):
        await core.join("c1", "two", extra_hosts=(lines[-1],))
    await core.join("c1", "two", extra_hosts=(lines[0],))


def test_parent_hosts_over_the_limit_drop_the_oldest() -> None:
    sandbox = Sandbox(container_id="c", key="/k", origin=Origin.MADE, phase=Phase.READY, sequence=1, created=0.0)
    for index in range(MAX_HOSTS + 1):
        entry = HostEntry(name=f"h{index}", address=IPv4Address("192.0.2.1"))
        sandbox = with_parent_host(sandbox, entry.name, entry)
    assert len(sandbox.parent_hosts) == MAX_HOSTS
    assert (sandbox.parent_hosts[0].name, sandbox.parent_hosts[-1].name) == ("h1", f"h{MAX_HOSTS}")


async def test_ambiguous_container_prefix_is_refused(core: CoreInProcess) -> None:
    await core.network()
    first, second = "a" * 12 + "1" * 52, "a" * 12 + "2" * 52
    for container, endpoint in ((first, "one"), (second, "two")):
        await core.endpoint(endpoint)
        await core.join(container, endpoint)
    with pytest.raises(Error) as caught:
        core.controller.sandboxes.find("a" * 12)
    assert caught.value.code == "ambiguous"
    assert core.controller.sandboxes.find("a" * 12 + "2").container_id == second


@pytest.mark.parametrize("ends", [True, False])
async def test_full_removal_ends_only_processes_of_its_sandboxes(core: CoreInProcess, ends: bool) -> None:
    await core.network()
    await core.endpoint("one")
    core.kernel.processes.begin(4711)
    await core.join("c1", "one", watch_pid=4711, end_process=ends)
    await core.take_down()
    assert core.controller.ended == ([4711] if ends else [])


async def test_join_opens_the_resolver_sockets_with_the_namespace(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = FakeNames()
    monkeypatch.setattr(core.controller._context.resolver_sync, "_service", names)
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    assert names.adopted == [("c1", sandbox.inode)]
    await core.network("bar")
    await core.endpoint("web", "bar")
    await core.join("c1", "web", "bar")  # they are there
    await core.endpoint("alone", "none")
    await core.join("c2", "alone", "none")  # it has no interface, and will not ask
    await core.endpoint("app", "host")
    await core.join("c3", "app", "host")
    assert names.adopted == [("c1", sandbox.inode)]


async def test_network_labels_are_kept_over_a_restart(core: CoreInProcess) -> None:
    spec = NetworkSpec(name="foo", driver="bridge", labels={"tier": "test"})
    await core.controller.networks.create(spec)
    await core.start()
    assert core.controller.networks.find("foo").labels == {"tier": "test"}


async def test_pending_parent_updates_over_the_limit_keep_the_latest(core: CoreInProcess) -> None:
    await core.network()
    endpoint = await core.endpoint("peer")
    network = core.controller.networks.find("foo")
    parents = core.controller.sandboxes.parents
    sandbox = Sandbox(container_id="c", key="/k", origin=Origin.MADE, phase=Phase.READY, sequence=1, created=0.0)
    for index in range(5):
        address = IPv4Address("192.0.2.1")
        updates = [ParentUpdate(endpoint_id=endpoint.id, name=f"n{index}-{n}", address=address) for n in range(1024)]
        sandbox = parents.with_pending(sandbox, network, updates)
    assert len(sandbox.parent_updates) == MAX_PENDING
    assert (sandbox.parent_updates[0].name, sandbox.parent_updates[-1].name) == ("n1-0", "n4-1023")
