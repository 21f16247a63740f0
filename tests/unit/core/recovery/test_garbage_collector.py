"""What a failed change leaves, because its rollback fails too, goes without another request and without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandnet.core.recovery import garbage_collector
from sandnet.core.state.schema import Record
from sandnet.errors import Error, Kind
from sandnet.model import NetworkSpec
from tests.support.conditions import until
from tests.support.core_in_process import CoreInProcess, mapping

BROKEN = Error(Kind.INTERNAL, "broken on purpose")
PASSING = ("cursor/", "event/", "sysctl/")
"""Keys that say where to go on, or what a host's parameter was before."""
COMMITS = 8
"""More than any of the changes has."""


async def create_network(core: CoreInProcess) -> object:
    return await core.network("new", ipv6=True)


async def create_endpoint(core: CoreInProcess) -> object:
    return await core.endpoint("new", port_mapping=(mapping(8080),))


async def join(core: CoreInProcess) -> object:
    return await core.join("c2", "second")


async def leave(core: CoreInProcess) -> None:
    await core.controller.sandboxes.leave("foo", "first", "c1")


async def delete_endpoint(core: CoreInProcess) -> None:
    await core.controller.removal.endpoint("foo", "published")


async def delete_network(core: CoreInProcess) -> None:
    await core.controller.removal.network("spare")


CHANGES = [create_network, create_endpoint, join, leave, delete_endpoint, delete_network]


@pytest.fixture
async def core(core: CoreInProcess) -> CoreInProcess:
    core.unattended()
    for name in ("foo", "spare"):
        await core.network(name)
    await core.endpoint("first")
    await core.endpoint("second")
    await core.endpoint("published", port_mapping=(mapping(8081),))
    await core.join("c1", "first")
    return core


async def collect(core: CoreInProcess) -> None:
    """Let two collections pass."""
    for _ in range(2):
        await core.controller._garbage.collect()
    await core.controller._context.link_reaper.wait()


async def state(core: CoreInProcess) -> tuple[object, ...]:
    """The store's keys, the kernel's links and held ports, the namespaces and the files."""
    keys = sorted(entry.key for entry in await core.store.list("") if not entry.key.startswith(PASSING))
    links = sorted(link.name for link in core.kernel.links.list())
    sandboxes = core.controller._context.records.sandboxes()
    namespaces = [sandbox.key for sandbox in sandboxes if core.kernel.namespaces.find(sandbox.key)]
    files = sorted(str(path) for path in Path(core.config.run_dir).rglob("*") if path.is_file())
    return keys, links, sorted(map(str, core.kernel.host.held)), namespaces, files


def phases(core: CoreInProcess) -> set[str]:
    """The phases of all records."""
    records = core.controller._context.records
    found: list[Record] = [*records.networks(), *records.endpoints(), *records.sandboxes(), *records.attachments()]
    return {each.phase.value for each in found}


@pytest.mark.parametrize("room", range(COMMITS))
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_change_on_a_full_disk_is_done_or_undone(
    core: CoreInProcess, change: Callable[[CoreInProcess], Awaitable[object]], room: int
) -> None:
    before = await state(core)
    core.store.room = room
    refused = False
    try:
        await change(core)
    except Error:
        refused = True
    core.store.room = None
    await collect(core)
    assert phases(core) == {"ready"}
    assert core.controller._garbage.problems == []
    if refused and change in (create_network, create_endpoint, join):
        assert await state(core) == before


@pytest.mark.parametrize(
    ("steps", "change"),
    [
        (("firewall.change", "firewall.forget_flows"), create_endpoint),
        (("links.plug_prepared", "links.retire"), join),
        (("namespaces.release",), leave),
        (("firewall.change",), delete_network),
    ],
)
async def test_refusals_of_the_kernel_leave_nothing(
    core: CoreInProcess, steps: tuple[str, ...], change: Callable[[CoreInProcess], Awaitable[object]]
) -> None:
    for step in steps:
        core.kernel.fail_on(step, BROKEN)
    with pytest.raises(Error):
        await change(core)
    assert phases(core) != {"ready"}
    await core.controller._garbage.collect()
    assert phases(core) != {"ready"}
    await core.controller._garbage.collect()
    assert phases(core) == {"ready"}


async def test_what_cannot_be_removed_is_a_problem_until_it_can(core: CoreInProcess) -> None:
    core.kernel.fail_on("namespaces.release", BROKEN)
    with pytest.raises(Error):
        await leave(core)
    core.kernel.fail_on("namespaces.release", BROKEN)
    await collect(core)
    (problem,) = core.controller.health().problems
    assert problem.startswith("container c1 is left of a failed change: ")
    await core.controller._garbage.collect()
    assert core.controller.health().status == "ok"


async def test_predefined_network_that_failed_is_removed(core: CoreInProcess) -> None:
    """A deletion of it was refused as that of a predefined network."""
    core.kernel.fail_on("links.ensure_bridge", BROKEN)
    core.kernel.fail_on("links.remove_addresses", BROKEN)
    with pytest.raises(Error):
        await core.controller.networks.create(NetworkSpec(name="docker0", driver="bridge"), predefined=True)
    (left,) = core.controller._context.records.networks_named("docker0")
    assert (left.predefined, left.phase) == (True, "removing")
    await collect(core)
    assert core.controller._garbage.problems == []
    assert phases(core) == {"ready"}
    assert not core.controller._context.records.networks_named("docker0")


async def test_change_in_progress_is_left_alone(core: CoreInProcess) -> None:
    core.store.pace = 0.05
    joining = asyncio.create_task(join(core))
    await until(lambda: "creating" in phases(core))
    await core.controller._garbage.collect()
    collecting = asyncio.create_task(core.controller._garbage.collect())
    await joining
    await collecting
    assert phases(core) == {"ready"}
    assert "c2" in [each.container_id for each in core.controller.sandboxes.list()]


async def test_network_being_created_is_left_alone(core: CoreInProcess) -> None:
    core.store.pace = 0.05
    creating = asyncio.create_task(create_network(core))
    await until(lambda: "creating" in phases(core))
    await collect(core)
    await creating
    assert core.controller.networks.find("new").phase == "ready"


async def test_what_a_slow_change_holds_is_no_problem(core: CoreInProcess) -> None:
    core.kernel.fail_on("namespaces.release", BROKEN)
    with pytest.raises(Error):
        await leave(core)
    async with core.controller._context.locks.hold("sandbox/c1"):
        await asyncio.wait_for(collect(core), 5)
        assert core.controller._garbage.problems == []
        assert phases(core) != {"ready"}
    await collect(core)
    assert phases(core) == {"ready"}


async def test_collection_that_fails_is_not_the_last(core: CoreInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage, looks = core.controller._garbage, 0

    async def broken() -> None:
        nonlocal looks
        looks += 1
        raise KeyError("a fault of ours")

    garbage.close()
    monkeypatch.setattr(garbage_collector, "INTERVAL", 0.01)
    monkeypatch.setattr(garbage, "collect", broken)
    garbage.start()
    await until(lambda: looks == 3)
