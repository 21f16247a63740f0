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


async def prepared(core: CoreInProcess) -> None:
    """A network with two endpoints, one of them with a container that is also elsewhere."""
    await core.network()
    await core.network("bar")
    await core.endpoint("one", port_mapping=(mapping(8080),))
    await core.endpoint("two")
    await core.endpoint("else", "bar")
    core.kernel.processes.begin(7)
    await core.join("c1", "one", watch_pid=7, auto_remove=None)
    await core.join("c1", "else", "bar")


def names(core: CoreInProcess) -> list[str]:
    return [net.name for net in core.controller.networks.list()][3:]


async def test_refused_deletion_lists_endpoints_with_container_and_pid(core: CoreInProcess) -> None:
    await prepared(core)
    one, two, _ = core.controller.services.list()
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("foo")
    assert (caught.value.kind, caught.value.code) == (Kind.IN_USE, "network_in_use")
    assert f"one ({one.id[:12]}: c1, pid 7), two ({two.id[:12]})" in caught.value.message
    with pytest.raises(Error) as caught:
        await core.controller.removal.endpoint("foo", "one")
    assert caught.value.code == "endpoint_in_use"
    assert "c1, pid 7" in caught.value.message
    assert names(core) == ["foo", "bar"]
    await core.endpoint("three")  # a refused deletion keeps no one away


async def test_forced_deletion_keeps_the_container_on_other_networks(core: CoreInProcess) -> None:
    await prepared(core)
    await core.controller.removal.network("foo", force=True)
    assert names(core) == ["bar"]
    assert [ep.name for ep in core.controller.services.list()] == ["else"]
    sandbox = core.controller.sandboxes.find("c1")
    assert len(core.controller.sandboxes.attachments(sandbox)) == 1
    assert core.kernel.host.held == set()
    assert not await core.store.list("claim/port/")
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("foo", force=True)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_forced_deletion_of_a_predefined_network_is_refused(core: CoreInProcess) -> None:
    await core.endpoint("one", "bridge")
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("bridge", force=True)
    assert caught.value.kind is Kind.PROTECTED
    assert len(core.controller.services.list()) == 1


async def test_forced_unpublish_detaches_the_backends(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    for i in range(3):
        await core.controller.services.attach("web", JoinSpec(container_id=f"c{i}"))
    with pytest.raises(Error, match="c0, c1, c2"):
        await core.controller.services.unpublish("web")
    await core.controller.services.unpublish("web", force=True)
    assert core.controller.services.list() == []
    assert core.controller.sandboxes.list() == []
    assert not await core.store.list("claim/address/")


@pytest.mark.parametrize("step", ["links.retire", "namespaces.release"])
async def test_failed_forced_deletion_does_the_rest_and_retry_finishes(core: CoreInProcess, step: str) -> None:
    await core.network()
    for name in ("one", "two"):
        await core.endpoint(name)
        await core.join(f"c-{name}", name)
    core.kernel.fail_on(step, Error(Kind.UNAVAILABLE, "not now"))
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("foo", force=True)
    assert caught.value.code == "teardown_incomplete"
    assert len(core.controller._context.records.endpoints()) == 1
    await core.controller.removal.network("foo")  # it was decided then: force need not be reported again
    assert names(core) == []
    assert core.controller.sandboxes.list() == []


async def test_forced_deletion_cut_by_a_crash_finishes_at_start(core: CoreInProcess) -> None:
    await prepared(core)
    core.kernel.fail_on("namespaces.default_routes", Error(Kind.UNAVAILABLE, "not now"))
    with pytest.raises(Error):
        await core.controller.removal.network("foo", force=True)
    for held in list(core.kernel.host.held):
        core.kernel.host.held.discard(held)
    await core.start()
    assert core.controller.health().problems == ()
    assert names(core) == ["bar"]
    assert [ep.name for ep in core.controller.services.list()] == ["else"]
    assert [sandbox.container_id for sandbox in core.controller.sandboxes.list()] == ["c1"]


async def test_operations_racing_forced_deletion_are_whole_or_refused(core: CoreInProcess) -> None:
    await core.network()
    for i in range(10):
        await core.endpoint(f"e{i}")
    racing = [
        *(core.join(f"c{i}", f"e{i}") for i in range(10)),
        core.controller.removal.network("foo", force=True),
        *(core.endpoint(f"late{i}") for i in range(5)),
    ]
    results = await asyncio.gather(*racing, return_exceptions=True)
    failures = [each for each in results if isinstance(each, BaseException)]
    assert all(isinstance(each, Error) for each in failures)
    assert {each.code for each in failures if isinstance(each, Error)} <= {"endpoint_not_found", "network_not_found"}
    assert results[10] is None
    assert names(core) == []
    for prefix in ("endpoint/", "attachment/", "sandbox/", "claim/name/"):
        left = [entry.key for entry in await core.store.list(prefix)]
        assert not left or (prefix == "claim/name/" and len(left) == 3), left


async def test_one_of_two_concurrent_forced_deletions_finds_nothing(core: CoreInProcess) -> None:
    await prepared(core)
    removal = core.controller.removal
    results = await asyncio.gather(
        removal.network("foo", force=True), removal.network("foo", force=True), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], Error)
    assert results[1].kind is Kind.NOT_FOUND


async def test_forced_deletion_waits_for_a_busy_endpoint(core: CoreInProcess) -> None:
    await prepared(core)
    two = core.controller.services.find("two")
    async with core.controller._context.locks.hold(f"endpoint/{two.id}"):
        deletion = asyncio.ensure_future(core.controller.removal.network("foo", force=True))
        await until(lambda: core.users(f"endpoint/{two.id}") == 2)
        with pytest.raises(Error) as caught:
            await core.endpoint("late")
        assert caught.value.code == "network_not_found"
        assert not deletion.done()
    await deletion
    assert names(core) == ["bar"]


async def test_network_with_only_exited_containers_can_be_deleted(core: CoreInProcess) -> None:
    await core.network()
    for i, pid in enumerate((100, 200)):
        core.kernel.processes.begin(pid)
        await core.endpoint(f"e{i}")
        await core.join(f"c{i}", f"e{i}", watch_pid=pid)
    core.kernel.processes.end(100)
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("foo")
    assert "endpoints: e1 (" in caught.value.message
    core.kernel.processes.end(200)
    await core.controller.removal.network("foo")
    assert names(core) == []


async def test_network_deletion_after_reboot_removes_orphan_endpoints(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    sandbox = await core.join("c1", "one")
    core.kernel.namespaces.release(sandbox.key)
    await core.start()
    await core.controller.removal.network("foo")
    assert names(core) == []


async def test_container_with_a_permanently_lost_namespace_has_exited(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    sandbox = await core.join("c1", "one")
    core.kernel.processes.begin(7, inode=sandbox.inode)
    core.kernel.namespaces.release(sandbox.key)
    with pytest.raises(Error):  # another program is inside: it can be pinned again
        await core.controller.removal.network("foo")
    core.kernel.processes.end(7)
    await core.controller.removal.network("foo")
    assert names(core) == []


async def test_orphaned_endpoint_joined_again_is_in_use_after_leaving(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    sandbox = await core.join("c1", "one")
    await core.controller.removal.remove_exited(sandbox)
    assert core.controller.services.find("one").orphaned
    await core.join("c2", "one")
    assert not core.controller.services.find("one").orphaned
    await core.controller.sandboxes.leave("foo", "one", "c2")
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("foo")
    assert caught.value.kind is Kind.IN_USE


async def test_refused_deletion_names_at_most_ten_endpoints(core: CoreInProcess) -> None:
    await core.network()
    for i in range(14):
        await core.endpoint(f"e{i}")
    with pytest.raises(Error) as caught:
        await core.controller.removal.network("foo")
    assert caught.value.message.count("(") == 10
    assert caught.value.message.endswith("and up to 4 more")


async def test_forced_network_deletion_lets_no_backend_take_over(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that goes hands its address over to one that serves: never to another that is going."""
    await core.network()
    await core.endpoint("web")
    for container in ("c1", "c2", "c3"):
        await core.controller.sandboxes.join("foo", "web", JoinSpec(container_id=container), many=True)
    core.store.pace = 0.001
    plug = core.kernel.links.plug

    def slow(*args: Any) -> None:
        time.sleep(0.1)
        plug(*args)

    monkeypatch.setattr(core.kernel.links, "plug", slow)
    await core.controller.removal.network("foo", force=True)
    assert not core.controller._context.records.attachments()
    assert not [entry.key for entry in await core.store.list("") if entry.key.startswith(("attachment/", "claim/add"))]
    await core.network()
    await core.endpoint("web")
