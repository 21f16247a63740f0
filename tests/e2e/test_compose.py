"""A project of Docker Compose 2, whose networks are sandnet's: one that is there already, and one that it makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import HOST_ADDRESS, RunningDaemon
from tests.support.docker_engine import PLUGIN, SOCKET, DockerEngine, missing
from tests.support.network_host import eventually

REPOSITORY = Path(__file__).parents[2]
COMPOSE = "docker-compose"
"""Its program: Debian's from 13 on."""
PAGE = REPOSITORY / "docs" / "docker.md"


def program() -> str:
    """Docker Compose 2: Debian's, or the one that ``make test`` downloads; empty: there is none."""
    for each in (shutil.which(COMPOSE), str(REPOSITORY / "build" / "compose" / COMPOSE)):
        if each and Path(each).exists():
            found = subprocess.run([each, "version", "--short"], capture_output=True, text=True, check=False).stdout
            if found.strip().removeprefix("v").startswith("2."):
                return each
    return ""


NEED = missing() or ("" if program() else "Docker Compose 2 is not there (scripts/compose build/compose)")
pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(bool(NEED), reason=NEED)]


@pytest.fixture
def docker(fresh_daemon: RunningDaemon, tmp_path: Path) -> Iterator[DockerEngine]:
    daemon = fresh_daemon
    config = daemon.folder / "config.toml"
    api = SOCKET.removeprefix("unix://")
    config.write_text(f'{config.read_text()}plugin_socket = "{PLUGIN}"\nengine_socket = "{api}"\n')
    daemon.netns = Path("/run/docker/netns")
    daemon.start()
    with ExitStack() as stack:
        engine = DockerEngine(daemon.host, tmp_path / "docker")
        stack.callback(engine.close)
        engine.start()
        engine.load_image()
        yield engine
        engine.remove_containers()


def test_project_uses_networks_of_sandnet(fresh_daemon: RunningDaemon, docker: DockerEngine, tmp_path: Path) -> None:
    daemon = fresh_daemon
    daemon.api.network("blue", subnet="10.5.0.0/24")
    shared = ("--subnet", "10.5.0.0/24", "-o", "network=blue")
    docker("network", "create", "-d", "sandnet", "--ipam-driver", "sandnet", *shared, "blue")
    plain = daemon.sandbox("blue", "plain")
    (project,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "compose.yaml").write_text(project)
    environment = {**os.environ, "DOCKER_HOST": SOCKET, "HOME": str(tmp_path)}

    def compose(*words: str) -> str:
        command = [program(), "--project-directory", str(tmp_path), "--ansi", "never", *words]
        done = daemon.host.run(
            lambda: subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    compose("up", "--detach")
    networks = {each["name"] for each in daemon.api.get("/networks")}
    made = docker.inspect("shop_back")["Id"]
    assert f"docker-{made[:12]}" in networks
    assert docker.address("shop-web-1", "blue") == "10.5.0.10"
    for name in ("web", "www"):
        assert "hello" in compose("exec", "-T", "client", "wget", "-qO-", f"http://{name}/")
        eventually(lambda name=name: plain.sh("dig", "@127.0.0.11", "+short", name).strip() == "10.5.0.10")  # type: ignore[misc]
    outside = daemon.outside
    eventually(lambda: "hello" in outside.sh("curl", "-s", "--max-time", "5", f"http://{HOST_ADDRESS}:8080/"))
    compose("restart", "--timeout", "0", "web")
    eventually(lambda: "hello" in outside.sh("curl", "-s", "--max-time", "5", f"http://{HOST_ADDRESS}:8080/"))
    compose("down", "--timeout", "0")
    left = {each["name"] for each in daemon.api.get("/networks")}
    assert left == networks - {f"docker-{made[:12]}"}
    assert "blue" in docker("network", "ls", "--format", "{{.Name}}").split()
    docker("network", "rm", "blue")
    daemon.api.leave("blue", "plain", plain.container)
    daemon.api.delete("/networks/blue/endpoints/plain")
    daemon.api.delete("/networks/blue")
