"""The netavark plugin: run by netavark where that runs plugins (from version 1.7 on), else called as it would be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import HOST_ADDRESS, OUTSIDE_ADDRESS, RunningDaemon, state_of
from tests.support.name_cases import lookup
from tests.support.traffic import TCP

PLUGIN = Path(sys.executable).with_name("sandnet-netavark")
NETAVARK = Path("/usr/lib/podman/netavark")


def runs_plugins() -> bool:
    """Whether there is a netavark that does."""
    if not NETAVARK.exists():
        return False
    return "--plugin-directory" in subprocess.run([NETAVARK, "--help"], capture_output=True, text=True).stdout


class Podman:
    """What Podman passes to netavark for one container on one network.

    Args:
        daemon: the daemon that the plugin asks.
        netns: the container's namespace.
        options: fields of the network.
    """

    def __init__(self, daemon: RunningDaemon, netns: str, **options: Any) -> None:
        self._daemon, self._netns = daemon, netns
        self.network: dict[str, Any] = {
            "name": "blue", "id": "ab" * 32, "driver": "sandnet", "dns_enabled": True, "internal": False,
            "ipv6_enabled": False, "options": {}, "ipam_options": {"driver": "host-local"},
            "subnets": [{"subnet": "10.87.0.0/24", "gateway": "10.87.0.1"}], **options,
        }  # fmt: skip
        self.container: dict[str, Any] = {"container_id": "cd" * 32, "container_name": "web", "port_mappings": []}
        self.joined: dict[str, Any] = {"interface_name": "eth0", "aliases": ["www"]}
        self.socket = f"unix://{daemon.run}/sandnet.sock"

    def __call__(self, command: str) -> tuple[int, Any]:
        """The status and the answer of ``setup`` or ``teardown``."""
        if not runs_plugins():
            message = {**self.container, "network": self.network, "network_options": self.joined}
            return self.plugin(command, self._netns, message=message)
        folder = self._daemon.folder / "netavark"
        folder.mkdir(exist_ok=True)
        if not (folder / "sandnet").exists():
            (folder / "sandnet").symlink_to(PLUGIN)
        words = [str(NETAVARK), f"--config={folder}/config", f"--plugin-directory={folder}", command, self._netns]
        parts = {"networks": {"blue": self.joined}, "network_info": {"blue": self.network}}
        status, answer = self._run(words, {**self.container, **parts})
        return status, answer["blue"] if command == "setup" and not status else answer

    def plugin(self, *words: str, message: Any = None) -> tuple[int, Any]:
        """The status and the answer of the plugin's program."""
        return self._run([str(PLUGIN), *words], message)

    def _run(self, words: list[str], message: Any) -> tuple[int, Any]:
        command = ["env", f"SANDNET_HOST={self.socket}", *words]
        text = message if isinstance(message, str) else json.dumps(message)
        done = self._daemon.host.run(
            lambda: subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=100)
        )
        assert done.stdout or not done.returncode, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None


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
    assert lookup(place, "web") == lookup(place, "www") == ["10.87.0.9"]
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
