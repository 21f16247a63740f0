"""The netavark plugin: run by netavark where that runs plugins (from version 1.7 on), else called as it would be."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, OUTSIDE_ADDRESS, RunningDaemon, state_of
from tests.support.name_cases import lookup
from tests.support.netavark import Podman
from tests.support.traffic import TCP, until


@pytest.mark.attaches("netavark")
def test_container_has_network_names_and_ports_until_teardown(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    place = daemon.place(theirs.path)
    place.sh("ip", "link", "set", "lo", "up")  # netavark does so, and leaves it
    before = state_of(place)
    podman = Podman(daemon, theirs.path)
    podman.container["port_mappings"] = [
        {"host_ip": "", "host_port": 8090, "container_port": 80, "range": 2, "protocol": "tcp"}
    ]
    podman.joined |= {"static_ips": ["10.87.0.9"], "static_mac": "02:42:0a:57:00:09"}
    daemon.here.bound("0.0.0.0", TCP, 8090).listen()  # Podman binds the port before it runs netavark
    status, answer = podman("setup")
    assert status == 0, answer
    place.serve("web", 80)
    assert daemon.outside.ask(HOST_ADDRESS, 8090).server == "web"
    assert answer["dns_server_ips"] == ["127.0.0.11"]
    (interface,) = answer["interfaces"].items()
    assert interface == (
        "eth0",
        {"mac_address": "02:42:0a:57:00:09", "subnets": [{"ipnet": "10.87.0.9/24", "gateway": "10.87.0.1"}]},
    )
    assert place.reaches(OUTSIDE_ADDRESS)
    until(lambda: lookup(place, "web") == lookup(place, "www") == ["10.87.0.9"])
    (service,) = daemon.api.get("/services", verbose="true")
    assert [port["host_port"] for port in service["port_mapping"]] == [8090, 8091]
    for _ in range(2):
        assert podman("teardown")[0] == 0
    assert state_of(place) == before
    assert daemon.api.get("/services") == []
    daemon.api.delete("/networks/blue")


def test_several_static_addresses_are_all_used(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    podman = Podman(daemon, theirs.path)
    podman.joined |= {"static_ips": ["10.87.0.9", "10.87.0.10"]}
    status, answer = podman("setup")
    assert status == 0, answer
    subnets = answer["interfaces"]["eth0"]["subnets"]
    assert [each["ipnet"] for each in subnets] == ["10.87.0.9/24", "10.87.0.10/24"]
    assert all(daemon.here.reaches(address) for address in podman.joined["static_ips"])
    assert podman("teardown")[0] == 0
    daemon.api.delete("/networks/blue")


def test_teardown_without_a_namespace_succeeds(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    podman = Podman(daemon, theirs.path)
    assert podman("setup")[0] == 0
    message = {**podman.container, "network": podman.network, "network_options": podman.joined}
    assert podman.plugin("teardown", "/run/nowhere", message=message) == (0, None)
    assert daemon.api.get("/services") == []
    daemon.api.delete("/networks/blue")


def test_network_is_created_as_podman_named_it(daemon: RunningDaemon) -> None:
    podman = Podman(daemon, "")
    status, created = podman.plugin("create", message=podman.network)
    assert (status, created) == (0, {**podman.network, "dns_enabled": False})
    status, answer = podman.plugin("create", message={**podman.network, "options": {"odd": "1"}})
    assert (status, "unknown option 'odd'" in answer["error"]) == (1, True)
    assert podman.plugin("info")[1]["api_version"] == "1.0.0"
    assert podman.plugin("info")[0] == 0


@pytest.mark.parametrize("what", ["away", "refused", "malformed", "usage"])
def test_failure_is_an_error_in_json(daemon: RunningDaemon, what: str) -> None:
    theirs = daemon.host.container()
    podman = Podman(daemon, theirs.path)
    message = {**podman.container, "network": podman.network, "network_options": podman.joined}
    if what == "away":
        podman.socket = "unix:///nowhere.sock"
        expected, found = "is the daemon running?", podman.plugin("setup", theirs.path, message=message)
    elif what == "refused":
        podman.joined["static_ips"] = ["192.0.2.1"]
        expected, found = "192.0.2.1", podman("setup")
    elif what == "malformed":
        expected, found = "no JSON", podman.plugin("setup", theirs.path, message="{")
    else:
        expected, found = "usage", podman.plugin("update")
    status, answer = found
    assert status != 0
    assert expected in answer["error"]
    daemon.api.clear()
