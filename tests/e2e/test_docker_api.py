"""The real docker command and docker-py as clients of the daemon (docs/docker-api.md)."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from docker import DockerClient as PythonClient  # type: ignore[import-untyped]
from docker import errors as python_errors

from tests.support.daemon import RunningDaemon
from tests.support.docker_client import DEBIAN_DOCKER, DockerClient, docker_commands
from tests.support.network_host import eventually
from tests.support.oci_bundle import OciRuntime
from tests.support.privileges import needs_runtimes

pytestmark = pytest.mark.skipif(not docker_commands(), reason="docker is not installed (Debian package docker.io)")


@pytest.fixture(params=docker_commands() or [DEBIAN_DOCKER])
def docker(daemon: RunningDaemon, request: pytest.FixtureRequest) -> DockerClient:
    """Each docker command of this machine in turn."""
    return DockerClient(daemon, request.param)


@pytest.fixture
def python(daemon: RunningDaemon) -> Iterator[PythonClient]:
    """docker-py, which chooses the version itself."""
    with closing(daemon.host.run(lambda: PythonClient(base_url=f"unix://{daemon.run}/sandnet.sock"))) as client:
        yield client


def test_docker_command_creates_shows_and_removes_a_network(docker: DockerClient, daemon: RunningDaemon) -> None:
    options = ("--subnet", "10.71.0.0/24", "--ip-range", "10.71.0.128/25", "--gateway", "10.71.0.9")
    more = ("--aux-address", "printer=10.71.0.5", "--label", "team=a", "-o", "com.docker.network.driver.mtu=1400")
    ipv6 = ("--ipv6", "--subnet", "fd00:71::/64", "--internal")
    identifier = docker("network", "create", *options, *more, *ipv6, "blue")
    assert daemon.api.reported("blue")["id"] == identifier
    shown = docker.inspect("blue")
    pools = shown["IPAM"]["Config"]
    assert (pools[0]["Subnet"], pools[0]["IPRange"]) == ("10.71.0.0/24", "10.71.0.128/25")
    assert pools[0]["AuxiliaryAddresses"] == {"printer": "10.71.0.5"}
    assert pools[1]["Subnet"] == "fd00:71::/64"
    assert (shown["EnableIPv6"], shown["Internal"], shown["Labels"]) == (True, True, {"team": "a"})
    assert shown["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert docker("network", "ls", "-q", "--no-trunc", "--filter", "name=^blue$") == identifier
    assert docker("network", "ls", "--format", "{{.Name}}", "--filter", "type=builtin").split() == [
        "bridge", "host", "none"
    ]  # fmt: skip
    assert "already exists" in docker.refused("network", "create", "blue")
    assert docker("network", "rm", "blue") == "blue"
    assert "No such network" in docker.refused("network", "inspect", "blue").replace("no such", "No such")
    assert "predefined" in docker.refused("network", "rm", "bridge")


def test_prune_removes_only_what_is_unused(docker: DockerClient, daemon: RunningDaemon) -> None:
    docker("network", "create", "--label", "keep=yes", "kept")
    docker("network", "create", "used")
    docker("network", "create", "idle")
    daemon.sandbox("used", "web")
    assert docker("network", "prune", "-f", "--filter", "until=1h") == ""
    printed = docker("network", "prune", "-f", "--filter", "label!=keep")
    assert "idle" in printed
    assert "used" not in printed
    left = [each["name"] for each in daemon.api.get("/networks")]
    assert left == ["none", "host", "bridge", "kept", "used"]


def test_sandbox_is_connected_by_its_name(docker: DockerClient, daemon: RunningDaemon) -> None:
    daemon.api.network("front")
    docker("network", "create", "--subnet", "10.72.0.0/24", "back")
    web = daemon.sandbox("front", "web")
    peer = daemon.sandbox("back", "peer")
    docker("network", "connect", "--ip", "10.72.0.80", "--alias", "shop", "back", "web")
    eventually(lambda: daemon.host.reaches("10.72.0.80", namespace=peer.key))
    assert daemon.api.reported("back", "web")["aliases"] == ["shop"]
    shown = docker.inspect("back")["Containers"]
    assert shown[web.container]["IPv4Address"] == "10.72.0.80/24"
    assert "already connected" in docker.refused("network", "connect", "back", "web")
    assert "active endpoints" in docker.refused("network", "rm", "back")
    docker("network", "disconnect", "back", web.container[:12])
    assert not daemon.host.reaches("10.72.0.80", namespace=peer.key)
    assert [each["name"] for each in daemon.api.get("/networks/back/endpoints")] == ["peer"]
    assert "not connected" in docker.refused("network", "disconnect", "back", "web")
    docker("network", "disconnect", "front", "web")  # made by another client: its endpoint stays
    assert [each["name"] for each in daemon.api.get("/networks/front/endpoints")] == ["web"]


def test_process_is_connected_until_it_ends(docker: DockerClient, daemon: RunningDaemon) -> None:
    docker("network", "create", "blue")
    theirs = daemon.host.container()
    process = theirs.popen("sleep", "infinity")
    try:
        docker("network", "connect", "blue", str(process.pid))
        (shown,) = docker.inspect("blue")["Containers"].values()
        eventually(lambda: daemon.here.reaches(shown["IPv4Address"].partition("/")[0]))
    finally:
        process.kill()
        process.wait()
    eventually(lambda: docker.inspect("blue")["Containers"] == {})
    assert daemon.api.get("/networks/blue/endpoints") == []
    assert "no such container" in docker.refused("network", "connect", "blue", str(process.pid))


@needs_runtimes
def test_running_container_is_connected_by_its_id(daemon: RunningDaemon) -> None:
    docker = DockerClient(daemon, docker_commands()[0])
    docker("network", "create", "blue")
    with ExitStack() as stack:
        runc = OciRuntime(daemon, "runc")
        stack.callback(runc.close)
        identifier = secrets.token_hex(32)
        runc.start_in_group("web", identifier)
        docker("network", "connect", "blue", identifier[:12])
        assert "eth0" in runc.do_inside("web", "ip", "link")
        docker("network", "disconnect", "blue", identifier)
        assert "eth0" not in runc.do_inside("web", "ip", "link")


def test_what_is_no_network_is_refused_with_a_reason(docker: DockerClient) -> None:
    for words in (("ps",), ("images",), ("volume", "ls"), ("run", "busybox"), ("events",)):
        assert "this is sandnet" in docker.refused(*words)
    assert "sandnet" in docker("version")
    assert "bridge" in docker("info")


def test_docker_py_manages_networks(python: PythonClient, daemon: RunningDaemon) -> None:
    from docker.types import IPAMConfig, IPAMPool  # type: ignore[import-untyped]

    assert python.ping()
    assert python.version()["ApiVersion"] == "1.55"
    pool = IPAMPool(subnet="10.73.0.0/24", gateway="10.73.0.254", aux_addresses={"nas": "10.73.0.1"})
    made = python.networks.create(
        "green", ipam=IPAMConfig(pool_configs=[pool]), labels={"team": "c"}, options={"mtu": "1400"}
    )
    assert [each.name for each in python.networks.list(names=["green"], filters={"label": ["team=c"]})] == ["green"]
    web = daemon.sandbox("bridge", "web")
    made.connect(web.container, ipv4_address="10.73.0.7", aliases=["shop"])
    made.reload()
    assert made.attrs["Containers"][web.container]["IPv4Address"] == "10.73.0.7/24"
    use = made.attrs["Status"]["IPAM"]["Subnets"]["10.73.0.0/24"]
    assert use == {"IPsInUse": 5, "DynamicIPsAvailable": 251}
    with pytest.raises(python_errors.APIError) as refused:
        made.remove()
    assert refused.value.status_code == 403
    made.disconnect(web.container)
    made.remove()
    with pytest.raises(python_errors.NotFound):
        python.networks.get("green")
    with pytest.raises(python_errors.APIError) as refused:
        python.containers.list()
    assert refused.value.status_code == 501
    assert python.networks.prune()["NetworksDeleted"] == []


def test_reserved_address_is_given_to_no_endpoint(daemon: RunningDaemon) -> None:
    docker = DockerClient(daemon, docker_commands()[0])
    docker(
        "network",
        "create",
        "--subnet",
        "10.74.0.0/29",
        "--aux-address",
        "a=10.74.0.1",
        "--aux-address",
        "b=10.74.0.3",
        "small",
    )
    assert docker.inspect("small")["IPAM"]["Config"][0]["Gateway"] == "10.74.0.2"
    daemon.kill()
    daemon.start()
    found = [daemon.sandbox("small", f"s{number}").address for number in range(3)]
    assert found == ["10.74.0.4", "10.74.0.5", "10.74.0.6"]
    assert docker.inspect("small")["Status"]["IPAM"]["Subnets"]["10.74.0.0/29"]["DynamicIPsAvailable"] == 0
    daemon.sandbox("bridge", "web")
    assert "reserved" in docker.refused("network", "connect", "--ip", "10.74.0.3", "small", "web")


def test_python_example_of_the_page_runs(daemon: RunningDaemon) -> None:
    page = (Path(__file__).parents[2] / "docs" / "docker-api.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = example.replace("/run/sandnet/", f"{daemon.run}/") + "client.close()\n"
    daemon.sandbox("bridge", "web")
    daemon.host.sh(sys.executable, "-c", code)
    assert [each["name"] for each in daemon.api.get("/networks")] == ["none", "host", "bridge"]
