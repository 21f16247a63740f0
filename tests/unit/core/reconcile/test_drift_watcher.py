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
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.network()
    await rig.endpoint("web")
    for container in ("c1", "c2", "c3"):
        await rig.controller.sandboxes.join("foo", "web", JoinSpec(container_id=container), many=True)
    (leaving,) = rig.controller._context.records.attachments_of_container("c3")
    assert reported_of(rig, mac_address(leaving.mac))
    assert reported_of(rig, leaving.host_link.encode())

    def refuse(*_: object, **__: object) -> None:
        raise Error(Kind.INTERNAL, "nftables: No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr(rig.kernel.firewall, "apply", refuse)
        patch.setattr(rig.kernel.firewall, "change", refuse)
        rig.kernel.firewall.tables.clear()
        await rig.controller.sandboxes.leave("foo", "web", "c3")
    assert await rig.controller.reconcile.run(fix=True)
    assert not await rig.controller.reconcile.run(fix=True)
    assert not reported_of(rig, mac_address(leaving.mac)), "clients are still sent to a backend that is gone"
    assert not reported_of(rig, leaving.host_link.encode())


def reported_of(rig: CoreInProcess, part: bytes) -> list[tuple[bytes, Value]]:
    """The elements that contain these bytes."""
    elements = [
        each for table in rig.kernel.firewall.tables.values() for found in table.values() for each in found.items()
    ]
    return [(key, value) for key, value in elements if part in key or (isinstance(value, bytes) and part in value)]


async def test_changes_before_rule_repair_all_apply(
    rig: CoreInProcess,
) -> None:
    rig.unattended()
    for change in (
        lambda: rig.network(),
        lambda: rig.endpoint("web", port_mapping=[mapping(8080)]),
        lambda: rig.join("c1", "web"),
        lambda: rig.controller.sandboxes.join("foo", "web", JoinSpec(container_id="c2"), many=True),
        lambda: rig.controller.sandboxes.leave("foo", "web", "c2"),
        lambda: rig.controller.sandboxes.leave("foo", "web", "c1"),
        lambda: rig.controller.removal.endpoint("foo", "web"),
        lambda: rig.controller.removal.network("foo"),
    ):
        rig.kernel.firewall.tables.clear()
        await change()
        assert not await rig.controller.reconcile.run(fix=False)
    assert not reported_of(rig, protocol_number(TCP) + bytes(3) + port_number(8080))


async def test_change_is_refused_and_undone_if_rules_are_unrestorable(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.network()
    rig.unattended()
    rig.kernel.firewall.tables.clear()

    def refuse(*_: object, **__: object) -> None:
        raise Error(Kind.UNAVAILABLE, "nftables: No such file or directory", code=RULES_MISSING)

    with monkeypatch.context() as patch:
        patch.setattr(rig.kernel.firewall, "apply", refuse)
        patch.setattr(rig.kernel.firewall, "change", refuse)
        with pytest.raises(Error) as refused:
            await rig.endpoint("web", port_mapping=[mapping(8080)])
        assert (refused.value.kind, refused.value.code) == (Kind.UNAVAILABLE, RULES_MISSING)
    await rig.endpoint("web", port_mapping=[mapping(8080)])


async def test_rules_restored_by_a_change_emit_an_event_per_table(rig: CoreInProcess) -> None:
    rig.unattended()
    since = rig.controller.events.last
    rig.kernel.firewall.tables.clear()
    await rig.network()
    await rig.controller.reconcile.publish_repaired()
    follow = rig.controller.events.follow(since)
    reported = [await anext(follow) for _ in range(3)]
    problems = [event.repair.problem for event in reported if event.repair]
    assert problems == ["table inet sandnet is gone", "table bridge sandnet is gone"]


async def test_withdrawn_file_dir_is_reported_and_sandbox_can_leave(rig: CoreInProcess, tmp_path: Path) -> None:
    await rig.network()
    await rig.endpoint("one")
    await rig.endpoint("two")
    place = tmp_path / "allowed" / "c1" / "hosts"
    await rig.join("c1", "one", hosts_path=str(place))
    await rig.join("c2", "two")
    rig.controller._process_watcher.close()
    rig.controller._drift_watcher.close()
    rig.config = replace(rig.config, file_dirs=())
    await rig.start()
    assert {drift.object for drift in await rig.controller.reconcile.run(fix=True)} == {str(place)}
    assert any("path not allowed" in problem for problem in rig.controller.health().problems)
    await rig.controller.sandboxes.leave("foo", "one", "c1")
    assert place.exists()
    assert not await rig.controller.reconcile.run(fix=True)


async def test_rules_are_repaired_despite_an_unsettable_parameter(rig: CoreInProcess) -> None:
    await rig.network()
    rig.unattended()
    rig.kernel.sysctl.set("net/ipv4/ip_forward", "0")
    rig.kernel.firewall.tables.clear()
    rig.kernel.fail_on("sysctl.set", Error(Kind.UNAVAILABLE, "read-only file system"))
    reported = await rig.controller.reconcile.run(fix=True)
    assert {drift.kind: drift.done.partition(":")[0] for drift in reported} == {
        "rules": "repaired",
        "parameter": "not repaired",
    }
    assert reported_of(rig, b"snb")
    assert not [drift for drift in await rig.controller.reconcile.run(fix=False) if drift.kind == "rules"]


async def _cut_short(rig: CoreInProcess) -> Sandbox:
    """A container whose namespace another program unmounted, and whose repair ended when the new one was made."""
    await rig.network()
    await rig.endpoint("web")
    sandbox = await rig.join("c1", "web")
    rig.unattended()
    rig.kernel.namespaces.release(sandbox.key)
    rig.store.room = 1
    reported = await rig.controller.reconcile.run(fix=True)
    assert any("the disk is full" in drift.done for drift in reported)
    rig.store.room = None
    assert rig.kernel.namespaces.find(sandbox.key)
    return sandbox


async def test_repair_does_not_adopt_a_namespace_with_a_reused_inode(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.network()
    await rig.endpoint("web")
    sandbox = await rig.join("c1", "web")
    rig.unattended()
    rig.kernel.namespaces.release(sandbox.key)  # the kernel deletes it, with its links
    theirs = rig.kernel.namespaces.add_foreign(77)
    rig.kernel.namespaces._foreign[77] = sandbox.inode
    rig.kernel.namespaces._spaces[sandbox.inode] = theirs
    monkeypatch.setattr(rig.kernel.state_reader, "process_in", lambda inode: 77 if inode == sandbox.inode else 0)
    assert {drift.done for drift in await rig.controller.reconcile.run(fix=True)} == {"repaired"}
    found = rig.kernel.namespaces.find(sandbox.key)
    assert found
    assert found.inode == rig.controller.sandboxes.find("c1").inode != sandbox.inode
    assert not theirs.links
    assert not theirs.loopback_up


async def test_restart_after_an_interrupted_repair_leaks_no_namespace(
    rig: CoreInProcess,
) -> None:
    sandbox = await _cut_short(rig)
    await rig.start()
    assert not rig.controller.sandboxes.list()
    assert rig.kernel.namespaces.find(sandbox.key) is None
    again = await rig.join("c1", "web")
    assert again.key == sandbox.key


async def test_interrupted_namespace_repair_continues_on_the_next_scan(rig: CoreInProcess) -> None:
    sandbox = await _cut_short(rig)
    assert {drift.done for drift in await rig.controller.reconcile.run(fix=True)} == {"repaired"}
    assert not await rig.controller.reconcile.run(fix=False)
    assert rig.controller.sandboxes.find("c1").key == sandbox.key


async def test_container_is_released_if_its_namespace_is_missing_twice(
    rig: CoreInProcess,
) -> None:
    await rig.network()
    await rig.endpoint("web")
    rig.kernel.namespaces.add_foreign("/theirs")
    sandbox = await rig.join("c1", "web", netns="/theirs")
    rig.unattended()
    rig.kernel.namespaces.release(sandbox.key)
    (first,) = await rig.controller.reconcile.run(fix=True)
    assert first.done.startswith("not repaired: the namespace that container c1 came with is gone; ")
    assert rig.controller.sandboxes.find("c1")
    (second,) = await rig.controller.reconcile.run(fix=True)
    assert (second.done, "gone for good" in second.problem) == ("repaired", True)
    assert rig.controller.sandboxes.list() == []
    assert rig.controller.health().problems == ()


async def test_container_is_kept_if_its_namespace_reappears(rig: CoreInProcess) -> None:
    await rig.network()
    await rig.endpoint("web")
    rig.kernel.namespaces.add_foreign("/theirs")
    sandbox = await rig.join("c1", "web", netns="/theirs")
    rig.unattended()
    rig.kernel.namespaces.release(sandbox.key)
    await rig.controller.reconcile.run(fix=True)
    rig.kernel.namespaces.pin(sandbox.key, path="/theirs")
    assert await rig.controller.reconcile.run(fix=True) == []
    rig.kernel.namespaces.release(sandbox.key)
    (drift,) = await rig.controller.reconcile.run(fix=True)
    assert drift.done.startswith("not repaired"), "the first of two looks again"


async def test_uncheckable_fault_is_reported_and_not_skipped(
    rig: CoreInProcess,
) -> None:
    await rig.network()
    await rig.endpoint("web")
    sandbox = await rig.join("c1", "web")
    rig.unattended()
    rig.kernel.namespaces.release(sandbox.key)
    rig.kernel.fail_on("state_reader.host", Error(Kind.UNAVAILABLE, "the kernel is busy"), after=1)
    (reported,) = await rig.controller.reconcile.run(fix=True)
    assert (reported.kind, reported.object) == ("sandbox", "c1")
    assert "the kernel is busy" in reported.done
    assert {drift.done for drift in await rig.controller.reconcile.run(fix=True)} == {"repaired"}


async def test_unreadable_rules_are_reported_and_the_rest_is_repaired(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await rig.network()
    rig.unattended()
    rig.kernel.links.delete([net.link])

    def refuse(table: str) -> None:
        raise Error(Kind.UNAVAILABLE, "nftables: Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(rig.kernel.firewall, "listing", refuse)
        reported = {drift.kind: drift.done for drift in await rig.controller.reconcile.run(fix=True)}
        assert reported.pop("rules") == "not repaired: nftables: Cannot allocate memory"
        assert set(reported.values()) == {"repaired"}
        assert any("Cannot allocate memory" in problem for problem in rig.controller.health().problems)
    assert await rig.controller.reconcile.run(fix=True) == []
    assert rig.controller.health().problems == ()


async def test_pending_changes_are_kept_if_another_check_fails(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await rig.network()
    rig.unattended()
    healing = rig.controller._drift_watcher
    await healing._poll()
    rig.kernel.links.delete([net.link])
    gone = Changes(
        {}, frozenset({net.link}), frozenset(), frozenset(), {}, frozenset(), mounts=True, rules=False, missed=False
    )
    with monkeypatch.context() as patch:
        patch.setattr(rig.kernel.watcher, "read", lambda: gone)
        patch.setattr(healing, "_slow_at", 0.0)
        rig.kernel.fail_on("state_reader.pinned", Error(Kind.UNAVAILABLE, "the kernel is busy"))
        with pytest.raises(Error):
            await healing._poll()
        assert not rig.kernel.links.find(net.link)
    await healing._poll()
    assert rig.kernel.links.find(net.link)


@pytest.mark.parametrize(("worked", "pause"), [(0.0, 0.25), (0.1, 0.4), (60.0, 0.75)])
def test_pause_after_a_read_grows_with_its_work_up_to_a_limit(worked: float, pause: float) -> None:
    assert listening_pause(worked) == pytest.approx(pause)
