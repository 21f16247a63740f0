"""Containers whose process is killed are let go within five seconds, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.daemon import PREDEFINED, SANDNET, RefusedError, RunningDaemon, mapping, state_of
from tests.support.network_host import eventually
from tests.support.service_cases import PORT, published, talks, under_load
from tests.support.time_limits import in_time
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(120)
PROMISED = 5.0
"""Seconds within which nothing is left of a container that died."""
SOON = 20.0
"""Seconds within which the dead are let go where it is not measured, as the machines of tests are shared."""


def process(daemon: RunningDaemon, namespace: str = "") -> subprocess.Popen[str]:
    """A process on the host, or in a namespace."""
    start = daemon.host.start_here
    return daemon.host.inside(namespace, start, "sleep", "300") if namespace else daemon.host.popen("sleep", "300")


def kill(running: subprocess.Popen[str]) -> None:
    """SIGKILL; its remains stay until the test ends, as with a parent that does not care."""
    os.kill(running.pid, signal.SIGKILL)


def containers(daemon: RunningDaemon) -> list[str]:
    return [sandbox["id"] for sandbox in daemon.api.get("/sandboxes")]


def watched(daemon: RunningDaemon) -> subprocess.Popen[str]:
    """A process that a join named."""
    running = process(daemon)
    daemon.sandbox("foo", "one", join={"watch_pid": running.pid})
    return running


def inhabitant(daemon: RunningDaemon) -> subprocess.Popen[str]:
    """The only process in a sandbox that goes with the last."""
    sandbox = daemon.sandbox("foo", "one", join={"auto_remove": True})
    running = process(daemon, sandbox.key)
    until(lambda: occupied(daemon))
    return running


def runner(daemon: RunningDaemon) -> subprocess.Popen[str]:
    """A ``sandnet run``."""
    socket = f"unix://{daemon.run}/sandnet.sock"
    words = ["run", "--net", "foo", "--", "sh", "-c", "echo; exec sleep 300"]
    running = daemon.host.popen(str(SANDNET), "-H", socket, *words)
    assert running.stdout
    running.stdout.readline()
    return running


@pytest.mark.parametrize("start", [watched, inhabitant, runner])
def test_killed_container_is_removed_within_five_seconds(
    daemon: RunningDaemon, start: Callable[[RunningDaemon], subprocess.Popen[str]], request: pytest.FixtureRequest
) -> None:
    daemon.api.network("foo")
    links = daemon.our_links()

    def removed() -> float:
        running = start(daemon)
        began = time.monotonic()
        kill(running)
        eventually(lambda: containers(daemon) == [] and daemon.our_links() == links, SOON)
        took = time.monotonic() - began
        for service in daemon.api.get("/services"):
            with suppress(RefusedError):  # the endpoint of a killed `run` is removed at the same time
                daemon.api.delete(f"/services/{service['id']}")
        eventually(lambda: daemon.api.get("/services") == [])
        return took

    took = in_time(removed, float, PROMISED)
    request.node.user_properties += [("took", took)]


def test_killed_container_joined_by_pid_leaves_only_its_endpoint(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    before = daemon.facts()
    theirs = daemon.host.container()
    running = process(daemon, theirs.path)
    daemon.api.endpoint("foo", "one", mapping(80, 8080))
    sandbox = daemon.attach("foo", "one", "c1", pid=running.pid)
    reported = daemon.api.get("/sandboxes/c1", verbose="true")
    assert (reported["pid"], reported["auto_remove"]) == (running.pid, True)
    kill(running)
    eventually(lambda: containers(daemon) == [], SOON)
    until(lambda: daemon.facts().links == before.links)
    assert (daemon.facts().mounts, daemon.facts().files) == (before.mounts, before.files)
    assert [link[0] for link in state_of(daemon.place(theirs.path))[0]] == ["lo"]
    again = daemon.attach("foo", "one", "c2")
    assert again.address == sandbox.address
    again.serve("again", 80)
    assert daemon.here.ask("127.0.0.1", 8080).server == "again"


def test_forty_containers_killed_at_once_are_removed_others_stay(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    alive, other = daemon.sandbox("foo", "alive"), daemon.sandbox("foo", "other")
    before = daemon.facts()
    running = [process(daemon) for _ in range(40)]
    for i, each in enumerate(running):
        daemon.api.endpoint("foo", f"e{i}")
        daemon.api.join("foo", f"e{i}", f"c{i}", watch_pid=each.pid)
    for each in running:
        kill(each)
    eventually(lambda: len(containers(daemon)) == 2, SOON)
    until(lambda: daemon.facts() == before)
    assert other.reaches(alive.address)
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_network_of_killed_containers_can_be_deleted(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    running = [process(daemon) for _ in range(2)]
    for i, each in enumerate(running):
        daemon.sandbox("foo", f"e{i}", join={"watch_pid": each.pid})
    kill(running[0])
    until(lambda: len(containers(daemon)) == 1)
    with pytest.raises(RefusedError) as refused:
        daemon.api.delete("/networks/foo")
    assert refused.value.status == 403
    assert "active endpoints: e1 (" in refused.value.message
    assert f"pid {running[1].pid}" in refused.value.message
    kill(running[1])
    until(lambda: containers(daemon) == [])
    daemon.api.delete("/networks/foo")


def test_forced_network_delete_removes_running_containers(daemon: RunningDaemon) -> None:
    links = set(daemon.links())
    daemon.api.network("first", ipv6=True)  # from here on the table restricts the forwarding of IPv6
    daemon.api.delete("/networks/first")
    until(lambda: set(daemon.links()) == links)
    before = daemon.facts()
    network = daemon.api.network("foo", ipv6=True)
    daemon.api.network("bar")
    daemon.api.endpoint("bar", "other")
    sandbox = daemon.sandbox("foo", "web", mapping(80, 8080))
    daemon.attach("bar", "other", sandbox.container)
    for i in range(3):
        daemon.sandbox("foo", f"e{i}")
        daemon.api.post("/services/web/backend", container_id=f"more{i}")
    for path in ("/networks/foo", "/networks/foo/endpoints/web", "/services/web"):
        with pytest.raises(RefusedError) as refused:
            daemon.api.delete(path)
        assert refused.value.status == 403
    daemon.api.delete("/services/e0?force=true")
    daemon.api.delete("/networks/foo/endpoints/e1?force=true")
    daemon.api.delete(f"/networks/{network[:12]}?force=true")
    with pytest.raises(RefusedError) as refused:
        daemon.api.delete(f"/networks/{network[:12]}?force=true")
    assert refused.value.status == 404
    assert containers(daemon) == [sandbox.container]
    assert sandbox.reaches("198.51.100.2")
    daemon.cli("network", "rm", "--force", "bar")
    until(lambda: daemon.facts()._replace(sysctls=()) == before._replace(sysctls=()))


@pytest.mark.parametrize(("query", "code"), [("force=1", 400), ("force=", 400), ("forced=true", 400)])
def test_invalid_delete_query_changes_nothing(daemon: RunningDaemon, query: str, code: int) -> None:
    daemon.api.network("foo")
    with pytest.raises(RefusedError) as refused:
        daemon.api.delete(f"/networks/foo?{query}")
    assert (refused.value.status, refused.value.body["code"]) == (code, "invalid_query")
    assert daemon.api.get("/networks", name="foo")


def test_auto_remove_deletes_the_sandbox_after_its_last_process(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one", join={"auto_remove": True})
    other = daemon.sandbox("foo", "two", join={"auto_remove": True})
    running = [process(daemon, sandbox.key) for _ in range(2)]
    only = process(daemon, other.key)
    until(lambda: occupied(daemon) == 2)
    kill(running[0])
    kill(only)
    eventually(lambda: containers(daemon) == [sandbox.container], SOON)
    kill(running[1])
    eventually(lambda: containers(daemon) == [], SOON)


def occupied(daemon: RunningDaemon) -> int:
    """Return in how many sandboxes the daemon has found a process."""
    return daemon.host.sh(
        "sqlite3", "-readonly", str(daemon.state / "sandnet.db"), "select value from entries where key like 'sandbox/%'"
    ).count('"occupied":true')


def test_container_killed_during_downtime_is_removed_at_start(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    exited, alive = process(daemon), process(daemon)
    daemon.sandbox("foo", "dead", join={"watch_pid": exited.pid})
    kept = daemon.sandbox("foo", "alive", join={"watch_pid": alive.pid})
    daemon.kill()
    kill(exited)
    daemon.start()
    assert containers(daemon) == [kept.container]
    kill(alive)
    eventually(lambda: containers(daemon) == [], SOON)


def test_killed_run_removes_its_command_and_objects(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    before = daemon.facts()
    socket = f"unix://{daemon.run}/sandnet.sock"
    words = ["run", "--net", "foo", "-p", "8080:80", "--", "sh", "-c", "echo $$; exec sleep 300"]
    running = daemon.host.popen(str(SANDNET), "-H", socket, *words)
    assert running.stdout
    command = int(running.stdout.readline())
    kill(running)
    eventually(lambda: daemon.api.get("/services") == [] and containers(daemon) == [], SOON)
    eventually(lambda: daemon.facts() == before, SOON)
    until(lambda: not Path(f"/proc/{command}/exe").exists())


def test_run_killed_during_downtime_leaves_nothing_after_start(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    socket = f"unix://{daemon.run}/sandnet.sock"
    running = daemon.host.popen(
        str(SANDNET), "-H", socket, "run", "--net", "foo", "--", "sh", "-c", "echo; exec sleep 300"
    )
    assert running.stdout
    running.stdout.readline()
    daemon.kill()
    kill(running)
    daemon.start()
    eventually(lambda: daemon.api.get("/services") == [] and containers(daemon) == [], SOON)


def test_backend_killed_under_load_does_not_pause_other_flows(
    daemon: RunningDaemon,
) -> None:
    service = published(daemon)
    running = {name: process(daemon) for name in ("b1", "b2", "b3")}
    for name, each in running.items():
        service.attach(name, watch_pid=each.pid)
    open_ = talks(service, service.client, service.address, PORT)
    victim, links = service.holder(), len(daemon.our_links())
    with under_load([talk for talk in open_ if talk.server != victim]):
        kill(running[victim])
        eventually(lambda: len(daemon.our_links()) < links, SOON)  # its link goes after new flows have
        assert victim not in service.reported()
        spread: Counter[str] = service.spread()
    assert set(spread) == set(running) - {victim}


def test_exited_containers_hold_nothing_after_a_host_reboot(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    daemon.start()
    network = daemon.api.network("foo", subnet="10.9.0.0/29")
    web = daemon.sandbox("foo", "web", mapping(80, 8080))
    for i in range(4):  # each leases an address of its own: the network is full then
        daemon.api.post("/services/web/backend", container_id=f"more{i}")
    with pytest.raises(RefusedError):
        daemon.api.endpoint("foo", "late")
    daemon.kill()
    boot(daemon, f"snb{network[:10]}")
    daemon.start()
    assert containers(daemon) == []
    until(lambda: daemon.api.get("/healthz")["problems"] == [])
    assert daemon.api.reported("foo", "web")["address"].partition("/")[0] == web.address
    again = daemon.attach("foo", "web", "c1")
    again.serve("again", 80)
    assert daemon.here.ask("127.0.0.1", 8080).server == "again"
    daemon.api.endpoint("foo", "late")
    assert [net["name"] for net in daemon.api.get("/networks")] == [*PREDEFINED, "foo"]
    daemon.stack.pop_all().close()
    daemon.down()
    after = daemon.facts()
    assert after._replace(sysctls=()) == daemon.before._replace(sysctls=())
    assert "net.ipv4.ip_forward = 1" in after.sysctls  # as this boot had it, not the earlier one
    assert "net.ipv4.ip_forward = 0" in daemon.before.sysctls


def boot(daemon: RunningDaemon, bridge: str) -> None:
    """What a boot does: all that the kernel held is gone, and the administrator has set ``ip_forward`` since."""
    sh = daemon.host.sh
    daemon.kill_resolvers()
    daemon.stack.pop_all().close()
    for key in daemon.pinned():
        sh("umount", key)
    for link in (bridge, *(name for name in daemon.our_links() if name != bridge)):
        if link in daemon.links():  # an end of a pair goes with its namespace, a little later
            daemon.host.run(subprocess.run, ["ip", "link", "delete", link], capture_output=True, check=False)
    sh("nft", "flush", "ruleset")
    sh("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", "net.ipv4.ip_forward=1")
    identity = daemon.folder / "boot_id"
    identity.write_text(f"{uuid4()}\n")
    sh("mount", "--bind", str(identity), "/proc/sys/kernel/random/boot_id")
