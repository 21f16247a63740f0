"""Deletions: what is dead does not stand in their way, and force takes along what is alive."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sandnet.errors import Error, Kind
from sandnet.model import JoinSpec
from tests.support.conditions import until
from tests.support.core_in_process import CoreInProcess, mapping


async def prepared(rig: CoreInProcess) -> None:
    """A network with two endpoints, one of them with a container that is also elsewhere."""
    await rig.network()
    await rig.network("bar")
    await rig.endpoint("one", port_mapping=(mapping(8080),))
    await rig.endpoint("two")
    await rig.endpoint("else", "bar")
    rig.kernel.processes.begin(7)
    await rig.join("c1", "one", watch_pid=7, auto_remove=None)
    await rig.join("c1", "else", "bar")


def names(rig: CoreInProcess) -> list[str]:
    return [net.name for net in rig.controller.networks.list()][3:]


async def test_refused_deletion_lists_endpoints_with_container_and_pid(rig: CoreInProcess) -> None:
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
    await rig.endpoint("three")  # a refused deletion keeps no one away


async def test_forced_deletion_keeps_the_container_on_other_networks(rig: CoreInProcess) -> None:
    await prepared(rig)
    await rig.controller.removal.network("foo", force=True)
    assert names(rig) == ["bar"]
    assert [ep.name for ep in rig.controller.services.list()] == ["else"]
    sandbox = rig.controller.sandboxes.find("c1")
    assert len(rig.controller.sandboxes.attachments(sandbox)) == 1
    assert rig.kernel.host.held == set()
    assert not await rig.store.list("claim/port/")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo", force=True)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_forced_deletion_of_a_predefined_network_is_refused(rig: CoreInProcess) -> None:
    await rig.endpoint("one", "bridge")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("bridge", force=True)
    assert caught.value.kind is Kind.PROTECTED
    assert len(rig.controller.services.list()) == 1


async def test_forced_unpublish_detaches_the_backends(rig: CoreInProcess) -> None:
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
async def test_failed_forced_deletion_does_the_rest_and_retry_finishes(rig: CoreInProcess, step: str) -> None:
    await rig.network()
    for name in ("one", "two"):
        await rig.endpoint(name)
        await rig.join(f"c-{name}", name)
    rig.kernel.fail_on(step, Error(Kind.UNAVAILABLE, "not now"))
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo", force=True)
    assert caught.value.code == "teardown_incomplete"
    assert len(rig.controller._context.records.endpoints()) == 1
    await rig.controller.removal.network("foo")  # it was decided then: force need not be reported again
    assert names(rig) == []
    assert rig.controller.sandboxes.list() == []


async def test_forced_deletion_cut_by_a_crash_finishes_at_start(rig: CoreInProcess) -> None:
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
    assert [sandbox.container_id for sandbox in rig.controller.sandboxes.list()] == ["c1"]


async def test_operations_racing_forced_deletion_are_whole_or_refused(rig: CoreInProcess) -> None:
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


async def test_one_of_two_concurrent_forced_deletions_finds_nothing(rig: CoreInProcess) -> None:
    await prepared(rig)
    removal = rig.controller.removal
    results = await asyncio.gather(
        removal.network("foo", force=True), removal.network("foo", force=True), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], Error)
    assert results[1].kind is Kind.NOT_FOUND


async def test_forced_deletion_waits_for_a_busy_endpoint(rig: CoreInProcess) -> None:
    await prepared(rig)
    two = rig.controller.services.find("two")
    async with rig.controller._context.locks.hold(f"endpoint/{two.id}"):
        deletion = asyncio.ensure_future(rig.controller.removal.network("foo", force=True))
        await until(lambda: rig.users(f"endpoint/{two.id}") == 2)
        with pytest.raises(Error) as caught:
            await rig.endpoint("late")
        assert caught.value.code == "network_not_found"
        assert not deletion.done()
    await deletion
    assert names(rig) == ["bar"]


async def test_network_with_only_exited_containers_can_be_deleted(rig: CoreInProcess) -> None:
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


async def test_network_deletion_after_reboot_removes_orphan_endpoints(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    sandbox = await rig.join("c1", "one")
    rig.kernel.namespaces.release(sandbox.key)
    await rig.start()
    await rig.controller.removal.network("foo")
    assert names(rig) == []


async def test_container_with_a_permanently_lost_namespace_has_exited(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    sandbox = await rig.join("c1", "one")
    rig.kernel.processes.begin(7, inode=sandbox.inode)
    rig.kernel.namespaces.release(sandbox.key)
    with pytest.raises(Error):  # another program is inside: it can be pinned again
        await rig.controller.removal.network("foo")
    rig.kernel.processes.end(7)
    await rig.controller.removal.network("foo")
    assert names(rig) == []


async def test_orphaned_endpoint_joined_again_is_in_use_after_leaving(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    sandbox = await rig.join("c1", "one")
    await rig.controller.removal.remove_exited(sandbox)
    assert rig.controller.services.find("one").orphaned
    await rig.join("c2", "one")
    assert not rig.controller.services.find("one").orphaned
    await rig.controller.sandboxes.leave("foo", "one", "c2")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo")
    assert caught.value.kind is Kind.IN_USE


async def test_refused_deletion_names_at_most_ten_endpoints(rig: CoreInProcess) -> None:
    await rig.network()
    for i in range(14):
        await rig.endpoint(f"e{i}")
    with pytest.raises(Error) as caught:
        await rig.controller.removal.network("foo")
    assert caught.value.message.count("(") == 10
    assert caught.value.message.endswith("and up to 4 more")


async def test_forced_network_deletion_lets_no_backend_take_over(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
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
