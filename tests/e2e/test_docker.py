"""A real Docker Engine whose networks are sandnet's, by its network plugin protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import OUTSIDE_ADDRESS, RunningDaemon
from tests.support.docker_engine import PLUGIN, DockerEngine, missing
from tests.support.network_host import eventually

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("sandnet"))
    config = running.folder / "config.toml"
    config.write_text(config.read_text() + f'plugin_socket = "{PLUGIN}"\n')
    running.start()
    yield running
    running.close()


@pytest.fixture(scope="module")
def engine(daemon: RunningDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    running = DockerEngine(daemon.host, tmp_path_factory.mktemp("docker"))
    try:
        running.start()
        running.load_image()
        yield running
    finally:
        running.close()


@pytest.fixture
def docker(engine: DockerEngine, daemon: RunningDaemon) -> Iterator[DockerEngine]:
    """The engine; each test leaves nothing behind, neither with it nor with sandnet."""
    yield engine
    engine.remove_containers()
    left = [each["name"] for each in daemon.api.get("/networks") if each["name"].startswith("docker-")]
    assert not left
    eventually(lambda: not [name for name in daemon.our_links() if name.startswith(("snv", "sne"))])


def create(docker: DockerEngine, name: str, *options: str) -> str:
    return docker("network", "create", "-d", "sandnet", "--ipam-driver", "sandnet", *options, name)


def test_containers_on_a_network_reach_each_other(docker: DockerEngine, daemon: RunningDaemon) -> None:
    network = create(docker, "one")
    assert daemon.api.told(network)["id"] == network
    docker.container("one", "box-a")
    address = docker.container("one", "box-b")
    assert docker.pings("box-a", address)
    assert docker.pings("box-a", OUTSIDE_ADDRESS)
    docker("rm", "-f", "box-a", "box-b")
    docker("network", "rm", "one")
