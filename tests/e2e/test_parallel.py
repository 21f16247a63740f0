"""Many requests at once: every one is answered, and the kernel is what the records say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.daemon import OUTSIDE_ADDRESS, RefusedError, RunningDaemon, mapping
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


def test_20_parallel_networks_get_20_subnets(daemon: RunningDaemon) -> None:
    assert at_once([partial(daemon.api.network, f"n{i}", ipv6=True) for i in range(20)]) == [200] * 20
    subnets = [subnet for net in daemon.api.get("/networks", verbose="true") for subnet in net["subnets"]]
    assert len(subnets) == len(set(subnets)) == 41  # two each, and the predefined bridge's
    assert at_once([partial(daemon.api.delete, f"/networks/n{i}") for i in range(20)]) == [200] * 20


def test_parallel_creates_of_one_name_succeed_once(daemon: RunningDaemon) -> None:
    assert sorted(at_once([partial(daemon.api.network, "foo")] * 20)) == [200] + [403] * 19
    assert sorted(at_once([partial(daemon.api.endpoint, "foo", "one")] * 20)) == [200] + [403] * 19
    assert [net["name"] for net in daemon.api.get("/networks")].count("foo") == 1
    assert len(daemon.api.get("/networks/foo/endpoints")) == 1


def test_parallel_publishes_of_one_host_port_succeed_once(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    jobs = [partial(daemon.api.endpoint, "foo", f"e{i}", mapping(80, 8080)) for i in range(20)]
    assert sorted(at_once(jobs)) == [200] + [409] * 19
    assert len(daemon.api.get("/networks/foo/endpoints")) == 1


def test_lifecycle_of_50_endpoints_in_parallel_succeeds(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo", ipv6=True)
    count = range(50)
    assert at_once([partial(daemon.api.endpoint, "foo", f"e{i}", mapping(80)) for i in count]) == [200] * 50
    endpoints = daemon.api.reported("foo")["endpoints"]
    assert len({endpoint["address"] for endpoint in endpoints}) == 50
    assert len({endpoint["port_mapping"][0]["host_port"] for endpoint in endpoints}) == 50
    assert at_once([partial(daemon.api.join, "foo", f"e{i}", f"c{i}") for i in count]) == [200] * 50
    assert len(daemon.pinned()) == 50
    keys = [sandbox["sandbox_key"] for sandbox in daemon.api.get("/sandboxes")]
    assert daemon.place(keys[0]).reaches(endpoints[49]["address"].partition("/")[0])
    assert daemon.place(keys[49]).reaches(OUTSIDE_ADDRESS)
    assert at_once([partial(daemon.api.leave, "foo", f"e{i}", f"c{i}") for i in count]) == [200] * 50
    assert daemon.pinned() == []
    until(lambda: len(daemon.our_links()) == 2)
    assert at_once([partial(daemon.api.delete, f"/networks/foo/endpoints/e{i}") for i in count]) == [200] * 50
    assert daemon.api.get("/networks/foo/endpoints") == []


def test_parallel_operations_on_a_network_leave_nothing_behind(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    for i in range(20):
        daemon.api.endpoint("foo", f"old{i}")
        daemon.api.join("foo", f"old{i}", f"old{i}")
    leaves = [partial(daemon.api.leave, "foo", f"old{i}", f"old{i}") for i in range(20)]
    creates = [partial(daemon.api.endpoint, "foo", f"new{i}") for i in range(20)]
    assert at_once([each for pair in zip(leaves, creates, strict=True) for each in pair]) == [200] * 40
    assert daemon.pinned() == []
    assert list((daemon.run / "sandboxes").iterdir()) == []


@pytest.mark.parametrize("round_", range(3))
def test_parallel_joins_of_six_networks_make_one_sandbox(daemon: RunningDaemon, round_: int) -> None:
    names = [f"n{i}" for i in range(6)]
    for name in names:
        daemon.api.network(name)
        daemon.api.endpoint(name, "e")
    assert at_once([partial(daemon.api.join, name, "e", "c1") for name in names]) == [200] * 6
    (sandbox,) = daemon.api.get("/sandboxes", verbose="true")
    assert daemon.pinned() == [sandbox["sandbox_key"]]
    inside = daemon.place(sandbox["sandbox_key"])
    links = [link["ifname"] for link in json.loads(inside.sh("ip", "-j", "link"))]
    assert sorted(links) == ["eth0", "eth1", "eth2", "eth3", "eth4", "eth5", "lo"]
    assert len(json.loads(inside.sh("ip", "-j", "route", "show", "default"))) == 1
    assert inside.reaches(OUTSIDE_ADDRESS)
    assert at_once([partial(daemon.api.leave, name, "e", "c1") for name in names]) == [200] * 6
    assert daemon.pinned() == []
    assert daemon.api.get("/sandboxes") == []


def test_one_of_20_parallel_joins_of_an_endpoint_succeeds(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    assert sorted(at_once([partial(daemon.api.join, "foo", "e", f"c{i}") for i in range(20)])) == [200] + [400] * 19
    assert len(daemon.pinned()) == len(daemon.api.get("/sandboxes")) == 1


def test_network_delete_racing_endpoint_creates_leaves_no_orphan(
    daemon: RunningDaemon,
) -> None:
    for round_ in range(5):
        daemon.api.network("foo")
        jobs = [partial(daemon.api.endpoint, "foo", f"e{i}", mapping(80)) for i in range(6)]
        statuses = at_once([*jobs[:3], partial(daemon.api.delete, "/networks/foo"), *jobs[3:]])
        assert set(statuses) <= {200, 403, 404}, round_
        left = [service for service in daemon.api.get("/services") if service["network"] == "foo"]
        if statuses[3] == 200:
            assert left == []
        daemon.api.clear()


def test_racing_leave_and_join_end_in_one_consistent_state(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    for _ in range(10):
        at_once([partial(daemon.api.join, "foo", "e", "c1"), partial(daemon.api.leave, "foo", "e", "c1")] * 3)
        sandboxes = daemon.api.get("/sandboxes")
        assert daemon.pinned() == [sandbox["sandbox_key"] for sandbox in sandboxes]
        if sandboxes:
            assert daemon.place(sandboxes[0]["sandbox_key"]).reaches(OUTSIDE_ADDRESS)
