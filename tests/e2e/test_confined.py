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
from tests.e2e.confined import CAPABILITIES, settings
from tests.support.daemon import HOST_ADDRESS, World, mapping
from tests.support.dns_servers import expected_user
from tests.support.network_host import eventually
from tests.support.traffic import UDP

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "systemd" / "sandnet.service"
CONFINED = Path(__file__).with_name("confined.py")
EXPOSURE = 5.7
"""At most this, of ten, says ``systemd-analyze security``. It cannot know what hides sandboxes from the host, nor that
the daemon may become another user so that the resolver has no right at all."""
HIDING = re.compile(
    r"^(?:Private(?!Users)\w+|Protect(?!Clock|Hostname)\w+|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|ExecPaths"
    r"|NoExecPaths|TemporaryFileSystem|Bind(?:ReadOnly)?Paths|Root\w+|MountFlags|MountImages|DynamicUser|LogNamespace"
    r"|ProcSubset|LoadCredential\w*|SetCredential\w*)$"
)
"""Settings that give a service mounts of its own (systemd.exec(5))."""


@pytest.fixture
def confined(fresh_world: World) -> World:
    """A world whose daemon may do what the unit allows."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    fresh_world.start(through=[sys.executable, str(CONFINED), str(UNIT)])
    return fresh_world


def capabilities(pid: int, kind: str) -> set[str]:
    (line,) = re.findall(rf"^{kind}:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if int(line, 16) >> number & 1}


def users(pid: int) -> set[int]:
    """Real, effective, saved and file system user of a process."""
    (line,) = re.findall(r"^Uid:\s*(.+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {int(word) for word in line.split()}


def foreign_sandbox(world: World, user: str) -> int:
    """A process of that user in a network namespace of its own; its pid."""
    command = ["unshare", "--net", "setpriv", f"--reuid={user}", "--clear-groups", "sleep", "1000"]
    process = world.host.popen(*command)
    eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
    return process.pid


@pytest.mark.timeout(120)
def test_given_the_units_restrictions_when_everything_is_made_and_unmade_then_it_works(confined: World) -> None:
    world, api = confined, confined.api
    assert world.process
    kept = set(settings(UNIT)["CapabilityBoundingSet"])
    assert capabilities(world.process.pid, "CapBnd") == capabilities(world.process.pid, "CapEff") == kept
    (resolver,) = world.resolvers()
    assert capabilities(resolver, "CapPrm") == set()
    assert users(resolver) == {expected_user()}
    if re.search(rf"^Max nice priority\s+{20 - PRIORITY} ", Path(f"/proc/{resolver}/limits").read_text(), re.MULTILINE):
        assert os.getpriority(os.PRIO_PROCESS, resolver) == PRIORITY
    assert api.get("/healthz")["status"] == "ok"
    api.network("blue", subnet_ipv6="fd00:5::/64")
    folder = world.files / "other"
    folder.mkdir(mode=0o700)
    shutil.chown(folder, 4242)
    ports = (mapping(80, 80), mapping(53, 0, proto=UDP))
    web = world.box("blue", "web", *ports, join={"hosts_path": f"{folder}/hosts"})
    other = world.box("blue", "other", join={"pid": foreign_sandbox(world, "4242")})
    web.serve("web", 80)
    assert other.ask(web.address, 80).server == "web"
    assert world.outside.ask(HOST_ADDRESS, 80).server == "web"
    assert other.reaches(web.address6)
    assert web.address in other.sh("dig", "+short", "@127.0.0.11", "web")
    second = api.post("/services/web/backend", container_id="second")  # an address is announced when the holder leaves
    api.leave("blue", "web", web.container)
    assert api.get("/services/web/backend")[0]["id"] == "second"
    assert second
    world.stop()
    world.start(through=[sys.executable, str(CONFINED), str(UNIT)])
    assert api.get("/healthz")["status"] == "ok"
    api.clear()
    world.stop()
    world.down()
    assert world.facts()._replace(files=()) == world.before._replace(files=())


def test_given_the_unit_when_read_then_nothing_in_it_hides_sandboxes_from_the_host() -> None:
    assert [name for name in settings(UNIT) if HIDING.match(name)] == []


def test_given_the_unit_when_systemd_judges_it_then_it_is_exposed_no_more_than_it_must_be() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    command = [analyze, "security", "--offline=yes", f"--threshold={int(EXPOSURE * 10)}", str(UNIT)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in judged.stderr:
        pytest.skip("systemd is older than 250")
    assert judged.returncode == 0, judged.stdout + judged.stderr
