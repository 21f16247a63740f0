"""A sandbox whose process died is reclaimed, by the same verbs as a leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from threading import Event
from time import monotonic
from typing import Any

import pytest

from sandnet.core.monitoring import process_watcher
from sandnet.errors import Error, Kind
from sandnet.model import EndpointSpec, JoinSpec
from sandnet.stores.base import Change, Delete
from tests.unit.core.rig import Rig


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at once a second is looked at much more often."""
    monkeypatch.setattr(process_watcher, "INTERVAL", 0.01)


async def until(condition: Callable[[], object]) -> None:
    """Wait until it is true, for half a minute at most."""
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)


async def joined_by_pid(rig: Rig, container: str, endpoint: str, pid: int, **wishes: Any) -> None:
    """A container joined to a new endpoint by its process."""
    rig.kernel.namespaces.add_foreign(pid)
    rig.kernel.processes.begin(pid)
    await rig.endpoint(endpoint)
    await rig.join(container, endpoint, pid=pid, **wishes)


def containers(rig: Rig) -> list[str]:
    return [box.container_id for box in rig.controller.sandboxes.list()]


async def restarted(rig: Rig) -> None:
    """The daemon dies; another one starts."""
    await rig.start()


async def test_given_a_sandbox_joined_by_pid_when_the_process_dies_then_it_leaves_and_its_endpoint_stays(
    rig: Rig,
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


@pytest.mark.parametrize(("wishes", "stays"), [({}, True), ({"auto_remove": True}, False), ({"watch_pid": 7}, False)])
async def test_given_a_namespace_of_ours_when_the_process_dies_then_the_join_decides(
    rig: Rig, wishes: dict[str, Any], stays: bool
) -> None:
    await rig.network()
    await rig.endpoint("one")
    rig.kernel.processes.begin(7)
    box = await rig.join("c1", "one", **wishes)
    rig.kernel.processes.inside[7] = box.inode
    if "auto_remove" in wishes:
        await until(lambda: rig.controller.sandboxes.find("c1").occupied)
    await asyncio.sleep(0.1)
    assert containers(rig) == ["c1"]
    rig.kernel.processes.end(7)
    if stays:
        await asyncio.sleep(0.2)
        assert containers(rig) == ["c1"]
    else:
        await until(lambda: containers(rig) == [])


async def test_given_a_join_that_names_the_next_process_when_the_former_one_dies_meanwhile_then_the_sandbox_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
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
    await asyncio.sleep(0.05)  # the burial waits for the locks by now; where it does not, the test sees less
    go_on.set()
    await join
    await until(lambda: not rig.controller._process_watcher._exited)
    assert containers(rig) == ["c1"]
    assert len(rig.controller._context.records.attachments_of_container("c1")) == 2
    rig.kernel.processes.end(200)
    await until(lambda: containers(rig) == [])


async def test_given_auto_remove_when_nobody_has_entered_yet_then_the_sandbox_stays(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    await rig.join("c1", "one", auto_remove=True)
    await asyncio.sleep(0.2)
    assert containers(rig) == ["c1"]


async def test_given_auto_remove_when_the_last_process_goes_while_the_daemon_is_away_then_reclaimed(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    box = await rig.join("c1", "one", auto_remove=True)
    rig.kernel.processes.begin(7, inode=box.inode)
    await until(lambda: rig.controller.sandboxes.find("c1").occupied)
    rig.kernel.processes.end(7)
    await rig.start()
    await until(lambda: containers(rig) == [])


async def test_given_auto_remove_switched_off_when_the_process_dies_then_the_sandbox_stays(rig: Rig) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100, auto_remove=False)
    rig.kernel.processes.end(100)
    await asyncio.sleep(0.2)
    assert containers(rig) == ["c1"]
    await rig.controller.removal.network("foo")  # but it does not stand in the way any more
    assert containers(rig) == []


async def test_given_a_process_that_dies_while_the_daemon_is_away_when_it_starts_then_reclaimed_before_it_serves(
    rig: Rig,
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    await joined_by_pid(rig, "c2", "two", 200)
    rig.kernel.processes.end(100)
    await rig.start()
    assert containers(rig) == ["c2"]
    rig.kernel.processes.end(200)
    await until(lambda: containers(rig) == [])


async def test_given_a_pid_used_again_when_the_daemon_starts_then_the_newcomer_is_not_taken_for_the_dead(
    rig: Rig,
) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    rig.kernel.processes.end(100)
    rig.kernel.processes.begin(100)
    await rig.start()
    assert containers(rig) == []


async def test_given_a_process_that_lives_when_the_daemon_restarts_then_it_is_watched_again(rig: Rig) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    await restarted(rig)
    assert containers(rig) == ["c1"]
    rig.kernel.processes.end(100)
    await until(lambda: containers(rig) == [])


async def test_given_a_container_that_left_and_came_again_when_its_first_process_dies_then_it_stays(rig: Rig) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    rig.kernel.processes.begin(200)
    first = rig.controller.sandboxes.find("c1")
    await rig.controller.sandboxes.leave("foo", "one", "c1")
    await rig.join("c1", "one", watch_pid=200)
    rig.kernel.processes.end(100)
    await rig.controller.removal.remove_exited(first)
    await asyncio.sleep(0.1)
    assert containers(rig) == ["c1"]


async def test_given_a_join_of_a_process_that_is_not_there_then_not_found_and_nothing_is_left(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    for field in ("pid", "watch_pid"):
        wish: dict[str, Any] = {field: 100}
        with pytest.raises(Error) as caught:
            await rig.join("c1", "one", **wish)
        assert (caught.value.kind, caught.value.code) == (Kind.NOT_FOUND, "process_not_found")
    assert containers(rig) == []


async def test_given_a_backend_whose_process_dies_then_it_leaves_the_rotation_and_the_others_stay(rig: Rig) -> None:
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


async def test_given_a_hundred_processes_when_all_die_at_once_then_all_are_reclaimed(rig: Rig) -> None:
    await rig.network()
    for i in range(100):
        await joined_by_pid(rig, f"c{i}", f"e{i}", 1000 + i)
    for i in range(100):
        rig.kernel.processes.end(1000 + i)
    await until(lambda: containers(rig) == [])
    assert rig.controller._process_watcher._watched == {}


async def three_dead(rig: Rig) -> list[str]:
    """Three containers, whose processes end at once; what their bridge's network had before."""
    await rig.network()
    before = [link.name for link in rig.kernel.links.list()]
    for i in range(3):
        await joined_by_pid(rig, f"c{i}", f"e{i}", 1000 + i)
    await until(lambda: len(rig.controller._process_watcher._watched) == 3)
    return before


def buried(rig: Rig, left: int) -> bool:
    return len(containers(rig)) == left and not rig.controller._process_watcher._exited


def all_die(rig: Rig) -> None:
    for i in range(3):
        rig.kernel.processes.end(1000 + i)


async def test_given_many_that_die_at_once_then_their_links_go_in_one_request_and_they_share_commits(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await three_dead(rig)
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
    await until(lambda: buried(rig, left=0))
    assert [len(names) for names in asked] == [3]
    assert committed == 2
    assert [ep.name for ep in rig.controller.services.list()] == ["e0", "e1", "e2"]
    assert all(ep.orphaned for ep in rig.controller.services.list())


@pytest.mark.parametrize(
    ("step", "after"),
    [("links.delete", 0), ("namespaces.release", 0), ("namespaces.release", 1), ("firewall.change", 0), ("", 0)],
)
async def test_given_a_daemon_that_ends_amid_the_burial_of_many_when_started_again_then_nothing_of_them_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    before = await three_dead(rig)
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
    await until(lambda: rig.controller._process_watcher._removing == set() or not containers(rig))
    await asyncio.sleep(0.05)  # it has come to the step by now; where it has not, the test sees less
    monkeypatch.setattr(rig.store, "commit", commit)
    await rig.start()
    await rig.controller._context.link_reaper.wait()
    assert not await rig.store.list("sandbox/")
    assert not await rig.store.list("attachment/")
    assert [link.name for link in rig.kernel.links.list()] == before
    assert [ep.name for ep in rig.controller.services.list()] == ["e0", "e1", "e2"]
    assert rig.controller.health().status == "ok"


async def test_given_links_that_cannot_be_deleted_together_when_many_die_then_they_go_one_by_one(rig: Rig) -> None:
    before = await three_dead(rig)
    rig.kernel.fail_on("links.delete", Error(Kind.UNAVAILABLE, "not now"))
    all_die(rig)
    await until(lambda: buried(rig, left=0))
    await rig.controller._context.link_reaper.wait()
    assert [link.name for link in rig.kernel.links.list()] == before


async def test_given_plain_ones_and_others_when_they_die_at_once_then_all_are_reclaimed(rig: Rig) -> None:
    await three_dead(rig)
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
    await until(lambda: buried(rig, left=1))
    assert containers(rig) == ["b2"]
    assert [a.container_id for a in rig.controller.services.backends(web) if a.holder] == ["b2"]


async def test_given_a_burial_that_fails_then_it_is_tried_again(rig: Rig) -> None:
    await rig.network()
    await joined_by_pid(rig, "c1", "one", 100)
    rig.kernel.fail_on("namespaces.release", Error(Kind.UNAVAILABLE, "not now"))
    rig.kernel.processes.end(100)
    await until(lambda: rig.controller._context.records.sandbox("c1") is None)
    assert not await rig.store.list("attachment/c1/")


async def test_given_no_descriptor_left_when_watching_then_it_is_tried_again(rig: Rig) -> None:
    await rig.network()
    rig.kernel.fail_on("processes.watch", Error(Kind.UNAVAILABLE, "no descriptor"))
    await joined_by_pid(rig, "c1", "one", 100)
    await until(lambda: rig.controller._process_watcher._watched)
    rig.kernel.processes.end(100)
    await until(lambda: containers(rig) == [])


async def test_given_an_endpoint_tied_to_a_process_when_that_dies_then_it_goes_with_its_container(rig: Rig) -> None:
    await rig.network()
    rig.kernel.processes.begin(7)
    await rig.controller.endpoints.create("foo", EndpointSpec(name="web", watch_pid=7))
    await rig.join("c1", "web", watch_pid=7)
    await until(lambda: rig.controller._process_watcher._watched)
    rig.kernel.processes.end(7)
    await until(lambda: rig.controller.services.list() == [])
    await until(lambda: containers(rig) == [])


async def test_given_an_endpoint_whose_process_dies_while_the_daemon_is_away_when_it_starts_then_it_goes(
    rig: Rig,
) -> None:
    await rig.network()
    rig.kernel.processes.begin(7)
    await rig.controller.endpoints.create("foo", EndpointSpec(name="web", watch_pid=7))
    rig.kernel.processes.end(7)
    await rig.start()
    await until(lambda: rig.controller.services.list() == [])


async def test_given_a_further_join_with_a_process_then_that_is_the_one_that_counts(rig: Rig) -> None:
    await rig.network()
    await rig.endpoint("one")
    await rig.endpoint("two")
    await rig.join("c1", "one")
    rig.kernel.processes.begin(7)
    await rig.join("c1", "two", watch_pid=7)
    await until(lambda: rig.controller._process_watcher._watched)
    rig.kernel.processes.end(7)
    await until(lambda: containers(rig) == [])


async def test_given_a_host_network_when_auto_remove_has_no_process_then_refused(rig: Rig) -> None:
    await rig.endpoint("one", "host")
    with pytest.raises(Error, match="watch_pid"):
        await rig.join("c1", "one", "host", auto_remove=True)


async def test_given_a_look_that_fails_unexpectedly_when_the_next_one_comes_then_the_dead_are_found(rig: Rig) -> None:
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
