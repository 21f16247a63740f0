"""A sandbox whose process died is reclaimed, by the same verbs as a leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from threading import Event
from typing import Any

import pytest

from sandnet.core.monitoring import process_watcher
from sandnet.errors import Error, Kind
from sandnet.model import EndpointSpec, JoinSpec
from sandnet.stores.base import Change, Delete
from tests.support.conditions import until
from tests.support.core_in_process import CoreInProcess


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check much more often than once a second."""
    monkeypatch.setattr(process_watcher, "INTERVAL", 0.01)


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Waits until the daemon has checked three times more; an empty namespace is reclaimed at the second check."""
    done = 0
    scan = process_watcher.ProcessWatcher._scan

    async def counted(self: process_watcher.ProcessWatcher) -> None:
        nonlocal done
        await scan(self)
        done += 1

    async def wait() -> None:
        enough = done + 4  # one may have begun before
        await until(lambda: done >= enough)

    monkeypatch.setattr(process_watcher.ProcessWatcher, "_scan", counted)
    return wait


async def joined_by_pid(rig: CoreInProcess, container: str, endpoint: str, pid: int, **requests: Any) -> None:
    """A container joined to a new endpoint by its process."""
    rig.kernel.namespaces.add_foreign(pid)
    rig.kernel.processes.begin(pid)
    await rig.endpoint(endpoint)
    await rig.join(container, endpoint, pid=pid, **requests)


def containers(rig: CoreInProcess) -> list[str]:
    return [box.container_id for box in rig.controller.sandboxes.list()]


async def restarted(rig: CoreInProcess) -> None:
    """The daemon dies; another one starts."""
    await rig.start()


async def test_exit_of_a_pid_joined_process_leaves_but_keeps_endpoint(
    rig: CoreInProcess,
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    await joined_by_pid(rig, "c2", "two", 200)
    await rig.endpoint("more")
    await rig.join("c1", "more")
    rig.kernel.processes.end(100)
    await until(lambda: containers(rig) == ["c2"])
    await until(lambda: rig.controller._context.records.sandbox("c1") is None)
    assert [ep.name for ep in rig.controller.services.list()] == ["one", "two", "more"]
    assert not await rig.store.list("attachment/c1/")
    rig.kernel.processes.begin(100)
    await rig.join("c1", "one", pid=100)
    assert containers(rig) == ["c2", "c1"]


@pytest.mark.parametrize(("requests", "stays"), [({}, True), ({"auto_remove": True}, False), ({"watch_pid": 7}, False)])
async def test_join_options_decide_whether_exit_removes_our_namespace(
    rig: CoreInProcess, checked: Callable[[], Awaitable[None]], requests: dict[str, Any], stays: bool
) -> None:
    await rig.network()
    await rig.endpoint("one")
    rig.kernel.processes.begin(7)
    box = await rig.join("c1", "one", **requests)
    rig.kernel.processes.inside[7] = box.inode
    if "auto_remove" in requests:
        await until(lambda: rig.controller.sandboxes.find("c1").occupied)
    await checked()
    assert containers(rig) == ["c1"]
    rig.kernel.processes.end(7)
    if stays:
        await checked()
        assert containers(rig) == ["c1"]
    else:
        await until(lambda: containers(rig) == [])


async def test_sandbox_is_kept_if_a_new_join_replaced_the_old_process(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    await rig.endpoint("more")
    rig.kernel.processes.begin(200)
    started, joining, go_on = rig.kernel.processes.started, Event(), Event()

    def slow(pid: int) -> int | None:
        joining.set()  # the join has its locks
        go_on.wait(5)
        return started(pid)

    monkeypatch.setattr(rig.kernel.processes, "started", slow)
    join = asyncio.create_task(rig.join("c1", "more", watch_pid=200))
    await until(joining.is_set)
    rig.kernel.processes.end(100)
    await until(lambda: rig.controller._process_watcher._removing)
    await until(lambda: rig.users("sandbox/c1") == 2)  # the removal waits for the join
    go_on.set()
    await join
    await until(lambda: not rig.controller._process_watcher._exited)
    assert containers(rig) == ["c1"]
    assert len(rig.controller._context.records.attachments_of_container("c1")) == 2
    rig.kernel.processes.end(200)
    await until(lambda: containers(rig) == [])


async def test_auto_remove_keeps_a_sandbox_never_entered(
    rig: CoreInProcess, checked: Callable[[], Awaitable[None]]
) -> None:
    await rig.network()
    await rig.endpoint("one")
    await rig.join("c1", "one", auto_remove=True)
    await checked()
    assert containers(rig) == ["c1"]


async def test_auto_remove_reclaims_after_exit_during_daemon_downtime(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    box = await rig.join("c1", "one", auto_remove=True)
    rig.kernel.processes.begin(7, inode=box.inode)
    await until(lambda: rig.controller.sandboxes.find("c1").occupied)
    rig.kernel.processes.end(7)
    await rig.start()
    await until(lambda: containers(rig) == [])


async def test_sandbox_without_auto_remove_outlives_its_process(
    rig: CoreInProcess, checked: Callable[[], Awaitable[None]]
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100, auto_remove=False)
    rig.kernel.processes.end(100)
    await checked()
    assert containers(rig) == ["c1"]
    await rig.controller.removal.network("foo")  # but it does not stand in the way any more
    assert containers(rig) == []


async def test_exit_during_daemon_downtime_is_reclaimed_before_serving(
    rig: CoreInProcess,
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    await joined_by_pid(rig, "c2", "two", 200)
    rig.kernel.processes.end(100)
    await rig.start()
    assert containers(rig) == ["c2"]
    rig.kernel.processes.end(200)
    await until(lambda: containers(rig) == [])


async def test_reused_pid_is_not_mistaken_for_the_exited_process(
    rig: CoreInProcess,
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    rig.kernel.processes.end(100)
    rig.kernel.processes.begin(100)
    await rig.start()
    assert containers(rig) == []


async def test_running_process_is_watched_again_after_a_restart(rig: CoreInProcess) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    await restarted(rig)
    assert containers(rig) == ["c1"]
    rig.kernel.processes.end(100)
    await until(lambda: containers(rig) == [])


async def test_rejoined_container_outlives_its_first_process(
    rig: CoreInProcess, checked: Callable[[], Awaitable[None]]
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    rig.kernel.processes.begin(200)
    first = rig.controller.sandboxes.find("c1")
    await rig.controller.sandboxes.leave("foo", "one", "c1")
    await rig.join("c1", "one", watch_pid=200)
    rig.kernel.processes.end(100)
    await rig.controller.removal.remove_exited(first)
    await checked()
    assert containers(rig) == ["c1"]


async def test_join_of_a_missing_process_is_not_found_leaving_nothing(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    for field in ("pid", "watch_pid"):
        request: dict[str, Any] = {field: 100}
        with pytest.raises(Error) as caught:
            await rig.join("c1", "one", **request)
        assert (caught.value.kind, caught.value.code) == (Kind.NOT_FOUND, "process_not_found")
    assert containers(rig) == []


async def test_backend_with_an_exited_process_leaves_the_rotation(rig: CoreInProcess) -> None:
    await rig.network()
    web = await rig.endpoint("web")
    for i, pid in enumerate((100, 200, 300)):
        rig.kernel.processes.begin(pid)
        await rig.controller.services.attach("web", JoinSpec(container_id=f"c{i}", watch_pid=pid))
    rig.kernel.processes.end(100)
    await until(lambda: containers(rig) == ["c1", "c2"])
    await until(lambda: [a.container_id for a in rig.controller.services.backends(web)] == ["c1", "c2"])
    await until(lambda: rig.controller.services.backends(web)[0].holder)
    assert not rig.controller.services.find("web").orphaned


async def test_hundred_simultaneous_exits_are_all_reclaimed(rig: CoreInProcess) -> None:
    await rig.network()
    for i in range(100):
        await joined_by_pid(rig, f"c{i}", f"e{i}", 1000 + i)
    for i in range(100):
        rig.kernel.processes.end(1000 + i)
    await until(lambda: containers(rig) == [])
    assert rig.controller._process_watcher._watched == {}


async def three_exited(rig: CoreInProcess) -> list[str]:
    """Three containers, whose processes end at once; what their bridge's network had before."""
    await rig.network()
    before = [link.name for link in rig.kernel.links.list()]
    for i in range(3):
        await joined_by_pid(rig, f"c{i}", f"e{i}", 1000 + i)
    await until(lambda: len(rig.controller._process_watcher._watched) == 3)
    return before


def removed(rig: CoreInProcess, left: int) -> bool:
    return len(containers(rig)) == left and not rig.controller._process_watcher._exited


def all_die(rig: CoreInProcess) -> None:
    for i in range(3):
        rig.kernel.processes.end(1000 + i)


async def test_simultaneous_exits_share_link_deletion_and_commits(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await three_exited(rig)
    rig.unattended()
    asked: list[set[str]] = []
    delete, commit = rig.kernel.links.delete, rig.store.commit
    committed = 0

    async def counted(*changes: Change, durable: bool = True) -> int:
        nonlocal committed
        committed += 1
        return await commit(*changes, durable=durable)

    def asked_for(names: Iterable[str]) -> None:
        asked.append(set(names))
        delete(asked[-1])

    monkeypatch.setattr(rig.kernel.links, "delete", asked_for)
    monkeypatch.setattr(rig.store, "commit", counted)
    all_die(rig)
    await until(lambda: removed(rig, left=0))
    assert [len(names) for names in asked] == [3]
    assert committed == 2
    assert [ep.name for ep in rig.controller.services.list()] == ["e0", "e1", "e2"]
    assert all(ep.orphaned for ep in rig.controller.services.list())


@pytest.mark.parametrize(
    ("step", "after"),
    [("links.delete", 0), ("namespaces.release", 0), ("namespaces.release", 1), ("firewall.change", 0), ("", 0)],
)
async def test_restart_during_bulk_removal_leaves_nothing_behind(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    before = await three_exited(rig)
    rig.unattended()

    async def never(*_: object) -> None:
        """What would finish the work in the same daemon."""

    monkeypatch.setattr(process_watcher.ProcessWatcher, "_remove_one", never)
    commit = rig.store.commit
    if step:
        rig.kernel.fail_on(step, Error(Kind.UNAVAILABLE, "the end"), after=after)
    else:  # before the last commit

        async def last_fails(*changes: Change, durable: bool = True) -> int:
            if any(isinstance(each, Delete) and each.key.startswith("sandbox/") for each in changes):
                raise Error(Kind.UNAVAILABLE, "the end")
            return await commit(*changes, durable=durable)

        monkeypatch.setattr(rig.store, "commit", last_fails)
    all_die(rig)
    watcher = rig.controller._process_watcher
    await until(lambda: not watcher._draining and (watcher._exited or not containers(rig)))
    monkeypatch.setattr(rig.store, "commit", commit)
    await rig.start()
    await rig.controller._context.link_reaper.wait()
    assert not await rig.store.list("sandbox/")
    assert not await rig.store.list("attachment/")
    assert [link.name for link in rig.kernel.links.list()] == before
    assert [ep.name for ep in rig.controller.services.list()] == ["e0", "e1", "e2"]
    assert rig.controller.health().status == "ok"


async def test_links_are_deleted_singly_if_bulk_deletion_fails(rig: CoreInProcess) -> None:
    before = await three_exited(rig)
    rig.kernel.fail_on("links.delete", Error(Kind.UNAVAILABLE, "not now"))
    all_die(rig)
    await until(lambda: removed(rig, left=0))
    await rig.controller._context.link_reaper.wait()
    assert [link.name for link in rig.kernel.links.list()] == before


async def test_mixed_sandboxes_and_backends_exiting_are_all_reclaimed(rig: CoreInProcess) -> None:
    await three_exited(rig)
    await rig.endpoint("more")
    await rig.join("c0", "more")
    web = await rig.endpoint("web")
    for i, pid in enumerate((2000, 2001, 2002)):
        rig.kernel.processes.begin(pid)
        await rig.controller.services.attach("web", JoinSpec(container_id=f"b{i}", watch_pid=pid))
    await until(lambda: len(rig.controller._process_watcher._watched) == 6)
    all_die(rig)
    rig.kernel.processes.end(2000)
    rig.kernel.processes.end(2001)
    await until(lambda: removed(rig, left=1))
    assert containers(rig) == ["b2"]
    assert [a.container_id for a in rig.controller.services.backends(web) if a.holder] == ["b2"]


async def test_failed_removal_of_an_exited_sandbox_is_retried(rig: CoreInProcess) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    rig.kernel.fail_on("namespaces.release", Error(Kind.UNAVAILABLE, "not now"))
    rig.kernel.processes.end(100)
    await until(lambda: rig.controller._context.records.sandbox("c1") is None)
    assert not await rig.store.list("attachment/c1/")


async def test_process_watch_is_retried_after_running_out_of_fds(rig: CoreInProcess) -> None:
    await rig.network()
    rig.kernel.fail_on("processes.watch", Error(Kind.UNAVAILABLE, "no descriptor"))
    await joined_by_pid(rig, "c1", "one", 100)
    await until(lambda: rig.controller._process_watcher._watched)
    rig.kernel.processes.end(100)
    await until(lambda: containers(rig) == [])


async def test_endpoint_bound_to_a_process_is_deleted_on_its_exit(rig: CoreInProcess) -> None:
    await rig.network()
    rig.kernel.processes.begin(7)
    await rig.controller.endpoints.create("foo", EndpointSpec(name="web", watch_pid=7))
    await rig.join("c1", "web", watch_pid=7)
    await until(lambda: rig.controller._process_watcher._watched)
    rig.kernel.processes.end(7)
    await until(lambda: rig.controller.services.list() == [])
    await until(lambda: containers(rig) == [])


async def test_bound_endpoint_is_deleted_after_exit_during_downtime(
    rig: CoreInProcess,
) -> None:
    await rig.network()
    rig.kernel.processes.begin(7)
    await rig.controller.endpoints.create("foo", EndpointSpec(name="web", watch_pid=7))
    rig.kernel.processes.end(7)
    await rig.start()
    await until(lambda: rig.controller.services.list() == [])


async def test_latest_join_determines_the_watched_process(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    await rig.endpoint("two")
    await rig.join("c1", "one")
    rig.kernel.processes.begin(7)
    await rig.join("c1", "two", watch_pid=7)
    await until(lambda: rig.controller._process_watcher._watched)
    rig.kernel.processes.end(7)
    await until(lambda: containers(rig) == [])


async def test_auto_remove_on_a_host_network_requires_a_process(rig: CoreInProcess) -> None:
    await rig.endpoint("one", "host")
    with pytest.raises(Error, match="watch_pid"):
        await rig.join("c1", "one", "host", auto_remove=True)


async def test_exits_are_found_after_an_unexpectedly_failed_scan(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("one")
    box = await rig.join("c1", "one", auto_remove=True)
    rig.kernel.processes.begin(7, inode=box.inode)
    await until(lambda: rig.controller.sandboxes.find("c1").occupied)
    rig.kernel.fail_on("processes.namespaces", OSError(5, "Input/output error"), after=1)
    before = rig.kernel.calls.count("processes.namespaces")
    await until(lambda: rig.kernel.calls.count("processes.namespaces") > before + 1)
    rig.kernel.processes.end(7)
    await until(lambda: containers(rig) == [])
