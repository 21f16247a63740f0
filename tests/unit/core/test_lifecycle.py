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
from tests.unit.core.rig import Rig, mapping


async def test_given_a_first_start_then_the_predefined_networks_are_there_in_order(rig: Rig) -> None:
    networks = rig.controller.networks.list()
    assert [(net.name, net.driver) for net in networks] == [("none", "null"), ("host", "host"), ("bridge", "bridge")]


async def test_given_a_predefined_network_when_deleted_then_refused(rig: Rig) -> None:
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("bridge")
    assert caught.value.kind is Kind.PROTECTED


async def test_given_a_taken_name_when_creating_then_refused_whatever_the_driver(rig: Rig) -> None:
    with pytest.raises(Error) as caught:
        await rig.network("host")
    assert caught.value.kind is Kind.NAME_TAKEN


async def test_given_an_unknown_driver_when_creating_then_not_found(rig: Rig) -> None:
    with pytest.raises(Error) as caught:
        await rig.controller.networks.create(NetworkSpec(name="x", driver="nope"))
    assert caught.value.kind is Kind.NOT_FOUND
    assert "bridge" in caught.value.hint


async def test_given_two_dozen_creates_at_once_then_each_has_a_subnet_of_its_own(rig: Rig) -> None:
    networks = await asyncio.gather(*(rig.network(f"n{i}") for i in range(24)))
    prefixes = {net.ipv4.prefix for net in networks if net.ipv4}
    assert len(prefixes) == 24


async def test_given_one_name_asked_for_twice_at_once_then_one_wins(rig: Rig) -> None:
    results = await asyncio.gather(rig.network("foo"), rig.network("foo"), return_exceptions=True)
    failures = [result for result in results if isinstance(result, Error)]
    assert [failure.kind for failure in failures] == [Kind.NAME_TAKEN]


async def test_given_a_network_with_endpoints_when_deleted_then_refused_and_they_are_named(rig: Rig) -> None:
    await rig.network()
    endpoint = await rig.endpoint("baz")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo")
    assert caught.value.kind is Kind.IN_USE
    assert "baz" in caught.value.message
    assert endpoint.id[:12] in caught.value.message


async def test_given_endpoints_then_addresses_come_in_turn_and_a_freed_one_comes_back_last(rig: Rig) -> None:
    await rig.network(subnet=IPv4Network("10.9.0.0/29"))
    names = [f"e{i}" for i in range(3)]
    first = [await rig.endpoint(name) for name in names]
    await rig.controller.removal.endpoint("foo", "e0")
    later = [await rig.endpoint(f"l{i}") for i in range(3)]
    assert [str(ep.address.ip) for ep in first if ep.address] == ["10.9.0.2", "10.9.0.3", "10.9.0.4"]
    assert [str(ep.address.ip) for ep in later if ep.address] == ["10.9.0.5", "10.9.0.6", "10.9.0.2"]


async def test_given_a_full_pool_when_creating_then_exhausted_and_nothing_is_left(rig: Rig) -> None:
    await rig.network(subnet=IPv4Network("10.9.0.0/30"))
    await rig.endpoint("only")
    with pytest.raises(Error) as caught:
        await rig.endpoint("more", port_mapping=(mapping(8080),))
    assert caught.value.kind is Kind.EXHAUSTED
    assert [ep.name for ep in rig.controller.services.list()] == ["only"]
    rig.kernel.host.hold(6, IPv4Address("0.0.0.0"), 8080).close()


async def test_given_a_published_port_when_asked_for_again_then_the_holder_is_named(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web", port_mapping=(mapping(8080),))
    with pytest.raises(Error) as caught:
        await rig.endpoint("other", port_mapping=(mapping(8080),))
    assert caught.value.kind is Kind.CONFLICT
    assert "web" in caught.value.message


async def test_given_a_range_with_a_taken_port_then_the_next_free_one_is_bound(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("a", port_mapping=(mapping(9000, host_port_end=9002),))
    b = await rig.endpoint("b", port_mapping=(mapping(9000, host_port_end=9002),))
    assert [port.host_port for port in b.ports] == [9001]


async def test_given_a_join_then_files_name_the_peers_and_the_key_is_short(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    box = await rig.join("e76f406417031bd24c17", "web", host_name="h1", domain_name="example.org")
    await rig.endpoint("db")
    text = Path(box.hosts_path).read_text()
    assert box.key == "/var/run/docker/netns/e76f40641703"
    assert "172.16.1.2\th1.example.org h1\n" in text
    assert "172.16.1.3\tdb\n172.16.1.3\tdb.foo\n" in text


async def test_given_equal_first_twelve_characters_then_the_second_key_is_longer(rig: Rig) -> None:
    await rig.network()
    for name in ("a", "b"):
        await rig.endpoint(name)
    first = await rig.join("0123456789abX", "a")
    second = await rig.join("0123456789abY", "b")
    assert first.key.endswith("/0123456789ab")
    assert second.key.endswith("/0123456789abY")


async def test_given_a_strangers_namespace_at_the_key_then_it_is_left_alone(rig: Rig) -> None:
    key = "/var/run/docker/netns/0123456789ab"
    stranger = rig.kernel.namespaces.make(key)
    await rig.network()
    await rig.endpoint("a")
    box = await rig.join("0123456789abcdef", "a")
    await rig.controller.sandboxes.leave("foo", "a", "0123456789abcdef")
    assert box.key != key
    left = rig.kernel.namespaces.find(key)
    assert left is not None
    assert left.inode == stranger.inode


async def test_given_an_endpoint_in_use_then_a_second_join_is_refused_and_delete_names_the_container(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    await rig.join("c1", "web")
    with pytest.raises(Error) as second:
        await rig.join("c2", "web")
    with pytest.raises(Error) as delete:
        await rig.controller.removal.endpoint("foo", "web")
    assert (second.value.kind, delete.value.kind) == (Kind.INVALID, Kind.IN_USE)
    assert "c1" in delete.value.message


async def test_given_the_last_leave_then_the_sandbox_is_gone_and_the_endpoint_keeps_its_address(rig: Rig) -> None:
    await rig.network()
    before = await rig.endpoint("web", port_mapping=(mapping(8080),))
    box = await rig.join("c1", "web")
    await rig.controller.sandboxes.leave("foo", "web", "c1")
    assert rig.controller.sandboxes.list() == []
    assert rig.kernel.namespaces.find(box.key) is None
    assert not Path(box.hosts_path).parent.exists()
    assert rig.controller.endpoints.find(rig.controller.networks.find("foo"), "web") == before


async def test_given_several_networks_then_priority_and_order_decide_the_default_route(rig: Rig) -> None:
    for index, name in enumerate(("one", "two", "three")):
        await rig.network(name, subnet=IPv4Network(f"10.9.{index}.0/24"))
        await rig.endpoint("ep", name)
    box = await rig.join("c1", "ep", "one")
    await rig.join("c1", "ep", "two")
    assert rig.default_route(box) == ("eth0", "10.9.0.1")
    await rig.join("c1", "ep", "three", gateway_priority=5)
    assert rig.default_route(box) == ("eth2", "10.9.2.1")
    await rig.controller.sandboxes.leave("three", "ep", "c1")
    assert rig.default_route(box) == ("eth0", "10.9.0.1")


async def test_given_six_endpoints_when_one_container_joins_and_leaves_all_at_once_then_nothing_is_left(
    rig: Rig,
) -> None:
    await rig.network()
    names = [f"e{i}" for i in range(6)]
    for name in names:
        await rig.endpoint(name)
    boxes = await asyncio.gather(*(rig.join("c1", name) for name in names))
    interfaces = {a.interface for a in rig.controller.sandboxes.attachments(boxes[0])}
    leaves = (rig.controller.sandboxes.leave("foo", name, "c1") for name in names)
    await asyncio.gather(*leaves)
    assert interfaces == {f"eth{i}" for i in range(6)}
    assert rig.controller.sandboxes.list() == []
    assert rig.veths() == []


async def test_given_a_host_network_then_its_sandbox_is_the_hosts_own_and_does_not_mix(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    await rig.endpoint("h", "host")
    box = await rig.join("c1", "h", "host", use_default_sandbox=True)
    with pytest.raises(Error) as caught:
        await rig.join("c1", "web")
    assert box.origin is Origin.HOST
    assert caught.value.code == "host_network"


async def test_given_parent_updates_then_the_named_container_knows_the_new_address(rig: Rig) -> None:
    await rig.network()
    parent = await rig.endpoint("parent")
    await rig.endpoint("child")
    box = await rig.join("c1", "parent")
    update = ParentUpdate(endpoint_id=parent.id, name="alias", address=IPv4Address("10.1.2.3"))
    await rig.join("c2", "child", parent_updates=(update,))
    assert "10.1.2.3\talias\n" in Path(box.hosts_path).read_text()


async def test_given_a_second_join_then_the_files_hold_the_records_of_both_networks(rig: Rig) -> None:
    for name in ("one", "two"):
        await rig.network(name)
        await rig.endpoint("ep", name)
    extra = HostEntry(name="db.example", address=IPv4Address("192.0.2.7"))
    box = await rig.join("c1", "ep", "one", extra_hosts=(extra,), dns=(IPv4Address("192.0.2.53"),))
    await rig.join("c1", "ep", "two")
    hosts, resolv = Path(box.hosts_path).read_text(), Path(box.resolv_conf_path).read_text()
    assert all(line in hosts for line in ("\tep.one\n", "\tep.two\n", "192.0.2.7\tdb.example\n"))
    assert resolv.startswith("nameserver 192.0.2.53\n")


async def test_given_a_container_that_leaves_its_last_ipv6_network_then_its_name_servers_are_those_it_can_reach(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_name_files, "_read", lambda _: b"nameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    await rig.network("four")
    await rig.network("six", ipv6=True)
    await rig.endpoint("ep", "four")
    await rig.endpoint("ep", "six")
    box = await rig.join("c1", "ep", "four")
    resolv = Path(box.resolv_conf_path)
    alone = resolv.read_text()
    await rig.join("c1", "ep", "six")
    both = resolv.read_text()
    assert "2001:db8::53" in both
    await rig.controller.sandboxes.leave("six", "ep", "c1")
    assert resolv.read_text() == alone

    resolv.write_text(both)  # as a daemon does that is killed before it has recorded it
    await rig.start()
    assert resolv.read_text() == alone
    resolv.write_text("nameserver 192.0.2.99\n")
    await rig.join("c1", "ep", "six")
    assert resolv.read_text() == "nameserver 192.0.2.99\n"


async def test_given_a_file_path_outside_the_allowed_places_then_nothing_is_made(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    with pytest.raises(Error) as caught:
        await rig.join("c1", "web", hosts_path="/etc/hosts")
    assert caught.value.code == "path_not_allowed"
    assert rig.controller.sandboxes.list() == []


async def test_given_an_ambiguous_prefix_then_refused_and_the_candidates_are_named(rig: Rig) -> None:
    await rig.network()
    for index in range(17):  # two of seventeen ids begin with the same hex digit
        await rig.endpoint(f"e{index}")
    first = [ep.id[0] for ep in rig.controller.services.list()]
    twice = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(Error) as caught:
        rig.controller.services.find(twice)
    assert caught.value.code == "ambiguous"


async def test_given_a_service_on_the_default_network_then_it_is_an_endpoint_of_it(rig: Rig) -> None:
    service = await rig.controller.services.publish("", EndpointSpec(name="/lonely_pasteur"))
    assert rig.controller.endpoints.list(rig.controller.networks.find("bridge"), name="/lonely_pasteur") == [service]
    assert rig.controller.services.list(network="nowhere") == []


async def test_given_a_wrong_container_when_leaving_then_not_found_and_the_right_one_is_named(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    await rig.controller.sandboxes.join("foo", "web", JoinSpec(container_id="c1"))
    with pytest.raises(Error) as caught:
        await rig.controller.sandboxes.leave("foo", "web", "c2")
    assert caught.value.kind is Kind.NOT_FOUND
    assert "c1" in caught.value.hint


# What can be made to grow.


async def test_given_records_that_take_all_the_room_when_one_more_is_made_then_refused_until_one_is_deleted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.network()
    await rig.endpoint("first", labels={"a": "x" * 50_000})
    records = rig.controller.endpoints._records
    room = sum(table.weight for table in (records._networks, records._endpoints, records._sandboxes))
    monkeypatch.setattr("sandnet.core.state.records.MOST_BYTES", room + 10_000)
    with pytest.raises(Error) as caught:
        await rig.endpoint("second", labels={"a": "x" * 50_000})
    assert (caught.value.kind, caught.value.code) == (Kind.EXHAUSTED, "records_full")
    await rig.endpoint("small")
    await rig.controller.removal.endpoint("foo", "first")
    await rig.endpoint("second", labels={"a": "x" * 40_000})
    for name in ("small", "second"):
        await rig.controller.removal.endpoint("foo", name)
    await rig.controller.removal.network("foo")
    assert records._endpoints.weight == records._sandboxes.weight == 0


async def test_given_many_joins_with_extra_hosts_when_they_are_too_many_in_all_then_refused(rig: Rig) -> None:
    await rig.network()
    for name in ("one", "two"):
        await rig.endpoint(name)
    lines = [HostEntry(name=f"h{index}", address=IPv4Address("192.0.2.1")) for index in range(MAX_HOSTS + 1)]
    await rig.join("c1", "one", extra_hosts=tuple(lines[:-1]))
    with pytest.raises(Error, match="1025 are too many"):
        await rig.join("c1", "two", extra_hosts=(lines[-1],))
    await rig.join("c1", "two", extra_hosts=(lines[0],))


def test_given_names_told_without_end_when_one_more_is_told_then_the_first_is_forgotten() -> None:
    box = Sandbox(container_id="c", key="/k", origin=Origin.MADE, phase=Phase.READY, sequence=1, created=0.0)
    for index in range(MAX_HOSTS + 1):
        entry = HostEntry(name=f"h{index}", address=IPv4Address("192.0.2.1"))
        box = with_parent_host(box, entry.name, entry)
    assert len(box.parent_hosts) == MAX_HOSTS
    assert (box.parent_hosts[0].name, box.parent_hosts[-1].name) == ("h1", f"h{MAX_HOSTS}")


async def test_given_two_containers_of_one_beginning_when_found_by_it_then_refused(rig: Rig) -> None:
    await rig.network()
    first, second = "a" * 12 + "1" * 52, "a" * 12 + "2" * 52
    for container, endpoint in ((first, "one"), (second, "two")):
        await rig.endpoint(endpoint)
        await rig.join(container, endpoint)
    with pytest.raises(Error) as caught:
        rig.controller.sandboxes.find("a" * 12)
    assert caught.value.code == "ambiguous"
    assert rig.controller.sandboxes.find("a" * 12 + "2").container_id == second


@pytest.mark.parametrize("ends", [True, False])
async def test_given_a_process_of_its_sandbox_when_everything_is_removed_then_it_ends_and_others_do_not(
    rig: Rig, ends: bool
) -> None:
    await rig.network()
    await rig.endpoint("one")
    rig.kernel.processes.begin(4711)
    await rig.join("c1", "one", watch_pid=4711, end_process=ends)
    await rig.take_down()
    assert rig.controller.ended == ([4711] if ends else [])


async def test_given_a_join_when_its_namespace_is_made_then_the_resolvers_sockets_are_opened_with_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = FakeNames()
    monkeypatch.setattr(rig.controller._context.resolver_sync, "_service", names)
    await rig.network()
    await rig.endpoint("web")
    box = await rig.join("c1", "web")
    assert names.prepared == [("c1", box.inode)]
    await rig.network("bar")
    await rig.endpoint("web", "bar")
    await rig.join("c1", "web", "bar")  # they are there
    await rig.endpoint("alone", "none")
    await rig.join("c2", "alone", "none")  # it has no interface, and will not ask
    await rig.endpoint("app", "host")
    await rig.join("c3", "app", "host")
    assert names.prepared == [("c1", box.inode)]


async def test_given_labels_when_a_network_is_created_then_they_are_kept_over_a_restart(rig: Rig) -> None:
    spec = NetworkSpec(name="foo", driver="bridge", labels={"tier": "test"})
    await rig.controller.networks.create(spec)
    await rig.start()
    assert rig.controller.networks.find("foo").labels == {"tier": "test"}


async def test_given_updates_that_were_never_told_when_more_are_owed_then_the_latest_are_kept(rig: Rig) -> None:
    await rig.network()
    endpoint = await rig.endpoint("peer")
    network = rig.controller.networks.find("foo")
    parents = rig.controller.sandboxes.parents
    box = Sandbox(container_id="c", key="/k", origin=Origin.MADE, phase=Phase.READY, sequence=1, created=0.0)
    for index in range(5):
        address = IPv4Address("192.0.2.1")
        updates = [ParentUpdate(endpoint_id=endpoint.id, name=f"n{index}-{n}", address=address) for n in range(1024)]
        box = parents.with_pending(box, network, updates)
    assert len(box.parent_updates) == MAX_PENDING
    assert (box.parent_updates[0].name, box.parent_updates[-1].name) == ("n1-0", "n4-1023")
