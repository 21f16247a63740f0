"""A Docker Engine and a daemon that name the engine's directory in two ways, or have different ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.docker_engine import PLUGIN, SOCKET, DockerEngine, missing
from tests.support.network_host import eventually

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture
def beside(fresh_daemon: RunningDaemon, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DockerEngine]:
    """An engine whose directory is the parameter; the daemon has its own default, ``/var/run/docker/netns``."""
    daemon = fresh_daemon
    config = daemon.folder / "config.toml"
    api = SOCKET.removeprefix("unix://")
    config.write_text(f'{config.read_text()}plugin_socket = "{PLUGIN}"\nengine_socket = "{api}"\n')
    daemon.netns = Path("/var/run/docker/netns")
    daemon.start()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, tmp_path / "docker", ignore_errors=True)
        engine = DockerEngine(daemon.host, tmp_path / "docker", request.param)
        stack.callback(engine.close)
        engine.start()
        engine.load_image()
        yield engine
        engine.remove_containers()


def learned(daemon: RunningDaemon) -> bool:
    """Whether the name of the engine's container is its endpoint's."""
    return any("web" in (each.get("aliases") or ()) for each in daemon.api.get("/services", verbose="true"))


@pytest.mark.parametrize("beside", ["/run/docker", "/var/run/docker"], indirect=True)
def test_names_are_served_below_the_default_directory(fresh_daemon: RunningDaemon, beside: DockerEngine) -> None:
    daemon, docker = fresh_daemon, beside
    docker("network", "create", "-d", "sandnet", "--ipam-driver", "sandnet", "one")
    docker.container("one", "web", "--dns", "127.0.0.12", "--dns-search", ".")
    eventually(lambda: learned(daemon))
    (network,) = (each["name"] for each in daemon.api.get("/networks") if each["name"].startswith("docker-"))
    plain = daemon.sandbox(network, "plain")
    eventually(lambda: plain.address in docker.execute("web", "nslookup", f"plain.{network}").stdout)
    daemon.api.leave(network, "plain", plain.container)
    daemon.api.delete(f"/networks/{network}/endpoints/plain")


@pytest.mark.parametrize("beside", ["/run/elsewhere"], indirect=True)
def test_names_are_learnt_where_none_are_served(fresh_daemon: RunningDaemon, beside: DockerEngine) -> None:
    daemon, docker = fresh_daemon, beside
    docker("network", "create", "-d", "sandnet", "--ipam-driver", "sandnet", "one")
    address = docker.container("one", "web")
    eventually(lambda: learned(daemon))
    (network,) = (each["name"] for each in daemon.api.get("/networks") if each["name"].startswith("docker-"))
    plain = daemon.sandbox(network, "plain")
    assert plain.sh("dig", "@127.0.0.11", "+short", "web").strip() == address
    daemon.api.leave(network, "plain", plain.container)
    daemon.api.delete(f"/networks/{network}/endpoints/plain")
