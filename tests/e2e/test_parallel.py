"""Many requests at once: every one is answered, and the kernel is what the records say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.daemon import OUTSIDE_ADDRESS, RefusedError, World, mapping
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(120)


def at_once(jobs: Sequence[Callable[[], object]]) -> list[int]:
    """Run all together; the statuses of their answers."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(status_of, jobs))


def status_of(job: Callable[[], object]) -> int:
    try:
        job()
    except RefusedError as refused:
        return refused.status
    return 200


def test_given_20_networks_when_created_at_once_then_20_subnets(world: World) -> None:
    assert at_once([partial(world.api.network, f"n{i}", ipv6=True) for i in range(20)]) == [200] * 20
    subnets = [subnet for net in world.api.get("/networks", verbose="true") for subnet in net["subnets"]]
    assert len(subnets) == len(set(subnets)) == 41  # two each, and the predefined bridge's
    assert at_once([partial(world.api.delete, f"/networks/n{i}") for i in range(20)]) == [200] * 20


def test_given_one_name_when_created_20_times_at_once_then_one_has_it(world: World) -> None:
    assert sorted(at_once([partial(world.api.network, "foo")] * 20)) == [200] + [403] * 19
    assert sorted(at_once([partial(world.api.endpoint, "foo", "one")] * 20)) == [200] + [403] * 19
    assert [net["name"] for net in world.api.get("/networks")].count("foo") == 1
    assert len(world.api.get("/networks/foo/endpoints")) == 1


def test_given_one_host_port_when_published_20_times_at_once_then_one_has_it(world: World) -> None:
    world.api.network("foo")
    jobs = [partial(world.api.endpoint, "foo", f"e{i}", mapping(80, 8080)) for i in range(20)]
    assert sorted(at_once(jobs)) == [200] + [409] * 19
    assert len(world.api.get("/networks/foo/endpoints")) == 1


def test_given_50_endpoints_when_created_joined_left_and_deleted_at_once_then_every_request_succeeds(
    world: World,
) -> None:
    world.api.network("foo", ipv6=True)
    count = range(50)
    assert at_once([partial(world.api.endpoint, "foo", f"e{i}", mapping(80)) for i in count]) == [200] * 50
    endpoints = world.api.told("foo")["endpoints"]
    assert len({endpoint["address"] for endpoint in endpoints}) == 50
    assert len({endpoint["port_mapping"][0]["host_port"] for endpoint in endpoints}) == 50
    assert at_once([partial(world.api.join, "foo", f"e{i}", f"c{i}") for i in count]) == [200] * 50
    assert len(world.pinned()) == 50
    keys = [box["sandbox_key"] for box in world.api.get("/sandboxes")]
    assert world.place(keys[0]).reaches(endpoints[49]["address"].partition("/")[0])
    assert world.place(keys[49]).reaches(OUTSIDE_ADDRESS)
    assert at_once([partial(world.api.leave, "foo", f"e{i}", f"c{i}") for i in count]) == [200] * 50
    assert world.pinned() == []
    until(lambda: len(world.our_links()) == 2)
    assert at_once([partial(world.api.delete, f"/networks/foo/endpoints/e{i}") for i in count]) == [200] * 50
    assert world.api.get("/networks/foo/endpoints") == []


def test_given_joins_leaves_creates_and_deletes_of_a_network_when_all_at_once_then_nothing_is_left_over(
    world: World,
) -> None:
    world.api.network("foo")
    for i in range(20):
        world.api.endpoint("foo", f"old{i}")
        world.api.join("foo", f"old{i}", f"old{i}")
    leaves = [partial(world.api.leave, "foo", f"old{i}", f"old{i}") for i in range(20)]
    creates = [partial(world.api.endpoint, "foo", f"new{i}") for i in range(20)]
    assert at_once([each for pair in zip(leaves, creates, strict=True) for each in pair]) == [200] * 40
    assert world.pinned() == []
    assert list((world.state / "sandboxes").iterdir()) == []


@pytest.mark.parametrize("round_", range(3))
def test_given_one_container_when_joined_to_six_networks_and_left_at_once_then_one_sandbox_comes_and_goes(
    world: World, round_: int
) -> None:
    names = [f"n{i}" for i in range(6)]
    for name in names:
        world.api.network(name)
        world.api.endpoint(name, "e")
    assert at_once([partial(world.api.join, name, "e", "c1") for name in names]) == [200] * 6
    (box,) = world.api.get("/sandboxes", verbose="true")
    assert world.pinned() == [box["sandbox_key"]]
    inside = world.place(box["sandbox_key"])
    links = [link["ifname"] for link in json.loads(inside.sh("ip", "-j", "link"))]
    assert sorted(links) == ["eth0", "eth1", "eth2", "eth3", "eth4", "eth5", "lo"]
    assert len(json.loads(inside.sh("ip", "-j", "route", "show", "default"))) == 1
    assert inside.reaches(OUTSIDE_ADDRESS)
    assert at_once([partial(world.api.leave, name, "e", "c1") for name in names]) == [200] * 6
    assert world.pinned() == []
    assert world.api.get("/sandboxes") == []


def test_given_one_endpoint_when_joined_by_20_at_once_then_one_has_it_and_the_rest_left_nothing(world: World) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    assert sorted(at_once([partial(world.api.join, "foo", "e", f"c{i}") for i in range(20)])) == [200] + [400] * 19
    assert len(world.pinned()) == len(world.api.get("/sandboxes")) == 1


def test_given_a_network_when_deleted_while_endpoints_are_created_then_no_endpoint_is_without_a_network(
    world: World,
) -> None:
    for round_ in range(5):
        world.api.network("foo")
        jobs = [partial(world.api.endpoint, "foo", f"e{i}", mapping(80)) for i in range(6)]
        statuses = at_once([*jobs[:3], partial(world.api.delete, "/networks/foo"), *jobs[3:]])
        assert set(statuses) <= {200, 403, 404}, round_
        left = [service for service in world.api.get("/services") if service["network"] == "foo"]
        if statuses[3] == 200:
            assert left == []
        world.api.clear()


def test_given_a_leave_and_a_join_of_one_endpoint_when_at_once_then_both_are_answered_and_one_state_holds(
    world: World,
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    for _ in range(10):
        at_once([partial(world.api.join, "foo", "e", "c1"), partial(world.api.leave, "foo", "e", "c1")] * 3)
        boxes = world.api.get("/sandboxes")
        assert world.pinned() == [box["sandbox_key"] for box in boxes]
        if boxes:
            assert world.place(boxes[0]["sandbox_key"]).reaches(OUTSIDE_ADDRESS)
