"""The daemon under a live systemd, by the units as they are handed out."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from sandnet.resolver import PRIORITY
from tests.e2e.test_remote import URL, called, put
from tests.support.certificates import Authority
from tests.support.confined_daemon import settings
from tests.support.daemon import HOST_ADDRESS, SANDNET, RunningDaemon, Sandbox, mapping
from tests.support.name_cases import lookup
from tests.support.network_host import eventually
from tests.support.systemd import UNITS, Manager, missing
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(240)
CRASHES = 7
"""More than the five starts in ten seconds after which systemd gives a service up, unless it is configured not to."""

AS_RESOLVER = ("setpriv", "--reuid=sandnet-resolver", "--regid=sandnet-resolver", "--clear-groups")
CONNECT = """
import socket, sys
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as failure:
    print(type(failure).__name__)
"""


@pytest.fixture
def manager(fresh_daemon: RunningDaemon) -> Iterator[Manager]:
    if reason := missing():
        pytest.skip(reason)
    made = Manager(fresh_daemon)
    yield made
    made.close()


def assert_all_goes_on(daemon: RunningDaemon, web: Sandbox, other: Sandbox) -> None:
    """A published port, the network and the names."""
    assert daemon.outside.ask(HOST_ADDRESS, 80).server == "web"
    assert other.reaches(web.address6)
    until(lambda: web.address in lookup(other, "web"))  # the resolver may start a moment after the daemon
    assert web.address in other.sh("dig", "+short", "@127.0.0.11", "web")


def uid_of(status: str) -> str:
    """The one user in all four places (proc_pid_status(5))."""
    (line,) = re.findall(r"^Uid:\s*(.+)$", status, re.MULTILINE)
    (uid,) = {str(word) for word in line.split()}
    return uid


def wait_for_restart(manager: Manager, count: int) -> None:
    """Until it was started again that often."""
    eventually(lambda: manager.reported("ActiveState") == "failed" or int(manager.reported("NRestarts")) >= count)
    eventually(lambda: manager.daemon or manager.reported("ActiveState") == "failed")
    assert manager.reported("ActiveState") != "failed", f"given up after {count} crashes"


def test_sandboxes_survive_every_systemd_transition(fresh_daemon: RunningDaemon, manager: Manager) -> None:
    daemon, api = fresh_daemon, fresh_daemon.api
    manager.control("start", "sandnet.socket")
    assert manager.daemon == 0
    api.network("blue", subnet_ipv6="fd00:5::/64")  # the first request starts it
    first = manager.daemon
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")  # the resolver may start later
    (resolver,) = manager.others()
    web, other = daemon.sandbox("blue", "web", mapping(80, 80)), daemon.sandbox("blue", "other")
    web.serve("web", 80)
    assert_all_goes_on(daemon, web, other)

    manager.sh("kill", "-9", str(first))
    assert_all_goes_on(daemon, web, other)
    eventually(lambda: api.get("/healthz")["status"] == "ok")  # the socket is systemd's: who asks in the meantime waits
    assert manager.daemon not in (0, first)
    manager.control("restart", "sandnet.service")
    assert_all_goes_on(daemon, web, other)
    manager.control("stop", "sandnet.service")
    assert manager.daemon == 0
    assert manager.others() == [resolver]
    assert_all_goes_on(daemon, web, other)
    eventually(lambda: api.get("/healthz")["status"] == "ok")  # the socket starts it once more

    api.clear()
    manager.down()
    assert manager.others() == []
    assert daemon.facts()._replace(files=()) == daemon.before._replace(files=())


def is_other_than(manager: Manager, killed: int) -> bool:
    return manager.daemon != killed


def test_requests_of_an_engine_wait_while_the_daemon_is_away(fresh_daemon: RunningDaemon, manager: Manager) -> None:
    manager.control("start", "sandnet-plugin.socket")
    path = Path(f"/proc/{manager.pid}/root/run/docker/plugins/sandnet.sock")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://plugin", timeout=40) as engine:
        for _ in range(3):
            assert engine.post("/Plugin.Activate").json()["Implements"] == ["NetworkDriver", "IpamDriver"]
            killed = manager.daemon
            manager.sh("kill", "-9", str(killed))  # systemd or the next request starts it again
            eventually(partial(is_other_than, manager, killed))
    eventually(lambda: fresh_daemon.api.get("/healthz")["status"] == "ok")
    manager.control("stop", "sandnet-plugin.socket")
    manager.down()


def test_daemon_under_systemd_has_exactly_the_unit_privileges(fresh_daemon: RunningDaemon, manager: Manager) -> None:
    daemon = fresh_daemon
    manager.control("start", "sandnet.service")
    assert manager.reported("ActiveState") == "active"
    assert stat.S_IMODE((daemon.run / "sandnet.sock").stat().st_mode) == 0o660
    assert manager.sh("stat", "--format=%U %G", "/run/sandnet/sandnet.sock") == "root sandnet\n"
    assert manager.sh("stat", "--format=%U %a", "/var/lib/sandnet") == "root 700\n"
    kept = set(settings(UNITS / "sandnet.service")["CapabilityBoundingSet"])
    assert manager.capabilities(manager.daemon, "CapBnd") == kept
    assert manager.capabilities(manager.daemon, "CapEff") == kept
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")  # the resolver may start later
    (resolver,) = manager.others()
    assert manager.capabilities(resolver, "CapPrm") == set()
    assert manager.sh("id", "-un", uid_of(manager.sh("cat", f"/proc/{resolver}/status"))) == "sandnet-resolver\n"
    assert manager.sh("cat", f"/proc/{resolver}/oom_score_adj") == "0\n"
    assert manager.reported("LimitNICE") == str(20 - PRIORITY)
    if f"Max nice priority         {20 - PRIORITY}" in manager.sh("cat", f"/proc/{resolver}/limits"):
        assert manager.sh("ps", "-o", "ni=", "-p", str(resolver)).strip() == str(PRIORITY)
    assert manager.reported("MemoryMax") == str(2 << 30)
    for name in ("sandnet.sock", "dns.sock"):
        assert manager.sh(*AS_RESOLVER, sys.executable, "-c", CONNECT, f"/run/sandnet/{name}") == "PermissionError\n"
    for pid in (manager.daemon, resolver):
        status = manager.sh("cat", f"/proc/{pid}/status")
        assert "NoNewPrivs:\t1\n" in status
        assert "Umask:\t0027\n" in status
        assert "Seccomp:\t2\n" in status
    daemon.api.network("blue")
    key = daemon.sandbox("blue", "web").key
    seen = manager.sh("findmnt", "--noheadings", "--output=TARGET", "--task=1", "--types=nsfs")
    assert key.removeprefix("/var") in seen.split()  # where process 1 is, everybody is
    manager.down()


def test_systemd_never_gives_up_on_a_crashing_daemon(fresh_daemon: RunningDaemon, manager: Manager) -> None:
    manager.drop_in("hurry", "RestartSec=10ms")
    manager.control("start", "sandnet.socket", "sandnet.service")
    for crash in range(CRASHES):
        manager.control("kill", "--kill-whom=main", "--signal=KILL", "sandnet.service")
        wait_for_restart(manager, crash + 1)
    eventually(lambda: fresh_daemon.api.get("/healthz")["status"] == "ok")
    assert int(manager.reported("NRestarts")) == CRASHES
    manager.down()


def test_systemd_reload_applies_renewed_certificates(
    fresh_daemon: RunningDaemon, manager: Manager, tmp_path: Path
) -> None:
    daemon = fresh_daemon
    former, newer = Authority(tmp_path / "former"), Authority(tmp_path / "newer")
    place = tmp_path / "tls"
    place.mkdir()
    files = [place / name for name in ("server.pem", "server.key", "ca.pem")]
    put(files, former.issue("server", use="serverAuth", addresses=(HOST_ADDRESS,)), former)
    options = [f"--tls-{name}={file}" for name, file in zip(("cert", "key", "ca"), files, strict=True)]
    command = " ".join([str(SANDNET), "daemon", "-H", URL, *options])
    manager.drop_in("tls", f"ExecStart=\nExecStart={command}")
    manager.control("start", "sandnet.service")
    before = manager.daemon
    assert called(daemon, former, former.issue("me", use="clientAuth"), "network", "ls").returncode == 0

    me = newer.issue("me", use="clientAuth")
    put(files, newer.issue("server", use="serverAuth", addresses=(HOST_ADDRESS,)), newer)
    manager.control("reload", "sandnet.service")
    eventually(lambda: called(daemon, newer, me, "network", "ls").returncode == 0)
    assert manager.daemon == before
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")
    manager.down()
