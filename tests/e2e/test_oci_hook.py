"""The hook of OCI runtimes, called by real ones (docs/runtimes.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.daemon import HOST_ADDRESS, RunningDaemon
from tests.support.network_host import eventually
from tests.support.oci_bundle import PAGE, RUNTIMES, OciRuntime, call_hook
from tests.support.privileges import needs_runtimes

pytestmark = needs_runtimes

WEB = {"sandnet.network": "front", "sandnet.name": "web", "sandnet.ports": "8080:80", "sandnet.aliases": "www, shop"}


@pytest.fixture
def running(fresh_daemon: RunningDaemon) -> RunningDaemon:
    """A daemon with a network."""
    fresh_daemon.start()
    fresh_daemon.api.network("front")
    return fresh_daemon


@pytest.fixture
def runc(running: RunningDaemon) -> Iterator[OciRuntime]:
    """runc on the daemon's host; its containers are deleted at the end."""
    with ExitStack() as stack:
        runtime = OciRuntime(running, "runc")
        stack.callback(runtime.close)
        yield runtime


def start(runtime: OciRuntime, container: str, annotations: dict[str, str]) -> None:
    """Start a container from a bundle of its own; it must succeed."""
    done = runtime.start(container, runtime.bundle(container, annotations))
    assert done.returncode == 0, done.stderr


def fetched(runtime: OciRuntime, container: str, server: str) -> str:
    """Return the page of a server that a container has fetched; a server that has just been started is waited for."""
    printed = ""

    def is_served() -> bool:
        nonlocal printed
        printed = runtime.do_inside(container, "wget", "-qO-", f"http://{server}/")
        return "refused" not in printed

    eventually(is_served)
    return printed


def services(running: RunningDaemon) -> list[str]:
    """Names of all services."""
    return sorted(service["name"] for service in running.api.get("/services"))


@pytest.mark.parametrize("name", list(RUNTIMES))
@pytest.mark.attaches("runc by its hook", "crun by its hook")
def test_runtime_containers_reach_each_other_and_leave_nothing(running: RunningDaemon, name: str) -> None:
    before = running.facts()
    runtime = OciRuntime(running, name)
    with ExitStack() as stack:
        stack.callback(runtime.close)
        start(runtime, "web", WEB)
        start(runtime, "client", {"sandnet.network": "front"})
        for known in ("web", "www", "shop"):
            assert fetched(runtime, "client", known) == PAGE + "web"
        assert fetched(runtime, "web", "client") == PAGE + "client"
        outside = f"http://{HOST_ADDRESS}:8080/"
        assert running.outside.sh("curl", "-sSm", "20", outside) == PAGE + "web"
        assert services(running) == ["client", "web"]
        for container in ("web", "client"):
            deleted = runtime.delete(container)
            assert (deleted.returncode, deleted.stderr) == (0, "")
    assert services(running) == []
    assert running.api.get("/sandboxes") == []
    eventually(lambda: running.facts() == before)


def test_container_is_on_each_network_of_its_annotation(running: RunningDaemon, runc: OciRuntime) -> None:
    running.api.network("back", subnet="10.99.0.0/24")
    start(runc, "c1", {"sandnet.network": "back, front", "sandnet.ip": "10.99.0.77", "sandnet.hostname": "first"})
    addresses = runc.do_inside("c1", "ip", "-o", "-4", "address")
    assert "inet 10.99.0.77/24" in addresses
    assert {"eth0", "eth1"} <= set(addresses.split())
    assert running.api.get("/sandboxes/c1", verbose="true")["host_name"] == "first"
    assert runc.delete("c1").returncode == 0
    assert services(running) == []


def test_failed_hook_leaves_nothing_and_starts_no_container(running: RunningDaemon, runc: OciRuntime) -> None:
    before = running.facts()
    bundle = runc.bundle("c1", {"sandnet.network": "front,absent"})
    done = runc.start("c1", bundle)
    assert done.returncode != 0
    assert "no such network: absent" in done.stderr
    assert services(running) == []
    assert running.api.get("/sandboxes") == []
    eventually(lambda: running.facts() == before)


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"sandnet.network": "front", "sandnet.port": "80:80"}, "unknown annotation: sandnet.port"),
        ({"sandnet.ports": "80:80"}, "sandnet.ports needs sandnet.network"),
        ({"sandnet.network": " , "}, "sandnet.network is empty"),
        ({"sandnet.network": "front,front"}, "each once"),
        ({"sandnet.network": "front", "sandnet.ports": "80:99999"}, "a container port is a number"),
        ({"sandnet.network": "front", "sandnet.ports": "80," * 101}, "items are too many"),
        ({"sandnet.network": "front", "sandnet.ip": "10.0.0.1; rm -rf /"}, "address"),
        ({"sandnet.network": "../../healthz"}, "no such network"),
        ({"sandnet.network": "front", "sandnet.name": "\x1b[31mweb\n"}, "invalid endpoint name"),
    ],
)
def test_wrong_annotation_is_refused_with_its_reason(
    daemon: RunningDaemon, annotations: dict[str, str], reason: str
) -> None:
    running = daemon
    running.api.network("front")
    done = call_hook(running, {"id": "c1", "status": "creating", "pid": 1, "annotations": annotations})
    assert done.returncode == 1
    assert reason in done.stderr
    assert "\x1b" not in done.stderr
    assert services(running) == []


@pytest.mark.parametrize(
    "state",
    ["", "[]", "{", '{"id": 1}', "[" * 100_000, '{"id": "' + "x" * (1 << 20) + '"}', '{"id":"\\ud800","status":"x"}'],
    ids=["empty", "array", "cut off", "number", "nested", "too large", "lone surrogate"],
)
def test_input_that_is_no_state_is_refused(daemon: RunningDaemon, state: str) -> None:
    done = call_hook(daemon, state)
    assert done.returncode == 1
    assert "the state of the container" in done.stderr
    assert "Traceback" not in done.stderr


def test_container_without_annotations_is_left_alone(fresh_daemon: RunningDaemon) -> None:
    fresh_daemon.run.mkdir()  # no daemon is asked
    done = call_hook(
        fresh_daemon, {"id": "c1", "status": "creating", "pid": 1, "annotations": {"other.network": "front"}}
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_hook_called_twice_attaches_once(running: RunningDaemon, runc: OciRuntime) -> None:
    start(runc, "c1", WEB)
    sandbox = running.api.get("/sandboxes/c1", verbose="true")
    again: dict[str, Any] = {**runc.state("c1"), "status": "creating"}
    done = call_hook(running, again)
    assert (done.returncode, done.stderr) == (0, "")
    assert running.api.get("/sandboxes/c1", verbose="true") == sandbox
    stopped = {**again, "status": "stopped", "pid": 0}
    assert runc.delete("c1").returncode == 0
    for _ in range(2):
        done = call_hook(running, stopped)
        assert (done.returncode, done.stderr) == (0, "")


def test_second_runtime_with_one_id_takes_nothing_of_the_first(running: RunningDaemon, runc: OciRuntime) -> None:
    start(runc, "c1", WEB)
    other = OciRuntime(running, "runc", "other-root")
    with ExitStack() as stack:
        stack.callback(other.close)
        config = running.folder / "bundles" / "c1" / "config.json"
        config.write_text(config.read_text().replace("sandnet-test-", "sandnet-test-other-"))
        refused = other.start("c1", config.parent)
        assert refused.returncode != 0
        assert "web already exists on network front" in refused.stderr
        other.delete("c1")
    assert running.outside.sh("curl", "-sSm", "20", f"http://{HOST_ADDRESS}:8080/") == PAGE + "c1"


def test_service_of_another_maker_is_not_removed(daemon: RunningDaemon) -> None:
    running = daemon
    running.api.network("front")
    running.api.endpoint("front", "web")
    stopped = {"id": "c1", "status": "stopped", "bundle": "/b", "annotations": {"sandnet.network": "front,absent",
                                                                              "sandnet.name": "web"}}  # fmt: skip
    done = call_hook(running, stopped)
    assert (done.returncode, done.stderr) == (0, "")
    assert services(running) == ["web"]


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_container_is_refused_within_seconds_without_a_daemon(
    running: RunningDaemon, runc: OciRuntime, how: str
) -> None:
    bundle = runc.bundle("c1", WEB)
    assert running.process
    if how == "killed":
        running.kill()
    else:
        running.host.sh("kill", "-STOP", str(running.process.pid))
    began = time.monotonic()
    done = runc.start("c1", bundle)
    assert time.monotonic() - began < 15  # the hook waits for 1 s, and the machine may be busy
    assert done.returncode != 0
    assert "no daemon listens on" in done.stderr or "did not answer within 1 s" in done.stderr
    if how == "silent":
        running.host.sh("kill", "-CONT", str(running.process.pid))


def test_deletion_without_a_daemon_is_completed_by_the_daemon(running: RunningDaemon, runc: OciRuntime) -> None:
    start(runc, "c1", WEB)
    running.kill()
    deleted = runc.delete("c1")
    assert deleted.returncode == 0, deleted.stderr
    running.start()
    eventually(lambda: services(running) == [] and running.api.get("/sandboxes") == [])


def test_container_killed_without_a_deletion_is_removed(running: RunningDaemon, runc: OciRuntime) -> None:
    start(runc, "c1", WEB)
    running.host.sh("kill", "-KILL", str(runc.state("c1")["pid"]))
    eventually(lambda: services(running) == [])
    restarted = call_hook(running, {"id": "c1", "status": "stopped", "annotations": WEB})
    assert restarted.returncode == 0
