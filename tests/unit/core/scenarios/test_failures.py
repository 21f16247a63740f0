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


async def _create_network(rig: CoreInProcess) -> object:
    return await rig.network("new", ipv6=True)


async def _create_endpoint(rig: CoreInProcess) -> object:
    return await rig.endpoint("new", port_mapping=(mapping(8080), mapping(8080, proto=17)))


async def _join(rig: CoreInProcess) -> object:
    return await rig.join("c2", "second", hosts_path=f"{rig.config.file_dirs[0]}/c2/hosts")


async def _join_again(rig: CoreInProcess) -> object:
    return await rig.join("c1", "second")


OPERATIONS = [_create_network, _create_endpoint, _join, _join_again]
STEPS_AT_MOST = 60


async def _prepared(rig: CoreInProcess) -> None:
    await rig.network(ipv6=True)  # the host's parameters are set once, so every later attempt takes the same steps
    await rig.endpoint("first")
    await rig.endpoint("second")
    await rig.join("c1", "first")


async def _state(rig: CoreInProcess) -> tuple[object, ...]:
    await rig.controller._context.link_reaper.wait()
    records = rig.controller._context.records
    keys = sorted(
        entry.key for entry in await rig.store.list("") if not entry.key.startswith(("cursor/", "event/", "sysctl/"))
    )
    links = sorted(link.name for link in rig.kernel.links.list())
    namespaces = sorted(sandbox.key for sandbox in records.sandboxes() if rig.kernel.namespaces.find(sandbox.key))
    files = sorted(str(path) for path in Path(rig.config.run_dir).rglob("*") if path.is_file())
    return keys, links, namespaces, files, sorted(map(str, rig.kernel.host.held))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__.strip("_"))
async def test_failed_kernel_step_leaves_nothing_and_retry_succeeds(
    rig: CoreInProcess, operation: Callable[[CoreInProcess], Awaitable[object]]
) -> None:
    rig.unattended()
    await _prepared(rig)
    before = await _state(rig)
    already = len(rig.kernel.calls)
    steps = await _steps_of(rig, operation)
    assert steps
    for method, after in steps:
        rig.kernel.fail_on(method, BROKEN, after=after)
        with pytest.raises(Error):
            await operation(rig)
        assert await _state(rig) == before, f"{method} after {after}"
    await operation(rig)
    assert len(rig.kernel.calls) > already


async def _steps_of(
    rig: CoreInProcess, operation: Callable[[CoreInProcess], Awaitable[object]]
) -> list[tuple[str, int]]:
    """Every kernel call the operation makes that can stop it, found by letting each fail once on a twin."""
    twin = CoreInProcess(
        rig.config.__class__(
            state_dir=rig.config.state_dir + ".twin",
            run_dir=rig.config.run_dir + ".twin",
            file_dirs=rig.config.file_dirs,
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


async def _delete_network(rig: CoreInProcess) -> None:
    await rig.controller.removal.network("new")


async def _force_network(rig: CoreInProcess) -> None:
    await rig.controller.removal.network("foo", force=True)


async def _delete_endpoint(rig: CoreInProcess) -> None:
    await rig.controller.removal.endpoint("foo", "new")


async def _leave(rig: CoreInProcess) -> None:
    await rig.controller.sandboxes.leave("foo", "second", "c2")


async def _leave_one(rig: CoreInProcess) -> None:
    await rig.controller.sandboxes.leave("foo", "second", "c1")


async def _prepare_again(rig: CoreInProcess) -> object:
    await rig.network(ipv6=True)
    await rig.endpoint("first")
    await rig.endpoint("second")
    return await rig.join("c1", "first")


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
    rig: CoreInProcess,
    forth: Callable[[CoreInProcess], Awaitable[object]],
    back: Callable[[CoreInProcess], Awaitable[object]],
) -> None:
    rig.unattended()
    await _prepared(rig)
    if (back, forth) in PAIRS:
        await back(rig)
    before, done, room = await _state(rig), False, 0
    while not done:
        rig.store.room = room
        try:
            await forth(rig)
            done = True
        except Error as failure:
            assert "the disk is full" in str(failure)  # noqa: PT017 - it may succeed
            rig.store.room = None
            await forth(rig)
        rig.store.room, room = None, room + 1
        await back(rig)
        assert _counts(await _state(rig)) == _counts(before), f"room for {room - 1} commits"
    assert room > 1


def _counts(state: tuple[object, ...]) -> list[object]:
    """Ids are others each time."""
    keys, *rest = state
    assert isinstance(keys, list)
    return [sorted(key.partition("/")[0] for key in keys), *(len(each) for each in rest if isinstance(each, list))]


async def test_store_refusal_releases_the_reservation(rig: CoreInProcess) -> None:
    await rig.network()
    rig.store.refusal = Error(Kind.UNAVAILABLE, "the store is away")
    with pytest.raises(Error) as caught:
        await rig.endpoint("web")
    assert caught.value.kind is Kind.UNAVAILABLE
    endpoint = await rig.endpoint("web")
    assert endpoint.address is not None


async def test_half_failed_leave_is_finished_by_a_retry(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("web")
    sandbox = await rig.join("c1", "web")
    rig.kernel.fail_on("namespaces.release", BROKEN)
    with pytest.raises(Error):
        await rig.controller.sandboxes.leave("foo", "web", "c1")
    assert rig.veths() == []  # the teardown went on past the failure and before it
    await rig.controller.sandboxes.leave("foo", "web", "c1")
    assert rig.kernel.namespaces.find(sandbox.key) is None
    assert rig.controller.sandboxes.list() == []


async def test_hosts_path_that_is_a_directory_is_refused_and_retryable(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("web")
    directory = Path(rig.config.file_dirs[0], "c1", "hosts")
    directory.mkdir(parents=True)
    with pytest.raises(Error) as caught:
        await rig.join("c1", "web", hosts_path=str(directory))
    assert caught.value.kind is Kind.INVALID
    assert directory.is_dir()
    await rig.join("c1", "web")


async def test_half_failed_delete_is_finished_by_a_retry(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("web", port_mapping=(mapping(8080),))
    rig.kernel.fail_on("firewall.change", BROKEN)
    with pytest.raises(Error):
        await rig.controller.removal.endpoint("foo", "web")
    await rig.controller.removal.endpoint("foo", "web")
    rig.kernel.fail_on("firewall.change", BROKEN)
    with pytest.raises(Error):
        await rig.controller.removal.network("foo")
    await rig.controller.removal.network("foo")
    await rig.network()
    await rig.endpoint("web", port_mapping=(mapping(8080),))


async def test_create_with_failed_rollback_frees_its_name(rig: CoreInProcess) -> None:
    await rig.network()
    rig.kernel.fail_on("firewall.change", BROKEN)
    rig.kernel.fail_on("firewall.forget_flows", BROKEN)
    with pytest.raises(Error):
        await rig.endpoint("web", port_mapping=(mapping(8080),))
    await rig.endpoint("web", port_mapping=(mapping(8080),))


async def test_join_with_failed_rollback_can_be_retried(rig: CoreInProcess) -> None:
    await _prepared(rig)
    rig.kernel.fail_on("links.plug", BROKEN)
    rig.kernel.fail_on("links.retire", BROKEN)
    with pytest.raises(Error):
        await rig.join("c1", "second")
    await rig.join("c1", "second")


async def test_containers_sharing_a_short_id_join_concurrently(rig: CoreInProcess) -> None:
    await _prepared(rig)
    await rig.endpoint("third")
    sandboxes = await asyncio.gather(rig.join("myproject-web-1", "second"), rig.join("myproject-web-2", "third"))
    assert len({sandbox.key for sandbox in sandboxes}) == 2


@pytest.mark.parametrize(
    "place", ["state/sandnet.db", "state/lock", "run/hosts", "run/sandboxes/c1/hosts", "state/sandboxes/c1/hosts"]
)
async def test_path_of_the_daemon_or_another_container_is_refused(rig: CoreInProcess, place: str) -> None:
    await _prepared(rig)
    with pytest.raises(Error) as caught:
        await rig.join("c2", "second", hosts_path=str(Path(rig.config.state_dir).parent / place))
    assert caught.value.kind is Kind.INVALID


async def test_join_succeeds_if_the_parent_cannot_be_updated(rig: CoreInProcess) -> None:
    await _prepared(rig)
    first = rig.controller.endpoints.find(rig.controller.networks.find("foo"), "first")
    update = ParentUpdate(endpoint_id=first.id, name="x", address=IPv4Address("10.0.0.1"))
    rig.controller._context.locks._deadline = 0.05
    async with rig.controller._context.locks.hold("sandbox/c1"):
        await rig.join("c2", "second", parent_updates=(update,))
    assert len(rig.controller.sandboxes.list()) == 2


async def test_joining_the_host_namespace_by_pid_is_refused(rig: CoreInProcess) -> None:
    await _prepared(rig)
    rig.kernel.namespaces._foreign[4711] = rig.kernel.namespaces.identify().inode
    rig.kernel.processes.begin(4711)
    with pytest.raises(Error) as caught:
        await rig.join("c2", "second", pid=4711)
    assert caught.value.code == "host_namespace"


async def test_failed_key_lookup_does_not_reserve_the_key(rig: CoreInProcess) -> None:
    await _prepared(rig)
    rig.kernel.fail_on("namespaces.pin_prepared", BROKEN)
    with pytest.raises(Error):
        await rig.join("0123456789abcdef", "second")
    assert (await rig.join("0123456789abcdef", "second")).key.endswith("/0123456789ab")
