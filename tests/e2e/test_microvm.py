"""A virtual machine on a network, by a tap: a real guest of QEMU (docs/microvms.md)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.support.daemon import HOST_ADDRESS, RunningDaemon
from tests.support.guest import HELLO, Guest
from tests.support.network_host import eventually
from tests.support.privileges import needs_other_users

pytestmark = pytest.mark.timeout(400)
OWNER = 1
BOOT = 120.0
"""Seconds that a guest may take to serve (it takes about ten, without the help of the processor)."""
ADDRESS, NEIGHBOUR, FORGED = "10.9.0.2", "10.9.0.3", "10.9.0.77"
ADDRESS6, GATEWAY6 = "fd00:9::242:a09:2", "fd00:9::1"
PAGES = {
    "answers": f"ping -c 1 -W 5 {NEIGHBOUR} > /dev/null && echo yes",
    "resolves": "nslookup web",
    "resolves6": f"ip address add {ADDRESS6}/64 dev eth0; nslookup web.front {GATEWAY6}",
    "forges": f"ip address add {FORGED}/24 dev eth0; ping -c1 -W2 -I {FORGED} {NEIGHBOUR} > /dev/null; echo status $?",
}

P = ParamSpec("P")
T = TypeVar("T")


class InSandbox:
    """The namespace of a sandbox, as a place where commands run."""

    def __init__(self, daemon: RunningDaemon, key: str) -> None:
        self._host, self._key = daemon.host, key

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the job returns there."""
        return self._host.inside(self._key, job, *args, **kwargs)

    def sh(self, *command: str) -> str:
        """The output of a command."""
        return self._host.sh(*command, namespace=self._key)

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """A process that is started there."""
        return self.run(self._host.start_here, *command)


@pytest.fixture
def guest(fresh_daemon: RunningDaemon, tmp_path: Path) -> Iterator[Guest]:
    """A guest that boots, as a service with a published port."""
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("front", subnet="10.9.0.0/24", subnet_ipv6="fd00:9::/64")
    daemon.cli("service", "publish", "-p", "8080:80", "vm.front")
    daemon.cli("service", "attach", "--type", "tap", "--owner", str(OWNER), "--hostname", "box", "vm-1", "vm.front")
    arguments, kernel = (daemon.cli("sandbox", "taps", "--format", style, "vm-1") for style in ("qemu", "kernel"))
    machine = Guest(daemon.host, tmp_path, arguments, kernel.strip(), OWNER, PAGES)
    yield machine
    machine.close()


def fetched(daemon: RunningDaemon, url: str, namespace: str = "") -> str:
    """Return a page of the guest; empty: it does not serve (yet)."""

    def fetch() -> str:
        command = ["curl", "--silent", "--connect-timeout", "2", "--max-time", "30", url]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return daemon.host.inside(namespace, fetch) if namespace else daemon.host.run(fetch)


@needs_other_users
@pytest.mark.attaches("qemu")
def test_a_guest_is_reached_resolved_published_and_guarded(fresh_daemon: RunningDaemon, guest: Guest) -> None:
    daemon = fresh_daemon
    neighbour = daemon.sandbox("front", "web")
    assert neighbour.address == NEIGHBOUR

    def serves() -> bool:
        assert guest.process.poll() is None, guest.console
        return fetched(daemon, f"http://{ADDRESS}/") == HELLO

    eventually(serves, BOOT)

    # reached by its neighbours, by name, and from outside by its port
    assert " 0% packet loss" in neighbour.sh("ping", "-n", "-c", "1", "-W", "10", ADDRESS)
    names = ("vm", "vm.front", "box")
    found = daemon.cli("sandbox", "exec", neighbour.container, "--", "getent", "ahostsv4", *names)
    assert found.count(ADDRESS) == 3 * len(names)  # one for each kind of socket
    eventually(lambda: fetched(daemon, f"http://{HOST_ADDRESS}:8080/", daemon.outside.namespace) == HELLO)
    eventually(lambda: fetched(daemon, f"http://{ADDRESS}/cgi-bin/answers") == "yes")

    eventually(lambda: NEIGHBOUR in fetched(daemon, f"http://{ADDRESS}/cgi-bin/resolves"))
    assert daemon.api.reported("front", "vm")["address_ipv6"] == f"{ADDRESS6}/64"
    eventually(lambda: neighbour.address6 in fetched(daemon, f"http://{ADDRESS}/cgi-bin/resolves6"))

    # guarded: an address that is not its own reaches no neighbour
    eventually(lambda: fetched(daemon, f"http://{ADDRESS}/cgi-bin/forges") == "status 1")
    assert FORGED not in neighbour.sh("ip", "neighbour")

    # served while the daemon restarts, and gone with its leave
    daemon.kill()
    eventually(lambda: fetched(daemon, f"http://{ADDRESS}/") == HELLO)
    daemon.start()
    eventually(lambda: fetched(daemon, f"http://{HOST_ADDRESS}:8080/", daemon.outside.namespace) == HELLO)
    device = daemon.api.get("/sandboxes/vm-1", verbose="true")["interfaces"][0]["tap"]["device"]
    daemon.cli("service", "detach", "vm-1", "vm.front")
    eventually(lambda: device not in daemon.links())


@needs_other_users
def test_a_guest_runs_in_the_namespace_of_its_tap(fresh_daemon: RunningDaemon, tmp_path: Path) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("front", subnet="10.9.0.0/24")
    daemon.cli("service", "publish", "-p", "8080:80", "vm.front")
    place = ("--type", "tap", "--tap-place", "sandbox")
    arguments = daemon.cli("service", "attach", *place, "--owner", str(OWNER), "--format", "qemu", "vm-1", "vm.front")
    kernel = daemon.cli("sandbox", "taps", "--format", "kernel", "vm-1")
    assert daemon.sandbox("front", "web").address == NEIGHBOUR
    inside = InSandbox(daemon, str(daemon.netns / "vm-1"))
    machine = Guest(inside, tmp_path, arguments, kernel.strip(), OWNER, PAGES)
    try:
        eventually(lambda: fetched(daemon, f"http://{ADDRESS}/") == HELLO, BOOT)
        eventually(lambda: fetched(daemon, f"http://{HOST_ADDRESS}:8080/", daemon.outside.namespace) == HELLO)
        eventually(lambda: fetched(daemon, f"http://{ADDRESS}/cgi-bin/answers") == "yes")
        eventually(lambda: NEIGHBOUR in fetched(daemon, f"http://{ADDRESS}/cgi-bin/resolves"))
        eventually(lambda: fetched(daemon, f"http://{ADDRESS}/cgi-bin/forges") == "status 1")
    finally:
        machine.close()
