"""A daemon killed in every gap between two steps of everything it does, and what comes of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandnet.wire import reconcile as wire
from tests.crash.coverage import changing_operations, operations_of
from tests.crash.daemon_case import CrashDaemon
from tests.crash.dhcp_scenarios import DHCP_SCENARIOS
from tests.crash.engine_scenarios import ENGINE_SCENARIOS, VERBS_THAT_CHANGE
from tests.crash.fault_scenarios import FAULT_SCENARIOS, REPAIRED
from tests.crash.harness import THOROUGH, Harness
from tests.crash.plugin_scenarios import PLUGIN_SCENARIOS
from tests.crash.scenarios import NAMED, SETTINGS, Setting, join_made, join_tap
from tests.crash.starts import Starts
from tests.crash.steps import READS, base_of, found_steps, parts
from tests.support.network_host import unavailable
from tests.support.privileges import needs_taps

pytestmark = pytest.mark.timeout(3600 if THOROUGH else 900)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[CrashDaemon]:
    if reason := unavailable():
        pytest.skip(reason)
    made = CrashDaemon(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(setting, id=setting.__name__, marks=needs_taps if setting is join_tap else ())
        for setting in (*SETTINGS, *ENGINE_SCENARIOS, *PLUGIN_SCENARIOS, *DHCP_SCENARIOS, *FAULT_SCENARIOS)
    ],
)
def test_call_is_atomic_across_a_daemon_kill_at_any_step(daemon: CrashDaemon, setting: Setting) -> None:
    daemon.start()
    harness = Harness(daemon, setting)
    harness.run()
    assert harness.deaths
    daemon.clear()


def test_join_without_a_pool_is_atomic_across_a_kill_at_any_step(daemon: CrashDaemon) -> None:
    config = daemon.folder / "config.toml"
    config.write_text(config.read_text() + "prepared_sandboxes = 0\n")
    daemon.start()
    harness = Harness(daemon, join_made)
    harness.run()
    assert any("SandboxPool.prepare" in step for step in harness.interrupted)
    daemon.clear()


@pytest.mark.parametrize("setting", NAMED, ids=lambda setting: setting.__name__)
def test_names_are_atomic_across_a_kill_at_any_step(tmp_path: Path, setting: Setting) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    daemon = CrashDaemon(tmp_path, dns=True)
    try:
        daemon.start()
        Harness(daemon, setting).run()
        daemon.clear()
    finally:
        daemon.close()


@pytest.mark.parametrize("what", ["first", "again", "after_reboot", "lost", "damaged", "imported", "stop", "removal"])
def test_start_or_removal_killed_at_any_step_is_completed(daemon: CrashDaemon, what: str) -> None:
    starts = Starts(daemon)
    getattr(starts, what)()
    assert starts.deaths


def test_every_protocol_method_is_a_step_or_a_known_read() -> None:
    steps = found_steps()
    assert {name.partition(".")[0] for name in steps} >= {base_of(part).__name__ for part in parts()}
    assert set(steps) >= READS
    assert {"Store.commit", "Links.plug", "Files.write", "NameService.apply"} <= set(steps) - READS


def test_every_mutating_rest_operation_is_interrupted() -> None:
    printed = {operation for setting in (*SETTINGS, *FAULT_SCENARIOS) for operation in operations_of(setting)}
    assert printed == changing_operations()


def test_every_mutating_verb_of_engines_is_interrupted() -> None:
    printed = {operation for setting in ENGINE_SCENARIOS for operation in operations_of(setting)}
    assert printed == VERBS_THAT_CHANGE


def test_repair_of_every_kind_of_drift_is_interrupted() -> None:
    reported = re.findall(r"``(\w+)``", inspect.getsource(wire.Drift).partition("object: str")[0])
    held_again = {"port"}  # a socket of the daemon and nothing else: a start after a kill does the same
    assert set(reported) == REPAIRED | held_again
