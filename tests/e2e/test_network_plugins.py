"""Networks that another program makes: network plugins of Docker's protocol as drivers."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import console_blocks
from tests.support.daemon import PREDEFINED, SANDNET, START, RefusedError, RunningDaemon, mapping
from tests.support.network_host import Host, eventually
from tests.support.network_plugin import PluginServer, SandnetAsPlugin, present

PAGE = Path(__file__).parents[2] / "docs" / "remote-drivers.md"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that finds plugins in a directory of its own."""
    running = RunningDaemon(tmp_path_factory.mktemp("w"))
    config = running.folder / "config.toml"
    config.write_text(f'{config.read_text()}plugin_dirs = ["{plugins(running)}"]\n')
    plugins(running).mkdir()
    running.start()
    yield running
    running.down()
    assert running.facts() == running.before
    running.close()


def plugins(daemon: RunningDaemon) -> Path:
    return daemon.folder / "plugins"


@pytest.fixture(scope="module")
def sandnet_plugin(daemon: RunningDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandnetAsPlugin]:
    other = RunningDaemon(tmp_path_factory.mktemp("w"))
    config = other.folder / "config.toml"
    config.write_text(f'{config.read_text()}plugin_socket = "{other.folder}/plugin.sock"\n')
    other.start()
    plugin = SandnetAsPlugin(daemon, other, plugins(daemon) / "peer.sock")
    yield plugin
    plugin.close()
    other.close()


@pytest.fixture
def plugin(daemon: RunningDaemon) -> Iterator[PluginServer]:
    """A plugin that makes nothing."""
    server = PluginServer(plugins(daemon) / "odd.sock", present())
    yield server
    daemon.api.clear()
    server.close()


@contextmanager
def odd_link(daemon: RunningDaemon) -> Iterator[None]:
    """A link on the host that a plugin has made."""
    daemon.host.sh("ip", "link", "add", "odd0", "type", "veth", "peer", "name", "odd0p")
    try:
        yield
    finally:
        daemon.host.sh("ip", "link", "delete", "odd0p")


def test_sandboxes_of_a_plugin_network_reach_each_other(daemon: RunningDaemon, sandnet_plugin: SandnetAsPlugin) -> None:
    network = daemon.api.network("away", "peer", subnet="10.88.0.0/24", mtu=1400)
    ours = daemon.sandbox("away", "web")
    assert ours.address == "10.88.0.2"
    assert "mtu 1400" in ours.sh("ip", "link", "show", "eth0")
    other = sandnet_plugin.other
    theirs = other.api.get("/networks?partial-id=" + network[:12])[0]["name"]
    neighbour = other.sandbox(theirs, "neighbour", address="10.88.0.200")
    assert ours.reaches(neighbour.address)
    assert neighbour.reaches(ours.address)
    second = daemon.sandbox("away", "db")
    assert ours.reaches(second.address)
    assert ours.sh("busybox", "nslookup", "db", "127.0.0.11").count(second.address)
    with pytest.raises(RefusedError, match="cannot publish ports"):
        daemon.api.endpoint("away", "shop", mapping(80))
    daemon.api.leave("away", "web", ours.container)
    assert not second.reaches(ours.address, 0.3)
    assert daemon.attach("away", "web", "again").reaches(second.address)
    other.api.delete(f"/networks/{theirs}/endpoints/neighbour?force=true")
    daemon.api.delete("/networks/away?force=true")
    assert [each["id"] for each in other.api.get("/networks") if each["id"] == network] == []


def test_restart_keeps_links_and_lost_ones_are_asked_for(
    daemon: RunningDaemon, sandnet_plugin: SandnetAsPlugin
) -> None:
    daemon.api.network("away", "peer", subnet="10.88.1.0/24")
    ours, second = daemon.sandbox("away", "web"), daemon.sandbox("away", "db")
    asked = len(sandnet_plugin.server.calls)
    daemon.kill()
    assert ours.reaches(second.address)
    daemon.start()
    assert ours.reaches(second.address)
    assert len(sandnet_plugin.server.calls) == asked
    ours.sh("ip", "link", "delete", "eth0")
    daemon.api.post("/reconcile", fix=True)
    assert ours.reaches(second.address)
    assert sandnet_plugin.server.verbs()[-2:] == ["Leave", "Join"]
    daemon.kill()
    ours.sh("ip", "link", "delete", "eth0")
    daemon.start()
    assert ours.reaches(second.address)
    daemon.api.delete("/networks/away?force=true")


def test_plugin_of_2015_chooses_addresses_and_routes(daemon: RunningDaemon, plugin: PluginServer) -> None:
    del plugin.replies["NetworkDriver.GetCapabilities"]
    address = {"ID": 0, "Address": "10.89.0.7/24", "AddressIPv6": "fd00:89::7/64", "MacAddress": "02:42:0a:59:00:07"}
    plugin.replies["NetworkDriver.CreateEndpoint"] = {"Interfaces": [address]}
    plugin.replies["NetworkDriver.Join"] = {
        "InterfaceNames": [{"SrcName": "odd0", "DstPrefix": "odd"}],
        "Gateway": "10.89.0.1",
        "StaticRoutes": [
            {"Destination": "10.90.0.0/24", "RouteType": 0, "NextHop": "10.89.0.9"},
            {"Destination": "10.91.0.0/24", "RouteType": 1, "InterfaceID": 0},
        ],
    }
    with odd_link(daemon):
        body = {"com.docker.network.generic": {"Key": "value"}, "com.docker.network.x": 1, "plain": True}
        network = daemon.api.network("old", "odd", **body)
        web = daemon.sandbox("old", "web")
        assert (web.address, web.address6, web.mac) == ("10.89.0.7", "fd00:89::7", "02:42:0a:59:00:07")
        assert web.mac in web.sh("ip", "link", "show", "odd0")
        routes = web.sh("ip", "route").split("\n")
        assert any(route.startswith("default via 10.89.0.1 dev odd0") for route in routes)
        assert any(route.startswith("10.90.0.0/24 via 10.89.0.9 dev odd0") for route in routes)
        assert any(route.startswith("10.91.0.0/24 dev odd0") for route in routes)
        daemon.api.delete("/networks/old?force=true")
        assert "odd0" in daemon.links()
    sent = dict(plugin.calls)
    generic = {"com.docker.network.generic": {"Key": "value", "plain": "true"}, "com.docker.network.x": 1}
    assert sent["NetworkDriver.CreateNetwork"] == {"NetworkID": network, "Options": generic}
    assert sent["NetworkDriver.CreateEndpoint"]["Interfaces"] == []
    assert plugin.verbs()[-3:] == ["Leave", "DeleteEndpoint", "DeleteNetwork"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"Err": "no more \u001b[31mlinks"}, "odd (Join): no more \\x1b[31mlinks"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 7\r\n\r\nsad day", "odd (Join): sad day"),
        ({"InterfaceName": {"SrcName": "lo"}}, "the host's loopback"),
        ({"InterfaceName": {"SrcName": "uplink"}}, "the host has addresses on it"),
        ({"InterfaceName": {"SrcName": "absent"}}, "there is no link absent on the host"),
        ({"InterfaceName": {"SrcName": "../../x"}}, "SrcName '../../x' cannot be the name of a link"),
        ({"InterfaceName": {"SrcName": "odd0", "DstPrefix": "a b"}}, "DstPrefix 'a b'"),
        ({"InterfaceName": {"SrcName": "odd0"}, "Gateway": "nowhere"}, "its answer cannot be carried out"),
        ({"InterfaceName": {"SrcName": 7}}, "its answer cannot be read"),
        (b"not at all HTTP\r\n\r\n", "its answer is no HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (2 << 20), "its answer is longer than"),
    ],
)
def test_wrong_answer_to_a_join_is_refused_and_undone(
    daemon: RunningDaemon, plugin: PluginServer, answer: Any, reason: str
) -> None:
    plugin.replies["NetworkDriver.Join"] = answer
    daemon.api.network("away", "odd")
    daemon.api.endpoint("away", "web")
    before = daemon.facts()
    with pytest.raises(RefusedError) as refused:
        daemon.api.join("away", "web", "c1")
    assert reason in refused.value.message
    assert daemon.api.get("/sandboxes") == []
    assert daemon.facts() == before
    assert plugin.verbs()[-1] == "Leave"
    plugin.replies["NetworkDriver.Join"] = {}
    assert "\n2:" not in daemon.attach("away", "web", "c1").sh("ip", "-o", "link")


def test_silent_plugin_delays_no_one_else(daemon: RunningDaemon, plugin: PluginServer) -> None:
    daemon.api.network("away", "odd")
    for number in range(8):
        daemon.api.endpoint("away", f"e{number}")
    plugin.replies["NetworkDriver.Join"] = plugin.replies["NetworkDriver.Leave"] = None
    refusals: list[str] = []

    def join(number: int) -> None:
        with pytest.raises(RefusedError) as refused:
            daemon.api.join("away", f"e{number}", f"c{number}")
        refusals.append(refused.value.message)

    waiting = [threading.Thread(target=join, args=(number,)) for number in range(8)]
    for each in waiting:
        each.start()
    eventually(lambda: plugin.verbs().count("Join") == 4)
    daemon.api.network("here")
    assert daemon.sandbox("here", "web").reaches(daemon.sandbox("here", "db").address)
    assert len(refusals) < len(waiting)  # all that time the plugin was silent
    for each in waiting:
        each.join()
    assert len(refusals) == 8
    assert any("did not answer within 10 s" in each for each in refusals)
    began = time.monotonic()
    daemon.kill()
    daemon.start()
    assert time.monotonic() - began < START
    plugin.replies.update(present())
    daemon.api.delete("/networks/away?force=true")


def test_plugin_that_is_away_hinders_no_forced_deletion(daemon: RunningDaemon, plugin: PluginServer) -> None:
    daemon.api.network("away", "odd")
    daemon.sandbox("away", "web")
    plugin.close()
    drivers = {each["name"]: each for each in daemon.api.get("/healthz")["drivers"]}
    assert drivers["odd"]["reason"] == "there is no network plugin odd"
    daemon.api.leave("away", "web", daemon.api.get("/sandboxes")[0]["id"])
    with pytest.raises(RefusedError) as refused:
        daemon.api.delete("/networks/away/endpoints/web")
    assert (refused.value.status, refused.value.body["code"]) == (503, "plugin_away")
    assert "--force" in refused.value.body["hint"]
    with pytest.raises(RefusedError):
        daemon.api.delete("/networks/away")
    daemon.api.delete("/networks/away?force=true")
    assert [each["name"] for each in daemon.api.get("/networks")] == PREDEFINED


def test_session_of_the_page_prints_what_it_shows(tmp_path: Path) -> None:
    (block,) = (each for each in console_blocks.blocks(PAGE.read_text()) if each.reason)
    (tmp_path / "directory").mkdir()
    shutil.copy(PAGE.parent / "examples" / "bridge_plugin.py", tmp_path / "directory")
    with Host() as host:
        script = [*block.commands, console_blocks.Command("sandnet down", None)]
        mistakes = console_blocks.mistakes(host, script, tmp_path, str(SANDNET.parent))
        assert not mistakes, "\n\n".join(["", *mistakes])


def test_unknown_driver_is_neither_made_nor_asked(daemon: RunningDaemon) -> None:
    for name in ("nobody", "sandnet"):
        with pytest.raises(RefusedError) as refused:
            daemon.api.network("away", name)
        assert (refused.value.status, refused.value.body["code"]) == (404, "driver_not_found")


def test_clients_of_docker_use_plugins_as_drivers(daemon: RunningDaemon, plugin: PluginServer) -> None:
    body = {"Name": "odd-net", "Driver": "odd", "Options": {"colour": "red", "mtu": "1400"}, "Labels": {"team": "a"}}
    pools = [{"Subnet": "10.86.0.0/24", "AuxiliaryAddresses": {"nas": "10.86.0.1"}}]
    made = daemon.api.http.post("/v1.55/networks/create", json={**body, "IPAM": {"Config": pools}})
    assert made.status_code == 201, made.text
    (created,) = (message for verb, message in plugin.calls if verb == "NetworkDriver.CreateNetwork")
    assert created["Options"]["com.docker.network.generic"] == body["Options"]
    shown = daemon.api.get("/v1.55/networks/odd-net")
    assert (shown["Driver"], shown["Options"], shown["Labels"]) == ("odd", body["Options"], body["Labels"])
    assert shown["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"nas": "10.86.0.1"}
