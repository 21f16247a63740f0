"""Containers of other engines that run already, found by their ids (docs/runtimes.md)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import RefusedError, RunningDaemon
from tests.support.network_host import eventually
from tests.support.oci_bundle import PAGE, OciRuntime
from tests.support.privileges import needs_runtimes

pytestmark = needs_runtimes

USER = 65534
PIDS = Path("/sys/fs/cgroup/pids")
"""A hierarchy of version 1, if there are such; else the machine has one of version 2 at its parent."""


@pytest.fixture
def running(fresh_daemon: RunningDaemon) -> RunningDaemon:
    """A daemon with a network."""
    fresh_daemon.start()
    fresh_daemon.api.network("front")
    return fresh_daemon


@pytest.fixture
def runc(running: RunningDaemon) -> Iterator[OciRuntime]:
    """runc on the daemon's host; its containers are deleted at the end."""
    runtime = OciRuntime(running, "runc")
    with ExitStack() as stack:
        stack.callback(runtime.close)
        yield runtime


def join(running: RunningDaemon, name: str, reference: str) -> None:
    """Attach a running container as an endpoint of its own."""
    running.api.endpoint("front", name)
    running.api.join("front", name, name, running_container=reference)


@pytest.mark.attaches("runc that runs")
def test_running_container_is_found_by_id_and_removed_at_its_end(running: RunningDaemon, runc: OciRuntime) -> None:
    identifier = secrets.token_hex(32)
    pid = runc.start_in_group("web", identifier)
    runc.start_in_group("other", secrets.token_hex(32))
    assert "eth0" not in runc.do_inside("web", "ip", "link")
    join(running, "web", identifier[:12])
    assert "eth0" in runc.do_inside("web", "ip", "link")
    assert running.api.get("/sandboxes/web", verbose="true")["pid"] == pid
    address = running.api.reported("front", "web")["address"].partition("/")[0]
    patiently = ("--retry", "9", "--retry-connrefused")
    assert running.here.sh("curl", "-sSm", "60", *patiently, f"http://{address}/") == PAGE + "web"
    assert runc.delete("web").returncode == 0
    eventually(lambda: running.api.get("/sandboxes") == [])


def test_command_line_takes_the_id_of_a_running_container(running: RunningDaemon, runc: OciRuntime) -> None:
    identifier = secrets.token_hex(32)
    runc.start_in_group("web", identifier)
    running.cli("service", "publish", "web.front")
    running.cli("service", "attach", "--container", identifier, "web", "web.front")
    assert "eth0" in runc.do_inside("web", "ip", "link")
    running.cli("service", "detach", "web", "web.front")
    assert "eth0" not in runc.do_inside("web", "ip", "link")


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("f" * 64, "container_not_running"),
        ("f" * 11, "invalid_container"),
        ("web", "invalid_container"),
        ("../../etc/passwd", "invalid_container"),
        ("F" * 64, "invalid_container"),
        ("f" * 65, "invalid_container"),
        ("f" * 63 + "\n", "invalid_container"),
    ],
)
def test_reference_that_means_no_container_is_refused(daemon: RunningDaemon, reference: str, code: str) -> None:
    daemon.api.network("front")
    daemon.api.endpoint("front", "web")
    with pytest.raises(RefusedError) as caught:
        daemon.api.join("front", "web", "web", running_container=reference)
    assert caught.value.body["code"] == code
    assert daemon.api.get("/sandboxes") == []


def test_prefix_that_two_containers_have_is_refused(running: RunningDaemon, runc: OciRuntime) -> None:
    common = secrets.token_hex(8)
    runc.start_in_group("one", common + secrets.token_hex(24))
    runc.start_in_group("two", common + secrets.token_hex(24))
    with pytest.raises(RefusedError) as caught:
        join(running, "web", common)
    assert caught.value.body["code"] == "ambiguous"
    assert "means more than one container" in caught.value.message


def test_inner_group_does_not_pass_as_another_container(running: RunningDaemon, runc: OciRuntime) -> None:
    outer, forged = secrets.token_hex(32), secrets.token_hex(32)
    pid = runc.start_in_group("outer", outer)
    runc.start_in_group("inner", f"{outer}/docker-{forged}.scope")
    with pytest.raises(RefusedError) as caught:
        join(running, "web", forged)
    assert caught.value.status == 404
    running.api.join("front", "web", "web", running_container=outer)
    assert running.api.get("/sandboxes/web", verbose="true")["pid"] == pid


def test_group_of_a_user_is_no_container(running: RunningDaemon) -> None:
    identifier = secrets.token_hex(32)
    group = (PIDS if PIDS.is_dir() else PIDS.parent) / f"docker-{identifier}.scope"
    group.mkdir()
    program = running.host.popen("unshare", "--net", "sleep", "600")
    try:
        (group / "cgroup.procs").write_text(str(program.pid))
        os.chown(group, USER, USER)
        with pytest.raises(RefusedError) as caught:
            join(running, "web", identifier)
        assert caught.value.status == 404
    finally:
        program.kill()
        program.wait()
        eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
