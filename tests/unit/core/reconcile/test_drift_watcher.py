"""What a packet filter that others emptied does to the changes that come before it is mended."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from sandnet.core.reconcile.drift_watcher import listening_pause
from sandnet.errors import Error, Kind
from sandnet.kernel.base import RULES_MISSING
from sandnet.kernel.nft_types import mac_address, port_number, protocol_number
from sandnet.kernel.types import Changes, Value
from sandnet.model import JoinSpec, Sandbox
from sandnet.model.ports import TCP
from tests.support.core_in_process import CoreInProcess, mapping


async def test_backend_leaving_before_rule_repair_leaves_nothing(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await core.network()
    await core.endpoint("web")
    for container in ("c1", "c2", "c3"):
        await core.controller.sandboxes.join("foo", "web", JoinSpec(container_id=container), many=True)
    (leaving,) = core.controller._context.records.attachments_of_container("c3")
    assert reported_of(core, mac_address(leaving.mac))
    assert reported_of(core, leaving.host_link.encode())

    def refuse(*_: object, **__: object) -> None:
        raise Error(Kind.INTERNAL, "nftables: No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr(core.kernel.firewall, "apply", refuse)
        patch.setattr(core.kernel.firewall, "change", refuse)
        core.kernel.firewall.tables.clear()
        await core.controller.sandboxes.leave("foo", "web", "c3")
    assert await core.controller.reconcile.run(fix=True)
    assert not await core.controller.reconcile.run(fix=True)
    assert not reported_of(core, mac_address(leaving.mac)), "clients are still sent to a backend that is gone"
    assert not reported_of(core, leaving.host_link.encode())


def reported_of(core: CoreInProcess, part: bytes) -> list[tuple[bytes, Value]]:
    """The elements that contain these bytes."""
    elements = [
        each for table in core.kernel.firewall.tables.values() for found in table.values() for each in found.items()
    ]
    return [(key, value) for key, value in elements if part in key or (isinstance(value, bytes) and part in value)]


async def test_changes_before_rule_repair_all_apply(
    core: CoreInProcess,
) -> None:
    core.unattended()
    for change in (
        lambda: core.network(),
        lambda: core.endpoint("web", port_mapping=[mapping(8080)]),
        lambda: core.join("c1", "web"),
        lambda: core.controller.sandboxes.join("foo", "web", JoinSpec(container_id="c2"), many=True),
        lambda: core.controller.sandboxes.leave("foo", "web", "c2"),
        lambda: core.controller.sandboxes.leave("foo", "web", "c1"),
        lambda: core.controller.removal.endpoint("foo", "web"),
        lambda: core.controller.removal.network("foo"),
    ):
        core.kernel.firewall.tables.clear()
        await change()
        assert not await core.controller.reconcile.run(fix=False)
    assert not reported_of(core, protocol_number(TCP) + bytes(3) + port_number(8080))


async def test_change_is_refused_and_undone_if_rules_are_unrestorable(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await core.network()
    core.unattended()
    core.kernel.firewall.tables.clear()

    def refuse(*_: object, **__: object) -> None:
        raise Error(Kind.UNAVAILABLE, "nftables: No such file or directory", code=RULES_MISSING)

    with monkeypatch.context() as patch:
        patch.setattr(core.kernel.firewall, "apply", refuse)
        patch.setattr(core.kernel.firewall, "change", refuse)
        with pytest.raises(Error) as refused:
            await core.endpoint("web", port_mapping=[mapping(8080)])
        assert (refused.value.kind, refused.value.code) == (Kind.UNAVAILABLE, RULES_MISSING)
    await core.endpoint("web", port_mapping=[mapping(8080)])


async def test_rules_restored_by_a_change_emit_an_event_per_table(core: CoreInProcess) -> None:
    core.unattended()
    since = core.controller.events.last
    core.kernel.firewall.tables.clear()
    await core.network()
    await core.controller.reconcile.publish_repaired()
    follow = core.controller.events.follow(since)
    reported = [await anext(follow) for _ in range(3)]
    problems = [event.repair.problem for event in reported if event.repair]
    assert problems == ["table inet sandnet is gone", "table bridge sandnet is gone"]


async def test_withdrawn_file_dir_is_reported_and_sandbox_can_leave(core: CoreInProcess, tmp_path: Path) -> None:
    await core.network()
    await core.endpoint("one")
    await core.endpoint("two")
    place = tmp_path / "allowed" / "c1" / "hosts"
    await core.join("c1", "one", hosts_path=str(place))
    await core.join("c2", "two")
    core.controller._process_watcher.close()
    core.controller._drift_watcher.close()
    core.config = replace(core.config, file_dirs=())
    await core.start()
    assert {drift.object for drift in await core.controller.reconcile.run(fix=True)} == {str(place)}
    assert any("path not allowed" in problem for problem in core.controller.health().problems)
    await core.controller.sandboxes.leave("foo", "one", "c1")
    assert place.exists()
    assert not await core.controller.reconcile.run(fix=True)


async def test_rules_are_repaired_despite_an_unsettable_parameter(core: CoreInProcess) -> None:
    await core.network()
    core.unattended()
    core.kernel.sysctl.set("net/ipv4/ip_forward", "0")
    core.kernel.firewall.tables.clear()
    core.kernel.fail_on("sysctl.set", Error(Kind.UNAVAILABLE, "read-only file system"))
    reported = await core.controller.reconcile.run(fix=True)
    assert {drift.kind: drift.done.partition(":")[0] for drift in reported} == {
        "rules": "repaired",
        "parameter": "not repaired",
    }
    assert reported_of(core, b"snb")
    assert not [drift for drift in await core.controller.reconcile.run(fix=False) if drift.kind == "rules"]


async def _cut_short(core: CoreInProcess) -> Sandbox:
    """A container whose namespace another program unmounted, and whose repair ended when the new one was made."""
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    core.unattended()
    core.kernel.namespaces.release(sandbox.key)
    core.store.room = 1
    reported = await core.controller.reconcile.run(fix=True)
    assert any("the disk is full" in drift.done for drift in reported)
    core.store.room = None
    assert core.kernel.namespaces.find(sandbox.key)
    return sandbox


async def test_repair_does_not_adopt_a_namespace_with_a_reused_inode(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    core.unattended()
    core.kernel.namespaces.release(sandbox.key)  # the kernel deletes it, with its links
    theirs = core.kernel.namespaces.add_foreign(77)
    core.kernel.namespaces._foreign[77] = sandbox.inode
    core.kernel.namespaces._spaces[sandbox.inode] = theirs
    monkeypatch.setattr(core.kernel.state_reader, "process_in", lambda inode: 77 if inode == sandbox.inode else 0)
    assert {drift.done for drift in await core.controller.reconcile.run(fix=True)} == {"repaired"}
    found = core.kernel.namespaces.find(sandbox.key)
    assert found
    assert found.inode == core.controller.sandboxes.find("c1").inode != sandbox.inode
    assert not theirs.links
    assert not theirs.loopback_up


async def test_restart_after_an_interrupted_repair_leaks_no_namespace(
    core: CoreInProcess,
) -> None:
    sandbox = await _cut_short(core)
    await core.start()
    assert not core.controller.sandboxes.list()
    assert core.kernel.namespaces.find(sandbox.key) is None
    again = await core.join("c1", "web")
    assert again.key == sandbox.key


async def test_interrupted_namespace_repair_continues_on_the_next_scan(core: CoreInProcess) -> None:
    sandbox = await _cut_short(core)
    assert {drift.done for drift in await core.controller.reconcile.run(fix=True)} == {"repaired"}
    assert not await core.controller.reconcile.run(fix=False)
    assert core.controller.sandboxes.find("c1").key == sandbox.key


async def test_container_is_released_if_its_namespace_is_missing_twice(
    core: CoreInProcess,
) -> None:
    await core.network()
    await core.endpoint("web")
    core.kernel.namespaces.add_foreign("/theirs")
    sandbox = await core.join("c1", "web", netns="/theirs")
    core.unattended()
    core.kernel.namespaces.release(sandbox.key)
    (first,) = await core.controller.reconcile.run(fix=True)
    assert first.done.startswith("not repaired: the namespace that container c1 came with is gone; ")
    assert core.controller.sandboxes.find("c1")
    (second,) = await core.controller.reconcile.run(fix=True)
    assert (second.done, "gone for good" in second.problem) == ("repaired", True)
    assert core.controller.sandboxes.list() == []
    assert core.controller.health().problems == ()


async def test_container_is_kept_if_its_namespace_reappears(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    core.kernel.namespaces.add_foreign("/theirs")
    sandbox = await core.join("c1", "web", netns="/theirs")
    core.unattended()
    core.kernel.namespaces.release(sandbox.key)
    await core.controller.reconcile.run(fix=True)
    core.kernel.namespaces.pin(sandbox.key, path="/theirs")
    assert await core.controller.reconcile.run(fix=True) == []
    core.kernel.namespaces.release(sandbox.key)
    (drift,) = await core.controller.reconcile.run(fix=True)
    assert drift.done.startswith("not repaired"), "the first of two looks again"


async def test_uncheckable_fault_is_reported_and_not_skipped(
    core: CoreInProcess,
) -> None:
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    core.unattended()
    core.kernel.namespaces.release(sandbox.key)
    core.kernel.fail_on("state_reader.host", Error(Kind.UNAVAILABLE, "the kernel is busy"), after=1)
    (reported,) = await core.controller.reconcile.run(fix=True)
    assert (reported.kind, reported.object) == ("sandbox", "c1")
    assert "the kernel is busy" in reported.done
    assert {drift.done for drift in await core.controller.reconcile.run(fix=True)} == {"repaired"}


async def test_unreadable_rules_are_reported_and_the_rest_is_repaired(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await core.network()
    core.unattended()
    core.kernel.links.delete([net.link])

    def refuse(table: str) -> None:
        raise Error(Kind.UNAVAILABLE, "nftables: Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(core.kernel.firewall, "listing", refuse)
        reported = {drift.kind: drift.done for drift in await core.controller.reconcile.run(fix=True)}
        assert reported.pop("rules") == "not repaired: nftables: Cannot allocate memory"
        assert set(reported.values()) == {"repaired"}
        assert any("Cannot allocate memory" in problem for problem in core.controller.health().problems)
    assert await core.controller.reconcile.run(fix=True) == []
    assert core.controller.health().problems == ()


async def test_pending_changes_are_kept_if_another_check_fails(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await core.network()
    core.unattended()
    healing = core.controller._drift_watcher
    await healing._poll()
    core.kernel.links.delete([net.link])
    gone = Changes(
        {}, frozenset({net.link}), frozenset(), frozenset(), {}, frozenset(), mounts=True, rules=False, missed=False
    )
    with monkeypatch.context() as patch:
        patch.setattr(core.kernel.watcher, "read", lambda: gone)
        patch.setattr(healing, "_slow_at", 0.0)
        core.kernel.fail_on("state_reader.pinned", Error(Kind.UNAVAILABLE, "the kernel is busy"))
        with pytest.raises(Error):
            await healing._poll()
        assert not core.kernel.links.find(net.link)
    await healing._poll()
    assert core.kernel.links.find(net.link)


@pytest.mark.parametrize(("worked", "pause"), [(0.0, 0.25), (0.1, 0.4), (60.0, 0.75)])
def test_pause_after_a_read_grows_with_its_work_up_to_a_limit(worked: float, pause: float) -> None:
    assert listening_pause(worked) == pytest.approx(pause)
