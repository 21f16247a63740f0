"""Whatever step fails, the request is refused, nothing is left, and it can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.model import ParentUpdate
from tests.support.core_in_process import CoreInProcess, mapping

BROKEN = Error(Kind.INTERNAL, "broken on purpose")
THEIRS = "/theirs"
"""Another program's namespace."""


async def _create_network(core: CoreInProcess) -> object:
    return await core.network("new", ipv6=True)


async def _create_endpoint(core: CoreInProcess) -> object:
    return await core.endpoint("new", port_mapping=(mapping(8080), mapping(8080, proto=17)))


async def _join(core: CoreInProcess) -> object:
    return await core.join("c2", "second", hosts_path=f"{core.config.file_dirs[0]}/c2/hosts")


async def _join_again(core: CoreInProcess) -> object:
    return await core.join("c1", "second")


async def _join_existing(core: CoreInProcess) -> object:
    return await core.join("c2", "second", netns=THEIRS)


OPERATIONS = [_create_network, _create_endpoint, _join, _join_again, _join_existing]
STEPS_AT_MOST = 60


async def _prepared(core: CoreInProcess) -> None:
    core.kernel.namespaces.add_foreign(THEIRS)
    await core.network(ipv6=True)  # the host's parameters are set once, so every later attempt takes the same steps
    await core.endpoint("first")
    await core.endpoint("second")
    await core.join("c1", "first")


async def _state(core: CoreInProcess) -> tuple[object, ...]:
    await core.controller._context.link_reaper.wait()
    records = core.controller._context.records
    keys = sorted(
        entry.key for entry in await core.store.list("") if not entry.key.startswith(("cursor/", "event/", "sysctl/"))
    )
    links = sorted(link.name for link in core.kernel.links.list())
    namespaces = sorted(sandbox.key for sandbox in records.sandboxes() if core.kernel.namespaces.find(sandbox.key))
    files = sorted(str(path) for path in Path(core.config.run_dir).rglob("*") if path.is_file())
    theirs = core.kernel.namespaces._spaces[core.kernel.namespaces._foreign[THEIRS]]
    held = sorted(map(str, core.kernel.host.held))
    return keys, links, namespaces, files, held, theirs.loopback_up, sorted(theirs.links)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__.strip("_"))
async def test_failed_kernel_step_leaves_nothing_and_retry_succeeds(
    core: CoreInProcess, operation: Callable[[CoreInProcess], Awaitable[object]]
) -> None:
    core.unattended()
    await _prepared(core)
    before = await _state(core)
    already = len(core.kernel.calls)
    steps = await _steps_of(core, operation)
    assert steps
    for method, after in steps:
        core.kernel.fail_on(method, BROKEN, after=after)
        with pytest.raises(Error):
            await operation(core)
        assert await _state(core) == before, f"{method} after {after}"
    await operation(core)
    assert len(core.kernel.calls) > already


async def _steps_of(
    core: CoreInProcess, operation: Callable[[CoreInProcess], Awaitable[object]]
) -> list[tuple[str, int]]:
    """Every kernel call the operation makes that can stop it, found by letting each fail once on a twin."""
    twin = CoreInProcess(
        core.config.__class__(
            state_dir=core.config.state_dir + ".twin",
            run_dir=core.config.run_dir + ".twin",
            file_dirs=core.config.file_dirs,
        )
    )
    await twin.start()
    twin.unattended()
    await _prepared(twin)
    already = len(twin.kernel.calls)
    await operation(twin)
    made = twin.kernel.calls[already:]
    await twin.controller.stop()
    twin.workers.close()
    acting = [call for call in made if call not in NEVER_STOP]
    return [(call, acting[:index].count(call)) for index, call in enumerate(acting)][:STEPS_AT_MOST]


NEVER_STOP = frozenset({"links.reap", "links.list", "sysctl.get"})
"""Calls of the background, or whose failure is passed over."""


async def _delete_network(core: CoreInProcess) -> None:
    await core.controller.removal.network("new")


async def _force_network(core: CoreInProcess) -> None:
    await core.controller.removal.network("foo", force=True)


async def _delete_endpoint(core: CoreInProcess) -> None:
    await core.controller.removal.endpoint("foo", "new")


async def _leave(core: CoreInProcess) -> None:
    await core.controller.sandboxes.leave("foo", "second", "c2")


async def _leave_one(core: CoreInProcess) -> None:
    await core.controller.sandboxes.leave("foo", "second", "c1")


async def _prepare_again(core: CoreInProcess) -> object:
    await core.network(ipv6=True)
    await core.endpoint("first")
    await core.endpoint("second")
    return await core.join("c1", "first")


PAIRS = [
    (_create_network, _delete_network),
    (_create_endpoint, _delete_endpoint),
    (_join, _leave),
    (_join_again, _leave_one),
]


@pytest.mark.parametrize(
    ("forth", "back"),
    [*PAIRS, *((back, forth) for forth, back in PAIRS), (_force_network, _prepare_again)],
    ids=lambda step: step.__name__.strip("_"),
)
async def test_retry_succeeds_after_a_full_disk_at_any_commit(
    core: CoreInProcess,
    forth: Callable[[CoreInProcess], Awaitable[object]],
    back: Callable[[CoreInProcess], Awaitable[object]],
) -> None:
    core.unattended()
    await _prepared(core)
    if (back, forth) in PAIRS:
        await back(core)
    before, done, room = await _state(core), False, 0
    while not done:
        core.store.room = room
        try:
            await forth(core)
            done = True
        except Error as failure:
            assert "the disk is full" in str(failure)  # noqa: PT017 - it may succeed
            core.store.room = None
            await forth(core)
        core.store.room, room = None, room + 1
        await back(core)
        assert _counts(await _state(core)) == _counts(before), f"room for {room - 1} commits"
    assert room > 1


def _counts(state: tuple[object, ...]) -> list[object]:
    """Ids are others each time."""
    keys, *rest = state
    assert isinstance(keys, list)
    return [sorted(key.partition("/")[0] for key in keys), *(len(each) for each in rest if isinstance(each, list))]


async def test_port_that_could_not_be_recorded_is_free(core: CoreInProcess) -> None:
    await core.network()
    web = await core.endpoint("web")
    await core.join("c1", "web")
    core.store.room = 0
    with pytest.raises(Error, match="the disk is full"):
        await core.controller.sandboxes.publish(web.id, [mapping(8080)])
    core.store.room = None
    assert not core.kernel.host.held
    await core.controller.sandboxes.publish(web.id, [mapping(8080)])


@pytest.mark.parametrize("cause", ["full disk", "firewall.change", "firewall.forget_flows"])
async def test_port_that_could_not_be_withdrawn_stays_published(core: CoreInProcess, cause: str) -> None:
    """The rules were without it and the record named it, so a start published it again, or a repair did."""
    core.unattended()
    await core.network()
    web = await core.endpoint("web", port_mapping=(mapping(8080),))
    await core.join("c1", "web")
    if cause == "full disk":
        core.store.room = 0
    else:
        core.kernel.fail_on(cause, BROKEN)
    with pytest.raises(Error):
        await core.controller.sandboxes.unpublish(web.id)
    core.store.room = None
    assert core.controller.endpoints.get(web.id) == web
    assert [port for _, _, port in core.kernel.host.held] == [8080]
    assert not await core.controller.reconcile.run(fix=False)
    await core.controller.sandboxes.unpublish(web.id)
    assert not core.kernel.host.held
    assert not await core.controller.reconcile.run(fix=False)


async def test_port_whose_publication_and_rollback_fail_is_free(core: CoreInProcess) -> None:
    """The record named it on, so a start or a repair published what had been refused."""
    core.unattended()
    await core.network()
    web = await core.endpoint("web")
    for step in ("firewall.change", "firewall.forget_flows"):
        core.kernel.fail_on(step, BROKEN)
    with pytest.raises(Error):
        await core.controller.sandboxes.publish(web.id, [mapping(8080)])
    assert not core.controller.endpoints.get(web.id).ports
    assert not core.kernel.host.held
    assert not await core.controller.reconcile.run(fix=False)
    await core.controller.sandboxes.publish(web.id, [mapping(8080)])


async def test_store_refusal_releases_the_reservation(core: CoreInProcess) -> None:
    await core.network()
    core.store.refusal = Error(Kind.UNAVAILABLE, "the store is away")
    with pytest.raises(Error) as caught:
        await core.endpoint("web")
    assert caught.value.kind is Kind.UNAVAILABLE
    endpoint = await core.endpoint("web")
    assert endpoint.address is not None


async def test_half_failed_leave_is_finished_by_a_retry(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    core.kernel.fail_on("namespaces.release", BROKEN)
    with pytest.raises(Error):
        await core.controller.sandboxes.leave("foo", "web", "c1")
    assert core.veths() == []  # the teardown went on past the failure and before it
    await core.controller.sandboxes.leave("foo", "web", "c1")
    assert core.kernel.namespaces.find(sandbox.key) is None
    assert core.controller.sandboxes.list() == []


async def test_hosts_path_that_is_a_directory_is_refused_and_retryable(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    directory = Path(core.config.file_dirs[0], "c1", "hosts")
    directory.mkdir(parents=True)
    with pytest.raises(Error) as caught:
        await core.join("c1", "web", hosts_path=str(directory))
    assert caught.value.kind is Kind.INVALID
    assert directory.is_dir()
    await core.join("c1", "web")


async def test_half_failed_delete_is_finished_by_a_retry(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web", port_mapping=(mapping(8080),))
    core.kernel.fail_on("firewall.change", BROKEN)
    with pytest.raises(Error):
        await core.controller.removal.endpoint("foo", "web")
    await core.controller.removal.endpoint("foo", "web")
    core.kernel.fail_on("firewall.change", BROKEN)
    with pytest.raises(Error):
        await core.controller.removal.network("foo")
    await core.controller.removal.network("foo")
    await core.network()
    await core.endpoint("web", port_mapping=(mapping(8080),))


async def test_create_with_failed_rollback_frees_its_name(core: CoreInProcess) -> None:
    await core.network()
    core.kernel.fail_on("firewall.change", BROKEN)
    core.kernel.fail_on("firewall.forget_flows", BROKEN)
    with pytest.raises(Error):
        await core.endpoint("web", port_mapping=(mapping(8080),))
    await core.endpoint("web", port_mapping=(mapping(8080),))


async def test_join_with_failed_rollback_can_be_retried(core: CoreInProcess) -> None:
    await _prepared(core)
    core.kernel.fail_on("links.plug", BROKEN)
    core.kernel.fail_on("links.retire", BROKEN)
    with pytest.raises(Error):
        await core.join("c1", "second")
    await core.join("c1", "second")


async def test_containers_sharing_a_short_id_join_concurrently(core: CoreInProcess) -> None:
    await _prepared(core)
    await core.endpoint("third")
    sandboxes = await asyncio.gather(core.join("myproject-web-1", "second"), core.join("myproject-web-2", "third"))
    assert len({sandbox.key for sandbox in sandboxes}) == 2


@pytest.mark.parametrize(
    "place", ["state/sandnet.db", "state/lock", "run/hosts", "run/sandboxes/c1/hosts", "state/sandboxes/c1/hosts"]
)
async def test_path_of_the_daemon_or_another_container_is_refused(core: CoreInProcess, place: str) -> None:
    await _prepared(core)
    with pytest.raises(Error) as caught:
        await core.join("c2", "second", hosts_path=str(Path(core.config.state_dir).parent / place))
    assert caught.value.kind is Kind.INVALID


async def test_join_succeeds_if_the_parent_cannot_be_updated(core: CoreInProcess) -> None:
    await _prepared(core)
    first = core.controller.endpoints.find(core.controller.networks.find("foo"), "first")
    update = ParentUpdate(endpoint_id=first.id, name="x", address=IPv4Address("10.0.0.1"))
    core.controller._context.locks._deadline = 0.05
    async with core.controller._context.locks.hold("sandbox/c1"):
        await core.join("c2", "second", parent_updates=(update,))
    assert len(core.controller.sandboxes.list()) == 2


async def test_joining_the_host_namespace_by_pid_is_refused(core: CoreInProcess) -> None:
    await _prepared(core)
    core.kernel.namespaces._foreign[4711] = core.kernel.namespaces.identify().inode
    core.kernel.processes.begin(4711)
    with pytest.raises(Error) as caught:
        await core.join("c2", "second", pid=4711)
    assert caught.value.code == "host_namespace"


async def test_namespace_of_another_container_is_refused(core: CoreInProcess) -> None:
    await _prepared(core)
    await _join_existing(core)
    await core.endpoint("third")
    with pytest.raises(Error) as caught:
        await core.join("c3", "third", netns=THEIRS)
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "namespace_taken")
    assert "container c2" in caught.value.message
    assert [each.container_id for each in core.controller.sandboxes.list()] == ["c1", "c2"]


async def test_failed_key_lookup_does_not_reserve_the_key(core: CoreInProcess) -> None:
    await _prepared(core)
    core.kernel.fail_on("namespaces.pin_prepared", BROKEN)
    with pytest.raises(Error):
        await core.join("0123456789abcdef", "second")
    assert (await core.join("0123456789abcdef", "second")).key.endswith("/0123456789ab")
