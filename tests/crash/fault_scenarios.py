"""More that is interrupted: forced deletions, the burial of the dead, and repairs."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import partial

import httpx

from tests.crash.coverage import interrupts
from tests.crash.facts import entries
from tests.crash.scenarios import BAR, FOO, HELD, PORTS, Setting, Stage
from tests.crash.world import CrashWorld
from tests.support.daemon import RefusedError
from tests.support.network_host import Container, eventually


@interrupts("DELETE /networks/{network}?force")
def network_forced(world: CrashWorld) -> Stage:
    """A network goes with a service and two backends, one of which is on another network too."""
    world.api.network("bar", **BAR)
    world.api.endpoint("bar", "other")
    world.api.join("bar", "other", "c1")
    back = partial(_serve, world, "c1", "c2")
    back()
    return Stage(partial(world.api.delete, "/networks/foo?force=true"), back, ports=HELD, back_is_one=False)


@interrupts("DELETE /services/{service}?force")
def service_forced(world: CrashWorld) -> Stage:
    """A service goes with its backends."""
    _serve(world, "c1", "c2")
    return Stage(
        partial(world.api.delete, "/services/web?force=true"),
        partial(_publish, world, "c1", "c2"),
        ports=HELD,
        back_is_one=False,
    )


@interrupts("DELETE /networks/{network}/endpoints/{endpoint}?force")
def endpoint_forced(world: CrashWorld) -> Stage:
    """An endpoint goes with its container, whose namespace is somebody else's."""
    theirs = world.host.container()
    world.api.network("foo", **FOO)

    def back() -> None:
        world.api.endpoint("foo", "web", *PORTS)
        world.api.join("foo", "web", "c1", netns=theirs.path)

    back()
    forth = partial(world.api.delete, "/networks/foo/endpoints/web?force=true")
    return Stage(forth, back, theirs=[theirs.path], ports=HELD, back_is_one=False)


def buried(world: CrashWorld) -> Stage:
    """A container's process is killed: it is taken off both of its networks, its endpoints stay."""
    theirs = world.host.container()
    world.api.network("foo", **FOO)
    world.api.network("bar", **BAR)
    world.api.endpoint("foo", "web", *PORTS)
    world.api.endpoint("bar", "second")
    life = _Life(theirs)

    def back() -> None:
        world.api.join("foo", "web", "c1", pid=life.begin())
        world.api.join("bar", "second", "c1")

    back()
    forth = partial(life.end, world, "sandbox/c1")
    return Stage(forth, back, theirs=[theirs.path], ports=HELD, back_is_one=False)


def endpoint_buried(world: CrashWorld) -> Stage:
    """The process that an endpoint is tied to is killed: it goes, with the container behind it."""
    life = _Life(world.host.container())
    world.api.network("foo", **FOO)

    def back() -> None:
        world.api.endpoint("foo", "web", *PORTS, watch_pid=life.begin())
        world.api.join("foo", "web", "c1")

    back()
    forth = partial(life.end, world, "endpoint/")
    return Stage(forth, back, ports=HELD, back_is_one=False)


@interrupts("POST /reconcile")
def repaired(world: CrashWorld) -> Stage:
    """Everything that is repaired is broken, but namespaces; the daemon is asked to repair it."""
    _serve(world, "c1", "c2")
    world.api.network("bar", **BAR)
    world.api.endpoint("bar", "other")
    world.api.join("bar", "other", "c3")
    link, veth = f"snb{world.api.told('foo')['id'][:10]}", world.host_link("c1")

    def forth() -> None:
        hosts = world.api.get("/sandboxes/c3", verbose="true")["hosts_path"]
        world.host.sh("rm", "-f", hosts)
        world.host.sh("sysctl", "-qw", "net.ipv4.ip_forward=0")
        world.host.sh("nft", "flush", "ruleset")
        world.host.sh("ip", "link", "delete", link)
        world.host.sh("ip", "link", "delete", veth)
        world.host.sh("ip", "link", "add", "snv0123456789", "type", "veth", "peer", "name", "stray0")
        assert _mended(world) >= REPAIRED - {"sandbox"}

    return Stage(forth, lambda: None, ports=HELD, back_is_one=False, differs=False, twice=False)


REPAIRED = {"network", "backend", "sandbox", "file", "rules", "parameter", "stray"}
"""Kinds of drift whose repair is interrupted here."""


def pinned_again(world: CrashWorld) -> Stage:
    """A namespace in which nothing runs is unmounted: a new one takes its place, or its container is let go as at any
    start that finds its namespace gone."""
    world.api.network("foo", **FOO)
    world.api.endpoint("foo", "web", *PORTS)

    def back() -> None:
        with suppress(RefusedError):
            world.api.leave("foo", "web", "c1")

    def forth() -> None:
        if not world.api.get("/sandboxes"):
            world.api.join("foo", "web", "c1")
        eventually(lambda: _unmounted(world, world.pinned()[0]), 5)
        assert "sandbox" in _mended(world)

    return Stage(forth, back, ports=HELD, back_is_one=False, twice=False)


def _unmounted(world: CrashWorld, path: str) -> bool:
    """Unmount a namespace, unless it is busy just now: the daemon reads it now and then."""
    try:
        world.host.sh("umount", path)
    except AssertionError as failure:
        if "busy" not in str(failure):
            raise
        return False
    return True


MISHAPS: tuple[Setting, ...] = (
    network_forced, service_forced, endpoint_forced, buried, endpoint_buried, repaired, pinned_again,
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

    def end(self, world: CrashWorld, key: str) -> None:
        """Kill it, and wait until no key of the store begins so.

        Raises:
            httpx.ConnectError: the daemon is dead, and nobody notices anything.
        """
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

        def is_noticed() -> bool:
            if not world.is_running():
                raise httpx.ConnectError("the daemon is dead")
            return not any(each.startswith(key) for each in entries(world))

        eventually(is_noticed)


def _serve(world: CrashWorld, *containers: str) -> None:
    world.api.network("foo", **FOO)
    _publish(world, *containers)


def _publish(world: CrashWorld, *containers: str) -> None:
    world.api.post("/services", name="web", network_name="foo", port_mapping=[*PORTS])
    for container in containers:
        world.api.post("/services/web/backend", container_id=container)


def _mended(world: CrashWorld) -> set[str]:
    """The kinds of drift that were repaired, until there is none: the kernel takes a moment to clear away what goes
    with a namespace."""
    kinds: set[str] = set()

    def is_whole() -> bool:
        told = world.api.post("/reconcile", fix=True)["drift"]
        kinds.update(drift["kind"] for drift in told if drift["done"] == "repaired")
        return not told

    eventually(is_whole)
    return kinds
