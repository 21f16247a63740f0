"""A real systemd-networkd on the same host. A ``.network`` file of the user's may match sandnet's links too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_vpn_rules import connect, rules
from tests.support.daemon import HOST_ADDRESS, RunningDaemon, Sandbox, mapping
from tests.support.network_host import eventually

NETWORKD = Path("/lib/systemd/systemd-networkd")
PAGE = Path(__file__).parents[2] / "docs" / "coexistence.md"
EVERY_LINK = "[Match]\nName=sn* theirs\n[Network]\nLinkLocalAddressing=no\n"
UNMANAGED = "[Match]\nName=snb* snv*\n\n[Link]\nUnmanaged=yes\n"
KEEP_RULES = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
PREPARED = """
mount -t tmpfs -o mode=755 none /etc/systemd
mkdir -p /etc/systemd/network /etc/systemd/networkd.conf.d
cp "$0"/*.network /etc/systemd/network
cp "$0"/*.conf /etc/systemd/networkd.conf.d 2>&1
mount -t tmpfs -o mode=755 none /run # without dbus, and with a systemd directory on any machine
mkdir /run/systemd
mount -t sysfs -o ro sysfs /sys # so it does not wait for udev
SYSTEMD_LOG_LEVEL=debug exec "$1" >"$0/log" 2>&1
"""
PORT = 8080

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not NETWORKD.exists(), reason="systemd-networkd is not installed"),
]


class Networkd:
    """Real networkd processes on a host, one after the other, with configuration and mounts of their own."""

    def __init__(self, daemon: RunningDaemon, **files: str) -> None:
        self._daemon = daemon
        self._folder = daemon.folder / "networkd"
        self._folder.mkdir()
        for name, text in files.items():
            (self._folder / name.replace("__", ".")).write_text(text)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it has looked at every link: from version 257.13 on, only its debug log has that."""
        command = ("unshare", "--mount", "sh", "-c", PREPARED, str(self._folder), str(NETWORKD))
        self._process = self._daemon.host.popen(*command)
        eventually(lambda: "Enumeration completed" in self.log() or self._process_ended())
        if "Enumeration completed" not in self.log():
            pytest.skip(f"this machine does not let networkd run here: {self.log()}")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        assert self._process
        self._process.terminate()
        self._process.wait(20)

    def log(self) -> str:
        """What it printed since its start."""
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""

    def configures(self, link: str) -> bool:
        """Whether one of its files matches a link of that prefix."""
        return any(line.startswith(link) and "Configuring with" in line for line in self.log().splitlines())

    def has_configured(self, links: Iterable[str]) -> bool:
        """Whether it is done with links of these names or prefixes."""
        done = [line for line in self.log().splitlines() if line.endswith("configuring -> configured")]
        return all(any(line.startswith(link) for line in done) for link in links)

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


@pytest.fixture
def web(fresh_daemon: RunningDaemon) -> Iterator[Sandbox]:
    fresh_daemon.start()
    fresh_daemon.api.network("blue", ipv6=True)
    sandbox = fresh_daemon.sandbox("blue", "web", mapping(80, PORT))
    sandbox.serve("web", 80)
    fresh_daemon.host.sh("ip", "link", "add", "theirs", "type", "bridge")
    yield sandbox
    fresh_daemon.api.clear()
    fresh_daemon.stop()
    fresh_daemon.down()


def addresses(daemon: RunningDaemon) -> set[tuple[str, str]]:
    links = json.loads(daemon.host.sh("ip", "-j", "address"))
    return {
        (link["ifname"], each["local"])
        for link in links
        if link["ifname"].startswith("sn")
        for each in link["addr_info"]
        if each["scope"] == "global"
    }


def differs(daemon: RunningDaemon) -> list[object]:
    found: list[object] = daemon.api.post("/reconcile", fix=False)["drift"]
    return found


def test_networkd_that_matches_our_links_is_repaired_each_time(fresh_daemon: RunningDaemon, web: Sandbox) -> None:
    daemon, networkd = fresh_daemon, Networkd(fresh_daemon, **{"50-every__network": EVERY_LINK})
    before = addresses(daemon)
    bridges = {link for link, _ in before}
    for _ in range(2):
        networkd.start()
        eventually(lambda: networkd.has_configured(bridges | {"snv"}))  # what it removes, it has removed by then
        eventually(lambda: not differs(daemon) and addresses(daemon) == before)
        assert daemon.outside.ask(HOST_ADDRESS, PORT).server == "web"
        networkd.stop()
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")


def test_documented_files_keep_networkd_from_links_and_rules(fresh_daemon: RunningDaemon, web: Sandbox) -> None:
    daemon = fresh_daemon
    files = {"10-sandnet__network": UNMANAGED, "50-every__network": EVERY_LINK, "sandnet__conf": KEEP_RULES}
    assert all(text in PAGE.read_text() for text in (UNMANAGED, KEEP_RULES))
    connect(daemon)
    eventually(lambda: len(rules(daemon)) == 2)
    networkd = Networkd(daemon, **files)
    networkd.start()
    eventually(lambda: networkd.configures("theirs"))
    assert not networkd.configures("sn")
    assert len(rules(daemon)) == 2
    assert "5270:" in daemon.host.sh("ip", "rule")
    assert not differs(daemon)
    networkd.stop()


def test_routing_rule_returns_after_networkd_removed_it(fresh_daemon: RunningDaemon, web: Sandbox) -> None:
    daemon = fresh_daemon
    connect(daemon)
    eventually(lambda: len(rules(daemon)) == 2)
    networkd = Networkd(daemon, **{"50-every__network": EVERY_LINK})
    networkd.start()
    eventually(lambda: "5270:" not in daemon.host.sh("ip", "rule"))
    connect_again = ("ip", "rule", "add", "from", "all", "lookup", "52", "priority", "5270")
    daemon.host.sh(*connect_again)
    eventually(lambda: any(line.startswith("5269:") for line in rules(daemon)))
    assert daemon.outside.ask(HOST_ADDRESS, PORT).server == "web"
    networkd.stop()
