"""More that is interrupted: forced deletions, the burial of the dead, and repairs."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import partial

import httpx

from tests.crash.coverage import interrupts
from tests.crash.daemon_case import CrashDaemon
from tests.crash.host_state import entries
from tests.crash.scenarios import BAR, FOO, HELD, PORTS, Setting, Stage
from tests.support.daemon import RefusedError
from tests.support.network_host import Container, eventually


@interrupts("DELETE /networks/{network}?force")
def network_forced(daemon: CrashDaemon) -> Stage:
    """A network goes with a service and two backends, one of which is on another network too."""
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("bar", "other")
    daemon.api.join("bar", "other", "c1")
    back = partial(_serve, daemon, "c1", "c2")
    back()
    return Stage(partial(daemon.api.delete, "/networks/foo?force=true"), back, ports=HELD, back_is_one=False)


@interrupts("DELETE /services/{service}?force")
def service_forced(daemon: CrashDaemon) -> Stage:
    """A service goes with its backends."""
    _serve(daemon, "c1", "c2")
    return Stage(
        partial(daemon.api.delete, "/services/web?force=true"),
        partial(_publish, daemon, "c1", "c2"),
        ports=HELD,
        back_is_one=False,
    )


@interrupts("DELETE /networks/{network}/endpoints/{endpoint}?force")
def endpoint_forced(daemon: CrashDaemon) -> Stage:
    """An endpoint goes with its container, whose namespace is another program's."""
    theirs = daemon.host.container()
    daemon.api.network("foo", **FOO)

    def back() -> None:
        daemon.api.endpoint("foo", "web", *PORTS)
        daemon.api.join("foo", "web", "c1", netns=theirs.path)

    back()
    forth = partial(daemon.api.delete, "/networks/foo/endpoints/web?force=true")
    return Stage(forth, back, theirs=[theirs.path], ports=HELD, back_is_one=False)


def removed(daemon: CrashDaemon) -> Stage:
    """A container's process is killed: it is taken off both of its networks, its endpoints stay."""
    theirs = daemon.host.container()
    daemon.api.network("foo", **FOO)
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("foo", "web", *PORTS)
    daemon.api.endpoint("bar", "second")
    life = _Life(theirs)

    def back() -> None:
        daemon.api.join("foo", "web", "c1", pid=life.begin())
        daemon.api.join("bar", "second", "c1")

    back()
    forth = partial(life.end, daemon, "sandbox/c1")
    return Stage(forth, back, theirs=[theirs.path], ports=HELD, back_is_one=False)


def endpoint_removed(daemon: CrashDaemon) -> Stage:
    """The process that an endpoint is tied to is killed: it goes, with the container behind it."""
    life = _Life(daemon.host.container())
    daemon.api.network("foo", **FOO)

    def back() -> None:
        daemon.api.endpoint("foo", "web", *PORTS, watch_pid=life.begin())
        daemon.api.join("foo", "web", "c1")

    back()
    forth = partial(life.end, daemon, "endpoint/")
    return Stage(forth, back, ports=HELD, back_is_one=False)


@interrupts("POST /reconcile")
def repaired(daemon: CrashDaemon) -> Stage:
    """Everything that is repaired is broken, but namespaces; the daemon is asked to repair it."""
    _serve(daemon, "c1", "c2")
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("bar", "other")
    daemon.api.join("bar", "other", "c3")
    link, veth = f"snb{daemon.api.reported('foo')['id'][:10]}", daemon.host_link("c1")

    def forth() -> None:
        hosts = daemon.api.get("/sandboxes/c3", verbose="true")["hosts_path"]
        daemon.host.sh("rm", "-f", hosts)
        daemon.host.sh("sysctl", "-qw", "net.ipv4.ip_forward=0")
        daemon.host.sh("nft", "flush", "ruleset")
        daemon.host.sh("ip", "link", "delete", link)
        daemon.host.sh("ip", "link", "delete", veth)
        daemon.host.sh("ip", "link", "add", "snv0123456789", "type", "veth", "peer", "name", "stray0")
        assert _repaired(daemon) >= REPAIRED - {"sandbox"}

    return Stage(forth, lambda: None, ports=HELD, back_is_one=False, differs=False, twice=False)


REPAIRED = {"network", "backend", "sandbox", "file", "rules", "parameter", "stray"}
"""Kinds of drift whose repair is interrupted here."""


def pinned_again(daemon: CrashDaemon) -> Stage:
    """A namespace in which nothing runs is unmounted: a new one takes its place, or its container is let go as at any
    start that finds its namespace gone."""
    daemon.api.network("foo", **FOO)
    daemon.api.endpoint("foo", "web", *PORTS)

    def back() -> None:
        with suppress(RefusedError):
            daemon.api.leave("foo", "web", "c1")

    def forth() -> None:
        if not daemon.api.get("/sandboxes"):
            daemon.api.join("foo", "web", "c1")
        eventually(lambda: _unmounted(daemon, daemon.pinned()[0]))
        assert "sandbox" in _repaired(daemon)

    return Stage(forth, back, ports=HELD, back_is_one=False, twice=False)


def _unmounted(daemon: CrashDaemon, path: str) -> bool:
    """Unmount a namespace, unless it is busy just now: the daemon reads it now and then."""
    try:
        daemon.host.sh("umount", path)
    except AssertionError as failure:
        if "busy" not in str(failure):
            raise
        return False
    return True


FAULT_SCENARIOS: tuple[Setting, ...] = (
    network_forced, service_forced, endpoint_forced, removed, endpoint_removed, repaired, pinned_again,
)  # fmt: skip


class _Life:
    """A process in a namespace, one after another."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> int:
        """The number of a new one."""
        self._process = self._container.popen("sleep", "infinity")
        return self._process.pid

    def end(self, daemon: CrashDaemon, key: str) -> None:
        """Kill it, and wait until no key of the store begins so.

        Raises:
            httpx.ConnectError: the daemon is dead, and nothing notices it.
        """
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

        def is_noticed() -> bool:
            if not daemon.is_running():
                raise httpx.ConnectError("the daemon is dead")
            return not any(each.startswith(key) for each in entries(daemon))

        eventually(is_noticed)


def _serve(daemon: CrashDaemon, *containers: str) -> None:
    daemon.api.network("foo", **FOO)
    _publish(daemon, *containers)


def _publish(daemon: CrashDaemon, *containers: str) -> None:
    daemon.api.post("/services", name="web", network_name="foo", port_mapping=[*PORTS])
    for container in containers:
        daemon.api.post("/services/web/backend", container_id=container)


def _repaired(daemon: CrashDaemon) -> set[str]:
    """The kinds of drift that were repaired, until there is none: the kernel takes a moment to clear away what goes
    with a namespace."""
    kinds: set[str] = set()

    def is_whole() -> bool:
        reported = daemon.api.post("/reconcile", fix=True)["drift"]
        kinds.update(drift["kind"] for drift in reported if drift["done"] == "repaired")
        return not reported

    eventually(is_whole)
    return kinds
