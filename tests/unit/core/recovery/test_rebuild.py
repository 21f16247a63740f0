"""Lost records are found again by what is in the kernel; a copy that is behind is brought up to it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import pytest
from msgspec.structs import replace

from sandnet.core.recovery.rebuild import LISTED
from sandnet.core.state.records import Records
from sandnet.model import Attachment, Endpoint, JoinSpec, Network, Sandbox
from sandnet.model.ports import ExposedPort
from sandnet.stores.base import REBUILD, Put
from tests.support.core_in_process import CoreInProcess, MoodyStore, mapping

Reported = tuple[Sequence[Network], Sequence[Endpoint], Sequence[Sandbox], Sequence[Attachment]]


def reported(core: CoreInProcess) -> Reported:
    """All records, without what no mark reports and without the two networks that have no link."""
    records = core.controller._context.records
    return (
        sorted(map(_plain, (n for n in records.networks() if n.link)), key=lambda n: n.id),
        sorted((replace(e, sequence=0, created=0) for e in records.endpoints()), key=lambda e: e.id),
        sorted(
            (replace(b, sequence=0, created=0, resolv_conf_digest="") for b in records.sandboxes()),
            key=lambda b: b.container_id,
        ),
        sorted((replace(a, sequence=0) for a in records.attachments()), key=lambda a: a.host_link),
    )


def _plain(net: Network) -> Network:
    """Whether a subnet was asked for or chosen, nothing reports."""
    return replace(net, sequence=0, created=0, options=replace(net.options, subnet=None))


async def copied(store: MoodyStore) -> MoodyStore:
    """A store as a copy of it is put back."""
    copy = MoodyStore()
    await copy.commit(Put(REBUILD, b"damaged"), *(Put(entry.key, entry.value) for entry in await store.list("")))
    return copy


async def restart_with(core: CoreInProcess, store: MoodyStore) -> None:
    core.kernel.host.held.clear()
    core.store = store
    await core.start()


async def test_start_without_records_recovers_everything_in_use(core: CoreInProcess) -> None:
    await core.network(subnet=IPv4Network("10.9.0.0/24"), ip_range=IPv4Network("10.9.0.128/25"), icc=False)
    await core.network("open", host_access=(ExposedPort(proto=17, port=53),))
    await core.network("six", ipv6=True, internal=True)
    await core.endpoint("web", port_mapping=(mapping(8080), mapping(53, 53, 17)))
    await core.endpoint("six", "six")
    await core.join("c1", "web")
    await core.join("c1", "six", "six", auto_remove=True)
    before, routes = reported(core), core.default_route(core.controller.sandboxes.find("c1"))
    veths = core.veths()

    await restart_with(core, MoodyStore())

    assert reported(core) == before
    assert core.veths() == veths
    assert core.default_route(core.controller.sandboxes.find("c1")) == routes
    assert {port for _, _, port in core.kernel.host.held} == {8080, 53}
    health = core.controller.health()
    assert health.status == "degraded"
    assert "network foo" in health.problems[0]
    assert "labels" in health.problems[0]


async def test_interrupted_recovery_is_completed_by_the_next_start(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a driver read back from the kernel was written already, so the store is no new one any more."""
    await core.network()
    await core.endpoint("web")
    await core.join("c1", "web")
    before, empty = reported(core), MoodyStore()
    with monkeypatch.context() as patch:
        patch.setattr(Records, "commit", killed)
        with pytest.raises(Killed):
            await restart_with(core, empty)
    await empty.commit(Put("sysctl/net/ipv4/ip_forward", b"0"))
    await restart_with(core, empty)
    assert reported(core) == before


class Killed(Exception):  # noqa: N818
    """The daemon's end."""


def killed(*_: object, **__: object) -> None:
    raise Killed


async def test_recovered_records_are_healthy_after_another_start(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    await core.join("c1", "web")
    store = MoodyStore()
    await restart_with(core, store)
    before = reported(core)
    await restart_with(core, store)
    assert reported(core) == before
    assert core.controller.health().problems == ()


async def test_recovered_records_are_fully_removed_on_leave_and_delete(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web", port_mapping=(mapping(8080),))
    await core.join("c1", "web")
    await restart_with(core, MoodyStore())
    await core.controller.sandboxes.leave("foo", "web", "c1")
    await core.controller.removal.endpoint("foo", "web")
    await core.controller.removal.network("foo")
    await core.controller._context.link_reaper.wait()
    assert core.veths() == []
    assert core.kernel.host.held == set()
    assert len(core.controller.networks.list()) == 3


async def test_service_with_several_backends_is_recovered_whole(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    await core.join("c1", "web")
    for container in ("c2", "c3"):
        await core.controller.sandboxes.join("foo", "web", JoinSpec(container_id=container, weight=7), many=True)
    await core.controller.sandboxes.leave("foo", "web", "c1")
    before = reported(core)
    await restart_with(core, MoodyStore())
    assert reported(core) == before
    backends = core.controller.services.backends(core.controller.services.find("web"))
    assert [backend.weight for backend in backends] == [7, 7]


async def test_old_backup_gains_later_objects_and_drops_deleted_ones(
    core: CoreInProcess,
) -> None:
    await core.network()
    await core.network("gone")
    await core.endpoint("web", labels={"tier": "front"})
    await core.endpoint("idle")
    await core.join("c1", "web")
    copy = await copied(core.store)
    await core.controller.removal.network("gone")
    await core.controller.sandboxes.leave("foo", "web", "c1")
    await core.network("new")
    await core.endpoint("api", "new")
    await core.join("c2", "api", "new")
    await core.controller._context.link_reaper.wait()
    before = reported(core)

    await restart_with(core, copy)

    assert reported(core) == before
    assert core.controller.services.find("web").labels == {"tier": "front"}
    problems = " ".join(core.controller.health().problems)
    assert "network gone" in problems
    assert "sandbox c2" in problems


async def test_backup_made_during_a_join_keeps_the_container_attached(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    copies: list[MoodyStore] = []
    commit = core.store.commit

    async def copying(*changes: object, durable: bool = True) -> int:
        revision = await commit(*changes, durable=durable)  # type: ignore[arg-type]
        copies.append(await copied(core.store))
        return revision

    core.store.commit = copying  # type: ignore[method-assign]
    await core.join("c1", "web")
    before = reported(core)
    for copy in copies:
        await restart_with(core, copy)
        assert reported(core) == before


async def test_address_conflict_with_a_backup_favours_the_live_holder(core: CoreInProcess) -> None:
    await core.network(subnet=IPv4Network("10.9.0.0/24"))
    await core.endpoint("old", address=IPv4Address("10.9.0.7"), port_mapping=(mapping(8080),))
    copy = await copied(core.store)
    await core.controller.removal.endpoint("foo", "old")
    await core.endpoint("new", address=IPv4Address("10.9.0.7"), port_mapping=(mapping(8080),))
    await core.join("c1", "new")

    await restart_with(core, copy)

    assert [endpoint.name for endpoint in core.controller._context.records.endpoints()] == ["new"]
    assert "endpoint old" in " ".join(core.controller.health().problems)


async def test_backup_restored_after_a_reboot_is_used_as_it_is(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web", port_mapping=(mapping(8080),))
    await core.join("c1", "web")
    copy = await copied(core.store)
    web = core.controller.services.find("web")
    for link in core.kernel.links.list():
        if link.name != "lo":
            core.kernel.links.drop(link.name)
    core.kernel.namespaces.release(core.controller.sandboxes.find("c1").key)

    await restart_with(core, copy)

    assert core.controller.services.find("web") == replace(web, orphaned=True)
    assert core.controller.sandboxes.list() == []


async def test_published_port_without_a_known_endpoint_is_reported(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web", port_mapping=(mapping(8080),))
    await restart_with(core, MoodyStore())
    assert any("8080" in problem for problem in core.controller.health().problems)


async def test_foreign_and_malformed_aliases_are_ignored(core: CoreInProcess) -> None:
    for number, text in enumerate(("sandnet1 net x y z", "sandnet9 net", "uplink", "sandnet1 end a b c d e")):
        core.kernel.links.add(f"br{number}", "bridge")
        core.kernel.links.present[f"br{number}"] = core.kernel.links.present[f"br{number}"]._replace(alias=text)
    await core.start()
    assert [net.name for net in core.controller.networks.list()] == ["none", "host", "bridge"]
    assert core.controller.health().status == "ok"


async def test_long_list_of_recovered_objects_is_abbreviated(core: CoreInProcess) -> None:
    for number in range(LISTED + 5):
        await core.network(f"n{number}")
    await restart_with(core, MoodyStore())
    assert "and 6 more" in core.controller.health().problems[0]
