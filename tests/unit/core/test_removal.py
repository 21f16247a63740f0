"""Deletions: what is dead does not stand in their way, and force takes along what is alive."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sandnet.errors import Error, Kind
from sandnet.model import JoinSpec
from tests.unit.core.rig import Rig, mapping


async def prepared(rig: Rig) -> None:
    """A network with two endpoints, one of them with a container that is also elsewhere."""
    await rig.network()
    await rig.network("bar")
    await rig.endpoint("one", port_mapping=(mapping(8080),))
    await rig.endpoint("two")
    await rig.endpoint("else", "bar")
    rig.kernel.processes.begin(7)
    await rig.join("c1", "one", watch_pid=7, auto_remove=None)
    await rig.join("c1", "else", "bar")


def names(rig: Rig) -> list[str]:
    return [net.name for net in rig.controller.networks.list()][3:]


async def test_given_live_endpoints_when_deleted_then_refused_and_each_is_told_with_container_and_pid(rig: Rig) -> None:
    await prepared(rig)
    one, two, _ = rig.controller.services.list()
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo")
    assert (caught.value.kind, caught.value.code) == (Kind.IN_USE, "network_in_use")
    assert f"one ({one.id[:12]}: c1, pid 7), two ({two.id[:12]})" in caught.value.message
    with pytest.raises(Error) as caught:
        await rig.controller.removal.endpoint("foo", "one")
    assert caught.value.code == "endpoint_in_use"
    assert "c1, pid 7" in caught.value.message
    assert names(rig) == ["foo", "bar"]
    await rig.endpoint("three")  # a refused deletion keeps nobody away


async def test_given_live_endpoints_when_forced_then_all_goes_and_the_container_stays_elsewhere(rig: Rig) -> None:
    await prepared(rig)
    await rig.controller.removal.network("foo", force=True)
    assert names(rig) == ["bar"]
    assert [ep.name for ep in rig.controller.services.list()] == ["else"]
    box = rig.controller.sandboxes.find("c1")
    assert len(rig.controller.sandboxes.attachments(box)) == 1
    assert rig.kernel.host.held == set()
    assert not await rig.store.list("claim/port/")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo", force=True)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_given_a_predefined_network_when_forced_then_refused(rig: Rig) -> None:
    await rig.endpoint("one", "bridge")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("bridge", force=True)
    assert caught.value.kind is Kind.PROTECTED
    assert len(rig.controller.services.list()) == 1


async def test_given_backends_when_the_service_is_unpublished_by_force_then_they_are_detached(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("web")
    for i in range(3):
        await rig.controller.services.attach("web", JoinSpec(container_id=f"c{i}"))
    with pytest.raises(Error, match="c0, c1, c2"):
        await rig.controller.services.unpublish("web")
    await rig.controller.services.unpublish("web", force=True)
    assert rig.controller.services.list() == []
    assert rig.controller.sandboxes.list() == []
    assert not await rig.store.list("claim/address/")


@pytest.mark.parametrize("step", ["links.retire", "namespaces.release"])
async def test_given_a_failure_when_forced_then_the_rest_is_done_and_a_repetition_finishes(rig: Rig, step: str) -> None:
    await rig.network()
    for name in ("one", "two"):
        await rig.endpoint(name)
        await rig.join(f"c-{name}", name)
    rig.kernel.fail_on(step, Error(Kind.UNAVAILABLE, "not now"))
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo", force=True)
    assert caught.value.code == "teardown_incomplete"
    assert len(rig.controller._context.records.endpoints()) == 1
    await rig.controller.removal.network("foo")  # it was decided then: force need not be said again
    assert names(rig) == []
    assert rig.controller.sandboxes.list() == []


async def test_given_a_crash_amid_a_forced_deletion_when_started_then_it_is_finished(rig: Rig) -> None:
    await prepared(rig)
    rig.kernel.fail_on("namespaces.default_routes", Error(Kind.UNAVAILABLE, "not now"))
    with pytest.raises(Error):
        await rig.controller.removal.network("foo", force=True)
    for held in list(rig.kernel.host.held):
        rig.kernel.host.held.discard(held)
    await rig.start()
    assert rig.controller.health().problems == ()
    assert names(rig) == ["bar"]
    assert [ep.name for ep in rig.controller.services.list()] == ["else"]
    assert [box.container_id for box in rig.controller.sandboxes.list()] == ["c1"]


async def test_given_joins_and_creates_that_race_with_a_forced_deletion_then_each_is_whole_or_refused(rig: Rig) -> None:
    await rig.network()
    for i in range(10):
        await rig.endpoint(f"e{i}")
    racing = [
        *(rig.join(f"c{i}", f"e{i}") for i in range(10)),
        rig.controller.removal.network("foo", force=True),
        *(rig.endpoint(f"late{i}") for i in range(5)),
    ]
    results = await asyncio.gather(*racing, return_exceptions=True)
    failures = [each for each in results if isinstance(each, BaseException)]
    assert all(isinstance(each, Error) for each in failures)
    assert {each.code for each in failures if isinstance(each, Error)} <= {"endpoint_not_found", "network_not_found"}
    assert results[10] is None
    assert names(rig) == []
    for prefix in ("endpoint/", "attachment/", "sandbox/", "claim/name/"):
        left = [entry.key for entry in await rig.store.list(prefix)]
        assert not left or (prefix == "claim/name/" and len(left) == 3), left


async def test_given_two_forced_deletions_at_once_then_one_does_it_and_the_other_finds_nothing(rig: Rig) -> None:
    await prepared(rig)
    removal = rig.controller.removal
    results = await asyncio.gather(
        removal.network("foo", force=True), removal.network("foo", force=True), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], Error)
    assert results[1].kind is Kind.NOT_FOUND


async def test_given_a_busy_endpoint_when_forced_then_the_deletion_waits_for_it(rig: Rig) -> None:
    await prepared(rig)
    two = rig.controller.services.find("two")
    async with rig.controller._context.locks.hold(f"endpoint/{two.id}"):
        deletion = asyncio.ensure_future(rig.controller.removal.network("foo", force=True))
        await asyncio.sleep(0.05)
        with pytest.raises(Error) as caught:
            await rig.endpoint("late")
        assert caught.value.code == "network_not_found"
        assert not deletion.done()
    await deletion
    assert names(rig) == ["bar"]


async def test_given_endpoints_whose_containers_died_when_the_network_is_deleted_then_it_goes(rig: Rig) -> None:
    await rig.network()
    for i, pid in enumerate((100, 200)):
        rig.kernel.processes.begin(pid)
        await rig.endpoint(f"e{i}")
        await rig.join(f"c{i}", f"e{i}", watch_pid=pid)
    rig.kernel.processes.end(100)
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo")
    assert "endpoints: e1 (" in caught.value.message
    rig.kernel.processes.end(200)
    await rig.controller.removal.network("foo")
    assert names(rig) == []


async def test_given_a_reboot_when_the_network_is_deleted_then_its_dead_endpoints_go_along(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    box = await rig.join("c1", "one")
    rig.kernel.namespaces.release(box.key)
    await rig.start()
    await rig.controller.removal.network("foo")
    assert names(rig) == []


async def test_given_a_namespace_that_is_gone_for_good_then_its_container_is_dead(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    box = await rig.join("c1", "one")
    rig.kernel.processes.begin(7, inode=box.inode)
    rig.kernel.namespaces.release(box.key)
    with pytest.raises(Error):  # somebody is inside: it can be pinned again
        await rig.controller.removal.network("foo")
    rig.kernel.processes.end(7)
    await rig.controller.removal.network("foo")
    assert names(rig) == []


async def test_given_a_dead_endpoint_when_somebody_joins_it_again_and_leaves_then_it_is_in_use(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    box = await rig.join("c1", "one")
    await rig.controller.removal.remove_exited(box)
    assert rig.controller.services.find("one").orphaned
    await rig.join("c2", "one")
    assert not rig.controller.services.find("one").orphaned
    await rig.controller.sandboxes.leave("foo", "one", "c2")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo")
    assert caught.value.kind is Kind.IN_USE


async def test_given_many_live_endpoints_when_refused_then_ten_are_named(rig: Rig) -> None:
    await rig.network()
    for i in range(14):
        await rig.endpoint(f"e{i}")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo")
    assert caught.value.message.count("(") == 10
    assert caught.value.message.endswith("and up to 4 more")


async def test_given_several_backends_when_their_network_is_deleted_by_force_then_none_of_them_comes_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that goes hands its address over to one that serves: never to another that is going."""
    await rig.network()
    await rig.endpoint("web")
    for container in ("c1", "c2", "c3"):
        await rig.controller.sandboxes.join("foo", "web", JoinSpec(container_id=container), many=True)
    rig.store.pace = 0.001
    plug = rig.kernel.links.plug

    def slow(*args: Any) -> None:
        time.sleep(0.1)
        plug(*args)

    monkeypatch.setattr(rig.kernel.links, "plug", slow)
    await rig.controller.removal.network("foo", force=True)
    assert not rig.controller._context.records.attachments()
    assert not [entry.key for entry in await rig.store.list("") if entry.key.startswith(("attachment/", "claim/add"))]
    await rig.network()
    await rig.endpoint("web")
