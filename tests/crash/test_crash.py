"""A daemon killed in every gap between two steps of everything it does, and what comes of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandnet.wire import reconcile as wire
from tests.crash.coverage import changing_operations, operations_of
from tests.crash.fault_scenarios import MISHAPS, REPAIRED
from tests.crash.harness import THOROUGH, Harness
from tests.crash.scenarios import NAMED, SETTINGS, Setting
from tests.crash.starts import Starts
from tests.crash.steps import READS, base_of, found_steps, parts
from tests.crash.world import CrashWorld
from tests.support.network_host import unavailable

pytestmark = pytest.mark.timeout(3600 if THOROUGH else 900)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[CrashWorld]:
    if reason := unavailable():
        pytest.skip(reason)
    made = CrashWorld(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("setting", [*SETTINGS, *MISHAPS], ids=lambda setting: setting.__name__)
def test_given_a_daemon_killed_at_any_step_of_a_call_when_started_again_then_the_call_is_done_or_undone(
    world: CrashWorld, setting: Setting
) -> None:
    world.start()
    harness = Harness(world, setting)
    harness.run()
    assert harness.deaths
    world.clear()


@pytest.mark.parametrize("setting", NAMED, ids=lambda setting: setting.__name__)
def test_given_a_resolver_and_a_daemon_killed_at_any_step_when_started_again_then_names_are_as_before_or_after(
    tmp_path: Path, setting: Setting
) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    world = CrashWorld(tmp_path, dns=True)
    try:
        world.start()
        Harness(world, setting).run()
        world.clear()
    finally:
        world.close()


@pytest.mark.parametrize("what", ["first", "again", "after_reboot", "lost", "damaged", "imported", "stop", "removal"])
def test_given_a_daemon_killed_at_any_step_of_a_start_or_a_removal_when_started_again_then_it_is_whole(
    world: CrashWorld, what: str
) -> None:
    starts = Starts(world)
    getattr(starts, what)()
    assert starts.deaths


def test_given_the_protocols_then_every_method_is_a_step_or_a_known_read() -> None:
    steps = found_steps()
    assert {name.partition(".")[0] for name in steps} >= {base_of(part).__name__ for part in parts()}
    assert set(steps) >= READS
    assert {"Store.commit", "Links.plug", "Files.write", "NameService.apply"} <= set(steps) - READS


def test_given_the_rest_interface_then_every_operation_that_changes_anything_is_interrupted() -> None:
    said = {operation for setting in (*SETTINGS, *MISHAPS) for operation in operations_of(setting)}
    assert said == changing_operations()


def test_given_the_kinds_of_drift_then_the_repair_of_each_is_interrupted() -> None:
    told = re.findall(r"``(\w+)``", inspect.getsource(wire.Drift).partition("object: str")[0])
    held_again = {"port"}  # a socket of the daemon and nothing else: a start after a kill does the same
    assert set(told) == REPAIRED | held_again
