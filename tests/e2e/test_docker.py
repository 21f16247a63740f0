"""A real Docker Engine whose networks are sandnet's, by its network plugin protocol."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

import pytest

from tests.support.console_blocks import blocks, fits
from tests.support.daemon import HOST_ADDRESS, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, SANDNET, RunningDaemon
from tests.support.docker_engine import IMAGE, PLUGIN, SOCKET, DockerEngine, missing
from tests.support.network_host import eventually

PAGE = Path(__file__).parents[2] / "docs" / "docker.md"

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("sandnet"))
    config = running.folder / "config.toml"
    api = SOCKET.removeprefix("unix://")
    config.write_text(f'{config.read_text()}plugin_socket = "{PLUGIN}"\nengine_socket = "{api}"\n')
    running.netns = Path("/run/docker/netns")
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


@pytest.mark.attaches("docker")
def test_containers_on_a_network_reach_each_other(docker: DockerEngine, daemon: RunningDaemon) -> None:
    network = create(docker, "one")
    assert daemon.api.reported(network)["id"] == network
    docker.container("one", "box-a")
    address = docker.container("one", "box-b")
    assert docker.pings("box-a", address)
    assert docker.pings("box-a", OUTSIDE_ADDRESS)
    docker("rm", "-f", "box-a", "box-b")
    docker("network", "rm", "one")


@pytest.mark.attaches("docker that runs")
def test_running_container_is_attached_by_its_id(docker: DockerEngine, daemon: RunningDaemon) -> None:
    daemon.api.network("joined", subnet="10.9.8.0/24")
    daemon.api.endpoint("joined", "plain", additional_addresses=["10.9.8.50"])
    options = ("--network", "none", "--stop-signal", "KILL", "--name", "plain")
    identifier = docker("run", "-d", *options, IMAGE, "sleep", "1000")
    daemon.api.join("joined", "plain", "plain", running_container=identifier[:12])
    address = daemon.api.reported("joined", "plain")["address"].partition("/")[0]
    assert daemon.here.reaches(address)
    assert daemon.here.reaches("10.9.8.50")
    docker("rm", "-f", "plain")
    eventually(lambda: daemon.api.get("/sandboxes") == [])
    daemon.api.delete("/networks/joined?force=true")


def test_link_local_address_of_docker_is_not_reached(docker: DockerEngine) -> None:
    """Docker sets it without a word to the plugin, so anti-spoofing does not know it."""
    create(docker, "local")
    for number in (7, 8):
        docker.container("local", f"box-{number}", "--link-local-ip", f"169.254.7.{number}")
    assert "169.254.7.8" in docker.execute("box-8", "ip", "address").stdout
    assert not docker.pings("box-8", "169.254.7.7", 2)
    docker("rm", "-f", "box-7", "box-8")
    docker("network", "rm", "local")


def serve(docker: DockerEngine, network: str, name: str, *options: str) -> str:
    """A container that serves a page at port 80; its address."""
    return docker.container(network, name, *options, command=("nc", "-ll", "-p", "80", "-e", "cat", "/www/index.html"))


def fetched(daemon: RunningDaemon, address: str, port: int, namespace: str = "", seconds: int = 20) -> str:
    """What a server sends to the host, or to a namespace; empty if there is no answer."""
    try:
        return daemon.host.sh("busybox", "nc", "-w", str(seconds), address, str(port), namespace=namespace)
    except AssertionError:
        return ""


def test_published_port_leads_to_the_container(docker: DockerEngine, daemon: RunningDaemon) -> None:
    create(docker, "ports")
    serve(docker, "ports", "web", "-p", "8080:80")
    outside = daemon.outside.namespace
    eventually(lambda: fetched(daemon, HOST_ADDRESS, 8080, outside, seconds=2) == "hello\n")
    assert fetched(daemon, "127.0.0.1", 8080) == "hello\n"
    docker.container("ports", "peer")
    assert docker.execute("peer", "nc", "-w", "20", HOST_ADDRESS, "8080").stdout == "hello\n"
    assert docker.execute("web", "nc", "-w", "20", HOST_ADDRESS, "8080").stdout == "hello\n"
    assert "8080" in docker.refused("run", "-d", "--network", "ports", "-p", "8080:80", IMAGE, "sleep", "9")
    docker("restart", "-t", "0", "web")
    eventually(lambda: fetched(daemon, HOST_ADDRESS, 8080, outside, seconds=2) == "hello\n")
    docker("rm", "-f", "web")
    assert fetched(daemon, HOST_ADDRESS, 8080, outside, seconds=2) == ""


def test_published_port_follows_the_gateway(docker: DockerEngine, daemon: RunningDaemon) -> None:
    """Of several networks, Docker chooses the one that carries the default route; its order is by name."""
    create(docker, "zebra")
    create(docker, "apple")
    serve(docker, "zebra", "web", "-p", "8081:80")
    outside = daemon.outside.namespace
    eventually(lambda: fetched(daemon, HOST_ADDRESS, 8081, outside, seconds=2) == "hello\n")
    docker("network", "connect", "apple", "web")
    eventually(lambda: fetched(daemon, HOST_ADDRESS, 8081, outside, seconds=2) == "hello\n")
    docker("network", "disconnect", "apple", "web")
    eventually(lambda: fetched(daemon, HOST_ADDRESS, 8081, outside, seconds=2) == "hello\n")
    docker("network", "connect", "apple", "web")
    docker("network", "disconnect", "zebra", "web")
    eventually(lambda: fetched(daemon, HOST_ADDRESS, 8081, outside, seconds=2) == "hello\n")


def test_running_container_is_connected_and_disconnected(docker: DockerEngine, daemon: RunningDaemon) -> None:
    create(docker, "first")
    create(docker, "second")
    docker.container("first", "box-a")
    other = docker.container("second", "box-b")
    assert not docker.pings("box-a", other, 2)
    for _ in range(2):
        docker("network", "connect", "second", "box-a")
        assert docker.pings("box-a", other)
        docker("network", "disconnect", "second", "box-a")
        assert not docker.pings("box-a", other, 2)
    links = docker.execute("box-a", "ip", "-o", "link").stdout
    assert "sne" not in links
    assert links.count("eth") == links.count("link/ether") * 2 or "eth0" in links


def test_requested_address_subnet_range_and_gateway(docker: DockerEngine, daemon: RunningDaemon) -> None:
    options = ("--subnet", "10.77.0.0/16", "--ip-range", "10.77.5.0/24", "--gateway", "10.77.0.9")
    create(docker, "fixed", *options, "--aux-address", "keep=10.77.5.1")
    assert docker.container("fixed", "box-a", "--ip", "10.77.9.9") == "10.77.9.9"
    assert docker.container("fixed", "box-b") == "10.77.5.2"
    assert "default via 10.77.0.9" in docker.execute("box-b", "ip", "route").stdout
    assert docker.pings("box-b", "10.77.9.9")
    refusal = docker.refused("run", "-d", "--network", "fixed", "--ip", "10.77.9.9", IMAGE, "sleep", "9")
    assert "taken" in refusal
    assert docker.pings("box-b", "10.77.9.9")
    assert "overlaps" in docker.refused(
        "network", "create", "-d", "sandnet", "--ipam-driver", "sandnet", "--subnet", "10.77.4.0/24", "more"
    )
    docker("rm", "-f", "box-a")
    assert docker.container("fixed", "box-c", "--ip", "10.77.9.9") == "10.77.9.9"


def test_internal_network_reaches_its_own_containers_only(docker: DockerEngine, daemon: RunningDaemon) -> None:
    create(docker, "inside", "--internal")
    docker.container("inside", "box-a")
    address = docker.container("inside", "box-b")
    assert docker.pings("box-a", address)
    assert not docker.pings("box-a", OUTSIDE_ADDRESS, 2)
    assert "default" not in docker.execute("box-a", "ip", "route").stdout
    assert docker.execute("box-a", "ip", "-o", "link").stdout.count("eth") <= 2  # no second one of Docker's


def test_ipv6(docker: DockerEngine, daemon: RunningDaemon) -> None:
    create(docker, "six", "--ipv6", "--subnet", "fd00:77::/64")
    docker.container("six", "box-a")
    docker.container("six", "box-b")
    address = docker.inspect("box-b")["NetworkSettings"]["Networks"]["six"]["GlobalIPv6Address"]
    assert address.startswith("fd00:77::")
    assert docker.execute("box-a", "ping", "-6", "-c", "1", "-W", "15", address).returncode == 0
    assert docker.execute("box-a", "ping", "-6", "-c", "1", "-W", "15", OUTSIDE_ADDRESS6).returncode == 0


def test_options_of_sandnet_are_taken_and_others_refused(docker: DockerEngine, daemon: RunningDaemon) -> None:
    network = create(docker, "options", "-o", "mtu=1400", "-o", "icc=false")
    assert daemon.api.reported(network)["options"]["mtu"] == 1400
    docker.container("options", "box-a")
    address = docker.container("options", "box-b")
    assert not docker.pings("box-a", address, 2)
    assert "mtu 1400" in docker.execute("box-a", "ip", "link", "show", "eth0").stdout
    words = ("network", "create", "-d", "sandnet", "--ipam-driver", "sandnet", "-o", "mtuu=1400", "wrong")
    assert "did you mean mtu" in docker.refused(*words)


def test_container_can_send_from_its_own_address_only(docker: DockerEngine, daemon: RunningDaemon) -> None:
    create(docker, "guarded")
    docker.container("guarded", "box-a", "--cap-add", "NET_ADMIN")
    target = docker.container("guarded", "box-b")
    assert docker.pings("box-a", target)
    forged = target.rpartition(".")[0] + ".200"
    docker("exec", "box-a", "ip", "address", "add", f"{forged}/24", "dev", "eth0")
    assert docker.execute("box-a", "ping", "-c", "1", "-W", "1", "-I", forged, target).returncode != 0
    assert docker.pings("box-a", target)


def test_network_shared_with_other_sandboxes(docker: DockerEngine, daemon: RunningDaemon) -> None:
    daemon.api.network("blue")
    sandbox = daemon.sandbox("blue", "plain")
    subnet = str(ip_interface(f"{sandbox.address}/24").network)
    for name, more in (("both", ("--subnet", subnet)), ("later", ())):
        create(docker, name, "-o", "network=blue", *more)
        address = docker.container(name, f"on-{name}")
        assert address.rpartition(".")[0] == sandbox.address.rpartition(".")[0]
        assert docker.pings(f"on-{name}", sandbox.address)
        assert daemon.host.reaches(address, namespace=sandbox.key)
    docker("rm", "-f", "on-both")
    docker("network", "rm", "both")
    assert docker.pings("on-later", sandbox.address)
    docker("rm", "-f", "on-later")
    docker("network", "rm", "later")
    assert [each["name"] for each in daemon.api.get("/networks/blue/endpoints")] == ["plain"]
    daemon.api.leave("blue", "plain", sandbox.container)
    daemon.api.delete("/networks/blue/endpoints/plain")
    daemon.api.delete("/networks/blue")


def test_other_ipam_drivers(docker: DockerEngine, daemon: RunningDaemon) -> None:
    docker("network", "create", "-d", "sandnet", "--subnet", "10.78.0.0/24", "dockers")
    docker("network", "create", "-d", "sandnet", "--ipam-driver", "null", "nulls")
    for name in ("dockers", "nulls"):
        docker.container(name, f"{name}-a")
        docker.container(name, f"{name}-b")
        found = docker.execute(f"{name}-b", "ip", "-4", "-o", "address", "show", "eth0").stdout
        assert docker.pings(f"{name}-a", found.split()[3].partition("/")[0])


def test_killed_daemon_delays_no_container(docker: DockerEngine, daemon: RunningDaemon) -> None:
    create(docker, "kills")
    address = serve(docker, "kills", "web", "-p", "8082:80")
    docker.container("kills", "peer")
    daemon.kill()
    assert docker.pings("peer", address)
    assert fetched(daemon, HOST_ADDRESS, 8082, daemon.outside.namespace) == "hello\n"
    daemon.start()
    assert docker.pings("peer", address)
    assert fetched(daemon, HOST_ADDRESS, 8082, daemon.outside.namespace) == "hello\n"
    assert docker.pings(docker_started(docker, "kills", "late"), address)
    daemon.kill()
    daemon.start()


def docker_started(docker: DockerEngine, network: str, name: str) -> str:
    docker.container(network, name)
    return name


@pytest.mark.parametrize("killed", [False, True])
def test_restarted_engine_finds_its_networks(docker: DockerEngine, daemon: RunningDaemon, killed: bool) -> None:
    create(docker, "again", "--subnet", "10.80.0.0/24")
    docker.container("again", "box-a", "--ip", "10.80.0.50")
    docker.container("again", "box-b")
    docker.kill() if killed else docker.stop()
    if killed:
        daemon.kill()
        daemon.start()
    docker.start()
    eventually(lambda: not docker("ps", "-q"))
    assert not daemon.api.get("/services")
    docker("start", "box-a", "box-b")
    assert docker.address("box-a", "again") == "10.80.0.50"
    assert docker.pings("box-b", "10.80.0.50")


def test_containers_live_while_the_engine_restarts(docker: DockerEngine, daemon: RunningDaemon) -> None:
    docker.stop()
    docker.start("--live-restore")
    create(docker, "live")
    address = serve(docker, "live", "web", "-p", "8083:80")
    docker.kill()
    assert fetched(daemon, HOST_ADDRESS, 8083) == "hello\n"
    daemon.kill()
    daemon.start()
    docker.start("--live-restore")
    assert fetched(daemon, HOST_ADDRESS, 8083) == "hello\n"
    assert docker("ps", "--format", "{{.Names}}") == "web"
    docker.container("live", "peer")
    assert docker.address("peer", "live") != address
    assert docker.pings("peer", address)
    docker("rm", "-f", "web", "peer")
    docker.stop()
    docker.start()


def test_removed_link_of_a_container_is_noticed(docker: DockerEngine, daemon: RunningDaemon) -> None:
    create(docker, "damage")
    docker.container("damage", "box-a")
    address = docker.container("damage", "box-b")
    (service, _) = daemon.api.get("/services", verbose="true")
    link = next(name for name in daemon.our_links() if name[3:] == service["backends"][0]["interface"][3:])
    daemon.host.sh("ip", "link", "set", link, "down")
    eventually(lambda: docker.pings("box-a", address))
    daemon.host.sh("ip", "link", "delete", link)
    eventually(lambda: not daemon.api.get(f"/services/{service['id']}", verbose="true")["backends"])
    docker("network", "disconnect", "damage", "box-a")
    docker("network", "connect", "damage", "box-a")
    assert docker.pings("box-a", address)


def test_session_of_the_page_prints_what_it_shows(docker: DockerEngine, daemon: RunningDaemon) -> None:
    """Here ``docker`` and ``sandnet`` find the daemons of this test, and may run no longer than it."""
    (block,) = (each for each in blocks(PAGE.read_text()) if "beside one" in each.reason)
    environment = (f"DOCKER_HOST={SOCKET}", f"SANDNET_HOST=unix://{daemon.run}/sandnet.sock")
    path = f"PATH={SANDNET.parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    for command in block.commands:
        printed = daemon.host.sh("env", *environment, path, "timeout", "60", "bash", "-c", command.text)
        assert command.output is not None
        assert fits(command.output, printed), f"{command.text}: {printed}"


def test_container_can_be_found_by_sandnet(docker: DockerEngine, daemon: RunningDaemon) -> None:
    network = create(docker, "seen")
    address = docker.container("seen", "box-a")
    (service,) = daemon.api.get("/services", verbose="true")
    assert service["labels"] == {"docker.network": network}
    assert service["backends"][0]["address"].partition("/")[0] == address
    key = docker.inspect("box-a")["NetworkSettings"]["SandboxKey"]
    assert Path(key).name == service["backends"][0]["id"]
    report = daemon.api.post("/reconcile", fix=False)
    assert not [each for each in report if "box" in str(each) or "sne" in str(each)]


def looked_up(daemon: RunningDaemon, name: str, namespace: str) -> str:
    """What the resolver of a sandbox answers."""
    words = ("busybox", "nslookup", name, "127.0.0.11")
    return daemon.host.sh("sh", "-c", '"$@" || true', "sh", *words, namespace=namespace)


def resolves(daemon: RunningDaemon, name: str, namespace: str, address: str) -> bool:
    return address in looked_up(daemon, name, namespace)


@pytest.mark.attaches("docker")
def test_names_resolve_between_containers_and_sandboxes(docker: DockerEngine, daemon: RunningDaemon) -> None:
    daemon.api.network("blue")
    sandbox = daemon.sandbox("blue", "plain")
    create(docker, "named", "-o", "network=blue")
    options = (
        "--dns",
        "127.0.0.12",
        "--dns-search",
        ".",
        "--network-alias",
        "www",
        "--label",
        "team=a",
    )
    address = docker.container("named", "web", *options)
    for name in ("web", "www", "web.blue"):
        eventually(partial(resolves, daemon, name, sandbox.key, address))
    (service,) = (each for each in daemon.api.get("/services", verbose="true") if each["name"] != "plain")
    assert service["labels"]["team"] == "a"
    eventually(lambda: sandbox.address in docker.execute("web", "nslookup", "plain.blue").stdout)
    daemon.kill()
    daemon.kill_resolvers()
    daemon.start()
    eventually(lambda: address in looked_up(daemon, "web", sandbox.key))
    eventually(lambda: sandbox.address in docker.execute("web", "nslookup", "plain.blue").stdout)
    docker("rm", "-f", "web")
    assert address not in looked_up(daemon, "web", sandbox.key)
    docker("network", "rm", "named")
    daemon.api.leave("blue", "plain", sandbox.container)
    daemon.api.delete("/networks/blue/endpoints/plain")
    daemon.api.delete("/networks/blue")
