"""The daemon under the restrictions of its systemd unit, and the unit itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandnet.resolver import PRIORITY
from tests.support.confined_daemon import CAPABILITIES, settings
from tests.support.daemon import HOST_ADDRESS, RunningDaemon, mapping
from tests.support.dns_servers import expected_user
from tests.support.name_cases import lookup
from tests.support.network_host import eventually
from tests.support.privileges import needs_other_users
from tests.support.traffic import UDP, until

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "systemd" / "sandnet.service"
CONFINED = Path(__file__).parents[1] / "support" / "confined_daemon.py"
EXPOSURE = 5.7
"""The most that ``systemd-analyze security`` may report, of ten. It cannot know what hides sandboxes from the host, nor
that the daemon may become another user so that the resolver has no right at all."""
HIDING = re.compile(
    r"^(?:Private(?!Users)\w+|Protect(?!Clock|Hostname)\w+|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|ExecPaths"
    r"|NoExecPaths|TemporaryFileSystem|Bind(?:ReadOnly)?Paths|Root\w+|MountFlags|MountImages|DynamicUser|LogNamespace"
    r"|ProcSubset|LoadCredential\w*|SetCredential\w*)$"
)
"""Settings that give a service mounts of its own (systemd.exec(5))."""


@pytest.fixture
def confined(fresh_daemon: RunningDaemon) -> RunningDaemon:
    """A daemon that may do what the unit allows."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    fresh_daemon.start(through=[sys.executable, str(CONFINED), str(UNIT)])
    return fresh_daemon


def capabilities(pid: int, kind: str) -> set[str]:
    (line,) = re.findall(rf"^{kind}:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if int(line, 16) >> number & 1}


def users(pid: int) -> set[int]:
    """Real, effective, saved and file system user of a process."""
    (line,) = re.findall(r"^Uid:\s*(.+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {int(word) for word in line.split()}


def foreign_sandbox(daemon: RunningDaemon, user: str) -> int:
    """A process of that user in a network namespace of its own; its pid."""
    command = ["unshare", "--net", "setpriv", f"--reuid={user}", "--clear-groups", "sleep", "1000"]
    process = daemon.host.popen(*command)
    eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
    return process.pid


@needs_other_users
@pytest.mark.timeout(120)
def test_everything_works_under_the_unit_restrictions(confined: RunningDaemon) -> None:
    daemon, api = confined, confined.api
    assert daemon.process
    kept = set(settings(UNIT)["CapabilityBoundingSet"])
    assert capabilities(daemon.process.pid, "CapBnd") == capabilities(daemon.process.pid, "CapEff") == kept
    eventually(lambda: api.get("/healthz")["status"] == "ok")  # the resolver may start a moment later
    (resolver,) = daemon.resolvers()
    assert capabilities(resolver, "CapPrm") == set()
    assert users(resolver) == {expected_user()}
    if re.search(rf"^Max nice priority\s+{20 - PRIORITY} ", Path(f"/proc/{resolver}/limits").read_text(), re.MULTILINE):
        assert os.getpriority(os.PRIO_PROCESS, resolver) == PRIORITY
    api.network("blue", subnet_ipv6="fd00:5::/64")
    folder = daemon.files / "other"
    folder.mkdir(mode=0o700)
    shutil.chown(folder, 4242)
    ports = (mapping(80, 80), mapping(53, 0, proto=UDP))
    web = daemon.sandbox("blue", "web", *ports, join={"hosts_path": f"{folder}/hosts"})
    other = daemon.sandbox("blue", "other", join={"pid": foreign_sandbox(daemon, "4242")})
    web.serve("web", 80)
    assert other.ask(web.address, 80).server == "web"
    assert daemon.outside.ask(HOST_ADDRESS, 80).server == "web"
    assert other.reaches(web.address6)
    until(lambda: web.address in lookup(other, "web"))
    assert web.address in other.sh("dig", "+short", "@127.0.0.11", "web")
    second = api.post("/services/web/backend", container_id="second")  # an address is announced when the holder leaves
    api.leave("blue", "web", web.container)
    assert api.get("/services/web/backend")[0]["id"] == "second"
    assert second
    daemon.stop()
    daemon.start(through=[sys.executable, str(CONFINED), str(UNIT)])
    eventually(lambda: api.get("/healthz")["status"] == "ok")
    api.clear()
    daemon.stop()
    daemon.down()
    assert daemon.facts()._replace(files=()) == daemon.before._replace(files=())


def test_unit_does_not_hide_sandboxes_from_the_host() -> None:
    assert [name for name in settings(UNIT) if HIDING.match(name)] == []


def test_unit_exposure_score_of_systemd_is_within_the_limit() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    command = [analyze, "security", "--offline=yes", f"--threshold={int(EXPOSURE * 10)}", str(UNIT)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in judged.stderr:
        pytest.skip("systemd is older than 250")
    assert judged.returncode == 0, judged.stdout + judged.stderr
