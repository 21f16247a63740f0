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


async def joined_by_pid(core: CoreInProcess, container: str, endpoint: str, pid: int, **requests: Any) -> None:
    """A container joined to a new endpoint by its process."""
    core.kernel.namespaces.add_foreign(pid)
    core.kernel.processes.begin(pid)
    await core.endpoint(endpoint)
    await core.join(container, endpoint, pid=pid, **requests)


def containers(core: CoreInProcess) -> list[str]:
    return [box.container_id for box in core.controller.sandboxes.list()]


async def restarted(core: CoreInProcess) -> None:
    """The daemon dies; another one starts."""
    await core.start()


async def test_exit_of_a_pid_joined_process_leaves_but_keeps_endpoint(
    core: CoreInProcess,
) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100)
    await joined_by_pid(core, "c2", "two", 200)
    await core.endpoint("more")
    await core.join("c1", "more")
    core.kernel.processes.end(100)
    await until(lambda: containers(core) == ["c2"])
    await until(lambda: core.controller._context.records.sandbox("c1") is None)
    assert [ep.name for ep in core.controller.services.list()] == ["one", "two", "more"]
    assert not await core.store.list("attachment/c1/")
    core.kernel.processes.begin(100)
    await core.join("c1", "one", pid=100)
    assert containers(core) == ["c2", "c1"]


@pytest.mark.parametrize(("requests", "stays"), [({}, True), ({"auto_remove": True}, False), ({"watch_pid": 7}, False)])
async def test_join_options_decide_whether_exit_removes_our_namespace(
    core: CoreInProcess, checked: Callable[[], Awaitable[None]], requests: dict[str, Any], stays: bool
) -> None:
    await core.network()
    await core.endpoint("one")
    core.kernel.processes.begin(7)
    box = await core.join("c1", "one", **requests)
    core.kernel.processes.inside[7] = box.inode
    if "auto_remove" in requests:
        await until(lambda: core.controller.sandboxes.find("c1").occupied)
    await checked()
    assert containers(core) == ["c1"]
    core.kernel.processes.end(7)
    if stays:
        await checked()
        assert containers(core) == ["c1"]
    else:
        await until(lambda: containers(core) == [])


async def test_sandbox_is_kept_if_a_new_join_replaced_the_old_process(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100)
    await core.endpoint("more")
    core.kernel.processes.begin(200)
    started, joining, go_on = core.kernel.processes.started, Event(), Event()

    def slow(pid: int) -> int | None:
        joining.set()  # the join has its locks
        go_on.wait(5)
        return started(pid)

    monkeypatch.setattr(core.kernel.processes, "started", slow)
    join = asyncio.create_task(core.join("c1", "more", watch_pid=200))
    await until(joining.is_set)
    core.kernel.processes.end(100)
    await until(lambda: core.controller._process_watcher._removing)
    await until(lambda: core.users("sandbox/c1") == 2)  # the removal waits for the join
    go_on.set()
    await join
    await until(lambda: not core.controller._process_watcher._exited)
    assert containers(core) == ["c1"]
    assert len(core.controller._context.records.attachments_of_container("c1")) == 2
    core.kernel.processes.end(200)
    await until(lambda: containers(core) == [])


async def test_auto_remove_keeps_a_sandbox_never_entered(
    core: CoreInProcess, checked: Callable[[], Awaitable[None]]
) -> None:
    await core.network()
    await core.endpoint("one")
    await core.join("c1", "one", auto_remove=True)
    await checked()
    assert containers(core) == ["c1"]


async def test_auto_remove_reclaims_after_exit_during_daemon_downtime(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    box = await core.join("c1", "one", auto_remove=True)
    core.kernel.processes.begin(7, inode=box.inode)
    await until(lambda: core.controller.sandboxes.find("c1").occupied)
    core.kernel.processes.end(7)
    await core.start()
    await until(lambda: containers(core) == [])


async def test_sandbox_without_auto_remove_outlives_its_process(
    core: CoreInProcess, checked: Callable[[], Awaitable[None]]
) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100, auto_remove=False)
    core.kernel.processes.end(100)
    await checked()
    assert containers(core) == ["c1"]
    await core.controller.removal.network("foo")  # but it does not stand in the way any more
    assert containers(core) == []


async def test_exit_during_daemon_downtime_is_reclaimed_before_serving(
    core: CoreInProcess,
) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100)
    await joined_by_pid(core, "c2", "two", 200)
    core.kernel.processes.end(100)
    await core.start()
    assert containers(core) == ["c2"]
    core.kernel.processes.end(200)
    await until(lambda: containers(core) == [])


async def test_reused_pid_is_not_mistaken_for_the_exited_process(
    core: CoreInProcess,
) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100)
    core.kernel.processes.end(100)
    core.kernel.processes.begin(100)
    await core.start()
    assert containers(core) == []


async def test_running_process_is_watched_again_after_a_restart(core: CoreInProcess) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100)
    await restarted(core)
    assert containers(core) == ["c1"]
    core.kernel.processes.end(100)
    await until(lambda: containers(core) == [])


async def test_rejoined_container_outlives_its_first_process(
    core: CoreInProcess, checked: Callable[[], Awaitable[None]]
) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100)
    core.kernel.processes.begin(200)
    first = core.controller.sandboxes.find("c1")
    await core.controller.sandboxes.leave("foo", "one", "c1")
    await core.join("c1", "one", watch_pid=200)
    core.kernel.processes.end(100)
    await core.controller.removal.remove_exited(first)
    await checked()
    assert containers(core) == ["c1"]


async def test_join_of_a_missing_process_is_not_found_leaving_nothing(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    for field in ("pid", "watch_pid"):
        request: dict[str, Any] = {field: 100}
        with pytest.raises(Error) as caught:
            await core.join("c1", "one", **request)
        assert (caught.value.kind, caught.value.code) == (Kind.NOT_FOUND, "process_not_found")
    assert containers(core) == []


async def test_backend_with_an_exited_process_leaves_the_rotation(core: CoreInProcess) -> None:
    await core.network()
    web = await core.endpoint("web")
    for i, pid in enumerate((100, 200, 300)):
        core.kernel.processes.begin(pid)
        await core.controller.services.attach("web", JoinSpec(container_id=f"c{i}", watch_pid=pid))
    core.kernel.processes.end(100)
    await until(lambda: containers(core) == ["c1", "c2"])
    await until(lambda: [a.container_id for a in core.controller.services.backends(web)] == ["c1", "c2"])
    await until(lambda: core.controller.services.backends(web)[0].holder)
    assert not core.controller.services.find("web").orphaned


async def test_hundred_simultaneous_exits_are_all_reclaimed(core: CoreInProcess) -> None:
    await core.network()
    for i in range(100):
        await joined_by_pid(core, f"c{i}", f"e{i}", 1000 + i)
    for i in range(100):
        core.kernel.processes.end(1000 + i)
    await until(lambda: containers(core) == [])
    assert core.controller._process_watcher._watched == {}


async def three_exited(core: CoreInProcess) -> list[str]:
    """Three containers, whose processes end at once; what their bridge's network had before."""
    await core.network()
    before = [link.name for link in core.kernel.links.list()]
    for i in range(3):
        await joined_by_pid(core, f"c{i}", f"e{i}", 1000 + i)
    await until(lambda: len(core.controller._process_watcher._watched) == 3)
    return before


def removed(core: CoreInProcess, left: int) -> bool:
    return len(containers(core)) == left and not core.controller._process_watcher._exited


def all_die(core: CoreInProcess) -> None:
    for i in range(3):
        core.kernel.processes.end(1000 + i)


async def test_simultaneous_exits_share_link_deletion_and_commits(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await three_exited(core)
    core.unattended()
    asked: list[set[str]] = []
    delete, commit = core.kernel.links.delete, core.store.commit
    committed = 0

    async def counted(*changes: Change, durable: bool = True) -> int:
        nonlocal committed
        committed += 1
        return await commit(*changes, durable=durable)

    def asked_for(names: Iterable[str]) -> None:
        asked.append(set(names))
        delete(asked[-1])

    monkeypatch.setattr(core.kernel.links, "delete", asked_for)
    monkeypatch.setattr(core.store, "commit", counted)
    all_die(core)
    await until(lambda: removed(core, left=0))
    assert [len(names) for names in asked] == [3]
    assert committed == 2
    assert [ep.name for ep in core.controller.services.list()] == ["e0", "e1", "e2"]
    assert all(ep.orphaned for ep in core.controller.services.list())


@pytest.mark.parametrize(
    ("step", "after"),
    [("links.delete", 0), ("namespaces.release", 0), ("namespaces.release", 1), ("firewall.change", 0), ("", 0)],
)
async def test_restart_during_bulk_removal_leaves_nothing_behind(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    before = await three_exited(core)
    core.unattended()

    async def never(*_: object) -> None:
        """What would finish the work in the same daemon."""

    monkeypatch.setattr(process_watcher.ProcessWatcher, "_remove_one", never)
    commit = core.store.commit
    if step:
        core.kernel.fail_on(step, Error(Kind.UNAVAILABLE, "the end"), after=after)
    else:  # before the last commit

        async def last_fails(*changes: Change, durable: bool = True) -> int:
            if any(isinstance(each, Delete) and each.key.startswith("sandbox/") for each in changes):
                raise Error(Kind.UNAVAILABLE, "the end")
            return await commit(*changes, durable=durable)

        monkeypatch.setattr(core.store, "commit", last_fails)
    all_die(core)
    watcher = core.controller._process_watcher
    await until(lambda: not watcher._draining and (watcher._exited or not containers(core)))
    monkeypatch.setattr(core.store, "commit", commit)
    await core.start()
    await core.controller._context.link_reaper.wait()
    assert not await core.store.list("sandbox/")
    assert not await core.store.list("attachment/")
    assert [link.name for link in core.kernel.links.list()] == before
    assert [ep.name for ep in core.controller.services.list()] == ["e0", "e1", "e2"]
    assert core.controller.health().status == "ok"


async def test_links_are_deleted_singly_if_bulk_deletion_fails(core: CoreInProcess) -> None:
    before = await three_exited(core)
    core.kernel.fail_on("links.delete", Error(Kind.UNAVAILABLE, "not now"))
    all_die(core)
    await until(lambda: removed(core, left=0))
    await core.controller._context.link_reaper.wait()
    assert [link.name for link in core.kernel.links.list()] == before


async def test_mixed_sandboxes_and_backends_exiting_are_all_reclaimed(core: CoreInProcess) -> None:
    await three_exited(core)
    await core.endpoint("more")
    await core.join("c0", "more")
    web = await core.endpoint("web")
    for i, pid in enumerate((2000, 2001, 2002)):
        core.kernel.processes.begin(pid)
        await core.controller.services.attach("web", JoinSpec(container_id=f"b{i}", watch_pid=pid))
    await until(lambda: len(core.controller._process_watcher._watched) == 6)
    all_die(core)
    core.kernel.processes.end(2000)
    core.kernel.processes.end(2001)
    await until(lambda: removed(core, left=1))
    assert containers(core) == ["b2"]
    assert [a.container_id for a in core.controller.services.backends(web) if a.holder] == ["b2"]


async def test_failed_removal_of_an_exited_sandbox_is_retried(core: CoreInProcess) -> None:
    await core.network()
    await joined_by_pid(core, "c1", "one", 100)
    core.kernel.fail_on("namespaces.release", Error(Kind.UNAVAILABLE, "not now"))
    core.kernel.processes.end(100)
    await until(lambda: core.controller._context.records.sandbox("c1") is None)
    assert not await core.store.list("attachment/c1/")


async def test_process_watch_is_retried_after_running_out_of_fds(core: CoreInProcess) -> None:
    await core.network()
    core.kernel.fail_on("processes.watch", Error(Kind.UNAVAILABLE, "no descriptor"))
    await joined_by_pid(core, "c1", "one", 100)
    await until(lambda: core.controller._process_watcher._watched)
    core.kernel.processes.end(100)
    await until(lambda: containers(core) == [])


async def test_endpoint_bound_to_a_process_is_deleted_on_its_exit(core: CoreInProcess) -> None:
    await core.network()
    core.kernel.processes.begin(7)
    await core.controller.endpoints.create("foo", EndpointSpec(name="web", watch_pid=7))
    await core.join("c1", "web", watch_pid=7)
    await until(lambda: core.controller._process_watcher._watched)
    core.kernel.processes.end(7)
    await until(lambda: core.controller.services.list() == [])
    await until(lambda: containers(core) == [])


async def test_bound_endpoint_is_deleted_after_exit_during_downtime(
    core: CoreInProcess,
) -> None:
    await core.network()
    core.kernel.processes.begin(7)
    await core.controller.endpoints.create("foo", EndpointSpec(name="web", watch_pid=7))
    core.kernel.processes.end(7)
    await core.start()
    await until(lambda: core.controller.services.list() == [])


async def test_latest_join_determines_the_watched_process(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    await core.endpoint("two")
    await core.join("c1", "one")
    core.kernel.processes.begin(7)
    await core.join("c1", "two", watch_pid=7)
    await until(lambda: core.controller._process_watcher._watched)
    core.kernel.processes.end(7)
    await until(lambda: containers(core) == [])


async def test_auto_remove_on_a_host_network_requires_a_process(core: CoreInProcess) -> None:
    await core.endpoint("one", "host")
    with pytest.raises(Error, match="watch_pid"):
        await core.join("c1", "one", "host", auto_remove=True)


async def test_exits_are_found_after_an_unexpectedly_failed_scan(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("one")
    box = await core.join("c1", "one", auto_remove=True)
    core.kernel.processes.begin(7, inode=box.inode)
    await until(lambda: core.controller.sandboxes.find("c1").occupied)
    core.kernel.fail_on("processes.namespaces", OSError(5, "Input/output error"), after=1)
    before = core.kernel.calls.count("processes.namespaces")
    await until(lambda: core.kernel.calls.count("processes.namespaces") > before + 1)
    core.kernel.processes.end(7)
    await until(lambda: containers(core) == [])
